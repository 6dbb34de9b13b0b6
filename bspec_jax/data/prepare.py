"""Downloads a set of TensorFlow Datasets and prepares it for `bspec_jax.data.load`.

python -m bspec_jax.data.prepare cifar10
"""

import importlib.util
from pathlib import Path
from typing import Annotated

import tyro

from bspec_jax.data import prepared
from bspec_jax.errors import UserError, in_one_line


def prepare(
    name: Annotated[str, tyro.conf.Positional],
    data_dir: Path | None = None,
    archive_dir: Path | None = None,
) -> None:
    """Downloads a set of TensorFlow Datasets and prepares it for `bspec_jax.data.load`.

    Args:
      name: of the set, such as cifar10.
      data_dir: where it is to lie. Default: ~/tensorflow_datasets.
      archive_dir: a folder with the set's archives, under their own names, where they
        were downloaded by other means. They are checked like a download.

    Raises:
      UserError: if the set is unknown, TensorFlow is not installed, a download fails
        or an archive is not the expected one.
    """
    data_dir, archive_dir = (
        path and path.expanduser() for path in (data_dir, archive_dir)
    )
    if archive_dir is not None and not archive_dir.is_dir():
        raise UserError(f"no folder {archive_dir}: check --archive-dir")
    builder = prepared.builder(name, data_dir, file_format=prepared.FILE_FORMAT)
    prepared.class_names(name, builder)
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"to prepare {name} needs TensorFlow: run "
            f"`{prepared.command(name, data_dir)}`"
        )
    import tensorflow_datasets as tfds

    # Google's own copies of prepared sets are not in this format.
    config = tfds.download.DownloadConfig(
        manual_dir=archive_dir, try_download_gcs=False
    )
    try:
        builder.download_and_prepare(download_config=config)
    except Exception as error:  # the set's own code may raise anything
        raise UserError(
            f"cannot prepare {name}: {prepared.one_line(error)} (--archive-dir takes "
            "archives that were downloaded by other means)"
        ) from error
    print(f"{name} is ready in {builder.data_dir}")


def main() -> None:
    """The command."""
    program = "python -m bspec_jax.data.prepare"
    with in_one_line(program):
        tyro.cli(prepare, prog=program)


if __name__ == "__main__":
    main()
