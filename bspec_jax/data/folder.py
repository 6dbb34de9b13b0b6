"""Image folders: one subfolder per class, in one per split or not split yet."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from bspec_jax.data.decoding import decode, is_grey, to_mode
from bspec_jax.data.identity import hash_groups
from bspec_jax.data.images import (
    Part,
    Source,
    UnreadableError,
    make_split,
    square,
    to_array,
)
from bspec_jax.data.listing import (
    NOTHING,
    Listing,
    beside,
    folders_in,
    images_in,
    in_words,
    readable,
)
from bspec_jax.data.names import expanded, shown
from bspec_jax.storage.errors import UserError

IMAGE_SIZE = 32  # default side, in pixels
TEST_SHARE = 0.2  # of the images for testing, where they are not split
LAYOUT = (
    "`data_dir` must hold train/<class>/*.png and test/<class>/*.png, or <class>/*.png"
)
SPLITS = ("train", "test", "val")


def find(
    data_dir: Path | None, image_size: int | None, test_share: float = TEST_SHARE
) -> Source:
    """The images in `data_dir/train/<class>/` and `data_dir/test/<class>/` (or `val`).

    Classes are sorted by name. Images are decoded to squares, grey if no image shows a
    colour, otherwise RGB; to find out, images are decoded up to the first coloured one.
    Files of other types, hidden or empty ones, and all in subfolders of a class, are
    left out and counted.

    Without these two, the images in `data_dir/<class>/`, of which a share is for
    testing: those first in an order by a hash of their names, so that one more image
    changes the part of one other at most.

    Args:
      image_size: side of the squares, in pixels. Default: 32.
      test_share: share of each class for testing, at least one image.

    Raises:
      UserError: if a folder is missing or empty, there are fewer than two classes, the
        training data lack a class of the test data, or a file cannot be read.
    """
    if data_dir is None:
        raise UserError(f"the data set folder needs a path: {LAYOUT}")
    with readable():
        if not data_dir.is_dir():
            name = shown(data_dir)
            problem = f"{name} is a file" if data_dir.exists() else f"no folder {name}"
            raise UserError(f"{problem}: {LAYOUT}")
        split = any(folders_in(data_dir / name) for name in SPLITS)
        found = _split_already(data_dir) if split else _to_split(data_dir, test_share)
    classes, paths, left_out = found
    size = image_size or IMAGE_SIZE
    examples = {
        name: [
            (path, label)
            for label, of_class in enumerate(classes)
            for path in by_class.get(of_class, ())
        ]
        for name, by_class in paths.items()
    }
    grey = all(_looks_grey(path) for part in examples.values() for path, _ in part)
    parts = [
        Part(
            len(part),
            partial(_read, part, 1 if grey else 3, size),
            partial(_labels, part),
        )
        for part in examples.values()
    ]
    return Source("folder", *parts, classes, partial(_contents, paths), left_out)


def _split_already(data_dir):
    """Classes, paths by split and class, and what is left out, of a split folder."""
    train = _subfolder(data_dir, "train")
    test = _subfolder(data_dir, "test", "val")
    classes = _training_classes(train)
    if unknown := sorted(set(_class_names(test)) - set(classes)):
        raise UserError(
            f"{shown(test / unknown[0])} is a class that {shown(train)} lacks; every "
            "class needs training images"
        )
    listings = {
        split: {
            name: _images_of_class(folder / name)
            for name in classes
            if (folder / name).is_dir()
        }
        for split, folder in (("train", train), ("test", test))
    }
    left_out = beside(data_dir, {train.name, test.name})
    left_out += beside(train, set(classes)) + beside(test, set(classes))
    by_class = {
        name: sum(
            (of.get(name, NOTHING).left_out for of in listings.values()), Counter()
        )
        for name in classes
    }
    paths = {
        split: {name: listing.images for name, listing in of.items()}
        for split, of in listings.items()
    }
    return classes, paths, by_class | {"": left_out}


def _to_split(data_dir, test_share):
    """The same of a folder of classes, of whose images a share is for testing."""
    classes = _training_classes(data_dir)
    listings = {name: _images_of_class(data_dir / name) for name in classes}
    paths = {"train": {}, "test": {}}
    for name, (images, _) in listings.items():
        if len(images) < 2:
            raise UserError(
                f"{shown(data_dir / name)} holds a single image, and each class needs "
                "one for training and one for testing"
            )
        ranked = sorted(images, key=_rank)
        count = min(max(round(test_share * len(images)), 1), len(images) - 1)
        testing = set(ranked[:count])
        paths["test"][name] = [path for path in images if path in testing]
        paths["train"][name] = [path for path in images if path not in testing]
    by_class = {name: left_out for name, (_, left_out) in listings.items()}
    return classes, paths, by_class | {"": beside(data_dir, set(classes))}


def _rank(path):
    return hashlib.blake2b(os.fsencode(path.name), digest_size=8).digest()


def _subfolder(data_dir, *names):
    for name in names:
        if (data_dir / name).is_dir():
            return data_dir / name
    raise UserError(f"no folder {shown(data_dir / names[0])}: {LAYOUT}")


def _class_names(folder):
    names = folders_in(folder)
    if not names:
        raise UserError(f"{shown(folder)} holds no class folder: {LAYOUT}")
    for name in names:
        if not _is_text(name):
            raise UserError(
                f"{shown(folder / name)} has a name that is no text in UTF-8: rename it"
            )
    return tuple(names)


def _is_text(name):
    try:
        return bool(name.encode())
    except UnicodeEncodeError:  # bytes of a file system that Python could not decode
        return False


def _training_classes(folder):
    names = _class_names(folder)
    if len(names) < 2:
        raise UserError(
            f"{shown(folder)} holds a single class, {names[0]}; at least two are needed"
        )
    return names


def _images_of_class(folder):
    listing = images_in(folder)
    if not listing.images:
        raise UserError(
            f"{shown(folder)} holds no image{listing.also()}: add images or remove the "
            "folder"
        )
    return listing


def _looks_grey(path):
    try:
        return is_grey(path)
    except UnreadableError:
        return True  # it will be reported when it is read


def _contents(paths, class_names):
    """Hashes by split and class."""
    groups = {
        f"{split}/{name}": by_class[name]
        for split, by_class in paths.items()
        for name in class_names
        if name in by_class
    }
    return hash_groups(groups)


def _read(examples, channels, size, indices: np.ndarray):
    chosen = [examples[i] for i in indices]
    images = [_pixels(path, channels, size) for path, _ in chosen]
    return make_split(images, [label for _, label in chosen], size)


def _labels(examples):
    return np.array([label for _, label in examples], np.int32)


def _pixels(path, channels, size):
    return to_array(square(to_mode(decode(path), channels), size))


def read_images(
    paths: Sequence[Path],
    image_size: int,
    channels: int,
    tell: Callable[[str], Any] = print,
) -> tuple[UInt8[np.ndarray, "N H W C"], list[Path]]:
    """Reads image files as squares, and returns their paths.

    Args:
      paths: image files, or folders of them.
      image_size: side of the squares, in pixels.
      channels: 1 for grey, 3 for RGB.
      tell: takes a line about what is left out of a folder.

    Raises:
      UserError: if an image cannot be read, or a folder holds none.
    """
    files = []
    for path in map(expanded, paths):
        with readable():
            listing = images_in(path) if path.is_dir() else Listing([path], Counter())
        if not listing.images:
            raise UserError(f"{shown(path)} holds no image{listing.also()}")
        if listing.left_out:
            tell(f"{shown(path)}: left out {in_words(listing.left_out)}")
        files += listing.images
    return np.stack([_pixels(path, channels, image_size) for path in files]), files
