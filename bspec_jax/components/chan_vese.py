"""Chan-Vese segmentation of many images at once.

    inside = chan_vese(images, surfaces, Border(inside=2.0)).surface > 0

Finds the border between two regions of nearly constant intensity, as the zero level set
of a surface phi. Each step is scikit-image's, semi-implicit in phi; a step that would
increase the functional is retried with half the time step, so the functional never
increases.

Source: Chan and Vese, IEEE Trans. Image Processing 10 (2001), p. 266; Getreuer, Image
Processing On Line 2 (2012), p. 214.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

FLAT = 1e-16  # added to |grad phi|^2, as in scikit-image
SMALLEST_STEP = 2.0**-10  # as a fraction of the initial time step
HALVINGS, TERMS = 3, 11  # of the angle, and of the arctangent's series


class Border(NamedTuple):
    """Weights of the functional, and settings of the iteration.

    The defaults are scikit-image's.

    length: mu, weight of the border's length.
    inside, outside: lambda_1 and lambda_2, weights of the squared deviation from each
      region's mean. A larger `inside` demands more uniform pixels inside.
    time_step: initial time step.
    tolerance: root mean square change of phi below which the iteration stops.
    max_iterations: maximum number of steps, including retried ones.
    """

    length: float = 0.25
    inside: float = 1.0
    outside: float = 1.0
    time_step: float = 0.5
    tolerance: float = 1e-3
    max_iterations: int = 500


PLAIN = Border()


class Segmentation(NamedTuple):
    """Result of `chan_vese`.

    surface: phi, positive inside the border.
    functional: final value.
    iterations: number of steps, including retried ones.
    """

    surface: Float[Array, "N H W"]
    functional: Float[Array, " N"]
    iterations: Int[Array, " N"]


@partial(jax.jit, static_argnames="at_once")
def chan_vese(
    images: Float[Array, "N H W"],
    surfaces: Float[Array, "N H W"],
    border: Border = PLAIN,
    *,
    at_once: int = 1,
) -> Segmentation:
    """Segments each image, starting from its own initial surface.

    Args:
      images: intensities; the default weights assume the range 0..1.
      surfaces: initial phi, positive where the region may be.
      at_once: number of images per loop, which runs until the slowest has converged:
        1 is fastest on a CPU core, many on an accelerator.

    Cost: O(H W) per image and iteration.
    """

    def solve(image_and_surface):
        return _solve(*image_and_surface, border)

    return jax.lax.map(solve, (images, surfaces), batch_size=at_once)


def functional(
    surface: Float[Array, "H W"], image: Float[Array, "H W"], border: Border
) -> Float[Array, ""]:
    """The Chan-Vese functional of one image: border length plus deviation on each side.

    Both sides and the border are smoothed over phi in -1..1, as in scikit-image.
    """
    side = 0.5 + _arctan(surface) / jnp.pi
    inner, outer = _means(image, side)
    deviation = border.inside * _sum((image - inner) ** 2, side)
    deviation += border.outside * _sum((image - outer) ** 2, 1 - side)
    right, left, down, up = _neighbours(surface)
    slope = jnp.sqrt(((right - left) / 2) ** 2 + ((down - up) / 2) ** 2)
    return deviation + border.length * _sum(slope, 1 / (1 + surface**2))


class _State(NamedTuple):
    surface: Float[Array, "H W"]
    functional: Float[Array, ""]
    time_step: Float[Array, ""]
    change: Float[Array, ""]
    iteration: Int[Array, ""]


def _solve(image, surface, border: Border) -> Segmentation:
    def unfinished(state):
        return (
            (state.change > border.tolerance)
            & (state.iteration < border.max_iterations)
            & (state.time_step >= SMALLEST_STEP * border.time_step)
        )

    def advance(state):
        new = _step(state.surface, image, border, state.time_step)
        value = functional(new, image, border)
        accepted = value <= state.functional
        move = new - state.surface
        change = jnp.sqrt(_sum(move, move) / move.size)
        return _State(
            jnp.where(accepted, new, state.surface),
            jnp.where(accepted, value, state.functional),
            jnp.where(accepted, state.time_step, state.time_step / 2),
            jnp.where(accepted, change, state.change),
            state.iteration + 1,
        )

    dtype = surface.dtype
    start = _State(
        surface,
        functional(surface, image, border),
        jnp.asarray(border.time_step, dtype),
        jnp.asarray(jnp.inf, dtype),
        jnp.zeros((), int),
    )
    end = jax.lax.while_loop(unfinished, advance, start)
    return Segmentation(end.surface, end.functional, end.iteration)


def _step(phi, image, border: Border, time_step):
    neighbours = right, left, down, up = _neighbours(phi)
    across, along = (right - left) / 2, (down - up) / 2
    weights = [
        jax.lax.rsqrt(FLAT + (neighbour - phi) ** 2 + other**2)
        for neighbour, other in zip(
            neighbours, (along, along, across, across), strict=True
        )
    ]
    pull = sum(w * neighbour for w, neighbour in zip(weights, neighbours, strict=True))
    inner, outer = _means(image, (phi > 0).astype(image.dtype))
    force = border.outside * (image - outer) ** 2 - border.inside * (image - inner) ** 2
    speed = time_step / (1 + phi**2)
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


def _arctan(x):
    """Arctangent to rounding, five times as fast as XLA's on a CPU.

    Halves the angle until `TERMS` terms of the series suffice, even in float64.
    """
    for _ in range(HALVINGS):
        x = x / (1 + jnp.sqrt(1 + x**2))
    square, series = x**2, 0.0
    for n in reversed(range(TERMS)):
        series = (-1) ** n / (2 * n + 1) + square * series
    return 2**HALVINGS * x * series


def _sum(x, weight=1.0):
    """A weighted sum, as a dot product, which is faster than a reduction on a CPU."""
    return jnp.vdot(x, jnp.broadcast_to(weight, x.shape))
