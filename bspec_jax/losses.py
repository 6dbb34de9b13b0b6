"""Loss functions of the network's output f, the sum of the branches."""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from bspec_jax.numerics import check_count, known, wide_dtype, widen


def squared_error(
    f: Float[Array, "*N"], y: Float[Array | np.ndarray, "*N"]
) -> Float[Array, ""]:
    """L = 1/2 ||f - y||^2, summed over all entries, so that dL/df = f - y.

    Computed in float32 or wider.

    Raises:
      ValueError: for shapes that differ: they would be repeated over one another.
    Source: eq. 2, whose printed derivative has the opposite sign.
    """
    f, y = jnp.asarray(f), jnp.asarray(y)
    if f.shape != y.shape:
        raise ValueError(f"f has shape {f.shape}, but its targets have {y.shape}")
    dtype = wide_dtype(f, y)
    return 0.5 * jnp.sum((f.astype(dtype) - y.astype(dtype)) ** 2)


Clamp = Literal["hard", "straight-through", "tanh", "none"]


def classification_loss(
    f: Float[Array, "*N C"],
    label: Integer[Array | np.ndarray, "*N"] | int,
    *,
    clamp: Clamp = "hard",
) -> Float[Array, "*N"]:
    """Cross-entropy between p = softmax(2 onehot - 1) and softmax(clamp f).

    Args:
      f: logits, the sum of the branches.
      label: class, in 0..C-1, of each example.
      clamp: how f is limited to [-1, 1]. "hard", as in the paper: outputs at or beyond
        the limits have neither gradient nor curvature. "straight-through": the same
        value, with the gradient of no clamp. "tanh": smooth. "none": no limit.

    Returns the loss of each example, computed in float32 or wider, in the type of f.
    Its minimum is `classification_floor(C)`.

    Raises:
      ValueError: for another clamp, and for labels that are not one integer in 0..C-1
        for each example. Under `jit`, where their values are not known, the loss of
        such an example is NaN instead.
    Source: section 6 and eq. 3, whose printed sign is flipped.
    """
    label, num_classes = _check_label(label, f), f.shape[-1]
    outside = (label < 0) | (label >= num_classes)
    if known(outside.any()):
        raise ValueError(f"labels must be in 0..{num_classes - 1}")
    g = limited(widen(f), clamp)
    p = jax.nn.softmax(2 * jax.nn.one_hot(label, num_classes, dtype=g.dtype) - 1)
    loss = -(p * jax.nn.log_softmax(g)).sum(-1)
    return jnp.where(outside, jnp.nan, loss).astype(f.dtype)


def _check_label(label, f):
    label = jnp.asarray(label)
    integer = jnp.issubdtype(label.dtype, jnp.integer)
    if not integer or label.shape not in ((), f.shape[:-1]):
        raise ValueError(
            f"labels must be integers of shape {f.shape[:-1]} for logits of shape "
            f"{f.shape}, not {label.dtype} of {label.shape}; of one-hot rows take "
            "argmax(-1)"
        )
    return jnp.broadcast_to(label, f.shape[:-1])


def limited(f: Float[Array, "*shape"], clamp: Clamp) -> Float[Array, "*shape"]:
    """The output f as the loss sees it; see `classification_loss`.

    Raises:
      ValueError: for another clamp.
    """
    if clamp == "tanh":
        return jnp.tanh(f)
    if clamp == "none":
        return f
    limit = jnp.ones((), f.dtype)
    inside = jax.lax.clamp(-limit, f, limit)  # slope 0 at the limits, unlike jnp.clip
    inside = jnp.where(jnp.isnan(f), f, inside)  # which XLA's clamp may drop on a CPU
    if clamp == "hard":
        return inside
    if clamp == "straight-through":
        return f + jax.lax.stop_gradient(inside - f)
    raise ValueError(f"clamp must be one of {get_args(Clamp)}, got {clamp!r}")


def classification_floor(num_classes: int) -> float:
    """The entropy of p = softmax(2 onehot - 1), the minimum of `classification_loss`.

    1.89491 for 10 classes. The excess of a loss over it is the Kullback-Leibler
    divergence of softmax(clamp f) from p. Source: section 6.
    """
    others = check_count("num_classes", num_classes, 2) - 1
    p = 1 / (1 + others * math.exp(-2))
    return -p * math.log(p) - (1 - p) * math.log((1 - p) / others)
