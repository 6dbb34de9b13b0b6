"""Stacked responses v, `[M, N, ...]`: means, norms, energies, covariance."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Integer

from bspec_jax.numerics import (
    check_count,
    known,
    largest,
    nan_unless_finite,
    ratio,
    widen,
)


def response_matrix(responses: Float[ArrayLike, "M N *C"]) -> Float[Array, "M NC"]:
    """The response matrix F, F_ij = v_i(x_j): a row per branch, outputs flattened.

    Raises (as everything here that takes responses):
      TypeError: for responses that are a tree of several outputs, or not floats.
      ValueError: for responses without an axis of branches and one of examples, or
        without a branch or an example.
    Source: section 4.1.
    """
    responses = stacked(responses)
    return responses.reshape(responses.shape[0], -1)


def response_norms(responses: Float[ArrayLike, "M N *C"]) -> Float[Array, " M"]:
    """Euclidean norm of each branch's responses over the data (of its row of F)."""
    matrix = response_matrix(responses)
    scale = scale_of(matrix, axis=1, keepdims=True)  # no square over- or underflows
    return scale[:, 0] * jnp.linalg.norm(matrix / scale, axis=1)


def centred(
    responses: Float[ArrayLike, "M N *C"], about: Literal["mean", "median"] = "mean"
) -> Float[Array, "M N *C"]:
    """The responses without each branch's constant output.

    Removes what a branch says whatever its input is, such as the output bias that a
    silent branch keeps. A branch that is constant becomes exactly zero.

    Args:
      about: the constant, for each output: its mean over the examples, which leaves
        the smallest norm, or its median. The median tells where a branch responds: of
        one that responds in a single one of R >= 3 equal regions, the mean would leave
        -1 / (R - 1) of that response in all others.
    """
    responses = stacked(responses)
    # The mean of equal numbers is rounded, but not that of their differences.
    differences = responses - responses[:, :1]
    constant = {"mean": jnp.mean, "median": jnp.median}[about]
    return differences - constant(differences, axis=1, keepdims=True)


def input_regions(inputs: ArrayLike) -> Int[np.ndarray, " N"]:
    """The region of each example, 0..R-1: examples with equal inputs share one.

    On the host. Branches cannot tell such examples apart, and would otherwise count
    them twice.

    Args:
      inputs: `[N, ...]`.

    Raises:
      ValueError: without an axis of examples, or without an example.
    """
    inputs = np.asarray(inputs)
    if not inputs.ndim or not inputs.size:
        raise ValueError(f"inputs must be [N, ...], and have shape {inputs.shape}")
    rows = inputs.reshape(len(inputs), -1)
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)


def covariance(responses: Float[ArrayLike, "M N *C"]) -> Float[Array, "M M"]:
    """F F^T, uncentred as in the paper and not divided by the number of examples.

    With the means removed: `covariance(centred(v))`.

    Source: section 4.1.
    """
    matrix = response_matrix(responses)
    return jnp.matmul(matrix, matrix.T, precision="highest")


def correlation(covariance: Float[ArrayLike, "M M"]) -> Float[Array, "M M"]:
    """c_kl / sqrt(c_kk c_ll), in [-1, 1]; 0 where a branch does not respond at all.

    Raises:
      ValueError: for a matrix that is not square.
    """
    covariance = nan_unless_finite(square_matrix(covariance))
    variance = jnp.diagonal(covariance)
    deviation = jnp.sqrt(jnp.where(variance == 0, 1, variance))
    # One factor at a time: the product of two variances may underflow.
    rho = covariance / deviation[:, None] / deviation[None, :]
    return jnp.clip(rho, -1, 1) + 0 * rho  # clipping may drop NaN, as in `largest`


