"""Measures of an image's decomposition f = R + sum_k v_k, and of how near f is.

Images are in -1..1. Where there is a ground truth (`data.faces`), `part_enrichment` and
`layer_correlation` say what a component shows.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from skimage.metrics import structural_similarity

RANGE = 2.0  # of the values of images


def psnr(
    x: Float[np.ndarray, "N H W C"], y: Float[np.ndarray, "N H W C"]
) -> Float[np.ndarray, " N"]:
    """Peak signal-to-noise ratio of each pair, in dB: 10 log10(4 / mean (x - y)^2)."""
    error = np.mean((x - y) ** 2, axis=(1, 2, 3))
    return 10 * np.log10(RANGE**2 / np.maximum(error, 1e-12))


def ssim(
    x: Float[np.ndarray, "N H W C"], y: Float[np.ndarray, "N H W C"]
) -> Float[np.ndarray, " N"]:
    """Structural similarity of each pair, mean over pixels and channels.

    Source: Wang et al., IEEE Trans. Image Processing 13 (2004), p. 600, with its
    Gaussian window of 1.5 pixels; scikit-image's.
    """
    options = {
        "channel_axis": -1,
        "data_range": RANGE,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    return np.array(
        [structural_similarity(a, b, **options) for a, b in zip(x, y, strict=True)]
    )


def total_variation(x: Float[np.ndarray, "N H W C"]) -> Float[np.ndarray, " N"]:
    """Sum of absolute differences to the right and downwards, over the image's size.

    The size is H W C: a mean over pixels and channels.
    """
    across = np.abs(np.diff(x, axis=2)).sum((1, 2, 3))
    down = np.abs(np.diff(x, axis=1)).sum((1, 2, 3))
    return (across + down) / x[0].size


def roughness(components: Float[np.ndarray, "M N H W C"]) -> Float[np.ndarray, " M"]:
    """Energy of each component's differences between neighbours, over its own.

    Between 0 for what is constant and 8 for a chequerboard; 0 where there is nothing.
    """
    energy = (components**2).sum((1, 2, 3, 4))
    across = (np.diff(components, axis=3) ** 2).sum((1, 2, 3, 4))
    down = (np.diff(components, axis=2) ** 2).sum((1, 2, 3, 4))
    return (across + down) / np.maximum(energy, 1e-12)


def part_enrichment(
    components: Float[np.ndarray, "M N H W C"], masks: Bool[np.ndarray, "N H W"]
) -> Float[np.ndarray, "M N"]:
    """How much of a component's energy lies in a part of the image, against chance.

    The share of ||v_k(x)||^2 inside the mask over the mask's share of the pixels: 1 for
    a component that takes no notice of the part. NaN where the mask or the component is
    empty.
    """
    energy = (components**2).sum(-1)
    total = energy.sum((2, 3))
    inside = (energy * masks).sum((2, 3))
    area = masks.mean((1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((total > 0) & (area > 0), inside / total / area, np.nan)


def layer_correlation(
    components: Float[np.ndarray, "M N H W C"],
    layer: Float[np.ndarray, "N H W channels"],
) -> Float[np.ndarray, "M N"]:
    """Pearson correlation of each component with a layer, over the pixels of an image.

    A layer of one channel is compared with each channel of the component. NaN where
    either is constant.
    """
    layer = np.broadcast_to(layer, components.shape[1:])
    v, w = (a - a.mean((-3, -2, -1), keepdims=True) for a in (components, layer[None]))
    product = (v * w).sum((-3, -2, -1))
    square = (v**2).sum((-3, -2, -1)) * (w**2).sum((-3, -2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(square > 1e-12, product / np.sqrt(square), np.nan)


def frechet_distance(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "K D"]) -> float:
    """||m - n||^2 + tr(A + B - 2 (A B)^(1/2)) of the features of two sets of images.

    m, n and A, B are their means and covariances. With a network other than Inception
    this is not the FID, and compares only with itself.

    Source: Heusel et al., arXiv 1706.08500, eq. 6.
    """
    means = [a.mean(0) for a in (x, y)]
    covariances = [np.cov(a, rowvar=False) for a in (x, y)]
    # (A B)^(1/2) has the roots of the eigenvalues of A B, which are real.
    roots = np.sqrt(
        np.maximum(np.linalg.eigvals(covariances[0] @ covariances[1]).real, 0)
    )
    trace = sum(np.trace(a) for a in covariances) - 2 * roots.sum()
    return float(((means[0] - means[1]) ** 2).sum() + trace)


def default_subsets(
    components: Float[np.ndarray, "M N H W C"],
) -> tuple[Sequence[int], Sequence[int]]:
    """The smooth half of the components and the rough one, by `roughness`."""
    order = np.argsort(roughness(components))
    half = (len(order) + 1) // 2
    return sorted(order[:half].tolist()), sorted(order[half:].tolist())
