"""Measures of specialization: which branches respond, where, and how similarly.

Everything here is a jittable function of the stacked responses v, `[M, N, ...]` (from
`BranchedNetwork.responses`), or of the energy of each branch in each region, `[M, R]`.
Branches that are all zero change a measure only through M. Networks of different sizes
can therefore be padded to one shape and measured in one call (see `num_branches`).

Definitions: sections 4 and 4.1 (response matrix F, covariance F F^T, active branch).
A *region* is a single example by default, or a group of examples such as a class.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

ActivityRule = Literal["norm", "variance"]


def response_matrix(responses: Float[ArrayLike, "M N *C"]) -> Float[Array, "M NC"]:
    """The response matrix F, F_ij = v_i(x_j): a row per branch, outputs flattened.

    Source: section 4.1.
    """
    return _wide(responses).reshape(responses.shape[0], -1)


def response_norms(responses: Float[ArrayLike, "M N *C"]) -> Float[Array, " M"]:
    """Euclidean norm of each branch's responses over the data (of its row of F)."""
    return jnp.linalg.norm(response_matrix(responses), axis=1)


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

    Raises:
      ValueError: for another rule.
    Source: caption of Fig. 4.
    """
    if rule == "norm":
        size = response_norms(responses)
    elif rule == "variance":
        size = response_matrix(responses).var(axis=1)
    else:
        raise ValueError(f"rule must be 'norm' or 'variance', got {rule!r}")
    return _at_least_share_of_largest(size, threshold)


def covariance(
    responses: Float[ArrayLike, "M N *C"], *, centred: bool = False
) -> Float[Array, "M M"]:
    """F F^T, uncentred as in the paper and not divided by the number of examples.

    Args:
      responses: v.
      centred: subtract each branch's mean first.
    Source: section 4.1.
    """
    matrix = response_matrix(responses)
    if centred:
        matrix = matrix - matrix.mean(axis=1, keepdims=True)
    return jnp.matmul(matrix, matrix.T, precision="highest")


def correlation(covariance: Float[Array, "M M"]) -> Float[Array, "M M"]:
    """c_kl / sqrt(c_kk c_ll), in [-1, 1]; 0 where a branch does not respond at all."""
    variance = jnp.diagonal(covariance)
    inverse = jnp.where(variance > 0, 1 / jnp.sqrt(_positive(variance)), 0)
    # One factor at a time: the product of two variances may underflow.
    return jnp.clip(covariance * inverse[:, None] * inverse[None, :], -1, 1)


def mean_correlation(
    correlation: Float[Array, "M M"], active: Bool[Array, " M"]
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Mean |rho| over pairs of active branches, and the number of such pairs.

    With fewer than two active branches both are 0; leave such a network out of
    averages.
    """
    count = active.sum()
    pairs = count * (count - 1) // 2
    both = jnp.triu(active[:, None] & active[None, :], 1)
    total = jnp.where(both, jnp.abs(correlation), 0).sum()
    return _safe_divide(total, pairs), pairs


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
    Source: the authors' later code; not in the paper.
    """
    covariance = jnp.asarray(covariance)
    m = covariance.shape[0] if num_branches is None else num_branches
    scaled = covariance / _positive(jnp.diagonal(covariance).max())
    diagonal = (jnp.diagonal(scaled) ** 2).sum()
    ratio = (scaled**2).sum() / _positive(diagonal)
    return jnp.where((diagonal > 0) & (m > 1), (m - ratio) / jnp.maximum(m - 1, 1), 0)


def example_energy(responses: Float[ArrayLike, "M N *C"]) -> Float[Array, "M N"]:
    """||v_k(x_j)||^2, the energy of branch k at example j."""
    return (_wide(responses) ** 2).reshape(*responses.shape[:2], -1).sum(-1)


def region_energy(
    responses: Float[ArrayLike, "M N *C"],
    regions: Int[ArrayLike, " N"],
    num_regions: int,
) -> Float[Array, "M R"]:
    """Mean energy of each branch in each region, for example in each class.

    A mean, so that a region's weight does not depend on its number of examples.

    Args:
      responses: v.
      regions: region of each example, in 0..R-1; every region must occur.
      num_regions: R.
    """
    energy, regions = example_energy(responses), jnp.asarray(regions)
    total = jax.ops.segment_sum(energy.T, regions, num_segments=num_regions).T
    return total / jnp.bincount(regions, length=num_regions)


def active_in_regions(
    energy: Float[Array, "M R"], threshold: float = 0.1
) -> Bool[Array, "M R"]:
    """Which branches are active in which region, by the norm rule within the region.

    Args:
      energy: from `region_energy`, or `example_energy` for single examples.
    """
    return jax.vmap(_at_least_share_of_largest, (1, None), 1)(
        jnp.sqrt(energy), threshold
    )


def region_entropy(energy: Float[Array, "M R"]) -> Float[Array, " M"]:
    """Entropy of each branch's energy over regions, divided by log R.

    0 if all energy is in one region, 1 if it is spread evenly. Also 1 where it is
    undefined (a single region, or no energy), so that it never counts as
    specialization.
    """
    total = energy.sum(1, keepdims=True)
    share = _safe_divide(energy, total)
    entropy = -jnp.where(share > 0, share * jnp.log(_positive(share)), 0).sum(1)
    num_regions = energy.shape[1]
    if num_regions == 1:
        return jnp.ones_like(entropy)
    return jnp.where(total[:, 0] > 0, entropy / jnp.log(num_regions), 1)


class Specialization(NamedTuple):
    """The measures of one network, scalars; see `measure`.

    Numbers are those of the observations in section 4. Where `num_active` is 0,
    `entropy` and `silent_share_of_active` are undefined, and where `active_pairs` is 0,
    `correlation` is: leave them out of averages.
    """

    num_active: Array  # branches active over all data
    num_silent: Array  # M - num_active
    index: Array  # S of the covariance
    entropy: Array  # 1: region entropy, mean over active branches
    active_per_region: Array  # 2: active branches / M, mean over regions
    silent_share: Array  # 3: share of regions where a branch is silent, mean over M
    silent_share_of_active: Array  # the same, mean over active branches
    any_silent: Array  # 4: whether at least one branch is silent over all data
    correlation: Array  # 5: |rho|, mean over pairs of active branches
    active_pairs: Array  # number of those pairs


def measure(
    responses: Float[ArrayLike, "M N *C"],
    *,
    energy: Float[ArrayLike, "M R"] | None = None,
    num_branches: Int[Array, ""] | int | None = None,
    rule: ActivityRule = "norm",
    threshold: float = 0.1,
    centred: bool = False,
) -> Specialization:
    """Measures observations 1 to 5 of one network, and the index S.

    Args:
      responses: v.
      energy: of each branch in each region; by default every example is a region.
      num_branches: M, if `responses` is padded with branches of zeros.
      rule, threshold: what counts as active; see `active_branches`.
      centred: centre the covariance behind the index and the correlation.

    No field is NaN for finite responses. Source: section 4.
    """
    m = responses.shape[0] if num_branches is None else num_branches
    # All measures are invariant to scale; at this one no square over- or underflows.
    responses = _wide(responses)
    responses = responses / _positive(jnp.abs(responses).max())
    energy = example_energy(responses) if energy is None else jnp.asarray(energy)
    energy = energy / _positive(energy.max())
    active = active_branches(responses, rule=rule, threshold=threshold)
    in_region = active_in_regions(energy, threshold)
    share_active = in_region.mean(1)
    num_active = active.sum()
    cov = covariance(responses, centred=centred)
    rho, pairs = mean_correlation(correlation(cov), active)
    per_region = share_active.sum() / m

    def over_active(values, otherwise):
        mean = _safe_divide(jnp.where(active, values, 0).sum(), num_active)
        return jnp.where(num_active > 0, mean, otherwise)

    return Specialization(
        num_active=num_active,
        num_silent=m - num_active,
        index=specialization_index(cov, m),
        entropy=over_active(region_entropy(energy), 1),
        active_per_region=per_region,
        silent_share=1 - per_region,
        silent_share_of_active=over_active(1 - share_active, 0),
        any_silent=num_active < m,
        correlation=rho,
        active_pairs=pairs,
    )


def _at_least_share_of_largest(size, threshold):
    largest = size.max()
    return (size >= threshold * largest) & (size > 0)


def _wide(x):
    """Casts to at least float32: squares of shorter floats overflow."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _positive(x):
    """Replaces values that are not positive by 1: a safe denominator."""
    return jnp.where(x > 0, x, 1)


def _safe_divide(numerator, denominator):
    """The ratio, or 0 where the denominator is not positive."""
    return jnp.where(denominator > 0, numerator / _positive(denominator), 0)
