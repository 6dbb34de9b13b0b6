"""Losses, as functions of the network's output f (the sum of the branches)."""

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


def classification_loss(
    f: Float[Array, "*N C"],
    label: Int[Array | np.ndarray, "*N"] | int,
    *,
    clamp: bool = True,
) -> Float[Array, "*N"]:
    """Cross-entropy of softmax(f) with p = softmax(2 onehot - 1), for each example.

    Args:
      f: the sum of the branches.
      label: the class, in 0..C-1.
      clamp: limit f to [-1, 1] first, as the paper does; coordinates at or beyond the
        limits then have neither gradient nor curvature.

    Its minimum is the entropy of p, 1.89491 for C = 10.
    Source: eq. 3 (whose printed sign is flipped) and section 6.
    """
    p = jax.nn.softmax(2 * jax.nn.one_hot(label, f.shape[-1], dtype=f.dtype) - 1)
    if clamp:
        one = jnp.ones((), f.dtype)
        f = jax.lax.clamp(-one, f, one)  # its slope at the limits is 0, unlike clip's
    return -(p * jax.nn.log_softmax(f)).sum(-1)
