"""The toys of section 4.1: one-neuron branches fitted to four points.

Training is full-batch gradient descent. `record` follows one network and returns every
response along the way (Fig. 2); `bspec_jax.sweeps` trains thousands of them at once.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from bspec_jax.branching import Branch, BranchedNetwork, from_functions, sum_of_branches
from bspec_jax.losses import squared_error

Scalar = float | np.floating | Float[Array, ""]
InitDistribution = Literal["normal", "uniform"]

TOLERANCE = 1e-4  # success: sum_j (f(x_j) - y_j)^2 below this (section 4.1)
DORMANT_STEPS = 200  # both branches silent for so long counts as a takeover (Fig. 2)


class Task(NamedTuple):
    """Points x_j and targets y_j of a one-dimensional regression."""

    x: tuple[float, ...]
    y: tuple[float, ...]


# Section 4.1. Toy 1 stands for a classification with balanced classes 1 and 0.5.
TASKS = {
    "toy1": Task(x=(-1.0, 0.0, 0.0, 1.0), y=(1.0, 0.5, 0.5, 1.0)),
    "toy2": Task(x=(-1.0, 0.0, 1.0, 2.0), y=(1.0, 0.25, 0.5, 0.75)),
}


def toy_branch(
    negative_slope: Scalar = 0.01,
    init: InitDistribution = "normal",
    init_scale: Scalar = 1.0,
) -> Branch:
    """One neuron, v(x) = leaky_relu(w x + b); params are `{"w": [], "b": []}`.

    Args:
      negative_slope: of the leaky ReLU.
      init: w and b are drawn from N(0, init_scale^2) or U(-init_scale, init_scale).

    Source: eq. 4. The paper does not give the slope or the initialisation.
    """
    draw = {"normal": jax.random.normal, "uniform": _symmetric_uniform}[init]

    def init_params(key):
        w, b = init_scale * draw(key, (2,))
        return {"w": w, "b": b}

    def apply(params, x):
        return jax.nn.leaky_relu(params["w"] * x + params["b"], negative_slope)

    return from_functions(init_params, apply)


def toy_network(num_branches: int, **branch_options) -> BranchedNetwork:
    """The sum of M toy branches; options as in `toy_branch`. f maps `[N]` to `[N]`."""
    return sum_of_branches(toy_branch(**branch_options), num_branches)


def trial_key(key: Key[Array, ""], num_branches, trial) -> Key[Array, ""]:
    """The key from which a numbered trial at M branches starts.

    It depends on nothing else: a trial begins alike in every task and setting, and can
    be run again alone: `toy_network(M).init(trial_key(key, M, trial))`.
    """
    return jax.random.fold_in(jax.random.fold_in(key, num_branches), trial)


def gradient_descent_step(params, x, y, *, learning_rate, negative_slope=0.01):
    """One full-batch step theta - learning_rate * dL/dtheta of a toy network.

    Args:
      params: `{"w": [M], "b": [M]}`.
      x, y: the task's points and targets, `[N]`.
    Source: eq. 2 and 7.
    """
    network = toy_network(params["w"].shape[0], negative_slope=negative_slope)

    def loss(params):
        return squared_error(network.apply(params, (), x)[0], y)

    gradient = jax.grad(loss)(params)
    return jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient)


@partial(jax.jit, static_argnames=("steps", "every"))
def record(
    params,
    x: Float[Array, " N"],
    y: Float[Array, " N"],
    *,
    steps: int,
    every: int,
    learning_rate: Scalar = 0.02,
    negative_slope: Scalar = 0.01,
) -> Float[Array, "S M N"]:
    """Every branch's response at every point along training (Fig. 2).

    Returns the responses after 0, every, 2 every, ... steps: S = steps // every + 1.
    vmap over `params` to follow many networks at once.
    """
    network = toy_network(params["w"].shape[0], negative_slope=negative_slope)

    def advance(params, _):
        def step(_, params):
            return gradient_descent_step(
                params,
                x,
                y,
                learning_rate=learning_rate,
                negative_slope=negative_slope,
            )

        responses, _ = network.responses(params, (), x)
        return jax.lax.fori_loop(0, every, step, params), responses

    last, responses = jax.lax.scan(advance, params, length=steps // every)
    final, _ = network.responses(last, (), x)
    return jnp.concatenate([responses, final[None]])


class Dynamics(NamedTuple):
    """What kind of training each of T recorded runs was, `[T]`; see `classify`."""

    typical: np.ndarray
    takeover: np.ndarray
    shared: np.ndarray


def classify_dynamics(
    responses: Float[np.ndarray, "T S M N"], y: Float[np.ndarray, " N"], every: int
) -> Dynamics:
    """Finds the three kinds of training that the caption of Figure 2 describes.

    All of them succeed. Per point, let the larger and the smaller be the two largest
    |v_k(x_j)|; a point is dormant while the larger is below 10 % of |y_j|.

    - typical: at the end the smaller is below 10 % of the larger at every point, and no
      point was ever dormant for `DORMANT_STEPS` steps in all.
    - takeover: some point was dormant for that long, until a branch took it over.
    - shared: at the end the smaller is at least a quarter of the larger at some point,
      and it is not a takeover.

    Args:
      responses: from `record`, one for each trial, with M at least 2.
      y: targets.
      every: steps between two records.
    """
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


def _symmetric_uniform(key, shape):
    return jax.random.uniform(key, shape, minval=-1, maxval=1)
