"""Measures of specialization: which branches respond, where, and how similarly.

Everything here is a jittable function of the stacked responses v, `[M, N, ...]` (from
`BranchedNetwork.responses`), or of the energy of each branch in each region, `[M, R]`.
Branches that are all zero change a measure only through M. Networks of different sizes
can therefore be padded to one shape and measured in one call (see `num_branches`).

Responses that are not finite make every measure that depends on them NaN, counts too.
A mask of branches cannot be NaN: where the responses are known, it is refused; under
`jit`, where nothing can be refused, no branch is active then, so use `measure` there.

Definitions: sections 4 and 4.1 (response matrix F, covariance F F^T, active branch).
A *region* is a single example by default, or a group of examples such as a class.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from bspec_jax.analysis.measured import BranchMeasures, Measured, Specialization
from bspec_jax.analysis.responses import (
    correlation,
    covariance,
    example_energy,
    mean_correlation,
    region_energies,
    region_energy,
    response_matrix,
    response_norms,
    scale_of,
    square_matrix,
    stacked,
)
from bspec_jax.numerics import check_count, known, largest, nan_unless_finite, ratio

__all__ = [
    "ActivityRule",
    "Specialization",
    "active_branches",
    "active_in_regions",
    "correlation",
    "covariance",
    "example_energy",
    "mean_correlation",
    "measure",
    "region_energy",
    "region_entropy",
    "response_matrix",
    "response_norms",
    "specialization_index",
]

ActivityRule = Literal["norm", "variance"]


def active_branches(
    responses: Float[ArrayLike, "M N *C"],
    *,
    rule: ActivityRule = "norm",
    threshold: float = 0.1,
) -> Bool[Array, " M"]:
    """Which branches are active; the others are silent.

    Args:
      responses: v.
      rule: "norm": a branch is active if the norm of its responses is at least
        `threshold` times the largest branch's (the paper). "variance": the same with
        the variance of its responses (the authors' later code). If all responses are
        zero, no branch is active.
      threshold: a share, in 0..1.

    Raises:
      ValueError: for another rule or threshold, and if the responses are not finite.
    Source: caption of Fig. 4.
    """
    return _mask(_activity(_size(responses, rule), threshold))


def specialization_index(
    covariance: Float[ArrayLike, "M M"],
    num_branches: Int[Array, ""] | int | None = None,
) -> Float[Array, ""]:
    """S = (M - sum_ij c_ij^2 / sum_i c_ii^2) / (M - 1).

    1 for a diagonal covariance, 0 for identical branches. Always compare S with a
    control: it is also near 1 for independent noise, and where one branch dwarfs the
    rest. Where S is undefined (M = 1, or no response at all) it is 0, so that it never
    counts as specialization.

    Args:
      covariance: c, up to scale.
      num_branches: M, if the matrix is padded with zeros. Default: its size.

    Raises:
      ValueError: for a matrix that is not square, and for an M that it cannot hold.
    Source: the authors' later code; not in the paper.
    """
    covariance = nan_unless_finite(square_matrix(covariance))
    m = _num_branches(num_branches, len(covariance), covariance.dtype)
    scaled = covariance / scale_of(jnp.diagonal(covariance))
    squares = ratio((scaled**2).sum(), (jnp.diagonal(scaled) ** 2).sum())
    defined = (squares != 0) & (m > 1)
    return jnp.where(defined, (m - squares) / jnp.maximum(m - 1, 1), 0 * squares)


def active_in_regions(
    energy: Float[ArrayLike, "M R"], threshold: float = 0.1
) -> Bool[Array, "M R"]:
    """Which branches are active in which region, by the norm rule within the region.

    Args:
      energy: from `region_energy`, or `example_energy` for single examples.
      threshold: of norms, a share in 0..1.

    Raises:
      ValueError: if the energies are not finite or not `[M, R]`, and for another
        threshold.
    """
    return _mask(_activity(jnp.sqrt(region_energies(energy)), threshold))


def region_entropy(energy: Float[ArrayLike, "M R"]) -> Float[Array, " M"]:
    """Entropy of each branch's energy over regions, divided by log R.

    0 if all energy is in one region, 1 if it is spread evenly. Also 1 where it is
    undefined (a single region, or no energy), so that it never counts as
    specialization.

    Raises:
      ValueError: if the energies are not `[M, R]`.
    """
    energy = nan_unless_finite(region_energies(energy))
    energy = energy / scale_of(energy, axis=1, keepdims=True)
    total = energy.sum(1)
    share = ratio(energy, total[:, None])
    entropy = 0 - (share * jnp.log(jnp.where(share == 0, 1, share))).sum(1)
    num_regions = energy.shape[1]
    if num_regions == 1:
        return 1 + 0 * entropy
    return jnp.where(total == 0, 1, entropy / jnp.log(num_regions))


def measure(
    responses: Float[ArrayLike, "M N *C"],
    *,
    energy: Float[ArrayLike, "M R"] | None = None,
    num_branches: Int[Array, ""] | int | None = None,
    rule: ActivityRule = "norm",
    threshold: float = 0.1,
    centred: bool = False,
) -> Measured:
    """Measures observations 1 to 5 of one network, and the index S.

        print(measure(v))          # a table: a row for each branch, and a summary
        measure(v).index           # of the network
        measure(v).branches.norm   # of each branch

    Args:
      responses: v; one output of a network that has several.
      energy: of each branch in each region; by default every example is a region.
      num_branches: M, if `responses` is padded with branches of zeros.
      rule, threshold: what counts as active; see `active_branches`.
      centred: centre the covariance behind the index and the correlation.

    Returns:
      The measures, a pytree. None is NaN for finite responses; all are if a response is
      NaN or infinite, and those that take the energy if an energy is.

    Raises:
      TypeError: for responses that are a tree of several outputs, or not floats.
      ValueError: for shapes, an M, a rule or a threshold that cannot be.
    Source: section 4.
    """
    responses = stacked(responses)
    m = _num_branches(num_branches, len(responses), responses.dtype)
    # All measures are invariant to scale; at this one no square over- or underflows.
    responses = responses / scale_of(responses)
    energy = example_energy(responses) if energy is None else region_energies(energy)
    if len(energy) != len(responses):
        raise ValueError(
            f"`energy` is of {len(energy)} branches, `responses` of {len(responses)}"
        )
    size = _size(responses, rule)
    branches = BranchMeasures(
        active=_activity(size, threshold),
        norm=ratio(norms := response_norms(responses), scale_of(norms)),
        active_share=_activity(jnp.sqrt(energy), threshold).mean(1),
        entropy=region_entropy(energy),
    )
    num_active = branches.active.sum()
    cov = covariance(responses, centred=centred)
    rho, pairs = mean_correlation(correlation(cov), branches.active)
    per_region = branches.active_share.sum() / m

    def over_active(values, otherwise):
        total = jnp.where(branches.active == 0, 0, values).sum()
        return jnp.where(num_active == 0, otherwise, ratio(total, num_active))

    return Measured.of(
        branches,
        num_active,
        m - num_active,
        specialization_index(cov, num_branches),
        over_active(branches.entropy, 1),
        per_region,
        1 - per_region,
        over_active(1 - branches.active_share, 0),
        jnp.where(num_active < m, 1, 0 * num_active),
        rho,
        pairs,
    )


def _size(responses: Any, rule: ActivityRule) -> Array:
    """What the rule compares, up to a scale that all branches share."""
    matrix = response_matrix(responses)
    matrix = matrix / scale_of(matrix)
    if rule == "norm":
        return response_norms(matrix)
    if rule == "variance":
        return matrix.var(axis=1)
    raise ValueError(f"rule must be 'norm' or 'variance', got {rule!r}")


def _activity(size: Array, threshold: float) -> Array:
    """1 where the size is at least that share of the largest, or else 0.

    NaN where some size is not finite. Branches are the leading axis.
    """
    if known((threshold < 0) | (threshold > 1) | jnp.isnan(threshold)):
        raise ValueError(f"`threshold` must be a share in 0..1, got {threshold}")
    size = jax.lax.stop_gradient(size)
    limit = threshold * largest(size, 0, keepdims=True)
    active = (size >= limit) & (size > 0)
    return active.astype(size.dtype) + 0 * limit


def _mask(activity: Array) -> Array:
    if known(jnp.isnan(activity).any()):
        raise ValueError(
            "the responses are not finite, so that no branch is known to be active or "
            "silent; `measure` gives NaN"
        )
    return activity == 1


def _num_branches(given: Any, rows: int, dtype: Any) -> Array:
    """M as a float, by default the number of rows."""
    if isinstance(given, jax.core.Tracer):
        return given.astype(dtype)
    m = rows if given is None else check_count("num_branches", given)
    if m > rows:
        raise ValueError(f"`num_branches` is {m}, but there are {rows} rows")
    return jnp.asarray(m, dtype)
