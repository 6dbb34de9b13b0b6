"""Flax modules as branches: one call each, no change to the module.

Flax is imported only here and in `bspec_jax.models`; nothing in the core needs it.
"""

from collections.abc import Callable
from functools import cache

import jax
from flax import linen as nn
from flax import nnx

from bspec_jax.branching import Branch


def from_linen(module: nn.Module) -> Branch:
    """Makes a branch of a Flax Linen module.

    `params` is the collection of that name; `state` holds every other collection that
    `module.init` creates (such as `batch_stats`) and is updated by each call. Keyword
    arguments go to `module.init` and `module.apply` alike, but `rngs` to `apply` only.

    `rngs` is shared by all branches. For independent dropout, pass one key per branch
    as a positional argument with `in_axes=0`, in a pair of your own.
    """

    def init(key, *args, rngs=None, **kwargs):
        variables = dict(module.init(key, *args, **kwargs))
        params = variables.pop("params", {})
        return params, variables

    def apply(params, state, *args, **kwargs):
        return module.apply(
            {"params": params, **state}, *args, mutable=list(state), **kwargs
        )

    return Branch(init, apply)


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module], **attributes) -> Branch:
    """Makes a branch of a Flax NNX module.

    Args:
      make: builds the module from `nnx.Rngs`, such as `lambda rngs: MLP(8, rngs=rngs)`.
      attributes: set on the module for `apply`, as `module.set_attributes` does (for
        example `use_running_average=True`, `deterministic=True` for evaluation).

    `params` is the pure dict of the module's `nnx.Param` variables and `state` that of
    all others: BatchNorm statistics and random streams, so that dropout draws anew in
    each branch and each call. `init` takes a key and ignores further arguments, since
    an NNX module knows its shapes.
    """

    def split(module):
        graph, params, state = nnx.split(module, nnx.Param, ...)
        return graph, params, state

    @cache
    def template():
        # For real, not by eval_shape, which would take plain array attributes (such
        # as a positional table) for variables.
        with jax.ensure_compile_time_eval():
            return split(make(nnx.Rngs(0)))

    def init(key, *args, **kwargs):
        _, params, state = split(make(nnx.Rngs(key)))
        return nnx.to_pure_dict(params), nnx.to_pure_dict(state)

    def apply(params, state, *args, **kwargs):
        graph, *trees = template()
        params_tree, state_tree = jax.tree.map(lambda leaf: leaf, trees)  # copies
        nnx.replace_by_pure_dict(params_tree, params)
        nnx.replace_by_pure_dict(state_tree, state)
        module = nnx.merge(graph, params_tree, state_tree)
        if attributes:
            module.set_attributes(**attributes)
        response = module(*args, **kwargs)
        return response, nnx.to_pure_dict(split(module)[2])

    return Branch(init, apply)
