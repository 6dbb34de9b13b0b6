"""The Hessian of a branched network, block by block (section 5.2, eq. 12-14).

With J_k = dv_k/dtheta_k and B = d^2L/df^2, both per example and summed over examples:

    H_kl = J_k^T B J_l                                   different branches (eq. 14)
    H_kk = J_k^T B J_k + sum_c (dL/df)_c Hess(v_kc)      the same branch (eq. 12, 13)

Blocks of different branches are pure Gauss-Newton: they hold no second derivative of v.
The residual parts of all diagonal blocks come together: with g = dL/df frozen, the
function sum_j <g_j, sum_k v_k(x_j)> has a block diagonal Hessian, so that its product
with one unit vector in every branch at once is that column of every block.

The loss is a sum over examples of `loss(f_j, target_j)`. `respond` is as in
`gradients`, and so is the choice of leaves. P below counts the chosen parameters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bspec_jax.gradients import Respond, distributive_factor
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


def dense_hessian(
    respond: Respond, loss: ExampleLoss, params: Tree, examples: Tree, targets: Tree
) -> Float[Array, "M P M P"]:
    """The exact Hessian by `jax.hessian`, for small models: the oracle of the rest.

    Args:
      respond: `(params, example) -> v`, `[M, *C]`; see `gradients.frozen_responses`.
      loss: of one example, `(f_j, target_j) -> scalar`.
      params: leaves `[M, ...]`.
      examples, targets: leaves `[N, ...]`.

    Cost: M P products with the Hessian, (M P)^2 numbers.

    Raises:
      ValueError: if it would not fit into `MAX_BYTES`, or the loss is not a scalar.
    """
    flat, unravel = ravel_branches(params)
    _check_size(flat)

    def objective(flat):
        return total_loss(respond, loss, unravel(flat), examples, targets)

    return jax.hessian(objective)(flat)


def total_loss(
    respond: Respond, loss: ExampleLoss, params: Tree, examples: Tree, targets: Tree
) -> Float[Array, ""]:
    """Sum over examples of the loss of f = sum_k v_k.

    Raises:
      ValueError: if the loss of an example is not a scalar.
    """
    losses = jax.vmap(loss)(_outputs(respond, params, examples), targets)
    if losses.ndim != 1:
        shape = losses.shape[1:]
        raise ValueError(
            f"the loss of an example must be a scalar, not {shape}: sum it"
        )
    return losses.sum()


def hessian_product(
    respond: Respond,
    loss: ExampleLoss,
    params: Tree,
    examples: Tree,
    targets: Tree,
    tangent: Tree,
) -> Tree:
    """H times a tangent of the structure of `params`, without H.

    Cost: about that of two gradients.
    """

    def gradient(params):
        return jax.grad(total_loss, argnums=2)(respond, loss, params, examples, targets)

    return jax.jvp(gradient, (params,), (tangent,))[1]


def hessian_blocks(
    respond: Respond,
    loss: ExampleLoss,
    params: Tree,
    examples: Tree,
    targets: Tree,
    *,
    chunk_size: int = 64,
    progress: Callable[[int], None] = lambda examples_done: None,
) -> BlockHessian:
    """All blocks, by their structure: see the module's text.

    Arguments as in `dense_hessian`, and:
      chunk_size: examples, and columns of the residual part, that are held at a time.
      progress: is told the number of examples done since it was last told.

    Source: eq. 12-14. Cost: C backward passes per example for the J_k, and P products
    (not M P) with a Hessian for the residual part; (M P)^2 numbers and, of the J_k,
    M C P for each example of a chunk.

    Raises:
      ValueError: if the Hessian would not fit into `MAX_BYTES`, or for a loss that is
        not a scalar.
    """
    flat, _ = ravel_branches(params)
    _check_size(flat)
    jax.eval_shape(lambda *a: total_loss(respond, loss, *a), params, examples, targets)

    @jax.jit
    def of_chunk(params, examples, targets):
        return BlockHessian(
            _gauss_newton(respond, loss, params, examples, targets),
            _residual_part(respond, loss, params, examples, targets, chunk_size),
        )

    total = None
    num_examples = jax.tree.leaves(examples)[0].shape[0]
    for start in range(0, num_examples, chunk_size):
        part = slice(start, start + chunk_size)
        chunk = jax.tree.map(lambda leaf, part=part: leaf[part], (examples, targets))
        blocks = of_chunk(params, *chunk)
        total = blocks if total is None else jax.tree.map(jnp.add, total, blocks)
        progress(min(chunk_size, num_examples - start))
    return total


def _outputs(respond, params, examples):
    return jax.vmap(lambda example: respond(params, example).sum(0))(examples)


def _gauss_newton(respond, loss, params, examples, targets):
    f = _outputs(respond, params, examples)
    n, c = f.shape[0], f[0].size
    curvature = jax.vmap(jax.hessian(loss))(f, targets).reshape(n, c, c)
    jacobian = distributive_factor(respond, params, examples)  # [M, N, *C, *P]
    rows = [j.reshape(j.shape[0], n, c, -1) for j in jax.tree.leaves(jacobian)]
    j = jnp.concatenate(rows, -1)
    weighted = jnp.einsum("nab,lnbq->lnaq", curvature, j, precision="highest")
    return jnp.einsum("knap,lnaq->kplq", j, weighted, precision="highest")


def _residual_part(respond, loss, params, examples, targets, chunk_size):
    frozen = jax.vmap(jax.grad(loss))(_outputs(respond, params, examples), targets)
    flat, unravel = ravel_branches(params)

    def pulled(flat):
        return jnp.vdot(frozen, _outputs(respond, unravel(flat), examples))

    _, product = jax.linearize(jax.grad(pulled), flat)

    def column(p):
        return product(jnp.zeros_like(flat).at[:, p].set(1))  # [M, P]

    columns = jax.lax.map(column, jnp.arange(flat.shape[1]), batch_size=chunk_size)
    return jnp.moveaxis(columns, 0, 2)


def block_norms(hessian: Float[Array, "M P M P"]) -> Float[Array, "M M"]:
    """Frobenius norm of each block."""
    return jnp.sqrt((hessian**2).sum((1, 3)))


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


def _check_size(flat):
    m, p = flat.shape
    needed = (m * p) ** 2 * flat.dtype.itemsize
    if needed > MAX_BYTES:
        raise ValueError(
            f"the Hessian of {m} branches with {p:,} parameters each would take "
            f"{needed / 2**30:,.1f} GiB: choose fewer leaves (leaves.select_leaves), "
            "or use products (hessian.hessian_product)"
        )
