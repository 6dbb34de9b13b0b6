"""Why branches fall silent under weight decay: quantities of the theory.

For a branch whose response is homogeneous of degree d in its layers, decay is a penalty
on the sizes of the responses: ridge for d = 1, a group lasso for d = 2, and concave, so
sparse over branches, from d = 3 on. Derivations and predictions: `docs/silence.md`.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Key

from bspec_jax.numerics import check_count, ratio, widen
from bspec_jax.trees import Tree, leaf_paths


def branch_inner(a: Tree, b: Tree) -> Float[Array, " M"]:
    """<a_k, b_k> of each branch, over all leaves `[M, ...]` of two trees."""

    def inner(x, y):
        x, y = map(jnp.asarray, widen((x, y)))
        return (x * y).reshape(len(x), -1).sum(1)

    return sum(jax.tree.leaves(jax.tree.map(inner, a, b)))


def growth(params: Tree, gradient: Tree) -> Float[Array, " M"]:
    """-<theta_k, dL/dtheta_k>: how fast the data alone make each branch grow.

    Half the rate at which ||theta_k||^2 grows under gradient flow. Where the response
    is homogeneous of degree d in the parameters, it equals -d <v_k, D_collab> (Euler),
    so that it depends on the branch through its response alone.

    Args:
      params, gradient: leaves `[M, ...]`; the gradient without that of decay.
    """
    return -branch_inner(params, gradient)


def growth_ratio(
    growth: Float[ArrayLike, " *T M"],
    squared_norm: Float[ArrayLike, " *T M"],
    weight_decay: Float[ArrayLike, "*#T"] | float,
) -> Float[Array, " *T M"]:
    """The data's pull over decay's: growth / (lambda ||theta_k||^2).

    At equilibrium 1 in an active branch. Below 1 a branch shrinks; it is 0 where the
    data give no gradient at all. NaN without decay.

    Args:
      growth: from `growth`.
      squared_norm: ||theta_k||^2.
      weight_decay: lambda.
    """
    decay = jnp.asarray(weight_decay)[..., None] * jnp.asarray(squared_norm)
    return jnp.asarray(growth) / jnp.where(decay == 0, jnp.nan, decay)


def earliest_silence(degree: int, threshold: float = 0.1) -> float | None:
    """The decay budget after which decay alone makes a branch silent; None if never.

    beta = ln(1 / threshold) / d, in which a branch of the size of the others falls to
    `threshold` of them if it gets no gradient and they rest. Below degree 3 silence is
    no state that absorbs, so that gradient never ceases.

    Source: docs/silence.md.
    """
    return math.log(1 / threshold) / degree if degree >= 3 else None


def layer_norms(params: Tree) -> dict[str, Float[Array, " M"]]:
    """The norm of each leaf of each branch, by path."""
    norms = [jnp.sqrt(branch_inner(leaf, leaf)) for leaf in jax.tree.leaves(params)]
    return dict(zip(leaf_paths(params), norms, strict=True))


def separation(
    score: Float[ArrayLike, " M"], survived: Bool[ArrayLike, " M"]
) -> Float[Array, ""]:
    """How well a score tells the branches that stay active: the area under the ROC.

    The share of pairs of a surviving and a silent branch in which the survivor's score
    is the larger one; ties count half. .5 is chance, NaN without a pair or if a score
    is NaN.
    """
    score, survived = jnp.asarray(score), jnp.asarray(survived)
    difference = score[:, None] - score[None, :]
    wins = (difference > 0) + 0.5 * (difference == 0) + 0 * difference
    pairs = survived[:, None] & ~survived[None, :]
    count = pairs.sum()
    total = jnp.where(pairs, wins, 0).sum()
    return jnp.where(count == 0, jnp.nan, total / jnp.maximum(count, 1))


def silence_threshold(
    x: Float[ArrayLike, "N D"],
    factor: Float[ArrayLike, "N C"],
    key: Key[Array, ""],
    *,
    negative_slope: float = 0.01,
    starts: int = 64,
    steps: int = 200,
) -> Float[Array, ""]:
    """lambda*, beyond which decay silences every branch of degree 2.

    lambda* = max over ||w|| = 1 of || mean_j sigma(w . x_j) g_j ||, for branches with
    one hidden layer, sigma a leaky ReLU: the largest gain per unit of decay that a unit
    can make close to zero. Of a mean over examples, as is the loss.

    Args:
      x: inputs; append a column of ones for hidden biases.
      factor: g = dL/df of each example's own loss, such as at the best constant output.
      starts: random directions to climb from; the best one counts, a lower bound.
      steps: of the climb, each to the direction of the gradient.

    Raises:
      ValueError: for numbers of examples that differ.
    Source: docs/silence.md. Cost: O(starts steps N (D + C)).
    """
    x, factor = widen((jnp.asarray(x), jnp.asarray(factor)))
    if x.ndim != 2 or factor.ndim != 2 or len(x) != len(factor):
        raise ValueError(
            f"x must be [N, D] and the factor [N, C], not {x.shape} and {factor.shape}"
        )
    shape = (check_count("starts", starts), x.shape[1])
    w = _unit(jax.random.normal(key, shape, x.dtype))

    def gain(w):
        z = x @ w
        features = jnp.where(z >= 0, z, negative_slope * z)
        return jnp.linalg.norm(features @ factor) / len(x)

    def climb(w, _):
        # The fixed points of this step are the stationary points on the sphere.
        return _unit(w + _unit(jax.vmap(jax.grad(gain))(w))), None

    w, _ = jax.lax.scan(climb, w, length=check_count("steps", steps))
    return jax.vmap(gain)(w).max()


def _unit(w: Array) -> Array:
    return ratio(w, jnp.linalg.norm(w, axis=-1, keepdims=True))
