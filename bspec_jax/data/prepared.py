"""Reads prepared data sets of TensorFlow Datasets, without TensorFlow.

Preparing one does need TensorFlow: `python -m bspec_jax.data.prepare NAME`.
"""

import difflib
import importlib.util
import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from bspec_jax.data.decoding import decode, to_mode
from bspec_jax.data.identity import hash_groups
from bspec_jax.data.images import Part, Source, make_split, square, to_array
from bspec_jax.storage.errors import UserError
from bspec_jax.storage.optional import needs

FILE_FORMAT = "array_record"  # readable without TensorFlow


def command(name: str, data_dir: Path | None) -> str:
    """The shell command that prepares a data set."""
    where = "" if data_dir is None else f" --data-dir {shlex.quote(str(data_dir))}"
    return (
        'pip install "bspec_jax[prepare]" && '
        f"python -m bspec_jax.data.prepare {shlex.quote(name)}{where}"
    )


def builder(name: str, data_dir: Path | None, **options: Any) -> Any:
    """The `tfds.core.DatasetBuilder` of a data set; `options` as for `tfds.builder`.

    Raises:
      UserError: if TensorFlow Datasets is not installed, has no such data set, or
        cannot construct it.
    """
    tfds = needs("tensorflow_datasets", extra="tfds")  # slow to import
    try:
        with quiet():
            return tfds.builder(name, data_dir=data_dir, **options)
    except tfds.core.registered.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(name.lower(), [*known, "folder"])
        raise UserError(
            f"no data set is called {name}: there are cifar10, fashion_mnist, "
            "folder, and those for image classification in TensorFlow Datasets"
            + (f" (did you mean {' or '.join(close)}?)" if close else "")
        ) from None
    except Exception as error:  # a builder may raise anything
        raise UserError(
            f"TensorFlow Datasets cannot construct {name}: {one_line(error)}"
        ) from None


def is_prepared(name: str, data_dir: Path | None) -> bool:
    """Whether a data set is prepared in `data_dir`, by default tfds' own folder.

    False without TensorFlow Datasets, which reads it.
    """
    if importlib.util.find_spec("tensorflow_datasets") is None:
        return False
    with quiet():
        return builder(name, data_dir).is_prepared()


def find(name: str, data_dir: Path | None, image_size: int | None) -> Source:
    """A data set prepared in `data_dir`, by default tfds' own folder.

    Args:
      image_size: side of the decoded images, in pixels. Default: as stored.

    Raises:
      UserError: if the data set is unknown, not prepared, prepared in a format that
        needs TensorFlow, damaged, or not one for image classification.
    """
    tfds_builder = builder(name, data_dir)
    splits = tfds_builder.info.splits
    with quiet():
        names = class_names(name, tfds_builder)
        check_prepared(name, tfds_builder, data_dir)
        test = "test" if "test" in splits else "validation"
        for split in ("train", test):
            if split not in splits:
                have = ", ".join(map(str, splits))
                raise UserError(
                    f"{name} has no split {split} (it has {have}): choose another "
                    "data set"
                )
        parts = [
            _part(tfds_builder, split, len(names), image_size)
            for split in ("train", test)
        ]
    left_out = {
        f"in split {split}": splits[split].num_examples
        for split in splits
        if split not in ("train", test)
    }
    contents = partial(hashes, tfds_builder)
    return Source(tfds_builder.name, *parts, names, contents, {"": left_out})


def hashes(tfds_builder: Any, class_names: tuple[str, ...] = ()) -> dict[str, str]:
    """The version of a prepared set, and hashes of its files of examples."""
    folder = Path(tfds_builder.data_dir)
    records = {path.name: [path] for path in folder.glob(f"*.{FILE_FORMAT}*")}
    return {"version": folder.name} | hash_groups(records)


def class_names(name: str, tfds_builder: Any) -> tuple[str, ...]:
    """The class names of a builder's data set; numbers until it is prepared.

    Raises:
      UserError: if it is not a data set for image classification.
    """
    features = tfds_builder.info.features
    features = dict(features.items()) if hasattr(features, "items") else {}
    image, label = (features.get(key) for key in ("image", "label"))
    if (
        getattr(image, "np_dtype", None) != np.uint8
        or len(image.shape) != 3
        or not hasattr(label, "names")
        or label.shape != ()
    ):
        raise UserError(
            f"{name} is not an image classification data set: it must have an image "
            "of bytes and a class label"
        )
    return tuple(map(str, label.names))


