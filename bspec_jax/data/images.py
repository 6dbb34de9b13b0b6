"""What every reader of images yields, and images of one size."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from bspec_jax.errors import FlagError, UserError


class UnreadableError(UserError):
    """A file that is no image, or a damaged one."""


class Split(NamedTuple):
    """Images and their classes.

    images: `[N, H, W, C]`, in 0..255.
    labels: `[N]`, each the index of a class.
    """

    images: UInt8[np.ndarray, "N H W C"]
    labels: Int32[np.ndarray, "N"]


class Part(NamedTuple):
    """A part of a set, of which nothing is decoded yet.

    count: of the examples.
    read: decodes the examples of the indices `[K]` it is given, in that order.
    labels: finds the classes of all examples, `[count]`, without decoding any.
    """

    count: int
    read: Callable[[np.ndarray], Split]
    labels: Callable[[], Int32[np.ndarray, " count"]]


class Source(NamedTuple):
    """A set as it is on the disk, before any split for validation."""

    name: str
    train: Part
    test: Part
    class_names: tuple[str, ...]


def of_classes(source: Source, names: Sequence[str]) -> Source:
    """The examples of some classes, numbered in the order of `names`.

    Raises:
      FlagError: if there is no class of that name (small or large letters), or it is
        named twice.
    """
    known = [name.lower() for name in source.class_names]
    chosen = [name.lower() for name in names]
    for name in chosen:
        if name not in known:
            have = ", ".join(source.class_names)
            raise FlagError(f"--classes: {source.name} has no {name}, it has {have}")
        if chosen.count(name) > 1:
            raise FlagError(f"--classes names {name} twice")
    new = np.full(len(known), -1, np.int32)
    for label, name in enumerate(chosen):
        new[known.index(name)] = label

    def part_of(part):
        labels = new[part.labels()]
        kept = np.flatnonzero(labels >= 0)

        return Part(
            len(kept),
            partial(_read_kept, part, kept, labels),
            partial(labels.__getitem__, kept),
        )

    classes = tuple(source.class_names[known.index(name)] for name in chosen)
    return Source(source.name, part_of(source.train), part_of(source.test), classes)


def _read_kept(part, kept, labels, indices):
    return Split(part.read(kept[indices]).images, labels[kept[indices]])


def make_split(
    images: Sequence[np.ndarray] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    image_size: int | None,
) -> Split:
    """A split of images `[H, W, C]`; `image_size` makes squares of that side of them.

    Raises:
      UserError: if the images differ in size or channels, or there are none.
    """
    if len(images) == 0:
        raise UserError("the set has a part without any image")
    if image_size is not None:
        images = [_fitted(image, image_size) for image in images]
    check_one_shape({image.shape for image in images})
    return Split(np.asarray(images, np.uint8), np.asarray(labels, np.int32))


def check_one_shape(shapes: Collection[tuple[int, ...]]) -> None:
    """Raises UserError if images have more shapes `(H, W, C)` than one."""
    if len(shapes) > 1:
        first, *_, last = ("x".join(map(str, shape)) for shape in sorted(shapes))
        raise UserError(
            f"the images differ in shape ({first}, {last}): give --image-size, the "
            "side of the squares to make of them"
        )


def _fitted(image: np.ndarray, size: int) -> np.ndarray:
    if image.shape[:2] == (size, size):
        return image
    grey = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    return to_array(square(picture, size))


def square(picture: Image.Image, size: int) -> Image.Image:
    """The central square of a picture, resized (bicubic) to `size` x `size` pixels."""
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    # Not resize's own box: at its edges the filter sees pixels beyond it.
    cropped = picture.crop((left, top, left + side, top + side))
    return cropped.resize((size, size), Image.Resampling.BICUBIC)


def to_array(picture: Image.Image) -> UInt8[np.ndarray, "H W C"]:
    """The pixels of a picture, with an axis of channels also where it is grey."""
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels
