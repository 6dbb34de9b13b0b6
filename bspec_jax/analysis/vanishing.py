"""Section 8: which factor of the gradient vanishes, at which examples and parameters.

A *pair* is a parameter and an example. Its gradient is the product of D_collab, which
all parameters share, and of the parameter's own dv_k/dw:

    g = <D_collab, dv_k/dw>

A network that fits its data has no D_collab left, and says nothing of the other factor.
So everything is counted among the examples that are still to be learnt, at which
||D_collab|| is at least `LEARNING` of its scale. A factor or a gradient is small
relative to its scale, too: the root mean square at the start.

Types and NaN are as in `gradients`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bspec_jax.analysis.gradients import columns, example_norms
from bspec_jax.analysis.objective import Respond
from bspec_jax.numerics import check_count, nan_unless_finite, widen
from bspec_jax.trees import Tree

VANISHED = 5e-2  # above the slope of a leaky ReLU that is off, 1e-2
LEARNING = 0.1
THRESHOLDS = (1e-2, VANISHED, 1e-1)


class FactorScales(NamedTuple):
    """Root mean squares at initialisation: of |dv_k/dw|, ||D_collab|| and |g|."""

    distributive: Float[Array, ""]
    collaborative: Float[Array, ""]
    gradient: Float[Array, ""]


class VanishingShares(NamedTuple):
    """Shares of the pairs, by threshold; NaN if no example is still to be learnt.

    distributive: |dv_k/dw| is small.
    gradient: |g| is small.
    orthogonal: |g| is small, and neither factor is. With a single output, where nothing
        is orthogonal, both factors are moderate.
    """

    distributive: Float[Array, " thresholds"]
    gradient: Float[Array, " thresholds"]
    orthogonal: Float[Array, " thresholds"]


def factor_scales(
    respond: Respond,
    params: Tree,
    examples: Tree,
    collaborative: Float[Array, "N *C"],
    *,
    pairs: Tree | None = None,
    chunk_size: int = 32,
) -> FactorScales:
    """What the factors of a network are relative to, from the network before training.

    Arguments as in `vanishing_shares`.
    """

    def squares(size, gradient, _, counted):
        return jnp.stack([(size**2 * counted).sum(), (gradient**2 * counted).sum()])

    (distributive, gradient), count = _sums(
        squares, respond, params, examples, collaborative, pairs, chunk_size
    )
    return FactorScales(
        jnp.sqrt(distributive / count),
        jnp.sqrt((example_norms(collaborative) ** 2).mean()),
        jnp.sqrt(gradient / count),
    )


def vanishing_shares(
    respond: Respond,
    params: Tree,
    examples: Tree,
    collaborative: Float[Array, "N *C"],
    scales: FactorScales,
    *,
    pairs: Tree | None = None,
    thresholds: tuple[float, ...] = THRESHOLDS,
    chunk_size: int = 32,
) -> VanishingShares:
    """Shares of pairs whose factor, or whose gradient, is below thresholds * scale.

    Args:
      respond: `(params, example) -> v`, `[M, *C]`.
      params: leaves `[M, *P]`.
      examples: leaves `[N, ...]`.
      collaborative: D_collab, dL/df of each example.
      scales: `factor_scales` of the network at initialisation.
      pairs: which pairs count, a tree like `params` with masks `[N, *P]`; all by
        default. Leave out those whose dv_k/dw is zero for every value of the
        parameters, such as a weight's at an example whose input it multiplies is 0.
      chunk_size: examples at a time.

    Source: section 8; docs/theory.md. Cost: C backward passes per example.
    """
    bounds = nan_unless_finite(jnp.asarray(thresholds, scales.gradient.dtype))[:, None]

    def vanished(size, gradient, norm, counted):
        small = size[None] < bounds * scales.distributive
        vanished = gradient[None] < bounds * scales.gradient
        neither = ~small & (norm >= bounds * scales.collaborative)
        kinds = jnp.stack([small, vanished, vanished & neither])
        learning = jnp.where(norm >= LEARNING * scales.collaborative, counted, 0)
        return jnp.where(kinds, learning[None, None], 0).sum(-1), learning.sum()

    (vanishing, count), _ = _sums(
        vanished, respond, params, examples, collaborative, pairs, chunk_size
    )
    known = 0 * sum(jax.tree.map(jnp.asarray, scales))
    return VanishingShares(*(vanishing / jnp.where(count == 0, jnp.nan, count) + known))


def _sums(of_pairs, respond, params, examples, collaborative, pairs, chunk_size) -> Any:
    """Sums over examples of a function of all pairs at one, and the number of pairs.

    The function takes |dv_k/dw|, |g|, ||D_collab||, and 1 for pairs that count.
    """
    check_count("chunk_size", chunk_size)
    params, examples, collaborative = widen((params, examples, collaborative))
    if pairs is None:
        n = len(collaborative)
        pairs = jax.tree.map(lambda p: jnp.ones((n, *p.shape[1:]), bool), params)

    def one(part):
        example, d, masks = part
        size, gradient, counted = [], [], []
        leaves = columns(respond, params, example)
        for leaf, mask in zip(leaves, jax.tree.leaves(masks), strict=True):
            size.append(jnp.linalg.norm(leaf, axis=1).ravel())
            product = jnp.einsum("mcp,c->mp", leaf, d.ravel(), precision="highest")
            gradient.append(jnp.abs(product).ravel())
            mask = jnp.broadcast_to(mask.ravel(), product.shape)
            counted.append(mask.ravel().astype(product.dtype))
        size, gradient, counted = map(jnp.concatenate, (size, gradient, counted))
        # Comparisons lose what is not finite.
        known = 0 * (size.sum() + gradient.sum())
        sums = of_pairs(size, gradient, jnp.linalg.norm(d), counted)
        return jax.tree.map(lambda leaf: leaf + known, sums), counted.sum()

    sums = jax.lax.map(one, (examples, collaborative, pairs), batch_size=chunk_size)
    return jax.tree.map(lambda leaf: leaf.sum(0), sums)
