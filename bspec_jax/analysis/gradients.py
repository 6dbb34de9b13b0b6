"""The two factors of the gradient (section 5.1, eq. 5-11).

Per example, the gradient of the loss with respect to the parameters of branch k is the
product of a factor that all branches share and one of its own:

    dL/dtheta_k = J_k^T D_collab,    D_collab = dL/df,    J_k = dv_k/dtheta_k

Functions take `respond(params, example) -> v`, `[M, *C]`, the responses of all branches
to one example; `objective.frozen_responses` makes it of a `BranchedNetwork`. For some
leaves only, see `trees.select_leaves`.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bspec_jax.analysis.objective import Respond
from bspec_jax.trees import Tree

THRESHOLDS = (1e-3, 1e-2, 1e-1)


def collaborative_factor(
    loss: Callable[[Array], Array], f: Float[Array, "N *C"]
) -> Float[Array, "N *C"]:
    """D_collab = dL/df at each example, shared by all branches.

    Args:
      loss: of the network's output for all examples, f -> scalar.
      f: output, the sum of the branches.

    Raises:
      ValueError: if the loss is not a scalar.
    Source: eq. 2, 3 and 10.
    """
    shape = jax.eval_shape(loss, f).shape
    if shape != ():
        raise ValueError(f"the loss must be a scalar, and has shape {shape}: sum it")
    return jax.grad(loss)(f)


def distributive_factor(respond: Respond, params: Tree, examples: Tree) -> Tree:
    """D_dist^k = J_k = dv_k/dtheta_k at each example.

    Args:
      respond: `(params, example) -> v`, `[M, *C]`.
      params: leaves `[M, *P]`.
      examples: leaves `[N, ...]`.

    Returns the tree of `params` with leaves `[M, N, *C, *P]`.
    Source: eq. 6, 10 and 11. Cost: C backward passes per example, each for all
    branches at once; M N C P numbers. Where that is too many: `distributive_norms`.
    """

    def one(example):
        return _jacobian(respond, params, example)[0]

    return jax.tree.map(lambda j: jnp.moveaxis(j, 0, 1), jax.vmap(one)(examples))


def gradient(distributive: Tree, collaborative: Float[Array, "N *C"]) -> Tree:
    """The gradient from its factors: sum_j J_k(x_j)^T D_collab(x_j), eq. 8-11.

    Equals `jax.grad` of the loss. Leaves `[M, N, *C, *P]` become `[M, *P]`.
    """
    axes = tuple(range(collaborative.ndim))
    after_branch = tuple(axis + 1 for axis in axes)

    def product(j):
        return jnp.tensordot(
            j, collaborative, (after_branch, axes), precision="highest"
        )

    return jax.tree.map(product, distributive)


def distributive_norms(
    respond: Respond, params: Tree, examples: Tree, *, chunk_size: int = 32
) -> Float[Array, "M N"]:
    """Frobenius norms of J_k(x_j), `chunk_size` examples at a time.

    Arguments as in `distributive_factor`.
    """

    def one(example):
        jacobian, _ = _jacobian(respond, params, example)
        leaves = jax.tree.leaves(jacobian)
        return jnp.sqrt(sum((j**2).reshape(len(j), -1).sum(1) for j in leaves))

    return jax.lax.map(one, examples, batch_size=chunk_size).T


def distributive_scale(
    respond: Respond, params: Tree, examples: Tree, *, chunk_size: int = 32
) -> Float[Array, ""]:
    """Root mean square over parameters and examples of |dv_k/dw|, a norm over C."""
    norms = distributive_norms(respond, params, examples, chunk_size=chunk_size)
    size = sum(leaf[0].size for leaf in jax.tree.leaves(params))
    return jnp.sqrt((norms**2).mean() / size)


def collaborative_scale(collaborative: Float[Array, "N *C"]) -> Float[Array, ""]:
    """Root mean square over examples of ||D_collab||, a norm over C."""
    squares = jnp.sum(collaborative**2, range(1, collaborative.ndim))
    return jnp.sqrt(squares.mean())


def distributive_shares(
    respond: Respond,
    params: Tree,
    examples: Tree,
    scale: Array | float,
    *,
    thresholds: tuple[float, ...] = THRESHOLDS,
    chunk_size: int = 32,
) -> Float[Array, " thresholds"]:
    """Share of (parameter, example) pairs with |dv_k/dw| below thresholds * scale.

    |dv_k/dw| is a norm over C. Section 8 conjectures that this share is large at
    equilibrium, with `scale` the `distributive_scale` at initialisation.
    """
    bounds = jnp.array(thresholds) * scale

    def one(example):
        jacobian, c = _jacobian(respond, params, example)
        counts = 0
        for j in jax.tree.leaves(jacobian):
            size = jnp.linalg.norm(j.reshape(len(j), c, -1), axis=1)
            counts += (size.ravel() < bounds[:, None]).sum(1)
        return counts / sum(p.size for p in jax.tree.leaves(params))

    return jax.lax.map(one, examples, batch_size=chunk_size).mean(0)


def collaborative_shares(
    collaborative: Float[Array, "N *C"],
    scale: Array | float,
    *,
    thresholds: tuple[float, ...] = THRESHOLDS,
) -> Float[Array, " thresholds"]:
    """Share of examples with ||D_collab|| below thresholds * scale (section 8).

    `scale` is the `collaborative_scale` at initialisation.
    """
    size = jnp.linalg.norm(collaborative.reshape(len(collaborative), -1), axis=1)
    return (size < jnp.array(thresholds)[:, None] * scale).mean(1)


def alignment_histogram(
    respond: Respond,
    params: Tree,
    examples: Tree,
    collaborative: Float[Array, "N *C"],
    *,
    bins: int = 20,
    chunk_size: int = 32,
) -> Float[Array, " bins"]:
    """Histogram of |cos| between the columns of J_k and D_collab, on [0, 1].

    Over (parameter, example) pairs in which neither is zero; all zero without such a
    pair. A gradient can vanish by orthogonality as well as by either factor. For C = 1
    every |cos| is 1.
    """

    def one(pair):
        example, d = pair
        jacobian, c = _jacobian(respond, params, example)
        d = d.ravel()
        counts = 0
        for j in jax.tree.leaves(jacobian):
            columns = j.reshape(len(j), c, -1)
            size = jnp.linalg.norm(columns, axis=1) * jnp.linalg.norm(d)
            product = jnp.abs(jnp.einsum("mcp,c->mp", columns, d))
            cosine = product / jnp.where(size > 0, size, 1)
            index = jnp.clip((cosine * bins).astype(int), 0, bins - 1)
            counts += jnp.zeros(bins).at[index.ravel()].add(size.ravel() > 0)
        return counts

    pairs = (examples, collaborative)
    counts = jax.lax.map(one, pairs, batch_size=chunk_size).sum(0)
    return counts / jnp.maximum(counts.sum(), 1)


def _jacobian(respond: Respond, params: Tree, example: Tree) -> tuple[Tree, int]:
    """J_k of one example, leaves `[M, *C, *P]`, and the size of C.

    One backward pass gives a row of every branch: no parameter of one branch moves
    another's response.
    """
    v, pullback = jax.vjp(lambda p: respond(p, example), params)
    output = v.shape[1:]
    c = math.prod(output)
    rows = jnp.eye(c, dtype=v.dtype).reshape(c, 1, *output)
    rows = jnp.broadcast_to(rows, (c, *v.shape))
    (jacobian,) = jax.vmap(pullback)(rows)

    def arrange(j):
        m, *shape = j.shape[1:]
        return jnp.moveaxis(j, 0, 1).reshape(m, *output, *shape)

    return jax.tree.map(arrange, jacobian), c
