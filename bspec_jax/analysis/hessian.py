"""The Hessian of a branched network, block by block (section 5.2, eq. 12-14).

With J_k = dv_k/dtheta_k and B = d^2L/df^2, both per example and summed over examples:

    H_kl = J_k^T B J_l                                   different branches (eq. 14)
    H_kk = J_k^T B J_k + sum_c (dL/df)_c Hess(v_kc)      the same branch (eq. 12, 13)

Blocks of different branches are pure Gauss-Newton: they hold no second derivative of v.
The residual parts of all diagonal blocks come together: with g = dL/df frozen, the
function sum_j <g_j, sum_k v_k(x_j)> has a block diagonal Hessian, so that its product
with one unit vector in every branch at once is that column of every block. The same
product also yields that column of every J_k.

P below is the number of parameters of a branch, or of its chosen `leaves`. Everything
is computed in float32 or wider: 16-bit parameters, examples and outputs are converted
first. For float64, enable it (`jax.config.update("jax_enable_x64", True)`) and pass
parameters and examples of that type.

Each call traces the objective's functions, and compiles them, anew, since they may read
what has changed since the last call. To compile once for many calls, put `jax.jit`
around your own function of the parameters, `lambda params: blocks(objective, params)`;
as ever under `jit`, it then keeps what the functions read when it was traced.

`hessian_measures` summarises a Hessian; `hessian_estimates` replaces blocks where P is
too large for them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bspec_jax.analysis.hessian_products import (
    branch_columns,
    check_repeatable,
    compiled,
    count_examples,
    operator,
    prepare,
)
from bspec_jax.analysis.objective import Leaves, Objective
from bspec_jax.numerics import check_count, wide_dtype
from bspec_jax.trees import Tree, ravel_branches

__all__ = [
    "MAX_BYTES",
    "BlockHessian",
    "blocks",
    "check_repeatable",
    "dense",
    "operator",
]

MAX_BYTES = 4 * 2**30  # a larger Hessian is refused; computing it takes thrice that


class BlockHessian(NamedTuple):
    """The Hessian in its two parts; block (k, l) is `[k, :, l, :]`.

    gauss_newton: J_k^T B J_l, `[M, P, M, P]`.
    residual: the rest of the diagonal blocks, `[M, P, P]`.
    """

    gauss_newton: Float[Array, "M P M P"]
    residual: Float[Array, "M P P"]

    def full(self) -> Float[Array, "M P M P"]:
        """Their sum, the exact Hessian, in the wider type of the two."""
        dtype = wide_dtype(*self)
        k = jnp.arange(self.residual.shape[0])
        total = jnp.asarray(self.gauss_newton, dtype)
        return total.at[k, :, k, :].add(jnp.asarray(self.residual, dtype))


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
    return compiled(partial(_dense, leaves=leaves), objective)(objective, params)


def _dense(objective, params, leaves):
    objective, params = prepare(objective, params, leaves)
    flat, unravel = ravel_branches(params)
    _check_size(*flat.shape, flat.dtype)
    return jax.hessian(lambda flat: objective.total(unravel(flat)))(flat)


def blocks(
    objective: Objective,
    params: Tree,
    *,
    leaves: Leaves = None,
    branches: Sequence[int] | Sequence[bool] | Array | np.ndarray | None = None,
    chunk_size: int = 16,
    column_chunk: int = 1,
    progress: Callable[[int], None] = lambda examples_done: None,
) -> BlockHessian:
    """All blocks of the Hessian, exploiting their structure (see the module).

    Args:
      params: leaves `[M, ...]`.
      leaves: paths or patterns of the parameters; all by default.
      branches: whose blocks to compute, as indices, in their order, or as a mask with
        an entry for each branch; all by default.
      chunk_size, column_chunk: examples, and columns, computed at a time; few suit a
        CPU's caches, more a GPU.
      progress: takes the number of examples done since its last call.

    Source: eq. 12-14. Cost: P products with a Hessian over all branches and examples,
    M times fewer than column by column; three times (M P)^2 numbers and, for the J_k,
    M C P numbers per example of a chunk. The chunks of a call share one compilation.
    Under a `jit` of your own there is one copy of the chunk's program for each chunk:
    let the chunks be few.

    Raises:
      ValueError: if the Hessian would exceed `MAX_BYTES`, for a loss that is not a
        scalar, for leaves or branches that do not exist or are chosen twice, without
        examples or parameters, and for chunks of less than one.
    """
    sizes = {"chunk_size": chunk_size, "column_chunk": column_chunk}
    num_examples = count_examples(objective, **sizes)
    of_chosen, chosen = prepare(objective, params, leaves)
    flat = jax.eval_shape(lambda tree: ravel_branches(tree)[0], chosen)
    branches = _check_branches(branches, flat.shape[0])
    _check_size(len(branches), flat.shape[1], flat.dtype)
    jax.eval_shape(lambda chosen: of_chosen.total(chosen), chosen)
    options = {"leaves": leaves, "branches": branches, "column_chunk": column_chunk}
    of_chunk = compiled(partial(_blocks, **options), objective)
    total = None
    for start in range(0, num_examples, chunk_size):
        chunk = objective.slice(slice(start, start + chunk_size))
        part = of_chunk(chunk, params)
        total = part if total is None else _add(total, part)
        jax.block_until_ready(total)
        progress(min(chunk_size, num_examples - start))
    return total


@partial(jax.jit, donate_argnums=0)
def _add(total, part):
    return jax.tree.map(jnp.add, total, part)


def _blocks(objective, params, leaves, branches, column_chunk):
    objective, params = prepare(objective, params, leaves)
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


def _check_branches(branches, num_branches) -> tuple[int, ...]:
    given = range(num_branches) if branches is None else branches
    try:
        chosen = tuple(np.asarray(given) if isinstance(given, jax.Array) else given)
    except TypeError:
        raise ValueError(
            f"branches must be a list of indices, or a mask, got {given!r}"
        ) from None
    if chosen and all(isinstance(k, bool | np.bool) for k in chosen):
        if len(chosen) != num_branches:
            raise ValueError(
                f"a mask of branches must have {num_branches} entries, one for each, "
                f"and has {len(chosen)}"
            )
        chosen = tuple(np.flatnonzero(chosen).tolist())
    chosen = tuple(check_count("a branch's index", k, None) for k in chosen)
    wrong = [k for k in chosen if not 0 <= k < num_branches]
    if wrong or not chosen:
        what = f"there is no branch {wrong[0]}" if wrong else "choose a branch"
        raise ValueError(f"{what}: the network has branches 0 to {num_branches - 1}")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"a branch is chosen twice: {list(chosen)}")
    return chosen


def _check_size(m, p, dtype):
    if not p:
        raise ValueError("the chosen leaves hold no parameter")
    needed = (m * p) ** 2 * dtype.itemsize
    if needed > MAX_BYTES:
        raise ValueError(
            f"the Hessian of {m} branches with {p:,} parameters each would take "
            f"{needed / 2**30:,.1f} GiB, and {MAX_BYTES / 2**30:,.1f} are allowed: "
            "choose fewer leaves or branches, or estimate "
            "(hessian_estimates.block_norms, lanczos_spectra)"
        )
