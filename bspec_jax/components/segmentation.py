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
from bspec_jax.components.indices import component_indices
from bspec_jax.components.pairs import Masks, mean_pair_score, pair
from bspec_jax.storage.errors import ArgumentError, notify

# Parts are small and have little contrast in a component: with scikit-image's weights,
# the border shrinks to nothing around them.
BORDER = Border(length=0.02, inside=4.0)
BLOCK, BLOCK_ON_ACCELERATOR = 16, 256  # images per compiled call
# Values of `Choice.dark` and `Choice.level` that `search` tries.
VARIANTS = tuple(itertools.product((False, True), (0.6, 0.7, 0.8)))
CHOICES_AT_ONCE = 64  # in `search`, whose memory does not grow with their number
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


class Segmented(NamedTuple):
    """Masks by Chan-Vese, and whether each border has converged.

    Where it has not, the mask is that of the last step: allow more `max_iterations`.
    """

    masks: Bool[np.ndarray, "*N H W"]
    converged: Bool[np.ndarray, "*N"]


def scalarise(
    components: Float[np.ndarray, "M N H W C"],
) -> Float[np.ndarray, "M N H W"]:
    """HSV value of each image, after rescaling the image to 0..1.

    Raises:
      ArgumentError: if a value is not finite.
    """
    return _rescaled(components, (-3, -2, -1)).max(-1)


def combine(
    scalars: Float[np.ndarray, "M N H W"], chosen: Sequence[int]
) -> Float[np.ndarray, "N H W"]:
    """Mean of the chosen components, rescaled to 0..1 in each image.

    Raises:
      ArgumentError: as `component_indices`, or if a value is not finite.
    """
    indices = component_indices(chosen, len(scalars))
    return _rescaled(scalars[indices].mean(0), (-2, -1))


def _rescaled(x, axes):
    _check_finite(x)
    low, high = x.min(axes, keepdims=True), x.max(axes, keepdims=True)
    return (x - low) / np.where(high > low, high - low, 1)


def _check_finite(*arrays):
    if not all(np.isfinite(array).all() for array in arrays):
        raise ArgumentError("the components to segment must be finite numbers")


def initial_surface(
    scalars: Float[np.ndarray, "M N H W"], choice: Choice
) -> Float[np.ndarray, "N H W"]:
    """The initial surface, in -1..1: positive where the components exceed the level.

    Raises:
      ArgumentError: as `component_indices`, or if the level is not in 0..1, below 1.
    """
    if not 0 <= choice.level < 1:
        raise ArgumentError(f"`level` must be in 0..1, below 1, got {choice.level}")
    bright = combine(scalars, choice.surface)
    if choice.dark:
        bright = 1 - bright
    return np.clip((bright - choice.level) / (1 - choice.level), -1, 1)


def segment(
    components: Float[np.ndarray, "M N H W C"],
    choice: Choice,
    border: Border = BORDER,
) -> Masks:
    """A mask of the pair of parts of each image; empty where none is found.

    Warns if borders have not converged; `segment_all` says which.

    Raises:
      ArgumentError: as `segment_all`.
    """
    (masks,), (converged,) = segment_all(scalarise(components), [choice], border)
    if not converged.all():
        notify(
            f"{(~converged).sum()} of {len(converged)} borders have not converged in "
            f"{border.max_iterations} steps"
        )
    return masks


def segment_all(
    scalars: Float[np.ndarray, "M N H W"],
    choices: Sequence[Choice],
    border: Border = BORDER,
    advance: Callable[[int], object] = lambda images: None,
) -> Segmented:
    """Masks `[choices, N, H, W]` by each of several choices of components.

    Args:
      scalars: components, from `scalarise`.
      choices: one segmentation of all images each.
      advance: takes the number of images segmented since its last call.

    Raises:
      ArgumentError: as `combine`, `initial_surface` and `inside`.
    """
    images = np.stack([combine(scalars, choice.image) for choice in choices])
    surfaces = np.stack([initial_surface(scalars, choice) for choice in choices])
    flat = (-1, *images.shape[2:])
    found = inside(images.reshape(flat), surfaces.reshape(flat), border, advance)
    masks = np.stack([pair(mask) for mask in found.masks]).reshape(images.shape)
    return Segmented(masks, found.converged.reshape(images.shape[:2]))


def inside(
    images: Float[np.ndarray, "N H W"],
    surfaces: Float[np.ndarray, "N H W"],
    border: Border = BORDER,
    advance: Callable[[int], object] = lambda images: None,
) -> Segmented:
    """Where `chan_vese`'s surface is positive; nowhere in a constant image.

    Raises:
      ArgumentError: if a value is not finite.
    """
    _check_finite(images, surfaces)
    on_cpu = jax.default_backend() == "cpu"
    size = min(BLOCK if on_cpu else BLOCK_ON_ACCELERATOR, len(images))

    def solve(block):
        index, count = block
        segmented = chan_vese(
            images[index], surfaces[index], border, at_once=1 if on_cpu else size
        )
        positive = np.asarray(segmented.surface)[:count] > 0
        return positive, np.asarray(segmented.converged)[:count]

    # XLA runs such small loops on a single core; a thread per core uses all of them.
    blocks = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for block in pool.map(solve, batches_of_one_shape(len(images), size)):
            blocks.append(block)
            advance(len(block[0]))
    masks, converged = map(np.concatenate, zip(*blocks, strict=True))
    varied = images.max((1, 2)) > images.min((1, 2))
    return Segmented(masks & varied[:, None, None], converged)


def iou(masks: Masks, truth: Masks) -> Float[np.ndarray, " N"]:
    """Intersection over union of each mask and its truth; 1 where both are empty.

    Raises:
      ArgumentError: unless both are boolean and of one shape.
    """
    if not masks.dtype == truth.dtype == bool or masks.shape != truth.shape:
        raise ArgumentError(
            f"masks must be boolean and of one shape, got {masks.dtype}{masks.shape} "
            f"and {truth.dtype}{truth.shape}"
        )
    union = (masks | truth).sum((1, 2))
    return np.where(union > 0, (masks & truth).sum((1, 2)) / np.maximum(union, 1), 1.0)


class RankedChoice(NamedTuple):
    """A choice and its value by a criterion; larger is better.

    converged: share of the borders that have converged.
    """

    value: float
    choice: Choice
    converged: float


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
    rankings = _evaluate(scalars, same, criteria, border, advance)
    for ranking, criterion in zip(rankings, criteria, strict=True):
        ranking.sort(key=_by_value)
        refined = [
            best.choice._replace(image=components)
            for best in ranking[:REFINED]
            for components in combinations
            if components != best.choice.image
        ]
        (found,) = _evaluate(scalars, refined, [criterion], border, advance)
        ranking += found
        ranking.sort(key=_by_value)
    return rankings


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


def _evaluate(scalars, choices, criteria, border, advance):
    """The choices with their values, by each criterion."""
    evaluated = [[] for _ in criteria]
    for start in range(0, len(choices), CHOICES_AT_ONCE):
        some = choices[start : start + CHOICES_AT_ONCE]
        masks, converged = segment_all(scalars, some, border, advance)
        for found, criterion in zip(evaluated, criteria, strict=True):
            found += map(RankedChoice, map(criterion, masks), some, converged.mean(1))
    return evaluated


def _by_value(ranked):
    return -ranked.value
