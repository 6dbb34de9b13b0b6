"""One toy network trained by full-batch gradient descent, step by step (Fig. 2)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from bspec_jax.losses import squared_error
from bspec_jax.numerics import check_count
from bspec_jax.toys.tasks import TOLERANCE, Scalar, toy_network

DORMANT_STEPS = 200  # a point unanswered for this long has been taken over (Fig. 2)


def gradient_descent_step(
    params, x, y, *, learning_rate, weight_decay=0.0, negative_slope=0.01
):
    """One full-batch step theta - learning_rate * dL/dtheta of a toy network.

    L is the squared error and weight_decay / 2 times the squared norm of theta.

    Args:
      params: `{"w": [M], "b": [M]}`.
      x, y: points and targets, `[N]`.

    Returns the new parameters. Source: eq. 2 and 7.
    """
    dtype = params["w"].dtype
    numbers = (x, y, learning_rate, weight_decay, negative_slope)
    x, y, rate, decay, slope = (jnp.asarray(number, dtype) for number in numbers)
    network = toy_network(params["w"].shape[0], negative_slope=slope)

    def loss(params):
        return squared_error(network.apply(params, (), x)[0], y)

    gradient = jax.grad(loss)(params)
    return jax.tree.map(lambda p, g: p - rate * (g + decay * p), params, gradient)


def record(
    params,
    x: Float[ArrayLike, " N"],
    y: Float[ArrayLike, " N"],
    *,
    steps: int,
    every: int,
    learning_rate: Scalar = 0.02,
    weight_decay: Scalar = 0.0,
    negative_slope: Scalar = 0.01,
) -> Float[Array, "S M N"]:
    """Every branch's response to every point along training (Fig. 2).

    vmap over `params` to follow many networks at once.

    Args:
      params: initial, `{"w": [M], "b": [M]}`.
      x, y: points and targets.
      steps: of gradient descent.
      every: steps between two records.

    Returns the responses after 0, every, 2 every, ... steps: S = steps // every + 1.

    Raises:
      ValueError: for a negative number of steps, and records less than a step apart.
    """
    return _record(
        params,
        jnp.asarray(x, params["w"].dtype),
        jnp.asarray(y, params["w"].dtype),
        learning_rate,
        weight_decay,
        negative_slope,
        count=check_count("steps", steps, 0) // check_count("every", every),
        every=every,
    )


@partial(jax.jit, static_argnames=("count", "every"))
def _record(params, x, y, learning_rate, weight_decay, negative_slope, *, count, every):
    negative_slope = jnp.asarray(negative_slope, x.dtype)
    network = toy_network(params["w"].shape[0], negative_slope=negative_slope)

    def advance(params, _):
        def step(_, params):
            return gradient_descent_step(
                params,
                x,
                y,
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                negative_slope=negative_slope,
            )

        responses, _ = network.responses(params, (), x)
        return jax.lax.fori_loop(0, every, step, params), responses

    last, responses = jax.lax.scan(advance, params, length=count)
    final, _ = network.responses(last, (), x)
    return jnp.concatenate([responses, final[None]])


class Dynamics(NamedTuple):
    """Which of T recorded runs are of which kind; see `classify_dynamics`."""

    typical: Bool[np.ndarray, " T"]
    takeover: Bool[np.ndarray, " T"]
    shared: Bool[np.ndarray, " T"]


def classify_dynamics(
    responses: Float[np.ndarray, "T S M N"], y: Float[np.ndarray, " N"], every: int
) -> Dynamics:
    """Finds the three kinds of successful training in the caption of Figure 2.

    Call the two largest |v_k(x_j)| at a point the larger and the smaller. A point is
    dormant while the larger is below 10 % of |y_j|.

    - typical: at the end the smaller is below 10 % of the larger at every point, and no
      point was dormant for `DORMANT_STEPS` steps in all.
    - takeover: some point was dormant for that long, until a branch took it over.
    - shared: no takeover, and at the end the smaller is at least a quarter of the
      larger at some point.

    A run that diverged (NaN) is not successful, and so of no kind.

    Args:
      responses: from `record`, one for each run, with M at least 2.
      y: targets.
      every: steps between two records.

    Raises:
      ValueError: for a single branch, and for responses that are not `[T, S, M, N]`
        with N targets.
    """
    check_count("every", every)
    if responses.ndim != 4 or responses.shape[3:] != np.shape(y):
        raise ValueError(
            f"responses must be [T, S, M, {np.size(y)}], not {responses.shape}"
        )
    if responses.shape[2] < 2:
        raise ValueError("a single branch has no kinds of dynamics: record two or more")
    size = np.sort(np.abs(responses), axis=2)
    larger, smaller = size[:, :, -1], size[:, :, -2]
    success = ((responses[:, -1].sum(1) - y) ** 2).sum(-1) < TOLERANCE
    dormant = (larger < 0.1 * np.abs(y)).sum(1) * every >= DORMANT_STEPS
    ratio = smaller[:, -1] / np.maximum(larger[:, -1], np.finfo(np.float32).tiny)
    takeover = success & dormant.any(1)
    return Dynamics(
        typical=success & ~takeover & (ratio < 0.1).all(1),
        takeover=takeover,
        shared=success & ~takeover & (ratio >= 0.25).any(1),
    )
