"""Products with the Hessian of an objective, without the Hessian.

Everything is computed in float32 or wider, and traced anew in each call; see `hessian`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from bspec_jax.analysis.objective import Leaves, Objective
from bspec_jax.numerics import check_count, largest, wide_dtype, widen
from bspec_jax.trees import Tree, ravel_branches


def prepare(
    objective: Objective, params: Tree, leaves: Leaves = None
) -> tuple[Objective, Tree]:
    """The objective as a function of the chosen leaves, and these.

    In one type, float32 or wider: a Hessian of shorter floats is mostly rounding.
    """
    floating = [
        leaf
        for leaf in map(jnp.asarray, jax.tree.leaves(params))
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    dtype = wide_dtype(*floating)

    def converted(leaf):
        floats = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, dtype) if floats else leaf

    def respond(params, example):
        return widen(objective.respond(params, example))

    examples, targets = widen((objective.examples, objective.targets))
    wide = replace(objective, respond=respond, examples=examples, targets=targets)
    return wide.of_leaves(jax.tree.map(converted, params), leaves)


def compiled(function: Callable[..., Any], objective: Objective) -> Callable[..., Any]:
    """`function(objective, *arrays)`, compiled for the functions of this objective.

    They are traced as they are now, not as they were in an earlier call.
    """

    @jax.jit
    def of_arrays(examples, targets, *arrays):
        same = replace(objective, examples=examples, targets=targets)
        return function(same, *arrays)

    return lambda part, *arrays: of_arrays(part.examples, part.targets, *arrays)


def operator(objective: Objective, params: Tree) -> Callable[[Tree], Tree]:
    """The function v -> H v without H, for v of the structure of `params`.

    H v is of float32 or wider.

    Linearises the gradient once and keeps what that takes of every example in memory:
    call it inside a jitted function that needs several products.

    Cost: about a gradient at first, and another one per product.
    """
    objective, params = prepare(objective, params)
    product = jax.linearize(jax.grad(objective.total), params)[1]

    def converted(v):
        return jax.tree.map(lambda leaf, p: jnp.asarray(leaf, p.dtype), v, params)

    return lambda v: product(converted(v))


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
    the largest entry, on a GPU too. `objective.frozen_responses`
    refuses a state that changes, such as that of BatchNorm.
    """
    flat, unravel = ravel_branches(prepare(objective, params)[1])
    vector = unravel(jax.random.normal(key, flat.shape, flat.dtype))

    def product():
        def traced(objective, params):
            return operator(objective, params)(vector)

        return ravel_branches(jax.jit(traced)(objective, params))[0]

    first, second = product(), product()
    scale, gap = largest(jnp.abs(first)), largest(jnp.abs(first - second))
    if not gap <= rtol * scale:
        raise ValueError(
            f"two identical products differ by {gap:.2g} in entries of up to "
            f"{scale:.2g}: switch off dropout, and draw nothing outside JAX"
        )


def count_examples(objective: Objective, **sizes: int) -> int:
    """N; ValueError if it is zero, or one of the chunk sizes is below one."""
    for name, size in sizes.items():
        check_count(name, size)
    if not objective.num_examples:
        raise ValueError("there are no examples to sum the loss over")
    return objective.num_examples
