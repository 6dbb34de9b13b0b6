"""Chan-Vese segmentation of many images at once.

    inside = chan_vese(images, surfaces, Border(inside=2.0)).surface > 0

Finds the border between two regions of nearly constant intensity, as the zero level set
of a surface phi. Each step is scikit-image's, semi-implicit in phi, but for the slope
that keeps flat parts of phi moving; the iteration stops when the border does.

Source: Chan and Vese, IEEE Trans. Image Processing 10 (2001), p. 266; Getreuer, Image
Processing On Line 2 (2012), p. 214.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real


class Border(NamedTuple):
    """Weights of the functional, and settings of the iteration.

    Weights and time step are by default scikit-image's.

    length: mu, weight of the border's length.
    inside, outside: lambda_1 and lambda_2, weights of the squared deviation from each
      region's mean. A larger `inside` demands more uniform pixels inside.
    time_step: of the gradient descent.
    slope: of phi, per pixel, added in quadrature where phi is divided by its slope.
      With scikit-image's 1e-8, a start that is flat, such as -1 and 1, hardly moves.
    tolerance: relative rate at which phi may still approach 0 where the border has
      converged: at 0.01, no pixel would change sides within 100 steps. At 0, all of
      `max_iterations` are made.
    max_iterations: maximum number of steps.
    """

    length: float = 0.25
    inside: float = 1.0
    outside: float = 1.0
    time_step: float = 0.5
    slope: float = 0.1
    tolerance: float = 0.01
    max_iterations: int = 2000


PLAIN = Border()

Images = Real[Array | np.ndarray, "N H W"] | Bool[Array | np.ndarray, "N H W"]


class Segmentation(NamedTuple):
    """Result of `chan_vese`.

    surface: phi, positive inside the border; float32, or float64 if an argument is.
    converged: whether the border stopped before the last step.
    functional: final value. Its smoothing over phi makes it fall for as long as phi
      grows, even where the border has stopped.
    iterations: number of steps.
    """

    surface: Float[Array, "N H W"]
    converged: Bool[Array, " N"]
    functional: Float[Array, " N"]
    iterations: Int[Array, " N"]


def chan_vese(
    images: Images, surfaces: Images, border: Border = PLAIN, *, at_once: int = 1
) -> Segmentation:
    """Segments each image, starting from its own initial surface.

    NaN or inf in an image or a surface gives NaN, not converged.

    Args:
      images: intensities of any unit: each image is rescaled to 0..1, as by
        scikit-image.
      surfaces: initial phi, positive where the region may be, such as a mask; divided
        by its largest magnitude if that exceeds 1, since phi moves in inverse
        proportion to its square.
      at_once: number of images per loop, which runs until the slowest has converged:
        1 is fastest on a CPU core, many on an accelerator.

    Raises:
      ValueError: if the shapes differ, or the time step or the slope is not positive.

    Cost: O(H W) per image and iteration.
    """
    images, surfaces = jnp.asarray(images), jnp.asarray(surfaces)
    if images.ndim != 3 or images.shape != surfaces.shape:
        raise ValueError(
            "images and surfaces must both be [N, H, W], got shapes "
            f"{images.shape} and {surfaces.shape}"
        )
    for name in ("time_step", "slope"):
        if not getattr(border, name) > 0:
            raise ValueError(f"{name} must be positive, got {getattr(border, name)}")
    wide = jnp.float64 in (images.dtype, surfaces.dtype)
    dtype = jnp.float64 if wide else jnp.float32
    return _solve_all(images.astype(dtype), surfaces.astype(dtype), border, at_once)


def functional(
    surface: Float[Array, "H W"], image: Float[Array, "H W"], border: Border
) -> Float[Array, ""]:
    """The Chan-Vese functional of one image: border length plus deviation on each side.

    Both sides and the border are smoothed over phi in -1..1, as in scikit-image.
    """
    side = 0.5 + jnp.arctan(surface) / jnp.pi
    inner, outer = _means(image, side)
    deviation = border.inside * _sum((image - inner) ** 2, side)
    deviation += border.outside * _sum((image - outer) ** 2, 1 - side)
    right, left, down, up = _neighbours(surface)
    slope = jnp.sqrt(((right - left) / 2) ** 2 + ((down - up) / 2) ** 2)
    return deviation + border.length * _sum(slope, 1 / (1 + surface**2))


class _State(NamedTuple):
    surface: Float[Array, "H W"]
    converged: Bool[Array, ""]
    iteration: Int[Array, ""]


@partial(jax.jit, static_argnames="at_once")
def _solve_all(images, surfaces, border: Border, at_once: int) -> Segmentation:
    def solve(image_and_surface):
        return _solve(*image_and_surface, border)

    return jax.lax.map(solve, (images, surfaces), batch_size=at_once)


def _solve(image, surface, border: Border) -> Segmentation:
    image = image - image.min()
    image = image / jnp.where(image.max() == 0, 1, image.max())
    surface = surface / jnp.maximum(jnp.abs(surface).max(), 1)

    def unfinished(state):
        return ~state.converged & (state.iteration < border.max_iterations)

    def advance(state):
        new = _step(state.surface, image, border)
        still = _is_still(state.surface, new, border.tolerance)
        return _State(new, still, state.iteration + 1)

    start = _State(surface, jnp.zeros((), bool), jnp.zeros((), int))
    end = jax.lax.while_loop(unfinished, advance, start)
    value = functional(end.surface, image, border)
    return Segmentation(end.surface, end.converged, value, end.iteration)


def _is_still(old, new, tolerance):
    """Whether no pixel changed sides, and none approaches 0 faster than allowed.

    The change of phi itself does not tell: phi grows without limit on both sides, and a
    short border moves few of an image's pixels.
    """
    same_sides = ((old > 0) == (new > 0)).all()
    approach = jnp.where(old * new <= 0, 0, 1 - new / old)  # NaN stays NaN
    return same_sides & (jnp.maximum(approach.max(), 0) < tolerance)


def _step(phi, image, border: Border):
    neighbours = right, left, down, up = _neighbours(phi)
    across, along = (right - left) / 2, (down - up) / 2
    weights = [
        jax.lax.rsqrt(border.slope**2 + (neighbour - phi) ** 2 + other**2)
        for neighbour, other in zip(
            neighbours, (along, along, across, across), strict=True
        )
    ]
    pull = sum(w * neighbour for w, neighbour in zip(weights, neighbours, strict=True))
    inner, outer = _means(image, (phi > 0).astype(image.dtype))
    force = border.outside * (image - outer) ** 2 - border.inside * (image - inner) ** 2
    speed = border.time_step / (1 + phi**2)
    rise = phi + speed * (border.length * pull + force)
    return rise / (1 + border.length * speed * sum(weights))


def _neighbours(phi):
    """Values to the right, to the left, below and above; edge values repeat."""
    right = jnp.concatenate([phi[:, 1:], phi[:, -1:]], 1)
    left = jnp.concatenate([phi[:, :1], phi[:, :-1]], 1)
    down = jnp.concatenate([phi[1:], phi[-1:]], 0)
    up = jnp.concatenate([phi[:1], phi[:-1]], 0)
    return right, left, down, up


def _means(image, side):
    """Mean intensity inside and outside; 0 for an empty side."""
    inner_area, inner_sum = _sum(side), _sum(image, side)
    outer_area, outer_sum = side.size - inner_area, _sum(image) - inner_sum
    return tuple(
        total / jnp.where(area > 0, area, 1)
        for total, area in ((inner_sum, inner_area), (outer_sum, outer_area))
    )


def _sum(x, weight=1.0):
    """A weighted sum, as a dot product, which is faster than a reduction on a CPU."""
    return jnp.vdot(x, jnp.broadcast_to(weight, x.shape))
