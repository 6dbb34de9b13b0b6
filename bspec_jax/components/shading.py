"""Shape from shading: the normals of a surface from its intensities.

    normals = normals_from_shading(shading, relief=0.5)

One image does not determine a surface, unless the surface has one colour, gentle slopes
and light from a known direction; even then, variation across the light is lost. A
component that holds the light of an image, while others hold its colours, would meet
the first condition.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import fft

from bspec_jax.storage.errors import ArgumentError

ABOVE = -math.pi / 2  # tilt of light from above
# Candidates of `fit_shading`.
RELIEFS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
DAMPINGS = (0.001, 0.003, 0.01, 0.03, 0.1)


def normals_from_shading(
    shading: Float[np.ndarray, "N H W"],
    *,
    relief: float,
    tilt: float = ABOVE,
    damping: float = 0.01,
) -> Float[np.ndarray, "N H W 3"]:
    """Unit normals (right, down, towards the viewer) of surfaces of these intensities.

    To first order, the intensity of a matt surface z decreases with its slope towards
    the light: shading - mean = -D z / relief, where D is the derivative in the
    direction that the light comes from. In Fourier space D is a factor at each
    frequency, and a division regularised where D is near 0 gives z:

        Z = -relief conj(D) S / (|D|^2 + damping).

    Args:
      shading: intensities, of any scale: each image is divided by its standard
        deviation.
      relief: slope of the surface for a shading of one standard deviation.
      tilt: direction of the light, in radians from right to down.
      damping: regularisation, in squared radians per pixel; larger is smoother.

    Raises:
      ArgumentError: if the damping is not positive.

    Source: Pentland, "Shape information from shading: a theory about human perception",
    ICCV 1988, with a regularised division. Cost: one FFT of 4 H W pixels per image.
    """
    if not damping > 0:
        raise ArgumentError(f"`damping` must be positive, got {damping}")
    # The FFT is periodic: without a margin, opposite edges would meet.
    margin = [(0, 0), *((n // 2, n - n // 2) for n in shading.shape[1:])]
    deviation = shading.std((1, 2), keepdims=True)
    s = shading / np.where(deviation > 0, deviation, 1)
    s = np.pad(s, margin, mode="edge")
    height, width = s.shape[1:]
    right = 2j * np.pi * fft.rfftfreq(width)
    down = 2j * np.pi * fft.fftfreq(height)[:, None]
    along = right * math.cos(tilt) + down * math.sin(tilt)
    z = -relief * along.conj() * fft.rfft2(s) / (np.abs(along) ** 2 + damping)
    slopes = [fft.irfft2(d * z, (height, width)) for d in (right, down)]
    top, left = margin[1][0], margin[2][0]
    rows, columns = shading.shape[1:]
    slopes = [s[:, top : top + rows, left : left + columns] for s in slopes]
    normals = np.stack([-slopes[0], -slopes[1], np.ones_like(slopes[0])], -1)
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True)


def angular_error(
    normals: Float[np.ndarray, "*N 3"], truth: Float[np.ndarray, "*N 3"]
) -> Float[np.ndarray, "*N"]:
    """Angle between unit normals, in degrees."""
    return np.degrees(np.arccos(np.clip((normals * truth).sum(-1), -1, 1)))


def mean_angular_error(
    normals: Float[np.ndarray, "N H W 3"],
    truth: Float[np.ndarray, "N H W 3"],
    region: Bool[np.ndarray, "N H W"],
) -> Float[np.ndarray, " N"]:
    """Mean `angular_error` over the region of each image, in degrees.

    Raises:
      ArgumentError: if a region is empty, or not boolean.
    """
    if region.dtype != bool or not region.any((1, 2)).all():
        raise ArgumentError("`region` must be boolean, with some pixels of every image")
    angle = angular_error(normals, truth)
    return (angle * region).sum((1, 2)) / region.sum((1, 2))


class ShadingFit(NamedTuple):
    """Arguments of `normals_from_shading`, and the mean error in degrees they give."""

    relief: float
    damping: float
    error: float


def fit_shading(
    shading: Float[np.ndarray, "N H W"],
    truth: Float[np.ndarray, "N H W 3"],
    region: Bool[np.ndarray, "N H W"],
) -> ShadingFit:
    """The relief and damping, among the candidates, of the lowest mean angular error.

    Args:
      shading: intensities.
      truth: unit normals.
      region: pixels that count; some of every image.

    Raises:
      ArgumentError: if a region is empty, or a value is not finite.
    """
    if not (np.isfinite(shading).all() and np.isfinite(truth).all()):
        raise ArgumentError("`shading` and `truth` must be finite numbers")

    def error(relief, damping):
        normals = normals_from_shading(shading, relief=relief, damping=damping)
        return mean_angular_error(normals, truth, region).mean()

    fits = (
        ShadingFit(relief, damping, error(relief, damping))
        for relief, damping in itertools.product(RELIEFS, DAMPINGS)
    )
    return min(fits, key=lambda fit: fit.error)
