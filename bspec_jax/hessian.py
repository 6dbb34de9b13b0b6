"""The Hessian of a branched network, block by block (section 5.2, eq. 12-14).

With J_k = dv_k/dtheta_k and B = d^2L/df^2, both per example and summed over examples:

    H_kl = J_k^T B J_l                                   different branches (eq. 14)
    H_kk = J_k^T B J_k + sum_c (dL/df)_c Hess(v_kc)      the same branch (eq. 12, 13)

Blocks of different branches are pure Gauss-Newton: they hold no second derivative of v.
The residual parts of all diagonal blocks come together: with g = dL/df frozen, the
function sum_j <g_j, sum_k v_k(x_j)> has a block diagonal Hessian, so that its product
with one unit vector in every branch at once is that column of every block. On its way
that product also finds the same column of every J_k.

The loss is a sum over examples of `loss(f_j, target_j)`. `respond` is as in
`gradients`, and so is the choice of leaves. P below counts the chosen parameters.
Everything is computed in the parameters' type: for float64 enable it
(`jax.config.update("jax_enable_x64", True)`) and pass parameters of that type.
`hessian_estimates` has what is left to do where P is too large for blocks.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from bspec_jax.gradients import Respond
from bspec_jax.leaves import ravel_branches

Tree = Any
ExampleLoss = Callable[[Array, Any], Array]
MAX_BYTES = 4 * 2**30  # a Hessian larger than this is refused


class BlockHessian(NamedTuple):
    """The Hessian in its two parts; block (k, l) is `[k, :, l, :]`.

    gauss_newton: J_k^T B J_l, `[M, P, M, P]`.
    residual: the rest of the diagonal blocks, `[M, P, P]`.
    """

    gauss_newton: Float[Array, "M P M P"]
    residual: Float[Array, "M P P"]

    def full(self) -> Float[Array, "M P M P"]:
        """Their sum, the exact Hessian."""
        k = jnp.arange(self.residual.shape[0])
        return self.gauss_newton.at[k, :, k, :].add(self.residual)


def total_loss(
    respond: Respond, loss: ExampleLoss, params: Tree, examples: Tree, targets: Tree
) -> Float[Array, ""]:
    """Sum over examples of the loss of f = sum_k v_k.

    Args:
      respond: `(params, example) -> v`, `[M, *C]`; see `gradients.frozen_responses`.
      loss: of one example, `(f_j, target_j) -> scalar`.
      params: leaves `[M, ...]`.
      examples, targets: leaves `[N, ...]`.

    Raises:
      ValueError: if the loss of an example is not a scalar.
    """
    v = jax.vmap(respond, (None, 0))(params, examples)
    losses = jax.vmap(loss)(v.sum(1), targets)
    if losses.ndim != 1:
        shape = losses.shape[1:]
        raise ValueError(
            f"the loss of an example must be a scalar, not {shape}: sum it"
        )
    return losses.sum()


@partial(jax.jit, static_argnames=("respond", "loss"))
def dense_hessian(
    respond: Respond, loss: ExampleLoss, params: Tree, examples: Tree, targets: Tree
) -> Float[Array, "M P M P"]:
    """The exact Hessian by `jax.hessian`, for small models: the oracle of the rest.

    Arguments as in `total_loss`. Cost: M P products with the Hessian, (M P)^2 numbers.

    Raises:
      ValueError: if it would not fit into `MAX_BYTES`, or the loss is not a scalar.
    """
    flat, unravel = ravel_branches(params)
    _check_size(*flat.shape, flat.dtype)

    def objective(flat):
        return total_loss(respond, loss, unravel(flat), examples, targets)

    return jax.hessian(objective)(flat)


def hessian_operator(
    respond: Respond, loss: ExampleLoss, params: Tree, examples: Tree, targets: Tree
) -> Callable[[Tree], Tree]:
    """The function v -> H v, for v of the structure of `params`, without H.

    Arguments as in `total_loss`. The gradient is linearised here, once, and what that
    takes of every example stays in memory. Use it inside a jitted function, with as
    many products as it needs.

    Cost: about that of a gradient to begin with, and of another for each product.
    """

    def gradient(params):
        return jax.grad(total_loss, argnums=2)(respond, loss, params, examples, targets)

    return jax.linearize(gradient, params)[1]


def hessian_blocks(
    respond: Respond,
    loss: ExampleLoss,
    params: Tree,
    examples: Tree,
    targets: Tree,
    *,
    branches: Sequence[int] | None = None,
    chunk_size: int = 16,
    column_chunk: int = 1,
    progress: Callable[[int], None] = lambda examples_done: None,
) -> BlockHessian:
    """All blocks, by their structure: see the module's text.

    Arguments as in `total_loss`, and:
      branches: those whose blocks are wanted, in this order; all by default.
      chunk_size, column_chunk: examples, and columns, that are worked on at a time; few
        suit a CPU's caches, more a GPU.
      progress: is told the number of examples done since it was last told.

    Source: eq. 12-14. Cost: P products with a Hessian over all branches and examples,
    M times fewer than column by column; (M P)^2 numbers and, of the J_k, M C P for
    each example of a chunk. Called again with the same functions and shapes it does
    not compile again.

    Raises:
      ValueError: if the Hessian would not fit into `MAX_BYTES`, for a loss that is not
        a scalar, and for branches that do not exist or are chosen twice.
    """
    flat, _ = ravel_branches(params)
    branches = _check_branches(branches, flat.shape[0])
    _check_size(len(branches), flat.shape[1], flat.dtype)
    jax.eval_shape(lambda *a: total_loss(respond, loss, *a), params, examples, targets)
    total = None
    num_examples = jax.tree.leaves(examples)[0].shape[0]
    for start in range(0, num_examples, chunk_size):
        part = slice(start, start + chunk_size)
        chunk = jax.tree.map(lambda leaf, part=part: leaf[part], (examples, targets))
        blocks = _blocks(respond, loss, params, *chunk, branches, column_chunk)
        total = blocks if total is None else jax.tree.map(jnp.add, total, blocks)
        jax.block_until_ready(total)
        progress(min(chunk_size, num_examples - start))
    return total


@partial(jax.jit, static_argnames=("respond", "loss", "branches", "column_chunk"))
def _blocks(respond, loss, params, examples, targets, branches, column_chunk):
    flat, _ = ravel_branches(params)
    f, columns = branch_columns(respond, loss, params, examples, targets)
    n, c = f.shape[0], f[0].size
    chosen = jnp.array(branches)

    def column(p):
        j, residual = columns(jnp.zeros_like(flat).at[:, p].set(1))
        return j[chosen].reshape(-1, n, c), residual[chosen]

    of_p = jnp.arange(flat.shape[1])
    j, residual = jax.lax.map(column, of_p, batch_size=column_chunk)
    curvature = jax.vmap(jax.hessian(loss))(f, targets).reshape(n, c, c)
    weighted = jnp.einsum("nab,qlnb->naql", curvature, j, precision="highest")
    return BlockHessian(
        jnp.einsum("pkna,naql->kplq", j, weighted, precision="highest"),
        jnp.moveaxis(residual, 0, 2),
    )


def branch_columns(
    respond: Respond, loss: ExampleLoss, params: Tree, examples: Tree, targets: Tree
) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    """The output f, and what one product finds for all branches at once.

    Arguments as in `total_loss`. Returns f, `[N, *C]`, and a function that takes one
    vector for each branch, z `[M, P]`, to J_k z_k, `[M, N, *C]`, and to the residual
    part of H_kk times z_k, `[M, P]`.
    """
    flat, unravel = ravel_branches(params)

    def responses(flat):
        return jax.vmap(respond, (None, 0), 1)(unravel(flat), examples)

    f = responses(flat).sum(0)
    frozen = jax.vmap(jax.grad(loss))(f, targets)

    def of_frozen_factor(flat):
        def pulled(flat):
            v = responses(flat)
            return jnp.vdot(frozen, v.sum(0)), v

        gradient, v = jax.grad(pulled, has_aux=True)(flat)
        return v, gradient

    return f, jax.linearize(of_frozen_factor, flat)[1]


def check_repeatable(product: Callable[[Tree], Tree], vector: Tree, rtol: float = 1e-5):
    """Raises ValueError if two identical products differ.

    They do where a network draws random numbers or keeps state outside its `state`;
    rounding differs by less than `rtol` of the largest entry, also on a GPU.
    """
    first, second = (jax.tree.leaves(product(vector)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        scale, gap = jnp.abs(a).max(), jnp.abs(a - b).max()
        if not gap <= rtol * scale:
            raise ValueError(
                f"two identical products differ by {gap:.2g} in entries of up to "
                f"{scale:.2g}: switch off dropout and freeze all state"
            )


def block_norms(
    hessian: Float[Array, "M P M P"], groups: Int[Array, "M P"] | None = None
) -> Float[Array, "M M"]:
    """Frobenius norm of each block.

    Args:
      groups: the block that each parameter counts to, in 0..M-1, instead of its own
        branch's; see `random_groups`.
    """
    if groups is None:
        return jnp.sqrt((hessian**2).sum((1, 3)))
    member = jax.nn.one_hot(groups.ravel(), len(groups), dtype=hessian.dtype)
    squares = (hessian**2).reshape(groups.size, groups.size)
    norms = jnp.linalg.multi_dot((member.T, squares, member), precision="highest")
    return jnp.sqrt(norms)


def random_groups(
    key: Key[Array, ""], num_branches: int, num_params: int
) -> Int[Array, "M P"]:
    """All parameters dealt at random into M groups of P: the Hessian's control."""
    own = jnp.repeat(jnp.arange(num_branches), num_params)
    return jax.random.permutation(key, own).reshape(num_branches, num_params)


