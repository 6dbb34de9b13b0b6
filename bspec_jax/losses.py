"""Losses, as functions of the network's output f (the sum of the branches)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def squared_error(
    f: Float[Array, "*N"], y: Float[Array | np.ndarray, "*N"]
) -> Float[Array, ""]:
    """L = 1/2 ||f - y||^2, summed over all entries, so that dL/df = f - y.

    Source: eq. 2 (whose printed derivative has the opposite sign).
    """
    return 0.5 * jnp.sum((f - y) ** 2)
