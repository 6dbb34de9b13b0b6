"""Measures of a block Hessian: how nearly block diagonal it is, and its spectra.

Everything but the spectra is jittable.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

BlockMatrix = Float[Array | np.ndarray, "M P M P"]
SMALL_BLOCK = 1e-2  # see `block_measures`


def block_norms(
    hessian: BlockMatrix, groups: Int[Array, "M P"] | None = None
) -> Float[Array, "M M"]:
    """Frobenius norm of each block.

    Args:
      groups: the block that each parameter belongs to, in 0..M-1; by default that of
        its branch. See `random_groups`.
    """
    if groups is None:
        return jnp.sqrt((hessian**2).sum((1, 3)))
    member = jax.nn.one_hot(groups.ravel(), len(groups), dtype=hessian.dtype)
    squares = (hessian**2).reshape(groups.size, groups.size)
    norms = jnp.linalg.multi_dot((member.T, squares, member), precision="highest")
    return jnp.sqrt(norms)


def block_measures(hessian: BlockMatrix) -> dict[str, Array]:
    """All measures of observation 7, how nearly block diagonal a Hessian is, by name.

    `small_blocks` is the share of off-diagonal blocks below `SMALL_BLOCK` times the
    largest diagonal one.
    """
    norms = block_norms(hessian)
    ratio, control = offdiagonal_ratio(norms), expected_control_ratio(hessian)
    m = len(norms)
    small = norms < SMALL_BLOCK * jnp.diagonal(norms).max()
    return {
        "block_norms": norms,
        "offdiagonal_ratio": ratio,
        "control_ratio": control,
        "ratio_to_control": ratio / control,
        "mean_pair_ratio": mean_pair_ratio(norms),
        "small_blocks": (small & ~jnp.eye(m, dtype=bool)).sum() / max(m * (m - 1), 1),
    }


def random_groups(
    key: Key[Array, ""], num_branches: int, num_params: int
) -> Int[Array, "M P"]:
    """Random assignment of all parameters to M groups of P: the Hessian's control."""
    own = jnp.repeat(jnp.arange(num_branches), num_params)
    return jax.random.permutation(key, own).reshape(num_branches, num_params)


def expected_control_ratio(hessian: BlockMatrix) -> Float[Array, ""]:
    """The ratio for regrouped parameters, in expectation over all regroupings.

    Two parameters share a group with probability (P - 1) / (M P - 1), so that of the
    sum of squares S, D of it on the diagonal, D + (S - D) (P - 1) / (M P - 1) is
    expected inside the groups. NaN where the diagonal is zero.
    """
    m, p = hessian.shape[:2]
    squares = (hessian**2).reshape(m * p, m * p)
    diagonal = jnp.diagonal(squares).sum()
    other = jnp.where(jnp.eye(m * p, dtype=bool), 0, squares).sum()
    share = (p - 1) / max(m * p - 1, 1)
    within = diagonal + share * other
    return jnp.sqrt(jnp.where(within > 0, (1 - share) * other / within, jnp.nan))


def regrouped_ratios(
    hessian: BlockMatrix, key: Key[Array, ""], count: int
) -> Float[Array, " count"]:
    """`offdiagonal_ratio` of `count` random regroupings, to show their spread.

    `expected_control_ratio` has no sampling error.
    """

    def one(key):
        groups = random_groups(key, *hessian.shape[:2])
        return offdiagonal_ratio(block_norms(hessian, groups))

    return jax.lax.map(one, jax.random.split(key, count))


def branch_spectra(
    hessian: Float[Array | np.ndarray, "*T M P M P"],
) -> Float[np.ndarray, "*T M P"]:
    """Eigenvalues of each branch's own block, ascending; on the host, as `spectrum`."""
    own = np.einsum("...kpkq->...kpq", np.asarray(hessian))
    return np.linalg.eigvalsh(own)


def spectrum(
    hessian: Float[Array | np.ndarray, "*T M P M P"],
) -> Float[np.ndarray, "*T MP"]:
    """Eigenvalues of the whole Hessian, ascending, or of a stack of Hessians.

    Gradient descent is stable near a minimum while the largest is below
    2 / learning rate (eq. 7).

    By NumPy on the host: two batches of eigenvalue problems in one compiled program can
    deadlock in XLA's thread pool (jaxlib 0.10.2, CPU).
    """
    hessian = np.asarray(hessian)
    *stack, m, p, _, _ = hessian.shape
    return np.linalg.eigvalsh(hessian.reshape(*stack, m * p, m * p))


def offdiagonal_ratio(norms: Float[Array, "M M"]) -> Float[Array, ""]:
    """sqrt(sum_(k != l) ||H_kl||^2 / sum_k ||H_kk||^2).

    NaN where no branch has curvature of its own.
    """
    squares = norms**2
    own = jnp.trace(squares)
    # Not the difference of two sums: it cancels where the blocks are nearly diagonal.
    other = jnp.where(jnp.eye(len(norms), dtype=bool), 0, squares).sum()
    return jnp.sqrt(jnp.where(own > 0, other / own, jnp.nan))


def mean_pair_ratio(norms: Float[Array, "M M"]) -> Float[Array, ""]:
    """Mean over pairs of ||H_kl|| / sqrt(||H_kk|| ||H_ll||).

    Over pairs in which both have curvature; NaN without such a pair.
    """
    own = jnp.sqrt(jnp.diagonal(norms))
    scale = own[:, None] * own
    pairs = jnp.triu(scale > 0, 1)
    ratios = jnp.where(pairs, norms / jnp.where(scale > 0, scale, 1), 0)
    return ratios.sum() / jnp.where(pairs.any(), pairs.sum(), jnp.nan)
