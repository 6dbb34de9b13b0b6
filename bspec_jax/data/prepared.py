"""Sets of TensorFlow Datasets that were prepared beforehand; TensorFlow is not needed.

`python -m bspec_jax.data.prepare NAME` prepares one, and needs it.
"""

import difflib
import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bspec_jax.data.images import Part, Source, make_split
from bspec_jax.errors import UserError

FILE_FORMAT = "array_record"  # of those that are read without TensorFlow


def command(name: str, data_dir: Path | None) -> str:
    """The shell command that prepares a set."""
    where = "" if data_dir is None else f" --data-dir {shlex.quote(str(data_dir))}"
    return (
        'pip install "bspec_jax[data]" && '
        f"python -m bspec_jax.data.prepare {shlex.quote(name)}{where}"
    )


def builder(name: str, data_dir: Path | None, **options: Any) -> Any:
    """The `tfds.core.DatasetBuilder` of a set; `options` as for `tfds.builder`.

    Raises:
      UserError: if TensorFlow Datasets has no such set, or cannot construct it.
    """
    import tensorflow_datasets as tfds  # takes a while, and other sets do without

    try:
        with quiet():
            return tfds.builder(name, data_dir=data_dir, **options)
    except tfds.core.registered.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(name, [*known, "folder"])
        raise UserError(
            f"no set of images is called {name}: there are cifar10, fashion_mnist, "
            "folder, and those for image classification in TensorFlow Datasets"
            + (f" (did you mean {' or '.join(close)}?)" if close else "")
        ) from None
    except Exception as error:  # a builder may raise anything
        raise UserError(
            f"TensorFlow Datasets cannot construct {name}: {one_line(error)}"
        ) from None


def is_prepared(name: str, data_dir: Path | None) -> bool:
    """Whether a set was prepared in `data_dir`, by default tfds' own folder."""
    with quiet():
        return builder(name, data_dir).is_prepared()


def find(name: str, data_dir: Path | None, image_size: int | None) -> Source:
    """A set that was prepared in `data_dir`, by default tfds' own folder.

    Raises:
      UserError: if the set is unknown, not prepared, prepared in a format that needs
        TensorFlow, damaged, or not one of images and their classes.
    """
    made = builder(name, data_dir)
    with quiet():
        names = class_names(name, made)
        check_prepared(name, made, data_dir)
        test = "test" if "test" in made.info.splits else "validation"
        for split in ("train", test):
            if split not in made.info.splits:
                have = ", ".join(map(str, made.info.splits))
                raise UserError(
                    f"{name} has no split {split} (it has {have}): choose another set"
                )
        parts = [
            _part(made, split, len(names), image_size) for split in ("train", test)
        ]
    return Source(made.name, *parts, names)


def class_names(name: str, made: Any) -> tuple[str, ...]:
    """The names of the classes of a builder's set; numbers until it is prepared.

    Raises:
      UserError: if it is not a set of images and their classes.
    """
    features = made.info.features
    features = dict(features.items()) if hasattr(features, "items") else {}
    image, label = (features.get(key) for key in ("image", "label"))
    if (
        getattr(image, "np_dtype", None) != np.uint8
        or len(image.shape) != 3
        or not hasattr(label, "names")
        or label.shape != ()
    ):
        raise UserError(
            f"{name} is no set for image classification: it must have an `image` of "
            "bytes and a `label` that is a class"
        )
    return tuple(map(str, label.names))


def _part(made, split, num_classes, image_size):
    try:
        source = made.as_data_source(split)
    except NotImplementedError:
        raise UserError(
            f"{made.data_dir} holds {made.info.file_format.value} files, which only "
            "TensorFlow reads: prepare it in another folder with "
            f"`{command(made.name, Path('OTHER_DIR'))}`"
        ) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise damaged(made, error) from None
    return Part(
        len(source),
        partial(_read, made, split, source, num_classes, image_size),
        partial(_labels, made, split, num_classes),
    )


def _read(made, split, source, num_classes, image_size, indices: np.ndarray):
    try:
        with quiet():
            examples = [source[int(index)] for index in indices]
    except (OSError, RuntimeError, ValueError) as error:
        raise damaged(made, error) from None
    images = [example["image"] for example in examples]
    labels = _checked_labels(made, split, num_classes, examples)
    return make_split(images, labels, image_size)


def _labels(made, split, num_classes):
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    with quiet():
        examples = list(made.as_data_source(split, decoders=decoders))
    return _checked_labels(made, split, num_classes, examples)


def _checked_labels(made, split, num_classes, examples):
    labels = np.array([example["label"] for example in examples], np.int32)
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise UserError(
            f"the split {split} of {made.name} has examples without a label: choose "
            "another set"
        )
    return labels


def check_prepared(name: str, made: Any, data_dir: Path | None) -> None:
    """Raises UserError, with the command to run, if a set is not prepared."""
    if not made.is_prepared():
        raise UserError(
            f"{name} is not prepared in {made.data_dir}: run "
            f"`{command(name, data_dir)}`"
        )


def damaged(made: Any, error: Exception) -> UserError:
    """The complaint about a set that cannot be read."""
    return UserError(
        f"{made.data_dir} is damaged ({one_line(error)}): delete it and run "
        f"`python -m bspec_jax.data.prepare {made.name}` with the same --data-dir"
    )


def one_line(error: Exception) -> str:
    """The beginning of an error's message, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:400]}..."


@contextmanager
def quiet() -> Iterator[None]:
    """Without tfds' warnings, such as that a set is not there."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
