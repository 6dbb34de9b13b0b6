"""Segmentation of a pair of parts, such as the eyes, by an image's components.

    masks = segment(components, Choice(surface=(3, 5), image=(1,)))

The seven steps of appendix F: components become scalar images; some of them give the
initial surface, and some the image to segment; `chan_vese` finds the border; and
`pairs` keeps the two regions inside it that form a pair. `search` chooses the
components, by default by how much the masks look like pairs, which needs no labels.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from bspec_jax.batching import batches_of_one_shape
from bspec_jax.components.chan_vese import Border, chan_vese
from bspec_jax.components.pairs import Masks, mean_pair_score, pair

# Parts are small and have little contrast in a component: with scikit-image's weights,
# the border shrinks to nothing around them.
BORDER = Border(length=0.02, inside=4.0)
BLOCK, BLOCK_ON_ACCELERATOR = 16, 256  # images per compiled call
# Values of `Choice.dark` and `Choice.level` that `search` tries.
VARIANTS = tuple(itertools.product((False, True), (0.6, 0.7, 0.8)))
REFINED = 6  # best choices that `search` varies by the components of `Choice.image`


class Choice(NamedTuple):
    """The components that segment a pair of parts, and the initial surface.

    surface: indices of the components that locate the parts.
    image: indices of the components that are nearly constant inside the parts.
    dark: whether the parts are darker than the rest in the components of `surface`.
    level: value of the combined components, 0..1, above which pixels start inside.
    """

    surface: tuple[int, ...]
    image: tuple[int, ...]
    dark: bool = False
    level: float = 0.7


def scalarise(
    components: Float[np.ndarray, "M N H W C"],
) -> Float[np.ndarray, "M N H W"]:
    """HSV value of each image, after rescaling the image to 0..1."""
    return _rescaled(components, (-3, -2, -1)).max(-1)


def combine(
    scalars: Float[np.ndarray, "M N H W"], chosen: Sequence[int]
) -> Float[np.ndarray, "N H W"]:
    """Mean of the chosen components, rescaled to 0..1 in each image.

    Raises:
      ValueError: if no component is chosen, or an index is out of range.
    """
    if not chosen or not all(0 <= k < len(scalars) for k in chosen):
        raise ValueError(
            f"components must be some of 0..{len(scalars) - 1}, got {list(chosen)}"
        )
    return _rescaled(scalars[list(chosen)].mean(0), (-2, -1))


def _rescaled(x, axes):
    low, high = x.min(axes, keepdims=True), x.max(axes, keepdims=True)
    return (x - low) / np.where(high > low, high - low, 1)


def initial_surface(
    scalars: Float[np.ndarray, "M N H W"], choice: Choice
) -> Float[np.ndarray, "N H W"]:
    """The initial surface, in -1..1: positive where the components exceed the level."""
    bright = combine(scalars, choice.surface)
    if choice.dark:
        bright = 1 - bright
    return np.clip((bright - choice.level) / (1 - choice.level), -1, 1)


def segment(
    components: Float[np.ndarray, "M N H W C"],
    choice: Choice,
    border: Border = BORDER,
) -> Masks:
    """A mask of the pair of parts of each image; empty where none is found."""
    return segment_all(scalarise(components), [choice], border)[0]


def segment_all(
    scalars: Float[np.ndarray, "M N H W"],
    choices: Sequence[Choice],
    border: Border = BORDER,
    advance: Callable[[int], object] = lambda images: None,
) -> Bool[np.ndarray, "choices N H W"]:
    """Masks by each of several choices of components.

    Args:
      scalars: components, from `scalarise`.
      choices: one segmentation of all images each.
      advance: takes the number of images segmented since its last call.

    Raises:
      ValueError: as `combine`.
    """
    images = np.stack([combine(scalars, choice.image) for choice in choices])
    surfaces = np.stack([initial_surface(scalars, choice) for choice in choices])
    flat = (-1, *images.shape[2:])
    masks = inside(images.reshape(flat), surfaces.reshape(flat), border, advance)
    return np.stack([pair(mask) for mask in masks]).reshape(images.shape)


def inside(
    images: Float[np.ndarray, "N H W"],
    surfaces: Float[np.ndarray, "N H W"],
    border: Border = BORDER,
    advance: Callable[[int], object] = lambda images: None,
) -> Masks:
    """Where `chan_vese`'s surface is positive; nowhere in a constant image."""
    on_cpu = jax.default_backend() == "cpu"
    size = min(BLOCK if on_cpu else BLOCK_ON_ACCELERATOR, len(images))

    def positive(block):
        index, count = block
        segmented = chan_vese(
            images[index], surfaces[index], border, at_once=1 if on_cpu else size
        )
        return np.asarray(segmented.surface)[:count] > 0

    # XLA runs such small loops on a single core; a thread per core uses all of them.
    blocks = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for masks in pool.map(positive, batches_of_one_shape(len(images), size)):
            blocks.append(masks)
            advance(len(masks))
    return np.concatenate(blocks) & (np.ptp(images, (1, 2)) > 0)[:, None, None]


def iou(masks: Masks, truth: Masks) -> Float[np.ndarray, " N"]:
    """Intersection over union of each mask and its truth; 1 where both are empty."""
    union = (masks | truth).sum((1, 2))
    return np.where(union > 0, (masks & truth).sum((1, 2)) / np.maximum(union, 1), 1.0)


class RankedChoice(NamedTuple):
    """A choice and its value by a criterion; larger is better."""

    value: float
    choice: Choice


def search(
    scalars: Float[np.ndarray, "M N H W"],
    criteria: Sequence[Callable[[Masks], float]] = (mean_pair_score,),
    border: Border = BORDER,
    largest: int = 2,
    advance: Callable[[int], object] = lambda images: None,
) -> list[list[RankedChoice]]:
    """Ranks choices of components for the surface and for the image, best first.

    First uses the same components for both; then combines the best surfaces with all
    other images. A handful of images, N = 8 or so, is enough.

    Args:
      scalars: components, from `scalarise`.
      criteria: each values the masks of a choice, and gets a ranking of its own.
        Default: how much they look like pairs, which needs no labels.
      largest: maximum number of components that are combined.
      advance: takes the number of images segmented since its last call, out of
        `search_size` times N.

    Cost: `search_size` segmentations of N images, O(M^largest).
    """
    combinations = _combinations(len(scalars), largest)
    same = [Choice(c, c, *variant) for c in combinations for variant in VARIANTS]
    masks_of_same = segment_all(scalars, same, border, advance)

    def ranking(criterion):
        ranked = _ranked(same, masks_of_same, criterion)
        refined = [
            best.choice._replace(image=components)
            for best in ranked[:REFINED]
            for components in combinations
            if components != best.choice.image
        ]
        if not refined:  # of a single component
            return ranked
        masks_of_refined = segment_all(scalars, refined, border, advance)
        ranked += _ranked(refined, masks_of_refined, criterion)
        return sorted(ranked, key=_by_value)

    return [ranking(criterion) for criterion in criteria]


def search_size(num_components: int, num_criteria: int = 1, largest: int = 2) -> int:
    """Number of choices that `search` tries."""
    combinations = len(_combinations(num_components, largest))
    same = combinations * len(VARIANTS)
    return same + num_criteria * REFINED * (combinations - 1)


def _combinations(num_components, largest):
    return [
        components
        for size in range(1, largest + 1)
        for components in itertools.combinations(range(num_components), size)
    ]


def _ranked(choices, masks, criterion):
    return sorted(map(RankedChoice, map(criterion, masks), choices), key=_by_value)


def _by_value(ranked):
    return -ranked.value
