"""The two factors of the gradient (section 5.1, eq. 5-11).

Per example, the gradient of the loss with respect to the parameters of branch k is the
product of a factor that all branches share and one of its own:

    dL/dtheta_k = J_k^T D_collab,    D_collab = dL/df,    J_k = dv_k/dtheta_k

Functions take `respond(params, example) -> v`, `[M, *C]`, the responses of all branches
to one example; `objective.frozen_responses` makes it of a `BranchedNetwork`. For some
leaves only, see `trees.select_leaves`.

Parameters, examples and outputs of 16 bits are converted to float32 first; results are
float32 or wider. What is not finite makes norms, shares and histograms NaN.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bspec_jax.analysis.objective import Respond
from bspec_jax.numerics import check_count, nan_unless_finite, ratio, widen
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
    f = widen(f)
    value, pullback = jax.vjp(loss, f)
    if value.shape != ():
        raise ValueError(
            f"the loss must be a scalar, and has shape {value.shape}: sum it"
        )
    return pullback(jnp.ones_like(value))[0]


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
    params, examples = widen((params, examples))

    def one(example):
        return _jacobian(respond, params, example)[0]

    return jax.tree.map(lambda j: jnp.moveaxis(j, 0, 1), jax.vmap(one)(examples))


def gradient(distributive: Tree, collaborative: Float[Array, "N *C"]) -> Tree:
    """The gradient from its factors: sum_j J_k(x_j)^T D_collab(x_j), eq. 8-11.

    Equals `jax.grad` of the loss. Leaves `[M, N, *C, *P]` become `[M, *P]`.
    """
    distributive, collaborative = widen((distributive, collaborative))
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
    check_count("chunk_size", chunk_size)
    params, examples = widen((params, examples))

    def one(example):
        jacobian, _ = _jacobian(respond, params, example)
        leaves = jax.tree.leaves(jacobian)
        return jnp.sqrt(sum((j**2).sum(range(1, j.ndim)) for j in leaves))

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
    return jnp.sqrt((example_norms(collaborative) ** 2).mean())


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
    check_count("chunk_size", chunk_size)
    params, examples = widen((params, examples))

    def one(example):
        sizes = [jnp.linalg.norm(j, axis=1) for j in columns(respond, params, example)]
        sizes = jnp.concatenate([size.ravel() for size in sizes])
        return _shares_below(sizes, thresholds, scale)

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
    return _shares_below(example_norms(collaborative), thresholds, scale)


def _shares_below(sizes: Array, thresholds: tuple[float, ...], scale: Array | float):
    """Share of the sizes below each threshold; NaN unless all are finite."""
    bounds = nan_unless_finite(jnp.asarray(thresholds, sizes.dtype) * scale)
    shares = (sizes[None, :] < bounds[:, None]).mean(1, dtype=sizes.dtype)
    return shares + 0 * (bounds + sizes.sum())


def example_norms(collaborative: Float[Array, "N *C"]) -> Float[Array, " N"]:
    """||D_collab|| at each example, a norm over C."""
    collaborative = widen(collaborative)
    return jnp.sqrt((collaborative**2).sum(range(1, collaborative.ndim)))


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
    check_count("bins", bins)
    check_count("chunk_size", chunk_size)
    params, examples, collaborative = widen((params, examples, collaborative))

    def one(pair):
        example, d = pair
        direction = ratio(d.ravel(), jnp.linalg.norm(d))
        counts = jnp.zeros(bins, direction.dtype)
        for leaf in columns(respond, params, example):
            unit = ratio(leaf, jnp.linalg.norm(leaf, axis=1, keepdims=True))
            cosine = jnp.abs(jnp.einsum("mcp,c->mp", unit, direction)).ravel()
            index = jnp.clip((cosine * bins).astype(jnp.int32), 0, bins - 1)
            nonzero = unit.any(1) & direction.any()
            counts = counts.at[index].add(nonzero.ravel().astype(counts.dtype))
            counts = counts + 0 * cosine.sum()
        return counts

    pairs = (examples, collaborative)
    counts = jax.lax.map(one, pairs, batch_size=chunk_size).sum(0)
    return ratio(counts, counts.sum())


def columns(respond: Respond, params: Tree, example: Tree) -> list[Array]:
    """The columns of J_k at one example, a leaf `[M, C, P]` for each of `params`."""
    jacobian, c = _jacobian(respond, params, example)
    leaves = zip(jax.tree.leaves(jacobian), jax.tree.leaves(params), strict=True)
    return [j.reshape(len(j), c, p[0].size) for j, p in leaves]


def _jacobian(respond: Respond, params: Tree, example: Tree) -> tuple[Tree, int]:
    """J_k of one example, leaves `[M, *C, *P]`, and the size of C.

    One backward pass gives a row of every branch: no parameter of one branch moves
    another's response.
    """
    v, pullback = jax.vjp(lambda p: widen(respond(p, example)), params)
    output = v.shape[1:]
    c = math.prod(output)
    rows = jnp.eye(c, dtype=v.dtype).reshape(c, 1, *output)
    rows = jnp.broadcast_to(rows, (c, *v.shape))
    (jacobian,) = jax.vmap(pullback)(rows)

    def arrange(j):
        m, *shape = j.shape[1:]
        return jnp.moveaxis(j, 0, 1).reshape(m, *output, *shape)

    return jax.tree.map(arrange, jacobian), c
