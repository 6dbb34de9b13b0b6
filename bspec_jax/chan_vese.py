"""Chan-Vese segmentation of many images at once.

    inside = chan_vese(images, surfaces, Border(inside=2.0)).surface > 0

The border between two regions, each nearly constant, is where a surface phi crosses 0.
One step is that of scikit-image's `chan_vese`, semi-implicit in phi; where it would
raise the functional it is taken again, half as far, so that the functional never rises.

Source: Chan and Vese, IEEE Trans. Image Processing 10 (2001), p. 266; Getreuer, Image
Processing On Line 2 (2012), p. 214.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

FLAT = 1e-16  # added to |grad phi|^2, as in scikit-image
SMALLEST_STEP = 2.0**-10  # of the time step that it begins with
HALVINGS, TERMS = 3, 11  # of the series of the arctangent


class Border(NamedTuple):
    """What a border costs, and how it is sought; by default as in scikit-image.

    length: mu, of the border's length.
    inside, outside: lambda_1 and lambda_2, of the squared deviation from a region's
      mean. The larger `inside`, the more alike the pixels inside must be.
    time_step: of the iteration, at first.
    tolerance: root mean square change of phi at which it ends.
    max_iterations: after which it ends in any case.
    """

    length: float = 0.25
    inside: float = 1.0
    outside: float = 1.0
    time_step: float = 0.5
    tolerance: float = 1e-3
    max_iterations: int = 500


PLAIN = Border()


class Segmentation(NamedTuple):
    """What `chan_vese` finds.

    surface: phi, positive inside the border.
    functional: its value at the end.
    iterations: how many it took, those that were taken again included.
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
    """The border of each image, from an initial surface of its own.

    Args:
      images: of any range; 0..1 for the weights' usual meaning.
      surfaces: phi at the beginning, positive where the region may be.
      at_once: images that share a loop, which ends with the slowest of them: 1 is best
        on a core of a CPU, and many on an accelerator.
    """

    def one(pair):
        return _solve(*pair, border)

    return jax.lax.map(one, (images, surfaces), batch_size=at_once)


def functional(
    surface: Float[Array, "H W"], image: Float[Array, "H W"], border: Border
) -> Float[Array, ""]:
    """What the border of one image costs: its length, and the deviation on each side.

    Sides and border are smoothed over phi in -1..1, as in scikit-image.
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
    def goes_on(state):
        return (
            (state.change > border.tolerance)
            & (state.iteration < border.max_iterations)
            & (state.time_step >= SMALLEST_STEP * border.time_step)
        )

    def advance(state):
        new = _step(state.surface, image, border, state.time_step)
        value = functional(new, image, border)
        falls = value <= state.functional
        move = new - state.surface
        change = jnp.sqrt(_sum(move, move) / move.size)
        return _State(
            jnp.where(falls, new, state.surface),
            jnp.where(falls, value, state.functional),
            jnp.where(falls, state.time_step, state.time_step / 2),
            jnp.where(falls, change, state.change),
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
    end = jax.lax.while_loop(goes_on, advance, start)
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
    """To the right, left, below and above, mirrored at the edge."""
    right = jnp.concatenate([phi[:, 1:], phi[:, -1:]], 1)
    left = jnp.concatenate([phi[:, :1], phi[:, :-1]], 1)
    down = jnp.concatenate([phi[1:], phi[-1:]], 0)
    up = jnp.concatenate([phi[:1], phi[:-1]], 0)
    return right, left, down, up


def _means(image, side):
    """Of the image inside and outside; 0 for a side that is empty."""
    inner, within = _sum(side), _sum(image, side)
    outer, without = side.size - inner, _sum(image) - within
    return tuple(
        total / jnp.where(weight > 0, weight, 1)
        for total, weight in ((within, inner), (without, outer))
    )


def _arctan(x):
    """To rounding, five times as fast as XLA's on a CPU.

    The angle is halved until the series needs no more terms, even in float64.
    """
    for _ in range(HALVINGS):
        x = x / (1 + jnp.sqrt(1 + x**2))
    square, series = x**2, 0.0
    for n in reversed(range(TERMS)):
        series = (-1) ** n / (2 * n + 1) + square * series
    return 2**HALVINGS * x * series


def _sum(x, weight=1.0):
    """As a product of vectors, which a CPU computes faster than a sum."""
    return jnp.vdot(x, jnp.broadcast_to(weight, x.shape))
