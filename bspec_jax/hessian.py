"""The Hessian of a branched network, block by block (section 5.2, eq. 12-14).

With J_k = dv_k/dtheta_k and B = d^2L/df^2, both per example and summed over examples:

    H_kl = J_k^T B J_l                                   different branches (eq. 14)
    H_kk = J_k^T B J_k + sum_c (dL/df)_c Hess(v_kc)      the same branch (eq. 12, 13)

Blocks of different branches are pure Gauss-Newton: they hold no second derivative of v.
The residual parts of all diagonal blocks come together: with g = dL/df frozen, the
function sum_j <g_j, sum_k v_k(x_j)> has a block diagonal Hessian, so that its product
with one unit vector in every branch at once is that column of every block. On its way
that product also finds the same column of every J_k.

The loss is a sum over examples of `loss(f_j, target_j)`; `respond` is as in
`gradients`. P below counts the parameters of a branch, or those of the `leaves` that
are chosen by path as in `leaves.select_leaves`. For float64 enable it
(`jax.config.update("jax_enable_x64", True)`) and pass parameters and examples of that
type. Compiled code is kept for the functions `respond` and `loss`: make each of them
once, and not anew for every call.

`hessian_measures` says what a Hessian is like; `hessian_estimates` has what is left to
do where P is too large for blocks.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bspec_jax.gradients import Respond
from bspec_jax.leaves import ravel_branches, select_leaves

Tree = Any
ExampleLoss = Callable[[Array, Any], Array]
Leaves = str | Sequence[str] | None
MAX_BYTES = 4 * 2**30  # a Hessian larger than this is refused; making it takes thrice


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
      examples, targets: leaves `[N, ...]`. To add a residual R to f (eq. 15), make it
        part of the targets and add it in the loss.

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


def dense_hessian(
    respond: Respond,
    loss: ExampleLoss,
    params: Tree,
    examples: Tree,
    targets: Tree,
    *,
    leaves: Leaves = None,
) -> Float[Array, "M P M P"]:
    """The exact Hessian by `jax.hessian`, for small models: the oracle of the rest.

    Arguments as in `total_loss`. Cost: M P products with the Hessian, (M P)^2 numbers.

    Raises:
      ValueError: if it would not fit into `MAX_BYTES`, or the loss is not a scalar.
    """
    return _dense(respond, loss, params, examples, targets, hashable(leaves))


@partial(jax.jit, static_argnames=("respond", "loss", "leaves"))
def _dense(respond, loss, params, examples, targets, leaves):
    respond, params = choose_leaves(respond, params, leaves)
    flat, unravel = ravel_branches(params)
    _check_size(*flat.shape, flat.dtype)

    def objective(flat):
        return total_loss(respond, loss, unravel(flat), examples, targets)

    return jax.hessian(objective)(flat)


def hashable(leaves: Leaves) -> str | tuple[str, ...] | None:
    """The same patterns as a static argument of a compiled function."""
    return leaves if leaves is None or isinstance(leaves, str) else tuple(leaves)


def choose_leaves(
    respond: Respond, params: Tree, leaves: Leaves
) -> tuple[Respond, Tree]:
    """`respond` as a function of the chosen leaves alone, and these; None: of all."""
    if leaves is None:
        return respond, params
    chosen, restore = select_leaves(params, leaves)
    return lambda chosen, example: respond(restore(chosen), example), chosen


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
    leaves: Leaves = None,
    branches: Sequence[int] | None = None,
    chunk_size: int = 16,
    column_chunk: int = 1,
    progress: Callable[[int], None] = lambda examples_done: None,
) -> BlockHessian:
    """All blocks, by their structure: see the module's text.

    Arguments as in `total_loss`, and:
      leaves: paths or patterns of the parameters; all by default.
      branches: those whose blocks are wanted, in this order; all by default.
      chunk_size, column_chunk: examples, and columns, that are worked on at a time; few
        suit a CPU's caches, more a GPU.
      progress: is told the number of examples done since it was last told.

    Source: eq. 12-14. Cost: P products with a Hessian over all branches and examples,
    M times fewer than column by column; three times (M P)^2 numbers and, of the J_k,
    M C P for each example of a chunk. Called again with the same functions and shapes
    it does not compile again.

    Raises:
      ValueError: if the Hessian would not fit into `MAX_BYTES`, for a loss that is not
        a scalar, for leaves or branches that do not exist or are chosen twice, without
        examples, and for chunks of less than one.
    """
    sizes = {"chunk_size": chunk_size, "column_chunk": column_chunk}
    num_examples = count_examples(examples, **sizes)
    leaves = hashable(leaves)
    _, chosen = choose_leaves(respond, params, leaves)
    m, p = jax.eval_shape(lambda tree: ravel_branches(tree)[0], chosen).shape
    branches = _check_branches(branches, m)
    dtype = jnp.result_type(*jax.tree.leaves(chosen))
    _check_size(len(branches), p, dtype)
    jax.eval_shape(lambda *a: total_loss(respond, loss, *a), params, examples, targets)
    total = None
    for start in range(0, num_examples, chunk_size):
        part = slice(start, start + chunk_size)
        chunk = jax.tree.map(lambda leaf, part=part: leaf[part], (examples, targets))
        blocks = _blocks(respond, loss, params, *chunk, leaves, branches, column_chunk)
        total = blocks if total is None else _add(total, blocks)
        jax.block_until_ready(total)
        progress(min(chunk_size, num_examples - start))
    return total


@partial(jax.jit, donate_argnums=0)
def _add(total, blocks):
    return jax.tree.map(jnp.add, total, blocks)


@partial(
    jax.jit, static_argnames=("respond", "loss", "leaves", "branches", "column_chunk")
)
def _blocks(respond, loss, params, examples, targets, leaves, branches, column_chunk):
    respond, params = choose_leaves(respond, params, leaves)
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


def flat_responses(
    respond: Respond, params: Tree, examples: Tree
) -> tuple[Array, Callable[[Array], Array]]:
    """The parameters, `[M, P]`, and the responses `[M, N, *C]` as a function of it."""
    flat, unravel = ravel_branches(params)

    def responses(flat):
        return jax.vmap(respond, (None, 0), 1)(unravel(flat), examples)

    return flat, responses


def branch_columns(
    respond: Respond, loss: ExampleLoss, params: Tree, examples: Tree, targets: Tree
) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    """The output f, and what one product finds for all branches at once.

    Arguments as in `total_loss`. Returns f, `[N, *C]`, and a function that takes one
    vector for each branch, z `[M, P]`, to J_k z_k, `[M, N, *C]`, and to the residual
    part of H_kk times z_k, `[M, P]`.
    """
    flat, responses = flat_responses(respond, params, examples)
    f = responses(flat).sum(0)
    frozen = jax.vmap(jax.grad(loss))(f, targets)

    def of_frozen_factor(flat):
        def pulled(flat):
            v = responses(flat)
            return jnp.vdot(frozen, v.sum(0)), v

        gradient, v = jax.grad(pulled, has_aux=True)(flat)
        return v, gradient

    return f, jax.linearize(of_frozen_factor, flat)[1]


def check_repeatable(
    respond: Respond,
    loss: ExampleLoss,
    params: Tree,
    examples: Tree,
    targets: Tree,
    key: Key[Array, ""],
    *,
    rtol: float = 1e-5,
):
    """Raises ValueError if two identical products with the Hessian differ.

    They do where a network draws random numbers of its own or reads what changes
    outside JAX. The network is traced anew for each product; rounding differs by less
    than `rtol` of the largest entry, also on a GPU. For BatchNorm see
    `gradients.check_frozen`. Arguments as in `total_loss`.
    """
    flat, unravel = ravel_branches(params)
    vector = unravel(jax.random.normal(key, flat.shape, flat.dtype))

    def product():
        def traced(params, examples):
            return hessian_operator(respond, loss, params, examples, targets)(vector)

        return ravel_branches(jax.jit(traced)(params, examples))[0]

    first, second = product(), product()
    scale, gap = jnp.abs(first).max(), jnp.abs(first - second).max()
    if not gap <= rtol * scale:
        raise ValueError(
            f"two identical products differ by {gap:.2g} in entries of up to "
            f"{scale:.2g}: switch off dropout, and draw nothing outside JAX"
        )


def count_examples(examples: Tree, **sizes: int) -> int:
    """N; ValueError if it is zero, or one of the chunk sizes is below one."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    num_examples = jax.tree.leaves(examples)[0].shape[0]
    if not num_examples:
        raise ValueError("there are no examples to sum the loss over")
    return num_examples


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
            "choose fewer leaves or branches, or estimate "
            "(hessian_estimates.estimate_block_norms, lanczos_spectra)"
        )
