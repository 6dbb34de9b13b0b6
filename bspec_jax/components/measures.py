"""Measures of images and of their decompositions f = R + sum_k v_k.

Images are in -1..1. With a ground truth, such as that of `data.faces`,
`part_enrichment` and `layer_correlation` tell what a component shows.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from skimage.metrics import structural_similarity

RANGE = 2.0  # of pixel values
SMALLEST_ERROR = 1e-12  # mean square, so that equal images have a finite PSNR


def psnr(
    x: Float[np.ndarray, "N H W C"], y: Float[np.ndarray, "N H W C"]
) -> Float[np.ndarray, " N"]:
    """Peak signal-to-noise ratio of each pair, in dB: 10 log10(4 / mean (x - y)^2)."""
    return _decibels(np.mean((x - y) ** 2, axis=(1, 2, 3)))


def psnr_inside(
    x: Float[np.ndarray, "N H W C"],
    y: Float[np.ndarray, "N H W C"],
    masks: Bool[np.ndarray, "N H W"],
) -> Float[np.ndarray, " N"]:
    """`psnr` over the pixels of a mask, in dB; NaN where the mask is empty."""
    square = ((x - y) ** 2).mean(-1)
    with np.errstate(invalid="ignore"):
        return _decibels((square * masks).sum((1, 2)) / masks.sum((1, 2)))


def _decibels(error):
    return 10 * np.log10(RANGE**2 / np.maximum(error, SMALLEST_ERROR))


def ssim(
    x: Float[np.ndarray, "N H W C"], y: Float[np.ndarray, "N H W C"]
) -> Float[np.ndarray, " N"]:
    """Structural similarity of each pair, as a mean over pixels and channels.

    Scikit-image's, with the Gaussian window of 1.5 pixels of the source.

    Source: Wang et al., IEEE Trans. Image Processing 13 (2004), p. 600.
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
    """Total variation of each image, as a mean over pixels and channels.

    Sum of absolute differences between horizontal and vertical neighbours, over H W C.
    """
    across = np.abs(np.diff(x, axis=2)).sum((1, 2, 3))
    down = np.abs(np.diff(x, axis=1)).sum((1, 2, 3))
    return (across + down) / x[0].size


def roughness(components: Float[np.ndarray, "M N H W C"]) -> Float[np.ndarray, " M"]:
    """Energy of the differences between neighbouring pixels, over a component's energy.

    From 0 for constant images to 8 for a chequerboard; 0 for a component that is 0.
    """
    energy = (components**2).sum((1, 2, 3, 4))
    across = (np.diff(components, axis=3) ** 2).sum((1, 2, 3, 4))
    down = (np.diff(components, axis=2) ** 2).sum((1, 2, 3, 4))
    return (across + down) / np.maximum(energy, 1e-12)


def part_enrichment(
    components: Float[np.ndarray, "M N H W C"], masks: Bool[np.ndarray, "N H W"]
) -> Float[np.ndarray, "M N"]:
    """Concentration of each component's energy in a part of the image, against chance.

    The share of ||v_k(x)||^2 inside the mask over the mask's share of the pixels: 1 for
    a component independent of the part. NaN where the mask is empty or the component 0.
    """
    energy = (components**2).sum(-1)
    total = energy.sum((2, 3))
    inside = (energy * masks).sum((2, 3))
    area = masks.mean((1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((total > 0) & (area > 0), inside / total / area, np.nan)


def energy_share(
    images: Float[np.ndarray, "N H W C"], masks: Bool[np.ndarray, "N H W"]
) -> Float[np.ndarray, " N"]:
    """Share of each image's energy inside a mask; 0 for an image that is 0."""
    energy = (images**2).sum(-1)
    total = energy.sum((1, 2))
    return (energy * masks).sum((1, 2)) / np.where(total > 0, total, 1)


def layer_correlation(
    components: Float[np.ndarray, "M N H W C"],
    layer: Float[np.ndarray, "N H W channels"],
) -> Float[np.ndarray, "M N"]:
    """Pearson correlation of each component with a layer, over an image's pixels.

    A layer of one channel is compared with every channel of the component. NaN where
    either is constant.

    Args:
      components: v_k.
      layer: what the images were rendered from, of 1 or C channels.
    """
    layer = np.broadcast_to(layer, components.shape[1:])
    v, w = (a - a.mean((-3, -2, -1), keepdims=True) for a in (components, layer[None]))
    product = (v * w).sum((-3, -2, -1))
    square = (v**2).sum((-3, -2, -1)) * (w**2).sum((-3, -2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(square > 1e-12, product / np.sqrt(square), np.nan)


def frechet_distance(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "K D"]) -> float:
    """Fréchet distance between the features of two sets of images.

    ||m - n||^2 + tr(A + B - 2 (A B)^(1/2)), of their means m, n and covariances A, B.
    With features of a network other than Inception it is not the FID, and comparable
    only with distances in the same features.

    Source: Heusel et al., arXiv 1706.08500, eq. 6. Cost: O(D^3).
    """
    means = [a.mean(0) for a in (x, y)]
    covariances = [np.cov(a, rowvar=False) for a in (x, y)]
    # tr (A B)^(1/2) from the eigenvalues of A B, which are real and not negative up to
    # rounding: no matrix square root is needed.
    roots = np.sqrt(
        np.maximum(np.linalg.eigvals(covariances[0] @ covariances[1]).real, 0)
    )
    trace = sum(np.trace(a) for a in covariances) - 2 * roots.sum()
    return float(((means[0] - means[1]) ** 2).sum() + trace)


def default_subsets(
    components: Float[np.ndarray, "M N H W C"],
) -> tuple[Sequence[int], Sequence[int]]:
    """Indices of the smooth and of the rough half of the components, by `roughness`."""
    order = np.argsort(roughness(components))
    half = (len(order) + 1) // 2
    return sorted(order[:half].tolist()), sorted(order[half:].tolist())
