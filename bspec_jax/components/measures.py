"""Measures of images and of their decompositions f = R + sum_k v_k.

Images are floats in -1..1. With a ground truth, such as that of `data.faces`,
`part_enrichment` and `layer_correlation` tell what a component shows.

Pixels that are not finite make every measure that depends on them NaN. Everything is
computed in float32 or wider. Functions raise ArgumentError for images that are not
floats, and for shapes that do not belong together.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from bspec_jax.storage.errors import ArgumentError
from bspec_jax.storage.optional import needs

RANGE = 2.0  # of pixel values
SMALLEST_ERROR = 1e-12  # mean square, so that equal images have a finite PSNR


def psnr(
    x: Float[np.ndarray, "N H W C"], y: Float[np.ndarray, "N H W C"]
) -> Float[np.ndarray, " N"]:
    """Peak signal-to-noise ratio of each pair, in dB: 10 log10(4 / mean (x - y)^2)."""
    x, y = _pair(x, y)
    return _decibels(np.mean((x - y) ** 2, axis=(1, 2, 3)))


def psnr_inside(
    x: Float[np.ndarray, "N H W C"],
    y: Float[np.ndarray, "N H W C"],
    masks: Bool[np.ndarray, "N H W"],
) -> Float[np.ndarray, " N"]:
    """`psnr` over the pixels of a mask, in dB; NaN where the mask is empty."""
    x, y = _pair(x, y)
    masks = _masks(masks, x)
    square = np.where(masks, ((x - y) ** 2).mean(-1), 0)
    with np.errstate(invalid="ignore"):
        return _decibels(square.sum((1, 2)) / masks.sum((1, 2)))


def _decibels(error):
    return 10 * np.log10(RANGE**2 / np.maximum(error, SMALLEST_ERROR))


def ssim(
    x: Float[np.ndarray, "N H W C"], y: Float[np.ndarray, "N H W C"]
) -> Float[np.ndarray, " N"]:
    """Structural similarity of each pair, as a mean over pixels and channels.

    Scikit-image's, with the Gaussian window of 1.5 pixels of the source.

    Source: Wang et al., IEEE Trans. Image Processing 13 (2004), p. 600.
    """
    x, y = _pair(x, y)
    metrics = needs("skimage.metrics", extra="generator")
    options = {
        "channel_axis": -1,
        "data_range": RANGE,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    pairs = zip(x, y, strict=True)
    return np.array([metrics.structural_similarity(*p, **options) for p in pairs])


def total_variation(x: Float[np.ndarray, "N H W C"]) -> Float[np.ndarray, " N"]:
    """Total variation of each image, as a mean over pixels and channels.

    Sum of absolute differences between horizontal and vertical neighbours, over H W C.
    """
    x = _floats("images", x, "NHWC")
    across = np.abs(np.diff(x, axis=2)).sum((1, 2, 3))
    down = np.abs(np.diff(x, axis=1)).sum((1, 2, 3))
    return (across + down) / math.prod(x.shape[1:])


def roughness(components: Float[np.ndarray, "M N H W C"]) -> Float[np.ndarray, " M"]:
    """Energy of the differences between neighbouring pixels, over a component's energy.

    From 0 for constant images to 8 for a chequerboard; 0 for a component that is 0.
    """
    components = _floats("components", components, "MNHWC")
    energy = (components**2).sum((1, 2, 3, 4))
    across = (np.diff(components, axis=3) ** 2).sum((1, 2, 3, 4))
    down = (np.diff(components, axis=2) ** 2).sum((1, 2, 3, 4))
    return _ratio(across + down, energy)


def part_enrichment(
    components: Float[np.ndarray, "M N H W C"], masks: Bool[np.ndarray, "N H W"]
) -> Float[np.ndarray, "M N"]:
    """Concentration of each component's energy in a part of the image, against chance.

    The share of ||v_k(x)||^2 inside the mask over the mask's share of the pixels: 1 for
    a component independent of the part. NaN where the mask is empty or the component 0.
    """
    components = _floats("components", components, "MNHWC")
    masks = _masks(masks, components[0])
    energy = (components**2).sum(-1)
    inside = np.where(masks, energy, 0).sum((2, 3))
    with np.errstate(divide="ignore", invalid="ignore"):
        return inside / energy.sum((2, 3)) / masks.mean((1, 2))


def energy_share(
    images: Float[np.ndarray, "N H W C"], masks: Bool[np.ndarray, "N H W"]
) -> Float[np.ndarray, " N"]:
    """Share of each image's energy inside a mask; 0 for an image that is 0."""
    images = _floats("images", images, "NHWC")
    masks = _masks(masks, images)
    energy = (images**2).sum(-1)
    return _ratio(np.where(masks, energy, 0).sum((1, 2)), energy.sum((1, 2)))


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
    components = _floats("components", components, "MNHWC")
    layer = _floats("a layer", layer, "NHWC")
    if layer.shape[:3] != components.shape[1:4] or layer.shape[3] not in (
        1,
        components.shape[4],
    ):
        raise ArgumentError(
            f"a layer of shape {layer.shape} does not belong to components of shape "
            f"{components.shape}"
        )
    layer = np.broadcast_to(layer, components.shape[1:])
    v, w = _deviations(components), _deviations(layer[None])
    return (v * w).sum((-3, -2, -1))


