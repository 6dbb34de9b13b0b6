"""A folder of images, one folder for each class."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from bspec_jax.data.images import (
    Part,
    Source,
    UnreadableError,
    make_split,
    square,
    to_array,
)
from bspec_jax.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
IMAGE_SIZE = 32  # unless told otherwise
LAYOUT = "--data-dir needs DIR/train/<class>/*.png and DIR/test/<class>/*.png"
# What pillow raises for a file that is no image, or a damaged one.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def find(data_dir: Path | None, image_size: int | None) -> Source:
    """The set in `data_dir/train/<class>/` and `data_dir/test/<class>/` (or `val`).

    Classes are in the order of their names. Images become squares (default: of 32
    pixels), grey ones if all of the set are grey, otherwise RGB.

    Raises:
      UserError: if a folder is missing or empty, there are fewer than two classes, the
        test data have one that the training data lack, or a file cannot be read as an
        image.
    """
    if data_dir is None:
        raise UserError(f"the set `folder` needs its folder: {LAYOUT}")
    train = _subfolder(data_dir, "train")
    test = _subfolder(data_dir, "test", "val")
    classes = tuple(_class_names(train))
    if len(classes) < 2:
        raise UserError(f"{train} holds a single class: there is nothing to tell apart")
    if unknown := sorted(set(_class_names(test)) - set(classes)):
        raise UserError(
            f"{test / unknown[0]} is of a class that {train} lacks; a class must have "
            "images to train on"
        )
    examples = [_examples(part, classes) for part in (train, test)]
    grey = all(_mode(path) == "L" for part in examples for path, _ in part)
    size = image_size or IMAGE_SIZE
    parts = [
        Part(
            len(part),
            partial(_read, part, "L" if grey else "RGB", size),
            partial(_labels, part),
        )
        for part in examples
    ]
    return Source("folder", *parts, classes)


def _subfolder(data_dir: Path, *names: str) -> Path:
    for name in names:
        if (data_dir / name).is_dir():
            return data_dir / name
    raise UserError(f"no folder {data_dir / names[0]}: {LAYOUT}")


def _class_names(folder):
    names = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".")
    )
    if not names:
        raise UserError(f"{folder} holds no folder of a class: {LAYOUT}")
    return names


def _examples(folder, classes):
    """Paths and labels; the test data may lack a class, but not have an empty one."""
    found = []
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            continue
        paths = _images_in(folder / name)
        if not paths:
            raise UserError(
                f"{folder / name} holds no image ({', '.join(SUFFIXES)}): add some, or "
                "remove the folder"
            )
        found += [(path, label) for path in paths]
    return found


def _images_in(folder):
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def _mode(path):
    try:
        with Image.open(path) as picture:
            return picture.mode
    except UNREADABLE:
        raise _unreadable(path) from None


def _read(examples, mode, size, indices: np.ndarray):
    chosen = [examples[i] for i in indices]
    images = [_pixels(path, mode, size) for path, _ in chosen]
    return make_split(images, [label for _, label in chosen], size)


def _labels(examples):
    return np.array([label for _, label in examples], np.int32)


def _pixels(path, mode, size):
    try:
        with Image.open(path) as picture:
            return to_array(square(picture.convert(mode), size))
    except UNREADABLE:
        raise _unreadable(path) from None


def read_images(
    paths: Sequence[Path], image_size: int, channels: int
) -> tuple[UInt8[np.ndarray, "N H W C"], list[Path]]:
    """The images at some paths and in some folders, as squares; and where each is.

    Raises:
      UserError: if one cannot be read, or a folder holds none.
    """
    found = []
    for path in map(Path.expanduser, paths):
        inside = _images_in(path) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{path} holds no image ({', '.join(SUFFIXES)})")
        found += inside
    mode = "L" if channels == 1 else "RGB"
    return np.stack([_pixels(path, mode, image_size) for path in found]), found


def _unreadable(path):
    return UnreadableError(f"cannot read {path} as an image: replace it, or remove it")
