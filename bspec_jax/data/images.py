"""Labelled images: decoded splits, splits decoded on demand, and their sizes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int32, UInt8
from PIL import Image

from bspec_jax.data.names import position
from bspec_jax.storage.errors import ArgumentError, UserError


class UnreadableError(UserError):
    """A file that is not an image, or a damaged one."""


class Split(NamedTuple):
    """Images and their classes.

    images: `[N, H, W, C]`, in 0..255.
    labels: `[N]`, indices of classes.
    """

    images: UInt8[np.ndarray, "N H W C"]
    labels: Int32[np.ndarray, "N"]


class Part(NamedTuple):
    """A split decoded on demand.

    count: number of examples.
    read: decodes the examples at indices `[K]`, in that order.
    labels: returns the classes of all examples, `[count]`, without decoding any.
    ground_truth: `(indices, without=()) -> faces.Face`, what the examples were
        rendered from, and with parts left out; None for pictures of the world.
    """

    count: int
    read: Callable[[np.ndarray], Split]
    labels: Callable[[], Int32[np.ndarray, " count"]]
    ground_truth: Callable[..., Any] | None = None


class Source(NamedTuple):
    """A data set as stored, before any validation split.

    contents: `(class_names) -> dict`, hashes of what is stored of these classes, by
        file or folder; see `identity.hash_groups` for the cost.
    left_out: by class, how many files are no examples for which reason, as in
        `{"cat": {"hidden": 2}}`; those of no class under "".
    """

    name: str
    train: Part
    test: Part
    class_names: tuple[str, ...]
    contents: Callable[[tuple[str, ...]], dict[str, str]] = lambda class_names: {}
    left_out: Mapping[str, Mapping[str, int]] = MappingProxyType({})

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies the data, as JSON values; see `identity.check_same`.

        dataset: name.
        classes: their names.
        train, test: number of examples of each class.
        contents: hashes, computed at the first call.
        """
        return {
            "dataset": self.name,
            "classes": list(self.class_names),
            "train": self.count_of(self.train).tolist(),
            "test": self.count_of(self.test).tolist(),
            "contents": self.contents(self.class_names),
        }

    def count(self, labels: Int[np.ndarray, " N"]) -> Int[np.ndarray, "C"]:
        """The number of examples of each class."""
        return np.bincount(labels, minlength=len(self.class_names))

    def count_of(self, part: Part) -> Int[np.ndarray, "C"]:
        """The same of a part of this data set, whose labels are read once."""
        return self.count(_read_once(part.labels))


@lru_cache(maxsize=8)
def _read_once(labels):
    return labels()


def of_classes(source: Source, names: Sequence[str]) -> Source:
    """The examples of some classes, numbered in the order of `names`.

    Upper and lower case count only where class names differ in nothing else.

    Raises:
      ArgumentError: if a class does not exist, is not the only one meant, or is named
        twice.
    """
    chosen = []
    for name in names:
        try:
            label = position(name, source.class_names)
        except ValueError as error:
            raise ArgumentError(f"`classes`: {error}") from None
        if label is None:
            have = ", ".join(source.class_names)
            raise ArgumentError(
                f"`classes`: {source.name} has no {name}, it has {have}"
            )
        if label in chosen:
            raise ArgumentError(f"`classes` names {name} twice")
        chosen.append(label)
    new = np.full(len(source.class_names), -1, np.int32)
    new[chosen] = np.arange(len(chosen))

    def part_of(part):
        labels = new[part.labels()]
        kept = np.flatnonzero(labels >= 0)
        truth = part.ground_truth and partial(_truth_of_kept, part.ground_truth, kept)
        return Part(
            len(kept),
            partial(_read_kept, part, kept, labels),
            partial(labels.__getitem__, kept),
            truth,
        )

    return source._replace(
        train=part_of(source.train),
        test=part_of(source.test),
        class_names=tuple(source.class_names[label] for label in chosen),
    )


def _read_kept(part, kept, labels, indices):
    return Split(part.read(kept[indices]).images, labels[kept[indices]])


def _truth_of_kept(ground_truth, kept, indices, without=()):
    return ground_truth(kept[indices], without)


def check_bytes(images: Any) -> None:
    """Raises ArgumentError unless images are bytes, 0..255 as stored."""
    if images.dtype != np.uint8:
        raise ArgumentError(
            f"`images` must be bytes in 0..255 (uint8), got {images.dtype}"
        )


def make_split(
    images: Sequence[np.ndarray] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    image_size: int | None,
) -> Split:
    """A split of images `[H, W, C]`, as squares of side `image_size` if it is given.

    Raises:
      UserError: if the images differ in size or channels, or there are none.
      ArgumentError: if they are not bytes.
    """
    if len(images) == 0:
        raise UserError("the data set has a split without images")
    for image in images:
        check_bytes(image)
    if image_size is not None:
        images = [_fitted(image, image_size) for image in images]
    check_one_shape({image.shape for image in images})
    return Split(np.asarray(images), np.asarray(labels, np.int32))


def check_one_shape(shapes: Collection[tuple[int, ...]]) -> None:
    """Raises UserError for more than one image shape `(H, W, C)`."""
    if len(shapes) > 1:
        first, *_, last = ("x".join(map(str, shape)) for shape in sorted(shapes))
        raise UserError(
            f"the images differ in shape ({first}, {last}): set `image_size`, the side "
            "of the squares that they become"
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
    # Not resize's `box`: at its edges the filter would see pixels outside.
    cropped = picture.crop((left, top, left + side, top + side))
    return cropped.resize((size, size), Image.Resampling.BICUBIC)


def to_array(picture: Image.Image) -> UInt8[np.ndarray, "H W C"]:
    """The pixels of a picture, with a channel axis for grey ones too."""
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels
