"""Loss functions of the network's output f, the sum of the branches."""

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

    Source: eq. 2, whose printed derivative has the opposite sign.
    """
    return 0.5 * jnp.sum((f - y) ** 2)


Clamp = Literal["hard", "straight-through", "tanh", "none"]


def classification_loss(
    f: Float[Array, "*N C"],
    label: Int[Array | np.ndarray, "*N"] | int,
    *,
    clamp: Clamp = "hard",
) -> Float[Array, "*N"]:
    """Cross-entropy between p = softmax(2 onehot - 1) and softmax(clamp f).

    Args:
      f: logits, the sum of the branches.
      label: class, in 0..C-1.
      clamp: how f is limited to [-1, 1]. "hard", as in the paper: outputs at or beyond
        the limits have neither gradient nor curvature. "straight-through": the same
        value, with the gradient of no clamp. "tanh": smooth. "none": no limit.

    Returns the loss of each example; its minimum is `classification_floor(C)`.
    Source: section 6 and eq. 3, whose printed sign is flipped.
    """
    p = jax.nn.softmax(2 * jax.nn.one_hot(label, f.shape[-1], dtype=f.dtype) - 1)
    return -(p * jax.nn.log_softmax(_limit(f, clamp))).sum(-1)


def _limit(f, clamp):
    if clamp == "tanh":
        return jnp.tanh(f)
    if clamp == "none":
        return f
    limit = jnp.ones((), f.dtype)
    limited = jax.lax.clamp(-limit, f, limit)  # slope 0 at the limits, unlike jnp.clip
    if clamp == "hard":
        return limited
    if clamp == "straight-through":
        return f + jax.lax.stop_gradient(limited - f)
    raise ValueError(f"clamp must be one of {get_args(Clamp)}, got {clamp!r}")


def classification_floor(num_classes: int) -> float:
    """The entropy of p = softmax(2 onehot - 1), the minimum of `classification_loss`.

    1.89491 for 10 classes. The excess of a loss over it is the Kullback-Leibler
    divergence of softmax(clamp f) from p. Source: section 6.
    """
    others = num_classes - 1
    p = 1 / (1 + others * math.exp(-2))
    return -p * math.log(p) - (1 - p) * math.log((1 - p) / others)
