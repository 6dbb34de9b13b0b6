"""Segmentation of a pair of parts, such as the eyes, by an image's components.

    masks = segment(components, Choice(surface=(3, 5), image=(1,)))

The seven steps of appendix F: the components are made scalar, some tell where to begin
and some what to segment, `chan_vese` draws the border, and of the regions inside it
those are kept that come in pairs. `pair_score` says without labels how much a mask
looks like such a pair, and `search` chooses the components by it.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from bspec_jax.batching import batches_of_one_shape
from bspec_jax.chan_vese import Border, chan_vese

# Parts are small and their contrast in a component is low: with the usual weights the
# border shrinks to nothing around them.
BORDER = Border(length=0.02, inside=4.0)
BLOCK, BLOCK_ON_ACCELERATOR = 16, 256  # images of a compiled call
PAIR = 2  # regions that a row through the eyes crosses
SMALLEST = 1e-3  # of the image's pixels; smaller regions are specks
# Dark or bright, and the level.
WAYS = tuple(itertools.product((False, True), (0.6, 0.7, 0.8)))
REFINED = 6  # surfaces that `search` tries with other images
NEIGHBOURS = np.ones((3, 3), bool)  # regions may touch at a corner

Masks = Bool[np.ndarray, "N H W"]


class Choice(NamedTuple):
    """Which components segment a pair of parts, and where the border begins.

    surface: those that locate the parts.
    image: those that are nearly constant inside them.
    dark: whether the parts are darker than the rest in the components of `surface`.
    level: of the surface, from 0 to 1, above which pixels are inside at first.
    """

    surface: tuple[int, ...]
    image: tuple[int, ...]
    dark: bool = False
    level: float = 0.7


def scalarise(
    components: Float[np.ndarray, "M N H W C"],
) -> Float[np.ndarray, "M N H W"]:
    """The value (of hue, saturation, value) of each image, stretched to 0..1 before."""
    return _stretched(components, (-3, -2, -1)).max(-1)


def combine(
    scalars: Float[np.ndarray, "M N H W"], chosen: Sequence[int]
) -> Float[np.ndarray, "N H W"]:
    """The mean of these components, stretched to 0..1 in each image.

    Raises:
      ValueError: if there is no component chosen, or one that does not exist.
    """
    if not chosen or not all(0 <= k < len(scalars) for k in chosen):
        raise ValueError(
            f"components must be some of 0..{len(scalars) - 1}, got {list(chosen)}"
        )
    return _stretched(scalars[list(chosen)].mean(0), (-2, -1))


def _stretched(x, axes):
    low, high = x.min(axes, keepdims=True), x.max(axes, keepdims=True)
    return (x - low) / np.where(high > low, high - low, 1)


def initial_surface(
    scalars: Float[np.ndarray, "M N H W"], choice: Choice
) -> Float[np.ndarray, "N H W"]:
    """Where to begin: -1..1, positive where the chosen components exceed the level."""
    bright = combine(scalars, choice.surface)
    if choice.dark:
        bright = 1 - bright
    return np.clip((bright - choice.level) / (1 - choice.level), -1, 1)


def segment(
    components: Float[np.ndarray, "M N H W C"],
    choice: Choice,
    border: Border = BORDER,
) -> Masks:
    """Masks of the pairs of parts; empty where an image has none."""
    return segment_all(scalarise(components), [choice], border)[0]


def segment_all(
    scalars: Float[np.ndarray, "M N H W"],
    choices: Sequence[Choice],
    border: Border = BORDER,
    advance: Callable[[int], object] = lambda images: None,
) -> Bool[np.ndarray, "choices N H W"]:
    """The masks by each of several choices, from components made scalar.

    Args:
      advance: is told how many images were segmented since the last call.
    """
    images = np.stack([combine(scalars, choice.image) for choice in choices])
    surfaces = np.stack([initial_surface(scalars, choice) for choice in choices])
    flat = (-1, *images.shape[2:])
    found = inside(images.reshape(flat), surfaces.reshape(flat), border, advance)
    return np.stack([pair(mask) for mask in found]).reshape(images.shape)


def inside(
    images: Float[np.ndarray, "N H W"],
    surfaces: Float[np.ndarray, "N H W"],
    border: Border = BORDER,
    advance: Callable[[int], object] = lambda images: None,
) -> Masks:
    """Inside the border that `chan_vese` draws; nothing where an image is constant."""
    on_cpu = jax.default_backend() == "cpu"
    size = min(BLOCK if on_cpu else BLOCK_ON_ACCELERATOR, len(images))

    def positive(block):
        index, count = block
        found = chan_vese(
            images[index], surfaces[index], border, at_once=1 if on_cpu else size
        )
        return np.asarray(found.surface)[:count] > 0

    # XLA keeps to one core in such small loops; a thread for each uses them all.
    found = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for masks in pool.map(positive, batches_of_one_shape(len(images), size)):
            found.append(masks)
            advance(len(masks))
    return np.concatenate(found) & (np.ptp(images, (1, 2)) > 0)[:, None, None]


def regions(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "regions H W"]:
    """The connected regions of a mask but specks and what the image's edge cuts."""
    labels, count = ndimage.label(mask, NEIGHBOURS)
    found = labels == np.arange(1, count + 1)[:, None, None]
    cut = found[:, [0, -1]].any((1, 2)) | found[:, :, [0, -1]].any((1, 2))
    return found[~cut & (found.mean((1, 2)) >= SMALLEST)]


