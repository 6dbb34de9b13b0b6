"""The faces as a data set: an example depends on its split and index alone."""

from collections.abc import Collection, Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Int, Int32, Key

from bspec_jax.batching import batches_of_one_shape
from bspec_jax.data.faces.parts import CLASSES
from bspec_jax.data.faces.pinning import OPTIMISED, new_key, pinned
from bspec_jax.data.faces.rendering import Face, removed_parts, render
from bspec_jax.data.images import Part, Source, Split
from bspec_jax.storage.errors import ArgumentError

COUNTS = {"train": 6000, "test": 900}
# Of the faces; part of their identity. To raise when any pixel changes, as tests tell.
VERSION = 1
IMAGE_SIZE = 64  # default side, in pixels
BATCH_SIZE = 64  # faces rendered at a time


def example_key(split: str, index: Int[Array, ""] | int) -> Key[Array, ""]:
    """The key of an example of a split, "train" or "test"."""
    with pinned():
        return jax.random.fold_in(new_key(list(COUNTS).index(split)), index)


def find(image_size: int | None) -> Source:
    """The faces as a source of images with ground truth, the same for every seed.

    Args:
      image_size: side of the images, in pixels. Default: 64.
    """
    size = image_size or IMAGE_SIZE
    parts = [
        Part(
            count,
            partial(_read, split, size),
            partial(labels, split),
            partial(_ground_truth, split, size),
        )
        for split, count in COUNTS.items()
    ]
    return Source("faces", *parts, CLASSES, lambda _: {"version": str(VERSION)})


def _ground_truth(split, size, indices, without=()):
    return ground_truth(split, indices, size, without)


def ground_truth(
    split: str,
    indices: Sequence[int] | np.ndarray,
    size: int,
    without: Collection[str] = (),
) -> Face:
    """Renders examples with all their layers, leaves `[N, H, W, ...]`.

    Args:
      split: "train" or "test".
      indices: of the examples, `[N]`.
      size: side of the images, in pixels.
      without: parts to omit, as for `render`.

    Raises:
      ArgumentError: if there is no such split, example or part.
    """
    indices, faces = np.asarray(indices), []
    if split not in COUNTS:
        raise ArgumentError(f"`split` must be train or test, got {split}")
    if indices.dtype.kind not in "iu" or not indices.size:
        raise ArgumentError("`indices` must be integers, at least one")
    if not 0 <= indices.min() <= indices.max() < COUNTS[split]:
        raise ArgumentError(f"`indices` must be in 0..{COUNTS[split] - 1}")
    removed = removed_parts(without)
    for positions, count in batches_of_one_shape(len(indices), BATCH_SIZE):
        batch = indices[positions]
        with pinned():
            keys = jax.vmap(partial(example_key, split))(batch)
            rendered = _render_many(keys, _labels(batch), size, removed)
            rendered = jax.device_get(rendered)
        faces.append(jax.tree.map(lambda leaf, n=count: leaf[:n], rendered))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *faces)


def labels(split: str) -> Int32[np.ndarray, " N"]:
    """The classes of all examples of a split, which take turns: index % 3."""
    return _labels(np.arange(COUNTS[split]))


def _labels(indices):
    return np.asarray(indices % len(CLASSES), np.int32)


def _read(split, size, indices):
    images = ground_truth(split, indices, size).image
    return Split(np.round(255 * images).astype(np.uint8), _labels(indices))


@partial(jax.jit, static_argnums=(2, 3), compiler_options=OPTIMISED)
def _render_many(keys, labels, size, without):
    return jax.vmap(lambda key, label: render(key, label, size, without))(keys, labels)
