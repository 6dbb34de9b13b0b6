"""Downloads and prepares a data set of TensorFlow Datasets for `bspec_jax.data.load`.

    python -m bspec_jax.data.prepare cifar10

This alone needs TensorFlow (the extra `prepare`); reading a prepared data set does not.
"""

import importlib.util
from pathlib import Path
from typing import Annotated

import tyro

from bspec_jax.data import prepared
from bspec_jax.data.names import expanded
from bspec_jax.storage.errors import UserError, in_one_line
from bspec_jax.storage.optional import needs


def prepare(
    name: Annotated[str, tyro.conf.Positional],
    data_dir: Path | None = None,
    archive_dir: Path | None = None,
) -> None:
    """Downloads and prepares a data set of TensorFlow Datasets.

    Args:
      name: Name of the data set, such as cifar10.
      data_dir: Folder to write to. Default: ~/tensorflow_datasets.
      archive_dir: Folder of archives downloaded by other means, under their original
        names. Their checksums are verified, as after a download.

    Raises:
      UserError: if the data set is unknown, TensorFlow is not installed, a download
        fails, or an archive has the wrong checksum.
    """
    data_dir, archive_dir = (
        path and expanded(path) for path in (data_dir, archive_dir)
    )
    if archive_dir is not None and not archive_dir.is_dir():
        raise UserError(f"no folder {archive_dir}: check --archive-dir")
    builder = prepared.builder(name, data_dir, file_format=prepared.FILE_FORMAT)
    prepared.class_names(name, builder)
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"preparing {name} needs TensorFlow: run "
            f"`{prepared.command(name, data_dir)}`"
        )
    tfds = needs("tensorflow_datasets", extra="prepare")
    # Google's own copies of prepared data sets are in another file format.
    config = tfds.download.DownloadConfig(
        manual_dir=archive_dir, try_download_gcs=False
    )
    try:
        builder.download_and_prepare(download_config=config)
    except Exception as error:  # a data set's own code may raise anything
        raise UserError(
            f"cannot prepare {name}: {prepared.one_line(error)} (--archive-dir takes "
            "archives downloaded by other means)"
        ) from error
    print(f"{name} is ready in {builder.data_dir}")


def main() -> None:
    """Runs the command line."""
    program = "python -m bspec_jax.data.prepare"
    with in_one_line(program):
        tyro.cli(prepare, prog=program)


if __name__ == "__main__":
    main()
