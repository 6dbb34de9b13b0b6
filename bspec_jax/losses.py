"""Losses, as functions of the network's output f (the sum of the branches)."""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def squared_error(
    f: Float[Array, "*N"], y: Float[Array | np.ndarray, "*N"]
) -> Float[Array, ""]:
    """L = 1/2 ||f - y||^2, summed over all entries, so that dL/df = f - y.

    Source: eq. 2 (whose printed derivative has the opposite sign).
    """
    return 0.5 * jnp.sum((f - y) ** 2)


Clamp = Literal["hard", "straight-through", "tanh", "none"]


def classification_loss(
    f: Float[Array, "*N C"],
    label: Int[Array | np.ndarray, "*N"] | int,
    *,
    clamp: Clamp = "hard",
) -> Float[Array, "*N"]:
    """Cross-entropy of softmax(clamp f) with p = softmax(2 onehot - 1), per example.

    Args:
      f: the sum of the branches.
      label: the class, in 0..C-1.
      clamp: how f is limited to [-1, 1]. "hard", as in the paper: coordinates at or
        beyond the limits have neither gradient nor curvature. "straight-through": the
        same value, but the gradient passes as if there were no clamp. "tanh": smooth.
        "none": f as it is.

    Its minimum is `classification_floor(C)`.
    Source: eq. 3 (whose printed sign is flipped) and section 6.
    """
    p = jax.nn.softmax(2 * jax.nn.one_hot(label, f.shape[-1], dtype=f.dtype) - 1)
    return -(p * jax.nn.log_softmax(_limit(f, clamp))).sum(-1)


def _limit(f, clamp):
    if clamp == "tanh":
        return jnp.tanh(f)
    if clamp == "none":
        return f
    one = jnp.ones((), f.dtype)
    limited = jax.lax.clamp(-one, f, one)  # its slope at the limits is 0, unlike clip's
    if clamp == "hard":
        return limited
    if clamp == "straight-through":
        return f + jax.lax.stop_gradient(limited - f)
    raise ValueError(f"clamp must be one of {get_args(Clamp)}, got {clamp!r}")


def classification_floor(num_classes: int) -> float:
    """The entropy of softmax(2 onehot - 1), least value of `classification_loss`.

    1.89491 for 10 classes; what a loss has beyond it is the Kullback-Leibler
    divergence from p. Source: section 6.
    """
    others = num_classes - 1
    p = 1 / (1 + others * math.exp(-2))
    return -p * math.log(p) - (1 - p) * math.log((1 - p) / others)