def _deviations(images):
    """From each image's mean, over their norm; NaN for a constant image."""
    pixels = (-3, -2, -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Of one scale, so that no square under- or overflows.
        unit = _ratio(images, np.abs(images).max(pixels, keepdims=True))
        deviation = unit - unit.mean(pixels, keepdims=True)
        norm = np.sqrt((deviation**2).sum(pixels, keepdims=True))
        # What rounding leaves of a constant image is of this size.
        rounding = 4 * np.finfo(images.dtype).eps * np.sqrt(unit[0, 0].size)
        return deviation / np.where(norm <= rounding, np.nan, norm)


def frechet_distance(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "K D"]) -> float:
    """Fréchet distance between the features of two sets of images.

    ||m - n||^2 + tr(A + B - 2 (A B)^(1/2)), of their means m, n and covariances A, B.
    NaN for a set of a single image, which has no covariance.
    With features of a network other than Inception it is not the FID, and comparable
    only with distances in the same features.

    Source: Heusel et al., arXiv 1706.08500, eq. 6. Cost: O(D^3).
    """
    x, y = (_floats("features", a, "ND").astype(np.float64) for a in (x, y))
    if x.shape[1] != y.shape[1]:
        raise ArgumentError(
            f"features of {x.shape[1]} and of {y.shape[1]} numbers cannot be compared"
        )
    if min(len(x), len(y)) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return math.nan
    means = [a.mean(0) for a in (x, y)]
    with np.errstate(over="ignore", invalid="ignore"):
        covariances = [np.atleast_2d(np.cov(a, rowvar=False)) for a in (x, y)]
    if not all(np.isfinite(a).all() for a in covariances):  # they overflow
        return math.nan
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
    """Indices of the smooth and of the rough half of the components, by `roughness`.

    Raises:
      ArgumentError: if the components are not finite: they have no order.
    """
    rough = roughness(components)
    if not np.isfinite(rough).all():
        raise ArgumentError("components that are not finite have no smooth half")
    order = np.argsort(rough)
    half = (len(order) + 1) // 2
    return sorted(order[:half].tolist()), sorted(order[half:].tolist())


def _floats(name, array, axes):
    """The array in float32 or wider, with NaN for what is not finite."""
    array = np.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ArgumentError(
            f"{name} must be floats (images in -1..1), not {array.dtype}"
        )
    if array.ndim != len(axes):
        raise ArgumentError(f"{name} must be {list(axes)}, not of shape {array.shape}")
    wide = array.astype(np.promote_types(array.dtype, np.float32))
    finite = np.isfinite(wide)
    return wide if finite.all() else np.where(finite, wide, np.nan)


def _pair(x, y):
    x, y = _floats("images", x, "NHWC"), _floats("images", y, "NHWC")
    if x.shape != y.shape:
        raise ArgumentError(f"images of shapes {x.shape} and {y.shape} are no pairs")
    if x.size and min(np.abs(x).max(), np.abs(y).max()) > RANGE:
        raise ArgumentError(
            "images must be in -1..1; give pixels in 0..255 as x / 127.5 - 1"
        )
    return x, y


def _masks(masks, images):
    masks = np.asarray(masks)
    if masks.dtype != bool or masks.shape != images.shape[:-1]:
        raise ArgumentError(
            f"masks must be booleans of shape {images.shape[:-1]}, not {masks.dtype} "
            f"of {masks.shape}"
        )
    return masks


def _ratio(numerator, denominator):
    """The ratio, with 0/0 = 0."""
    both_zero = (numerator == 0) & (denominator == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return numerator / np.where(both_zero, 1, denominator)
