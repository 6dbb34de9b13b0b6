"""Image folders: one subfolder per split, and in it one per class."""

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
from bspec_jax.storage.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
IMAGE_SIZE = 32  # default side, in pixels
LAYOUT = "`data_dir` must hold train/<class>/*.png and test/<class>/*.png"
# Errors that pillow raises for damaged files and files that are not images.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def find(data_dir: Path | None, image_size: int | None) -> Source:
    """The images in `data_dir/train/<class>/` and `data_dir/test/<class>/` (or `val`).

    Classes are sorted by name. Images are decoded to squares, grey if all images are
    grey, otherwise RGB.

    Args:
      image_size: side of the squares, in pixels. Default: 32.

    Raises:
      UserError: if a folder is missing or empty, there are fewer than two classes, the
        training data lack a class of the test data, or a file cannot be read as an
        image.
    """
    if data_dir is None:
        raise UserError(f"the data set folder needs a path: {LAYOUT}")
    train = _subfolder(data_dir, "train")
    test = _subfolder(data_dir, "test", "val")
    classes = tuple(_class_names(train))
    if len(classes) < 2:
        raise UserError(f"{train} holds a single class; at least two are needed")
    if unknown := sorted(set(_class_names(test)) - set(classes)):
        raise UserError(
            f"{test / unknown[0]} is a class that {train} lacks; every class needs "
            "training images"
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
        raise UserError(f"{folder} holds no class folder: {LAYOUT}")
    return names


def _examples(folder, classes):
    """Paths and labels. A class's folder may be missing (in `test`), but not empty."""
    examples = []
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            continue
        paths = _images_in(folder / name)
        if not paths:
            raise UserError(
                f"{folder / name} holds no image ({', '.join(SUFFIXES)}): add images "
                "or remove the folder"
            )
        examples += [(path, label) for path in paths]
    return examples


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
    """Reads image files as squares, and returns their paths.

    Args:
      paths: image files, or folders of them.
      image_size: side of the squares, in pixels.
      channels: 1 for grey, 3 for RGB.

    Raises:
      UserError: if an image cannot be read, or a folder holds none.
    """
    files = []
    for path in map(Path.expanduser, paths):
        inside = _images_in(path) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{path} holds no image ({', '.join(SUFFIXES)})")
        files += inside
    mode = "L" if channels == 1 else "RGB"
    return np.stack([_pixels(path, mode, image_size) for path in files]), files


def _unreadable(path):
    return UnreadableError(f"cannot read {path} as an image: replace or remove it")