def multiplicity(
    found: Bool[np.ndarray, "regions H W"],
) -> Float[np.ndarray, " regions"]:
    """How many regions cross the rows of each one, the median over its rows."""
    rows = found.any(2)
    crossing = rows.sum(0)
    return np.array([np.median(crossing[row]) for row in rows])


def pair(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The two regions of a mask that share rows with each other and with no third.

    Of several such pairs the one that is most alike; empty if there is none.
    """
    found = regions(mask)
    found = found[multiplicity(found) == PAIR]
    candidates = [
        (likeness(one, other), one | other)
        for one, other in itertools.combinations(found, 2)
        if (one.any(1) & other.any(1)).any()
    ]
    best = max(candidates, key=lambda found: found[0], default=None)
    return np.zeros_like(mask) if best is None else best[1]


def likeness(one: Bool[np.ndarray, "H W"], other: Bool[np.ndarray, "H W"]) -> float:
    """How much two regions look like a pair of parts, 0..1.

    The overlap (IoU) of the one with the other mirrored, centre on centre, times how
    compact the less compact is: its area over that of the ellipse with the same second
    moments, at most 1.
    """
    left, right = _centred(one), _centred(other)[:, ::-1]
    overlap = (left & right).sum() / (left | right).sum()
    return float(overlap * min(_compactness(one), _compactness(other)))


def pair_score(mask: Bool[np.ndarray, "H W"]) -> float:
    """`likeness` of the two regions of a mask; 0 if it has not two."""
    found = regions(mask)
    return likeness(*found) if len(found) == PAIR else 0.0


def _centred(region):
    """A window of the image's size twice, with the region's centre in its middle."""
    height, width = region.shape
    window = np.zeros((2 * height + 1, 2 * width + 1), bool)
    rows, columns = np.nonzero(region)
    row, column = round(rows.mean()), round(columns.mean())
    window[rows - row + height, columns - column + width] = True
    return window


def _compactness(region):
    rows, columns = np.nonzero(region)
    # A pixel is a square, whose own variance keeps thin regions from having none.
    spread = np.cov(rows, columns, bias=True) + np.eye(2) / 12
    ellipse = 4 * np.pi * np.sqrt(np.linalg.det(spread))
    return min(1.0, len(rows) / ellipse)


def mean_pair_score(masks: Masks) -> float:
    """`pair_score`, mean over images: the criterion of the automatic choice."""
    return float(np.mean([pair_score(mask) for mask in masks]))


def iou(masks: Masks, truth: Masks) -> Float[np.ndarray, " N"]:
    """Intersection over union of each pair; 1 where both are empty."""
    union = (masks | truth).sum((1, 2))
    return np.where(union > 0, (masks & truth).sum((1, 2)) / np.maximum(union, 1), 1.0)


class Found(NamedTuple):
    """A choice and its value, the larger the better."""

    value: float
    choice: Choice


def search(
    scalars: Float[np.ndarray, "M N H W"],
    values: Sequence[Callable[[Masks], float]] = (mean_pair_score,),
    border: Border = BORDER,
    largest: int = 2,
    advance: Callable[[int], object] = lambda images: None,
) -> list[list[Found]]:
    """Choices of a few components for the surface and for the image, the best first.

    First the same components are both; then the best surfaces are tried with all
    images. Sensible with a handful of images, N = 8 or so.

    Args:
      values: of a choice's masks; by default what needs no labels. There is a ranking
        by each.
      largest: number of components that are combined.
      advance: is told how many images were segmented since the last call, of
        `search_size` choices times N in all.
    """
    chosen = _combinations(len(scalars), largest)
    first = [Choice(one, one, *way) for one in chosen for way in WAYS]
    masks = segment_all(scalars, first, border, advance)

    def ranked(value):
        begun = _ranked(first, masks, value)
        others = [
            one.choice._replace(image=components)
            for one in begun[:REFINED]
            for components in chosen
            if components != one.choice.image
        ]
        if not others:
            return begun
        found = _ranked(others, segment_all(scalars, others, border, advance), value)
        return sorted(begun + found, key=_by_value)

    return [ranked(value) for value in values]


def search_size(num_components: int, num_values: int = 1, largest: int = 2) -> int:
    """How many choices `search` tries."""
    chosen = len(_combinations(num_components, largest))
    return chosen * len(WAYS) + num_values * REFINED * (chosen - 1)


def _combinations(num_components, largest):
    return [
        components
        for size in range(1, largest + 1)
        for components in itertools.combinations(range(num_components), size)
    ]


def _ranked(choices, masks, value):
    return sorted(map(Found, map(value, masks), choices), key=_by_value)


def _by_value(found):
    return -found.value