def regrouped_ratios(
    hessian: Float[Array, "M P M P"], key: Key[Array, ""], count: int
) -> Float[Array, " count"]:
    """`offdiagonal_ratio` of `count` random regroupings of the same parameters."""

    def one(key):
        groups = random_groups(key, *hessian.shape[:2])
        return offdiagonal_ratio(block_norms(hessian, groups))

    return jax.lax.map(one, jax.random.split(key, count))


def branch_spectra(
    hessian: Float[Array | np.ndarray, "*T M P M P"],
) -> Float[np.ndarray, "*T M P"]:
    """Eigenvalues of each branch's own block, ascending; computed as in `spectrum`."""
    own = np.einsum("...kpkq->...kpq", np.asarray(hessian))
    return np.linalg.eigvalsh(own)


def spectrum(
    hessian: Float[Array | np.ndarray, "*T M P M P"],
) -> Float[np.ndarray, "*T MP"]:
    """Eigenvalues of the whole Hessian, ascending, or of a stack of Hessians.

    Gradient descent is stable near a minimum while the largest is below
    2 / learning rate (eq. 7).

    NumPy computes them on the host: two batches of eigenvalue problems in one compiled
    program can wait for each other for ever in XLA's thread pool (jaxlib 0.10.2, CPU).
    """
    hessian = np.asarray(hessian)
    *stack, m, p, _, _ = hessian.shape
    return np.linalg.eigvalsh(hessian.reshape(*stack, m * p, m * p))


