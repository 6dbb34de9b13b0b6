"""Flax Linen and NNX modules as branches, without changes to the modules.

The only module of the core that imports Flax.
"""

from collections.abc import Callable
from functools import cache

import jax
from flax import linen as nn
from flax import nnx

from bspec_jax.branching import Branch


def from_linen(module: nn.Module) -> Branch:
    """Wraps a Flax Linen module as a branch.

    `params` is the collection of that name; `state` holds every other collection that
    `module.init` creates (such as `batch_stats`), and each call updates it. Keyword
    arguments go to both `module.init` and `module.apply`, except `rngs`, which goes to
    `apply` only.

    All branches share `rngs`. For independent dropout, write a `Branch` that takes one
    key per branch as a positional argument, with `in_axes=0`.
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
    """Wraps a Flax NNX module as a branch.

    Args:
      make: builds the module from `nnx.Rngs`, such as `lambda rngs: MLP(8, rngs=rngs)`.
      attributes: set on the module before each `apply`, as by `module.set_attributes`;
        for evaluation, `use_running_average=True, deterministic=True`.

    `params` is the pure dict of the module's `nnx.Param` variables, and `state` that of
    all others: BatchNorm statistics and random streams, so that dropout differs between
    branches and between calls. `init` takes a key and ignores further arguments, since
    an NNX module knows its shapes.
    """

    def split(module):
        graph, params, state = nnx.split(module, nnx.Param, ...)
        return graph, params, state

    @cache
    def template():
        # Built for real: eval_shape would take plain array attributes (such as a
        # positional table) for variables.
        with jax.ensure_compile_time_eval():
            return split(make(nnx.Rngs(0)))

    def init(key, *args, **kwargs):
        _, params, state = split(make(nnx.Rngs(key)))
        return nnx.to_pure_dict(params), nnx.to_pure_dict(state)

    def apply(params, state, *args, **kwargs):
        graph, *trees = template()
        # Copies, because replace_by_pure_dict writes in place.
        params_tree, state_tree = jax.tree.map(lambda leaf: leaf, trees)
        nnx.replace_by_pure_dict(params_tree, params)
        nnx.replace_by_pure_dict(state_tree, state)
        module = nnx.merge(graph, params_tree, state_tree)
        if attributes:
            module.set_attributes(**attributes)
        response = module(*args, **kwargs)
        return response, nnx.to_pure_dict(split(module)[2])

    return Branch(init, apply)