def undecoded(tfds_builder: Any, split: str) -> Any:
    """The examples of a split as a sequence of dicts, whose images are as stored.

    Raises:
      UserError: if they cannot be read without TensorFlow, or are damaged.
    """
    skip = needs("tensorflow_datasets", extra="tfds").decode.SkipDecoding()
    try:
        return tfds_builder.as_data_source(split, decoders={"image": skip})
    except NotImplementedError:
        raise UserError(
            f"{tfds_builder.data_dir} holds {tfds_builder.info.file_format.value} "
            "files, which only TensorFlow reads: prepare it in another folder with "
            f"`{command(tfds_builder.name, Path('OTHER_DIR'))}`"
        ) from None
    except ImportError as error:  # array_record is not there on every platform
        raise UserError(
            f"{error.name or error} is not installed, and reads prepared data sets: "
            'run `pip install "bspec_jax[tfds]"`'
        ) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise damaged(tfds_builder, error) from None


def read_examples(
    tfds_builder: Any, source: Any, positions: range | Int[np.ndarray, " K"]
) -> list[dict[str, Any]]:
    """Some of the examples that `undecoded` returned.

    Raises:
      UserError: if they are damaged.
    """
    try:
        with quiet():
            return [source[int(position)] for position in positions]
    except (OSError, RuntimeError, ValueError) as error:
        raise damaged(tfds_builder, error) from None


def pixels(
    image: bytes | np.ndarray, channels: int, image_size: int | None, name: str
) -> UInt8[np.ndarray, "H W C"]:
    """An image as stored in an example, decoded like any other picture.

    Args:
      channels: 1 or 3.
      image_size: side of the square, in pixels. Default: as stored.
      name: of the example, for messages.

    Raises:
      UnreadableError: if it is damaged, or has no agreed look.
    """
    if not isinstance(image, bytes):  # not an encoded one, but an array
        return make_split([image], [0], image_size).images[0]
    picture = to_mode(decode(image, name), channels)
    return to_array(picture if image_size is None else square(picture, image_size))


def _part(tfds_builder, split, num_classes, image_size):
    source = undecoded(tfds_builder, split)
    channels = 1 if tfds_builder.info.features["image"].shape[-1] == 1 else 3
    return Part(
        len(source),
        partial(_read, tfds_builder, split, source, num_classes, channels, image_size),
        partial(_labels, tfds_builder, split, source, num_classes),
    )


def _read(
    tfds_builder, split, source, num_classes, channels, image_size, indices: np.ndarray
):
    examples = read_examples(tfds_builder, source, indices)
    images = [
        pixels(
            example["image"],
            channels,
            image_size,
            f"example {index} of split {split} of {tfds_builder.name}",
        )
        for index, example in zip(indices, examples, strict=True)
    ]
    labels = _checked_labels(tfds_builder, split, num_classes, examples)
    return make_split(images, labels, image_size)


def _labels(tfds_builder, split, source, num_classes):
    examples = read_examples(tfds_builder, source, range(len(source)))
    return _checked_labels(tfds_builder, split, num_classes, examples)


def _checked_labels(tfds_builder, split, num_classes, examples):
    labels = np.array([example["label"] for example in examples], np.int32)
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise UserError(
            f"the split {split} of {tfds_builder.name} has examples without a label: "
            "choose another data set"
        )
    return labels


def check_prepared(name: str, tfds_builder: Any, data_dir: Path | None) -> None:
    """Raises UserError, with the command to run, if a data set is not prepared."""
    if not tfds_builder.is_prepared():
        raise UserError(
            f"{name} is not prepared in {tfds_builder.data_dir}: run "
            f"`{command(name, data_dir)}`"
        )


def damaged(tfds_builder: Any, error: Exception) -> UserError:
    """The error for a data set that cannot be read."""
    return UserError(
        f"{tfds_builder.data_dir} is damaged ({one_line(error)}): delete it and run "
        f"`python -m bspec_jax.data.prepare {tfds_builder.name}` with the same "
        "--data-dir"
    )


def one_line(error: Exception) -> str:
    """The start of an error's message, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:400]}..."


@contextmanager
def quiet() -> Iterator[None]:
    """Silences tfds' warnings, such as about a missing data set."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