def offdiagonal_ratio(norms: Float[Array, "M M"]) -> Float[Array, ""]:
    """sqrt(sum_(k != l) ||H_kl||^2 / sum_k ||H_kk||^2).

    NaN where no branch has any curvature of its own; write it as null.
    """
    squares = norms**2
    diagonal = jnp.trace(squares)
    return jnp.sqrt(
        jnp.where(diagonal > 0, (squares.sum() - diagonal) / diagonal, jnp.nan)
    )


def mean_pair_ratio(norms: Float[Array, "M M"]) -> Float[Array, ""]:
    """Mean over pairs of ||H_kl|| / sqrt(||H_kk|| ||H_ll||).

    Over the pairs in which both have curvature; NaN where there is none.
    """
    own = jnp.sqrt(jnp.diagonal(norms))
    scale = own[:, None] * own
    pairs = jnp.triu(scale > 0, 1)
    ratios = jnp.where(pairs, norms / jnp.where(scale > 0, scale, 1), 0)
    return ratios.sum() / jnp.where(pairs.any(), pairs.sum(), jnp.nan)


def _check_branches(branches, num_branches) -> tuple[int, ...]:
    chosen = tuple(range(num_branches) if branches is None else map(int, branches))
    wrong = [k for k in chosen if not 0 <= k < num_branches]
    if wrong or not chosen:
        what = f"there is no branch {wrong[0]}" if wrong else "choose a branch"
        raise ValueError(f"{what}: the network has branches 0 to {num_branches - 1}")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"a branch is chosen twice: {list(chosen)}")
    return chosen


def _check_size(m, p, dtype):
    needed = (m * p) ** 2 * dtype.itemsize
    if needed > MAX_BYTES:
        raise ValueError(
            f"the Hessian of {m} branches with {p:,} parameters each would take "
            f"{needed / 2**30:,.1f} GiB, and {MAX_BYTES / 2**30:,.1f} are allowed: "
            "choose fewer leaves (leaves.select_leaves) or branches (hessian_blocks), "
            "or estimate (hessian_estimates.estimate_block_norms, lanczos_spectra)"
        )
