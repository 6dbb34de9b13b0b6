"""Floating point: wide enough types, NaN that stay NaN, and counts that are counts.

The rule for what is not a number: NaN and infinities in the input make whatever depends
on them NaN. Only 0/0 has a defined answer, which the function that divides states.
"""

import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def wide_dtype(*arrays: Any) -> jnp.dtype:
    """The widest floating type of the arrays, at least float32.

    Sums and squares of shorter floats overflow and lose what is small.
    """
    dtypes = [jnp.dtype(array.dtype) for array in arrays]
    floating = [d for d in dtypes if jnp.issubdtype(d, jnp.floating)]
    return max([jnp.dtype(jnp.float32), *floating], key=lambda d: d.itemsize)


def widen(tree: Any) -> Any:
    """The tree with float32 in place of its shorter floats; the rest as it is."""

    def widened(leaf):
        short = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        short = short and jnp.result_type(leaf).itemsize < 4
        return jnp.asarray(leaf, jnp.float32) if short else leaf

    return jax.tree.map(widened, tree)


def nan_unless_finite(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """NaN in place of infinities: no comparison and no 1/inf can lose them then."""
    return x + 0 * x


def largest(x: Float[Array, "*shape"], axis: int | None = None, keepdims: bool = False):
    """The largest value; NaN unless all are finite.

    Not `max` alone: on a CPU, XLA's drops NaN.
    """
    nan_or_0 = (0 * x).sum(axis, keepdims=keepdims)
    return x.max(axis, keepdims=keepdims) + nan_or_0


def ratio(
    numerator: Float[ArrayLike, "*n"], denominator: Float[ArrayLike, "*d"]
) -> Float[Array, "*shape"]:
    """The ratio, with 0/0 = 0; its gradient is finite there, too."""
    both_zero = (numerator == 0) & (denominator == 0)
    return numerator / jnp.where(both_zero, 1, denominator)


def known(condition: Any) -> bool:
    """Whether a condition is true for sure: never inside a transformation."""
    return not isinstance(condition, jax.core.Tracer) and bool(condition)


def check_count(name: str, value: Any, least: int | None = 1) -> int:
    """The value as an int.

    Raises:
      ValueError: if it is a bool or not a whole number, or below `least`, unless None.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    if least is not None and count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}")
    return count