def mean_correlation(
    correlation: Float[ArrayLike, "M M"],
    active: Bool[ArrayLike, " M"] | Float[ArrayLike, " M"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean |rho| over pairs of active branches, and the number of such pairs.

    With fewer than two active branches both are 0; leave such a network out of
    averages.

    Args:
      correlation: rho.
      active: a mask; as floats NaN for branches that may be active or silent.

    Raises:
      ValueError: if `active` is not of the matrix's size.
    """
    correlation = square_matrix(correlation)
    active = jnp.asarray(active, correlation.dtype)
    if active.shape != correlation.shape[:1]:
        raise ValueError(
            f"`active` has shape {active.shape}, but there are {len(correlation)} "
            "branches"
        )
    weight = jnp.triu(active[:, None] * active[None, :], 1)
    size = jnp.where(weight == 0, 0, jnp.abs(correlation))
    # A single branch is in no pair, but must be known.
    pairs = weight.sum() + 0 * active.sum()
    return ratio((weight * size).sum(), pairs), pairs


def example_energy(responses: Float[ArrayLike, "M N *C"]) -> Float[Array, "M N"]:
    """||v_k(x_j)||^2, the energy of branch k at example j."""
    responses = stacked(responses)
    return (responses**2).sum(tuple(range(2, responses.ndim)))


def region_energy(
    responses: Float[ArrayLike, "M N *C"],
    regions: Integer[ArrayLike, " N"],
    num_regions: int,
) -> Float[Array, "M R"]:
    """Mean energy of each branch in each region, for example in each class.

    A mean, so that a region's weight does not depend on its number of examples. NaN for
    a region without examples.

    Args:
      responses: v.
      regions: region of each example, in 0..R-1.
      num_regions: R.

    Raises:
      ValueError: for regions that are not one integer in 0..R-1 for each example. Under
        `jit`, where their values are not known, the energies are NaN instead.
    """
    energy, regions = example_energy(responses), jnp.asarray(regions)
    num_regions = check_count("num_regions", num_regions)
    whole = jnp.issubdtype(regions.dtype, jnp.integer)
    if regions.shape != energy.shape[1:] or not whole:
        raise ValueError(
            f"`regions` must hold an integer for each of the {energy.shape[1]} "
            f"examples, not {regions.dtype}{list(regions.shape)}; of one-hot rows take "
            "argmax(-1)"
        )
    outside = ((regions < 0) | (regions >= num_regions)).any()
    if known(outside):
        raise ValueError(f"`regions` must be in 0..{num_regions - 1}")
    total = jax.ops.segment_sum(energy.T, regions, num_segments=num_regions).T
    count = jnp.bincount(regions, length=num_regions).astype(energy.dtype)
    return total / jnp.where(outside, jnp.nan, count)[None, :]


def stacked(responses: Any) -> Float[Array, "M N *C"]:
    """The responses as an array of at least float32, `[M, N, ...]`."""
    if not hasattr(responses, "shape"):
        paths = jax.tree_util.tree_leaves_with_path(responses)
        outputs = ", ".join(f"v{jax.tree_util.keystr(path)}" for path, _ in paths[:4])
        raise TypeError(
            f"the responses v are a {type(responses).__name__}, not an array [M, N, "
            f"...]: measure one of {outputs}, or each by jax.tree.map(measure, v)"
        )
    responses = jnp.asarray(responses)
    if not jnp.issubdtype(responses.dtype, jnp.floating):
        raise TypeError(f"responses must be floats, got {responses.dtype}")
    if responses.ndim < 2 or not responses.size:
        raise ValueError(
            "responses must be [M, N, ...], of at least one branch and one example; "
            f"they have shape {responses.shape}"
        )
    return widen(responses)


def square_matrix(matrix: Any) -> Float[Array, "M M"]:
    """A matrix over pairs of branches, of at least float32."""
    matrix = widen(jnp.asarray(matrix))
    if matrix.ndim != 2 or len(set(matrix.shape)) != 1:
        raise ValueError(f"expected a matrix [M, M], got one of shape {matrix.shape}")
    return matrix


def region_energies(energy: Any) -> Float[Array, "M R"]:
    """Energies of each branch in each region, of at least float32."""
    energy = widen(jnp.asarray(energy))
    if energy.ndim != 2 or not energy.size:
        raise ValueError(f"energies must be [M, R], and have shape {energy.shape}")
    return energy


def scale_of(
    x: Array, axis: int | None = None, keepdims: bool = False
) -> Float[Array, "*shape"]:
    """The largest absolute value, to divide by: 1 if all are zero.

    NaN unless all values are finite.
    """
    size = largest(jnp.abs(x), axis, keepdims)
    return jnp.where(size == 0, 1, size)
