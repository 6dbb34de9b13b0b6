"""Pairs of parts in a mask, such as the eyes: selected and scored without labels.

A pair is two regions whose rows overlap and cross no third region, each similar to the
mirror image of the other (appendix F, steps 6 and 7).
"""

import itertools

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from bspec_jax.storage.errors import ArgumentError

PAIR = 2  # regions that a row through the eyes crosses
SMALLEST = 1e-3  # share of the image's pixels; smaller regions are specks
NEIGHBOURS = np.ones((3, 3), bool)  # 8-connectivity: pixels connect at a corner, too

Masks = Bool[np.ndarray, "N H W"]


def regions(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "regions H W"]:
    """Connected regions of a mask, except specks and regions that touch the edge.

    Raises:
      ArgumentError: if the mask is not boolean, such as a surface.
    """
    if mask.dtype != bool:
        raise ArgumentError(f"a mask must be boolean, got {mask.dtype}")
    labels, count = ndimage.label(mask, NEIGHBOURS)
    connected = labels == np.arange(1, count + 1)[:, None, None]
    cut = connected[:, [0, -1]].any((1, 2)) | connected[:, :, [0, -1]].any((1, 2))
    return connected[~cut & (connected.mean((1, 2)) >= SMALLEST)]


def multiplicity(
    stacked: Bool[np.ndarray, "regions H W"],
) -> Float[np.ndarray, " regions"]:
    """Number of regions that cross a region's rows, as the median over its rows."""
    rows = stacked.any(2)
    crossing = rows.sum(0)
    return np.array([np.median(crossing[row]) for row in rows])


def pair(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The two regions of a mask that share rows with each other and with no third.

    Returns the pair of the highest `likeness`, and an empty mask if there is none.
    """
    connected = regions(mask)
    paired = connected[multiplicity(connected) == PAIR]
    candidates = [
        (likeness(region, other), region | other)
        for region, other in itertools.combinations(paired, 2)
        if (region.any(1) & other.any(1)).any()
    ]
    if not candidates:
        return np.zeros_like(mask)
    return max(candidates, key=lambda candidate: candidate[0])[1]


def likeness(region: Bool[np.ndarray, "H W"], other: Bool[np.ndarray, "H W"]) -> float:
    """How much two regions look like a pair of parts, 0..1.

    The IoU of one region with the mirrored other, after aligning their centres, times
    the lower of their compactnesses. Compactness is the area over that of the ellipse
    with the same second moments, at most 1.
    """
    aligned, mirrored = _centred(region), _centred(other)[:, ::-1]
    overlap = (aligned & mirrored).sum() / (aligned | mirrored).sum()
    return float(overlap * min(_compactness(region), _compactness(other)))


def pair_score(mask: Bool[np.ndarray, "H W"]) -> float:
    """`likeness` of the two regions of a mask; 0 unless it has exactly two."""
    connected = regions(mask)
    return likeness(*connected) if len(connected) == PAIR else 0.0


def _centred(region):
    """The region in the centre of a window of twice the image's size."""
    height, width = region.shape
    window = np.zeros((2 * height + 1, 2 * width + 1), bool)
    rows, columns = np.nonzero(region)
    row, column = round(rows.mean()), round(columns.mean())
    window[rows - row + height, columns - column + width] = True
    return window


def _compactness(region):
    rows, columns = np.nonzero(region)
    # 1/12 is the variance of a unit square, the pixel: without it, a region one pixel
    # wide would have an ellipse of area 0.
    spread = np.cov(rows, columns, bias=True) + np.eye(2) / 12
    ellipse = 4 * np.pi * np.sqrt(np.linalg.det(spread))
    return min(1.0, len(rows) / ellipse)


def mean_pair_score(masks: Masks) -> float:
    """Mean `pair_score` over images: the criterion for choices without labels."""
    return float(np.mean([pair_score(mask) for mask in masks]))
