"""Measures of a block Hessian: how nearly block diagonal it is, and its spectra.

Everything but the spectra is jittable. Entries that are not finite make every measure
that depends on them NaN. Norms are float32 or wider.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Integer, Key

from bspec_jax.numerics import check_count, known, nan_unless_finite, ratio, widen

BlockMatrix = Float[Array | np.ndarray, "M P M P"]
SMALL_BLOCK = 1e-2  # see `block_measures`


def block_norms(
    hessian: BlockMatrix, groups: Integer[ArrayLike, "M P"] | None = None
) -> Float[Array, "M M"]:
    """Frobenius norm of each block.

    Args:
      groups: the block that each parameter belongs to, in 0..M-1; by default that of
        its branch. See `random_groups`.

    Raises (as everything here that takes a Hessian):
      TypeError: for something else than an array, such as its two parts.
      ValueError: if it is not `[M, P, M, P]`, or the groups are not `[M, P]`.
    """
    hessian = _block_matrix(hessian)
    # At this scale no square over- or underflows.
    size = jnp.where(jnp.isfinite(hessian), jnp.abs(hessian), 0).max()
    scale = jnp.where(size == 0, 1, size)
    squares = (hessian / scale) ** 2
    if groups is None:
        return scale * jnp.sqrt(squares.sum((1, 3)))
    groups = check_groups(groups, hessian.shape[:2])
    member = jax.nn.one_hot(groups.ravel(), len(groups), dtype=hessian.dtype)
    squares = squares.reshape(groups.size, groups.size)
    norms = jnp.linalg.multi_dot((member.T, squares, member), precision="highest")
    return scale * jnp.sqrt(norms)


def check_groups(groups: Any, shape: tuple[int, ...]) -> Int[Array, "M P"]:
    """The groups of M P parameters.

    Raises:
      ValueError: if they are not integers in 0..M-1 of that shape.
    """
    groups = jnp.asarray(groups)
    if groups.shape != shape or not jnp.issubdtype(groups.dtype, jnp.integer):
        raise ValueError(
            f"groups must be integers of shape {shape}, not {groups.dtype} of "
            f"{groups.shape}"
        )
    if known(((groups < 0) | (groups >= shape[0])).any()):
        raise ValueError(f"groups must be in 0..{shape[0] - 1}")
    return groups


def block_measures(hessian: BlockMatrix) -> dict[str, Array]:
    """All measures of observation 7, how nearly block diagonal a Hessian is, by name.

    `small_blocks` is the share of off-diagonal blocks below `SMALL_BLOCK` times the
    largest diagonal one.
    """
    norms = block_norms(hessian)
    ratio, control = offdiagonal_ratio(norms), expected_control_ratio(hessian)
    m = len(norms)
    small = nan_unless_finite(norms) < SMALL_BLOCK * jnp.diagonal(norms).max()
    off_diagonal = (small & ~jnp.eye(m, dtype=bool)).sum(dtype=norms.dtype)
    return {
        "block_norms": norms,
        "offdiagonal_ratio": ratio,
        "control_ratio": control,
        "ratio_to_control": ratio / control,
        "mean_pair_ratio": mean_pair_ratio(norms),
        "small_blocks": off_diagonal / max(m * (m - 1), 1) + 0 * norms.sum(),
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
    hessian = nan_unless_finite(_block_matrix(hessian))
    m, p = hessian.shape[:2]
    largest = jnp.abs(hessian).max()
    squares = ratio(hessian, largest).reshape(m * p, m * p) ** 2
    diagonal = jnp.diagonal(squares).sum()
    other = jnp.where(jnp.eye(m * p, dtype=bool), 0, squares).sum()
    share = (p - 1) / max(m * p - 1, 1)
    within = diagonal + share * other
    return jnp.sqrt((1 - share) * other / within)


def regrouped_ratios(
    hessian: BlockMatrix, key: Key[Array, ""], count: int
) -> Float[Array, " count"]:
    """`offdiagonal_ratio` of `count` random regroupings, to show their spread.

    `expected_control_ratio` has no sampling error.
    """
    check_count("count", count)

    def one(key):
        groups = random_groups(key, *hessian.shape[:2])
        return offdiagonal_ratio(block_norms(hessian, groups))

    return jax.lax.map(one, jax.random.split(key, count))


def branch_spectra(
    hessian: Float[Array | np.ndarray, "*T M P M P"],
) -> Float[np.ndarray, "*T M P"]:
    """Eigenvalues of each branch's own block, ascending; on the host, as `spectrum`."""
    return eigenvalues(np.einsum("...kpkq->...kpq", np.asarray(hessian)))


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
    return eigenvalues(hessian.reshape(*stack, m * p, m * p))


def eigenvalues(
    matrices: Float[np.ndarray, "*T D D"],
) -> Float[np.ndarray, "*T D"]:
    """Eigenvalues of symmetric matrices, ascending; NaN for one that is not finite."""
    finite = np.isfinite(matrices).all((-2, -1))
    dtype = np.promote_types(matrices.dtype, np.float32)
    solvable = np.where(finite[..., None, None], matrices, 0).astype(dtype)
    return np.where(finite[..., None], np.linalg.eigvalsh(solvable), np.nan)


def offdiagonal_ratio(norms: Float[Array, "M M"]) -> Float[Array, ""]:
    """sqrt(sum_(k != l) ||H_kl||^2 / sum_k ||H_kk||^2).

    NaN where no branch has curvature of its own.
    """
    norms = _norms(norms)
    squares = ratio(norms, norms.max()) ** 2
    own = jnp.trace(squares)
    # Not the difference of two sums: it cancels where the blocks are nearly diagonal.
    other = jnp.where(jnp.eye(len(norms), dtype=bool), 0, squares).sum()
    return jnp.sqrt(jnp.where(own == 0, jnp.nan, other / own))


def mean_pair_ratio(norms: Float[Array, "M M"]) -> Float[Array, ""]:
    """Mean over pairs of ||H_kl|| / sqrt(||H_kk|| ||H_ll||).

    Over pairs in which both have curvature; NaN without such a pair.
    """
    norms = _norms(norms)
    own = jnp.sqrt(jnp.diagonal(norms))
    scale = own[:, None] * own[None, :]
    pairs = jnp.triu(scale != 0, 1)
    ratios = jnp.where(pairs, norms / jnp.where(pairs, scale, 1), 0)
    count = pairs.sum(dtype=norms.dtype)
    return ratios.sum() / jnp.where(count == 0, jnp.nan, count)


def _block_matrix(hessian: Any) -> Array:
    if not hasattr(hessian, "shape"):
        raise TypeError(
            f"expected a Hessian [M, P, M, P], got a {type(hessian).__name__}: give "
            "its `full()`"
        )
    hessian = widen(jnp.asarray(hessian))
    if hessian.ndim != 4 or hessian.shape[:2] != hessian.shape[2:] or not hessian.size:
        raise ValueError(f"a Hessian must be [M, P, M, P], not {hessian.shape}")
    return hessian


def _norms(norms: Any) -> Array:
    norms = nan_unless_finite(widen(jnp.asarray(norms)))
    if norms.ndim != 2 or norms.shape[0] != norms.shape[1]:
        raise ValueError(f"norms of blocks must be [M, M], not {norms.shape}")
    return norms
