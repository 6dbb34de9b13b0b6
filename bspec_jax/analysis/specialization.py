"""Measures of specialization: which branches respond, where, and how similarly.

Everything here is a jittable function of the stacked responses v, `[M, N, ...]` (from
`BranchedNetwork.responses`), or of the energy of each branch in each region, `[M, R]`.
Branches that are all zero change a measure only through M. Networks of different sizes
can therefore be padded to one shape and measured in one call (see `num_branches`).

Measures are of the responses as they are, as in the paper, or after each branch's
constant output is removed (`centred`): a silent branch keeps its output bias, and that
constant can hide its silence.

Responses that are not finite make every measure that depends on them NaN, counts too.
A mask of branches cannot be NaN: where the responses are known, it is refused; under
`jit`, where nothing can be refused, no branch is active then, so use `measure` there.

Definitions: sections 4 and 4.1 (response matrix F, covariance F F^T, active branch).
A *region* is a single example by default, or a group of examples such as a class.
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key

from bspec_jax.analysis.measured import BranchMeasures, Measured, Specialization
from bspec_jax.analysis.responses import (
    centred,
    correlation,
    covariance,
    example_energy,
    input_regions,
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
    "activity",
    "centred",
    "correlation",
    "covariance",
    "example_energy",
    "input_regions",
    "mean_correlation",
    "measure",
    "null_correlation",
    "region_energy",
    "region_entropy",
    "regional",
    "response_matrix",
    "response_norms",
    "specialization_index",
]

ActivityRule = Literal["norm", "centred", "variance"]


def active_branches(
    responses: Float[ArrayLike, "M N *C"],
    *,
    rule: ActivityRule = "norm",
    threshold: float = 0.1,
) -> Bool[Array, " M"]:
    """Which branches are active; the others are silent.

    Args:
      responses: v.
      rule: what is compared; a branch is active if it has at least `threshold` times
        the largest branch's. "norm": the norm of its responses (the paper). "centred":
        the same after its mean output is removed. "variance": the variance of all its
        responses (the authors' later code). If all are zero, no branch is active.
      threshold: a share, in 0..1.

    Raises:
      ValueError: for another rule or threshold, and if the responses are not finite.
    Source: caption of Fig. 4.
    """
    return _mask(activity(responses, rule=rule, threshold=threshold))


def activity(
    responses: Float[ArrayLike, "M N *C"],
    *,
    rule: ActivityRule = "norm",
    threshold: float = 0.1,
) -> Float[Array, " M"]:
    """1 for an active branch, 0 for a silent one; NaN if a response is not finite.

    Arguments as in `active_branches`, which gives a mask.
    """
    return _active(_as_the_rule_sees_it(responses, rule), rule, threshold)


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
) -> Measured:
    """Measures observations 1 to 5 of one network, and the index S.

        print(measure(v))          # a table: a row for each branch, and a summary
        measure(v).index           # of the network
        measure(v).branches.norm   # of each branch

    Args:
      responses: v; one output of a network that has several.
      energy: of each branch in each region; by default every example is a region. It
        must be that of `regional(v, rule)`.
      num_branches: M, if `responses` is padded with branches of zeros.
      rule, threshold: what counts as active; see `active_branches`. With "centred",
        norms, correlations and S are those of `centred(v)`, too.

    Returns:
      The measures, a pytree. None is NaN for finite responses; all are if a response is
      NaN or infinite, and those that take the energy if an energy is.

    Raises:
      TypeError: for responses that are a tree of several outputs, or not floats.
      ValueError: for shapes, an M, a rule or a threshold that cannot be.
    Source: section 4.
    """
    # All measures are invariant to scale; at this one no square over- or underflows.
    responses = _as_the_rule_sees_it(responses, rule)
    m = _num_branches(num_branches, len(responses), responses.dtype)
    if energy is None:
        energy = example_energy(regional(responses, rule))
    energy = region_energies(energy)
    if len(energy) != len(responses):
        raise ValueError(
            f"`energy` is of {len(energy)} branches, `responses` of {len(responses)}"
        )
    branches = BranchMeasures(
        active=_active(responses, rule, threshold),
        norm=ratio(norms := response_norms(responses), scale_of(norms)),
        active_share=_activity(jnp.sqrt(energy), threshold).mean(1),
        entropy=region_entropy(energy),
    )
    num_active = branches.active.sum()
    cov = covariance(responses)
    rho, pairs = mean_correlation(correlation(cov), branches.active)

    def over_active(values, otherwise):
        total = jnp.where(branches.active == 0, 0, values).sum()
        return jnp.where(num_active == 0, otherwise, ratio(total, num_active))

    return Measured.of(
        branches,
        num_active,
        m - num_active,
        specialization_index(cov, num_branches),
        over_active(branches.entropy, 1),
        branches.active_share.sum() / m,
        over_active(1 - branches.active_share, 0),
        (m - num_active) / m,
        rho,
        pairs,
    )


def regional(
    responses: Float[ArrayLike, "M N *C"], rule: ActivityRule
) -> Float[Array, "M N *C"]:
    """The responses whose energy in a region tells whether a branch is active there.

    By the rule "centred" without each branch's median output (see `centred`): what it
    gives in most regions is none of its own. By all others as they are.
    """
    return centred(responses, "median") if rule == "centred" else stacked(responses)


def null_correlation(
    responses: Float[ArrayLike, "M N *C"],
    key: Key[Array, ""],
    *,
    rule: ActivityRule = "norm",
    threshold: float = 0.1,
    permutations: int = 4,
) -> Float[Array, ""]:
    """The correlation of `measure`, had branches nothing to do with one another.

    The mean over random permutations of the examples, another one for each branch: what
    is left of |rho| where only chance correlates the branches. 0 without a pair of
    active branches, as in `measure`.

    Args:
      responses, rule, threshold: as in `measure`.
      permutations: number of times that all branches are permuted.
    """
    check_count("permutations", permutations)
    responses = _as_the_rule_sees_it(responses, rule)
    active = _active(responses, rule, threshold)

    def permuted(key):
        keys = jax.random.split(key, len(responses))
        shuffled = jax.vmap(jax.random.permutation)(keys, responses)
        return mean_correlation(correlation(covariance(shuffled)), active)[0]

    return jax.lax.map(permuted, jax.random.split(key, permutations)).mean()


def _as_the_rule_sees_it(responses: Any, rule: ActivityRule) -> Array:
    """The responses, or the centred ones, at a scale that all branches share."""
    if rule not in get_args(ActivityRule):
        raise ValueError(f"rule must be one of {get_args(ActivityRule)}, got {rule!r}")
    responses = stacked(responses)
    responses = responses / scale_of(responses)
    if rule != "centred":
        return responses
    responses = centred(responses)
    return responses / scale_of(responses)


def _active(responses: Array, rule: ActivityRule, threshold: float) -> Array:
    """`activity` of responses as the rule sees them."""
    matrix = response_matrix(responses)
    size = matrix.var(axis=1) if rule == "variance" else response_norms(matrix)
    return _activity(size, threshold)


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
