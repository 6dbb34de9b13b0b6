"""How the branches of a network divide the work: who answers, where, and how alike.

Everything here is a jittable function of the stacked responses v, `[M, N, ...]` (from
`BranchedNetwork.responses`) or of a branch-by-region energy table `[M, R]`. Rows of
zeros change no measure except through M, so responses of networks of several sizes can
be padded to one shape and measured in one call (`num_branches`).

Definitions: sections 4 and 4.1 (response matrix F, covariance F F^T, active branch).
A *region* is an example by default, or a group of examples such as a class.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

ActivityRule = Literal["norm", "variance"]


def response_matrix(responses: Float[ArrayLike, "M N *C"]) -> Float[Array, "M NC"]:
    """F: one row per branch, F_ij = v_i(x_j); outputs of any shape are flattened.

    Source: section 4.1.
    """
    return _wide(responses).reshape(responses.shape[0], -1)


def response_norms(responses: Float[ArrayLike, "M N *C"]) -> Float[Array, " M"]:
    """Euclidean norm of each branch's responses over the data (a row of F)."""
    return jnp.linalg.norm(response_matrix(responses), axis=1)


def active_branches(
    responses: Float[ArrayLike, "M N *C"],
    *,
    rule: ActivityRule = "norm",
    threshold: float = 0.1,
) -> Bool[Array, " M"]:
    """Which branches are active; the others are silent.

    rule "norm": the norm of a branch's responses is at least `threshold` times the
    largest such norm (the paper). rule "variance": the same of the variance of its
    responses (the authors' later code). If every branch is zero, none is active.

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
    """F F^T, uncentred as in the paper; `centred` subtracts each branch's mean first.

    Source: section 4.1. Not divided by the number of examples.
    """
    matrix = response_matrix(responses)
    if centred:
        matrix = matrix - matrix.mean(axis=1, keepdims=True)
    return jnp.matmul(matrix, matrix.T, precision="highest")


def correlation(covariance: Float[Array, "M M"]) -> Float[Array, "M M"]:
    """c_kl / sqrt(c_kk c_ll), in [-1, 1]; 0 where a branch has no response at all."""
    variance = jnp.diagonal(covariance)
    inverse = jnp.where(variance > 0, 1 / jnp.sqrt(_positive(variance)), 0)
    # Multiplied one factor at a time: the product of two variances may underflow.
    return jnp.clip(covariance * inverse[:, None] * inverse[None, :], -1, 1)


def mean_correlation(
    correlation: Float[Array, "M M"], active: Bool[Array, " M"]
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Mean |rho| over pairs of active branches, and the number of such pairs.

    Returns 0 with a count of 0 where fewer than two branches are active: leave such a
    network out of an average.
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

    1 for a diagonal covariance, 0 for identical branches. Alone it shows little: it is
    near 1 for independent noise and where one branch dwarfs the rest, so compare it
    with a control. Where it is undefined (M = 1, or no response at all) it is 0, so
    that an undefined index never counts as specialization.

    Args:
      covariance: c; invariant to its scale.
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

    A mean, so that regions of many and of few examples count alike.

    Args:
      regions: the region of each example, in 0..R-1; each occurs.
      num_regions: R.
    """
    energy, regions = example_energy(responses), jnp.asarray(regions)
    total = jax.ops.segment_sum(energy.T, regions, num_segments=num_regions).T
    return total / jnp.bincount(regions, length=num_regions)


def active_in_regions(
    energy: Float[Array, "M R"], threshold: float = 0.1
) -> Bool[Array, "M R"]:
    """Which branches are active in which region, by the norm rule within the region.

    With `example_energy` it says which branches are active at each example.
    """
    return jax.vmap(_at_least_share_of_largest, (1, None), 1)(
        jnp.sqrt(energy), threshold
    )


def region_entropy(energy: Float[Array, "M R"]) -> Float[Array, " M"]:
    """Entropy of each branch's energy over regions, relative to the uniform one.

    0: all energy in one region; 1: spread evenly. 1 also where it is undefined (one
    region only, or no energy), so that it never counts as specialization.
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

    Observation numbers are those of section 4. `active_pairs` and `num_active` tell
    where the two means are undefined and must be left out of an average.
    """

    num_active: Array  # branches active in the run
    num_silent: Array  # M - num_active
    index: Array  # S of the covariance
    entropy: Array  # 1: mean over active branches of their region entropy
    active_per_region: Array  # 2: mean over regions of (active branches / M)
    silent_share: Array  # 3: mean over branches of the share of regions it is silent in
    silent_share_of_active: Array  # the same over the run's active branches alone
    any_silent: Array  # 4: whether at least one branch is silent in the run
    correlation: Array  # 5: mean |rho| over pairs of active branches
    active_pairs: Array  # the number of those pairs


def measure(
    responses: Float[ArrayLike, "M N *C"],
    *,
    energy: Float[ArrayLike, "M R"] | None = None,
    num_branches: Int[Array, ""] | int | None = None,
    rule: ActivityRule = "norm",
    threshold: float = 0.1,
    centred: bool = False,
) -> Specialization:
    """Observations 1 to 5 of one network as numbers, with the index S.

    Args:
      responses: v.
      energy: of each branch in each region; by default every example is a region.
      num_branches: M, if `responses` is padded with branches of zeros.
      rule, threshold: what counts as active in the run; see `active_branches`.
      centred: centre the covariance behind the index and the correlation.

    No field is ever NaN for finite responses. Source: section 4.
    """
    m = responses.shape[0] if num_branches is None else num_branches
    # Every measure is invariant to scale; at this one no square over- or underflows.
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
    """At least float32: squares of shorter floats overflow."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _positive(x):
    """Replaces what is not positive by 1: a denominator safe to divide by."""
    return jnp.where(x > 0, x, 1)


def _safe_divide(numerator, denominator):
    """The ratio, and 0 where the denominator is not positive."""
    return jnp.where(denominator > 0, numerator / _positive(denominator), 0)
