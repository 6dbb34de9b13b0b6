"""Measures of a block Hessian: how nearly block diagonal it is, and its spectra.

Everything but the spectra is jittable. Entries that are not finite make every measure
that depends on them NaN. Norms are float32 or wider.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from bspec_jax.numerics import largest, nan_unless_finite, ratio, widen

BlockMatrix = Float[Array | np.ndarray, "M P M P"]
Activity = Bool[ArrayLike, " M"] | Float[ArrayLike, " M"]
SMALL_BLOCK = 1e-2  # see `block_measures`


def block_norms(hessian: BlockMatrix) -> Float[Array, "M M"]:
    """Frobenius norm of each block.

    Raises (as everything here that takes a Hessian):
      TypeError: for something else than an array, such as its two parts.
      ValueError: if it is not `[M, P, M, P]`.
    """
    hessian = _block_matrix(hessian)
    # At this scale no square over- or underflows.
    size = jnp.where(jnp.isfinite(hessian), jnp.abs(hessian), 0).max()
    scale = jnp.where(size == 0, 1, size)
    return scale * jnp.sqrt(((hessian / scale) ** 2).sum((1, 3)))


def block_measures(
    hessian: BlockMatrix, active: Activity | None = None
) -> dict[str, Array]:
    """How nearly block diagonal a Hessian is, by name: norms, index and ratios.

    `small_blocks` is the share of off-diagonal blocks below `SMALL_BLOCK` times the
    largest diagonal one. The index is that of observation 7, over the active branches;
    all else is over all branches.

    Args:
      active: as in `block_index`.
    """
    norms = block_norms(hessian)
    m = len(norms)
    small = nan_unless_finite(norms) < SMALL_BLOCK * jnp.diagonal(norms).max()
    off_diagonal = (small & ~jnp.eye(m, dtype=bool)).sum(dtype=norms.dtype)
    return {
        "block_norms": norms,
        "block_index": block_index(norms, active),
        "offdiagonal_ratio": offdiagonal_ratio(norms),
        "mean_pair_ratio": mean_pair_ratio(norms),
        "small_blocks": off_diagonal / max(m * (m - 1), 1) + 0 * norms.sum(),
    }


def block_index(
    norms: Float[Array, "M M"], active: Activity | None = None
) -> Float[Array, ""]:
    """S_H = 1 - r^2 / (m - 1), with r the off-diagonal ratio of the m active branches.

    1 for a block-diagonal Hessian, 0 for identical branches: at a given likeness of the
    branches r^2 grows with m - 1. Silent branches are left out, since their empty
    blocks would raise it. NaN for fewer than two active branches, and where none of
    them has curvature of its own.

    Args:
      norms: of the blocks.
      active: 1 for an active branch, 0 for a silent one, NaN if it may be either; all
        are active by default. See `specialization.activity`.

    Raises:
      ValueError: for norms that are not `[M, M]`, and activity that is not of M.
    Source: docs/theory.md.
    """
    norms = _norms(norms)
    pairs = _pairs(active, norms)
    norms = jnp.where(pairs == 0, 0, pairs * norms)
    squares = ratio(norms, largest(norms)) ** 2
    m, own = jnp.trace(pairs), jnp.trace(squares)
    other = jnp.where(jnp.eye(len(norms), dtype=bool), 0, squares).sum()
    defined = (m != 1) & (m != 0) & (own != 0)
    return jnp.where(defined, 1 - other / own / (m - 1), jnp.nan)


def step_effect(
    hessian: BlockMatrix,
    gradient: Float[ArrayLike, "M P"],
    active: Activity | None = None,
) -> Float[Array, ""]:
    """How much a step of one branch moves the gradients of others, and not its own.

    The mean over pairs k != l of active branches of ||H_lk d_k|| / ||H_kk d_k||, where
    d_k is a gradient step of branch k alone: the paper's argument for independent
    branches. NaN without such a pair, that is where no step changes its own gradient.

    Args:
      gradient: of each branch, in the order of the Hessian's parameters.
      active: as in `block_index`.

    Raises:
      ValueError: for a gradient that is not `[M, P]`, too.
    Source: section 5.2. Cost: O((M P)^2).
    """
    hessian = nan_unless_finite(_block_matrix(hessian))
    gradient = nan_unless_finite(widen(jnp.asarray(gradient)))
    if gradient.shape != hessian.shape[:2]:
        raise ValueError(
            f"the gradient must be {hessian.shape[:2]}, not {gradient.shape}"
        )
    hessian = ratio(hessian, largest(jnp.abs(hessian)))
    step = ratio(gradient, largest(jnp.abs(gradient), 1, keepdims=True))
    moved = jnp.einsum("lpkq,kq->lkp", hessian, step, precision="highest")
    moved = jnp.linalg.norm(moved, axis=2)
    own = jnp.diagonal(moved)[None, :]
    others = ~jnp.eye(len(hessian), dtype=bool) & (own != 0)
    pairs = jnp.where(others, _pairs(active, moved), 0)
    effects = jnp.where(pairs == 0, 0, pairs * moved / jnp.where(own == 0, 1, own))
    count = pairs.sum()
    return effects.sum() / jnp.where(count == 0, jnp.nan, count) + 0 * moved.sum()


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


def _pairs(active: Any, like: Array) -> Array:
    """1 for each pair of active branches, `[M, M]`, each with itself too."""
    m = len(like)
    active = jnp.ones(m) if active is None else jnp.asarray(active)
    if active.shape != (m,):
        raise ValueError(
            f"`active` has shape {active.shape}, but there are {m} branches"
        )
    active = active.astype(like.dtype)
    return active[:, None] * active[None, :]
