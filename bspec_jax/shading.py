"""Shape from shading: the normals of a surface from how light it is.

    normals = normals_from_shading(shading, relief=0.5)

One image does not determine a surface. Taken to be of one colour, gently sloped and lit
from a known side, it does up to what varies only across the light; where a component of
an image holds its light and another its colours, this can be said of that component.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy import fft

ABOVE = -math.pi / 2  # tilt of light that comes from above, as most does


def normals_from_shading(
    shading: Float[np.ndarray, "N H W"],
    *,
    relief: float,
    tilt: float = ABOVE,
    damping: float = 0.01,
) -> Float[np.ndarray, "N H W 3"]:
    """Unit normals (right, down, towards the viewer) of surfaces of these intensities.

    To first order the intensity of a matt surface z falls by what it rises along the
    light: shading - mean = -D z / relief, where D is the derivative in the direction
    the light comes from. In Fourier space D is a number for each frequency, and z is
    found by division, damped where D is near 0:

        Z = -relief conj(D) S / (|D|^2 + damping).

    Args:
      shading: in units of its standard deviation in each image, whatever it comes in.
      relief: slope that a deviation of 1 stands for; the flatter the smaller.
      tilt: of the light, in radians from right to down.
      damping: the larger the smoother, in squared radians a pixel.

    Source: Pentland, "Shape information from shading: a theory about human perception",
    ICCV 1988, with its division regularised. Images are continued by their edges, to
    four times the area.
    """
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
    """The angle between unit normals, in degrees."""
    return np.degrees(np.arccos(np.clip((normals * truth).sum(-1), -1, 1)))
