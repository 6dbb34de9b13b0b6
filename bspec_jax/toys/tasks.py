"""The toys of section 4.1: four points to fit, branches of one neuron each."""

from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from bspec_jax.branching import Branch, BranchedNetwork, from_functions, sum_of_branches

Scalar = float | np.floating | Float[Array, ""]
InitDistribution = Literal["normal", "uniform"]

TOLERANCE = 1e-4  # success: sum_j (f(x_j) - y_j)^2 below this (section 4.1)


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
      negative_slope: slope of the leaky ReLU below zero.
      init: draws w and b from N(0, init_scale^2) or U(-init_scale, init_scale).

    Raises:
      ValueError: for another `init`.
    Source: eq. 4. The paper gives neither the slope nor the initialisation.
    """
    draws = {"normal": jax.random.normal, "uniform": _symmetric_uniform}
    if init not in draws:
        raise ValueError(f"init must be 'normal' or 'uniform', got {init!r}")
    draw = draws[init]

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
    """The key of a numbered trial with M branches.

    It depends on nothing else, so a trial starts from the same parameters in every task
    and setting, and `toy_network(M).init(trial_key(key, M, trial))` repeats it alone.
    """
    return jax.random.fold_in(jax.random.fold_in(key, num_branches), trial)


def _symmetric_uniform(key, shape):
    return jax.random.uniform(key, shape, minval=-1, maxval=1)
