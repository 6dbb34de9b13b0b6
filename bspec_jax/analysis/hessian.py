"""The Hessian of a branched network, block by block (section 5.2, eq. 12-14).

With J_k = dv_k/dtheta_k and B = d^2L/df^2, both per example and summed over examples:

    H_kl = J_k^T B J_l                                   different branches (eq. 14)
    H_kk = J_k^T B J_k + sum_c (dL/df)_c Hess(v_kc)      the same branch (eq. 12, 13)

Blocks of different branches are pure Gauss-Newton: they hold no second derivative of v.
The residual parts of all diagonal blocks come together: with g = dL/df frozen, the
function sum_j <g_j, sum_k v_k(x_j)> has a block diagonal Hessian, so that its product
with one unit vector in every branch at once is that column of every block. The same
product also yields that column of every J_k.

P below is the number of parameters of a branch, or of its chosen `leaves`. For float64,
enable it (`jax.config.update("jax_enable_x64", True)`) and pass parameters and examples
of that type.

`hessian_measures` summarises a Hessian; `hessian_estimates` replaces blocks where P is
too large for them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bspec_jax.analysis.objective import Leaves, Objective
from bspec_jax.trees import Tree, ravel_branches

MAX_BYTES = 4 * 2**30  # a larger Hessian is refused; computing it takes thrice that


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


def dense(
    objective: Objective, params: Tree, *, leaves: Leaves = None
) -> Float[Array, "M P M P"]:
    """The exact Hessian by `jax.hessian`, for small models: the oracle of the rest.

    Args:
      params: leaves `[M, ...]`.
      leaves: paths or patterns of the parameters; all by default.

    Cost: M P products with the Hessian, (M P)^2 numbers.

    Raises:
      ValueError: if it would exceed `MAX_BYTES`, or the loss is not a scalar.
    """
    return _dense(objective, params, hashable(leaves))


@partial(jax.jit, static_argnames="leaves")
def _dense(objective, params, leaves):
    objective, params = objective.of_leaves(params, leaves)
    flat, unravel = ravel_branches(params)
    _check_size(*flat.shape, flat.dtype)
    return jax.hessian(lambda flat: objective.total(unravel(flat)))(flat)


def hashable(leaves: Leaves) -> str | tuple[str, ...] | None:
    """The same patterns, as a static argument of a compiled function."""
    return leaves if leaves is None or isinstance(leaves, str) else tuple(leaves)


def operator(objective: Objective, params: Tree) -> Callable[[Tree], Tree]:
    """The function v -> H v without H, for v of the structure of `params`.

    Linearises the gradient once and keeps what that takes of every example in memory:
    call it inside a jitted function that needs several products.

    Cost: about a gradient at first, and another one per product.
    """
    return jax.linearize(jax.grad(objective.total), params)[1]


def blocks(
    objective: Objective,
    params: Tree,
    *,
    leaves: Leaves = None,
    branches: Sequence[int] | None = None,
    chunk_size: int = 16,
    column_chunk: int = 1,
    progress: Callable[[int], None] = lambda examples_done: None,
) -> BlockHessian:
    """All blocks of the Hessian, exploiting their structure (see the module).

    Args:
      params: leaves `[M, ...]`.
      leaves: paths or patterns of the parameters; all by default.
      branches: whose blocks to compute, in this order; all by default.
      chunk_size, column_chunk: examples, and columns, computed at a time; few suit a
        CPU's caches, more a GPU.
      progress: takes the number of examples done since its last call.

    Source: eq. 12-14. Cost: P products with a Hessian over all branches and examples,
    M times fewer than column by column; three times (M P)^2 numbers and, for the J_k,
    M C P numbers per example of a chunk. Calls with the same functions and shapes share
    one compilation.

    Raises:
      ValueError: if the Hessian would exceed `MAX_BYTES`, for a loss that is not a
        scalar, for leaves or branches that do not exist or are chosen twice, without
        examples, and for chunks of less than one.
    """
    sizes = {"chunk_size": chunk_size, "column_chunk": column_chunk}
    num_examples = count_examples(objective, **sizes)
    leaves = hashable(leaves)
    _, chosen = objective.of_leaves(params, leaves)
    m, p = jax.eval_shape(lambda tree: ravel_branches(tree)[0], chosen).shape
    branches = _check_branches(branches, m)
    dtype = jnp.result_type(*jax.tree.leaves(chosen))
    _check_size(len(branches), p, dtype)
    jax.eval_shape(lambda o, p: o.total(p), objective, params)
    total = None
    for start in range(0, num_examples, chunk_size):
        chunk = objective.slice(slice(start, start + chunk_size))
        part = _blocks(chunk, params, leaves, branches, column_chunk)
        total = part if total is None else _add(total, part)
        jax.block_until_ready(total)
        progress(min(chunk_size, num_examples - start))
    return total


@partial(jax.jit, donate_argnums=0)
def _add(total, part):
    return jax.tree.map(jnp.add, total, part)


@partial(jax.jit, static_argnames=("leaves", "branches", "column_chunk"))
def _blocks(objective, params, leaves, branches, column_chunk):
    objective, params = objective.of_leaves(params, leaves)
    flat, _ = ravel_branches(params)
    f, columns = branch_columns(objective, params)
    n, c = f.shape[0], f[0].size
    chosen = jnp.array(branches)

    def column(p):
        j, residual = columns(jnp.zeros_like(flat).at[:, p].set(1))
        return j[chosen].reshape(-1, n, c), residual[chosen]

    of_p = jnp.arange(flat.shape[1])
    j, residual = jax.lax.map(column, of_p, batch_size=column_chunk)
    curvature = jax.vmap(jax.hessian(objective.loss))(f, objective.targets)
    curvature = curvature.reshape(n, c, c)
    weighted = jnp.einsum("nab,qlnb->naql", curvature, j, precision="highest")
    return BlockHessian(
        jnp.einsum("pkna,naql->kplq", j, weighted, precision="highest"),
        jnp.moveaxis(residual, 0, 2),
    )


def flat_responses(
    objective: Objective, params: Tree
) -> tuple[Array, Callable[[Array], Array]]:
    """The parameters, `[M, P]`, and the responses `[M, N, *C]` as a function of it."""
    flat, unravel = ravel_branches(params)

    def responses(flat):
        return jax.vmap(objective.respond, (None, 0), 1)(
            unravel(flat), objective.examples
        )

    return flat, responses


def branch_columns(
    objective: Objective, params: Tree
) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    """The output f, and one product that serves all branches at once.

    Returns f, `[N, *C]`, and a function that takes one vector per branch, z `[M, P]`,
    to J_k z_k, `[M, N, *C]`, and to the residual part of H_kk times z_k, `[M, P]`.
    """
    flat, responses = flat_responses(objective, params)
    f = responses(flat).sum(0)
    frozen = jax.vmap(jax.grad(objective.loss))(f, objective.targets)

    def of_frozen_factor(flat):
        def pulled(flat):
            v = responses(flat)
            return jnp.vdot(frozen, v.sum(0)), v

        gradient, v = jax.grad(pulled, has_aux=True)(flat)
        return v, gradient

    return f, jax.linearize(of_frozen_factor, flat)[1]


def check_repeatable(
    objective: Objective, params: Tree, key: Key[Array, ""], *, rtol: float = 1e-5
) -> None:
    """Raises ValueError if two identical products with the Hessian differ.

    They do where a network draws its own random numbers or reads what changes outside
    JAX. Each product traces the network anew; rounding differs by less than `rtol` of
    the largest entry, on a GPU too. For BatchNorm see `objective.check_frozen`.
    """
    flat, unravel = ravel_branches(params)
    vector = unravel(jax.random.normal(key, flat.shape, flat.dtype))

    def product():
        def traced(objective, params):
            return operator(objective, params)(vector)

        return ravel_branches(jax.jit(traced)(objective, params))[0]

    first, second = product(), product()
    scale, gap = jnp.abs(first).max(), jnp.abs(first - second).max()
    if not gap <= rtol * scale:
        raise ValueError(
            f"two identical products differ by {gap:.2g} in entries of up to "
            f"{scale:.2g}: switch off dropout, and draw nothing outside JAX"
        )


def count_examples(objective: Objective, **sizes: int) -> int:
    """N; ValueError if it is zero, or one of the chunk sizes is below one."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if not objective.num_examples:
        raise ValueError("there are no examples to sum the loss over")
    return objective.num_examples


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
            "(hessian_estimates.block_norms, lanczos_spectra)"
        )
