"""A loss of a sum of branches over examples: what Hessians and factors are taken of.

    objective = Objective(frozen_responses(net, state), squared_error, x, y)
    hessian.blocks(objective, params)

The loss is a sum over examples of `loss(f_j, target_j)` with f_j = sum_k v_k(x_j), with
any state frozen (a gradient per example does not exist while BatchNorm averages over
the batch).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bspec_jax.analysis.frozen import call_frozen
from bspec_jax.branching import BranchedNetwork, describe
from bspec_jax.numerics import widen
from bspec_jax.trees import Tree, leaf_paths, select_leaves

Respond = Callable[[Tree, Tree], Array]
ExampleLoss = Callable[[Array, Any], Array]
Leaves = str | Sequence[str] | None


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["examples", "targets"],
    meta_fields=["respond", "loss"],
)
@dataclass(frozen=True)
class Objective:
    """A summed loss as a function of the parameters alone; a pytree.

    respond: `(params, example) -> v`, `[M, *C]`; see `frozen_responses`.
    loss: of one example, `(f_j, target_j) -> scalar`.
    examples, targets: leaves `[N, ...]`. To add a residual R to f (eq. 15), make it
        part of the targets and add it in the loss.

    Functions are compiled for the functions `respond` and `loss`: create each of these
    once, not anew for every call.
    """

    respond: Respond
    loss: ExampleLoss
    examples: Tree
    targets: Tree

    @property
    def num_examples(self) -> int:
        """N.

        Raises:
          ValueError: if the leaves of examples and targets differ in it, or there are
            no examples at all.
        """
        data = {"examples": self.examples, "targets": self.targets}
        leaves = zip(leaf_paths(data), jax.tree.leaves(data), strict=True)
        shapes = {path: jnp.shape(leaf) for path, leaf in leaves}
        if not jax.tree.leaves(self.examples):
            raise ValueError("there are no examples: give arrays [N, ...]")
        if len({shape[:1] for shape in shapes.values()}) > 1 or () in shapes.values():
            raise ValueError(
                "examples and targets must have the same leading axis N, and have the "
                f"shapes {shapes}"
            )
        return next(iter(shapes.values()))[0]

    def total(self, params: Tree) -> Float[Array, ""]:
        """The loss, summed over examples, in float32 or wider.

        Args:
          params: leaves `[M, ...]`.

        Raises:
          TypeError: if `respond` does not return one array.
          ValueError: if the loss of an example is not a scalar, examples and targets
            do not fit, or the responses lack the axis M.
        """
        if not self.num_examples:
            raise ValueError("there are no examples to sum the loss over")
        v = jax.vmap(self.respond, (None, 0))(params, self.examples)
        _check_one_array(v)
        branches = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(params)}
        if branches and {v.shape[1:2]} != branches:
            raise ValueError(
                "respond must return the responses of all branches to one example, "
                f"[M, ...], not shape {v.shape[1:]}: see frozen_responses"
            )
        losses = widen(jax.vmap(self.loss)(widen(v).sum(1), self.targets))
        if losses.ndim != 1:
            shape = losses.shape[1:]
            raise ValueError(
                f"the loss of an example must be a scalar, not {shape}: sum it"
            )
        return losses.sum()

    def slice(self, index: slice) -> "Objective":
        """The same loss of some of the examples."""
        data = self.examples, self.targets
        examples, targets = jax.tree.map(lambda leaf: leaf[index], data)
        return replace(self, examples=examples, targets=targets)

    def of_leaves(self, params: Tree, leaves: Leaves) -> tuple["Objective", Tree]:
        """The loss as a function of some leaves alone, and these; None: of all.

        Args:
          leaves: paths or patterns, as of `trees.select_leaves`.
        """
        if leaves is None:
            return self, params
        chosen, restore = select_leaves(params, leaves)

        def respond(chosen, example):
            return self.respond(restore(chosen), example)

        return replace(self, respond=respond), chosen


def frozen_responses(
    network: BranchedNetwork | Any,
    state: Tree,
    *,
    example_axis: int | tuple[int | None, ...] | None = 0,
    keyword_axes: Mapping[str, int | None] | None = None,
    output: Callable[[Tree], Array] | None = None,
    check_state: bool = True,
    **kwargs,
) -> Respond:
    """`(params, example) -> v`, `[M, *C]`, of a network whose state stays as it is.

    Args:
      network: branches with one positional input (any tree), or several.
      state: of the network.
      example_axis: where the branches expect the axis of examples: 0 for an input that
        all share, 1 for one input per branch, `[M, N, ...]`, None for an input without
        the axis. With several positional inputs a tuple with an axis for each; an
        example is then a tuple of inputs.
      keyword_axes: of keyword arguments, by name: the axis of examples of one that
        belongs to the example, or None for one that all examples share. An example is
        then a tuple that ends in a dict, as in `Objective(..., (x, {"mask": mask}), y)`
        for `{"mask": 0}`.
      output: selects one array of responses that are a tree, `lambda v: v["logits"]`.
      check_state: refuse a call that changes the state; otherwise the change is lost.
      kwargs: passed to every call. They must put a module with BatchNorm or dropout
        into its evaluation mode, such as `train=False`. Arrays and random keys must be
        declared by `keyword_axes`, as every example would get the same ones.

    Raises:
      TypeError: for what is not a network; in a call, if the responses are not one
        array.
      ValueError: for an array or a key that is not declared; in a call, if it changes
        the state, which is known from tracing it: a state must be returned as it is,
        and not as equal values. Also for an example that does not fit the axes, and
        responses that are not `[M, N, ...]`.
    """
    if not isinstance(network, BranchedNetwork):
        raise TypeError(
            f"network must be the result of sum_of_branches, got {describe(network)}"
        )
    keyword_axes = keyword_axes or {}
    _check_keywords(kwargs, keyword_axes)
    several = isinstance(example_axis, tuple)
    axes = example_axis if several else (example_axis,)
    named = {name: axis for name, axis in keyword_axes.items() if axis is not None}
    if any(isinstance(axis, bool) for axis in (*axes, *named.values())):
        raise ValueError("the axis of examples must be an integer or None, not a bool")

    def respond(params, example):
        parts = example if several or named else (example,)
        inputs, own = _batch_of_one(parts, axes, named)

        def call(state):
            return network.responses(params, state, *inputs, **kwargs, **own)

        v, _ = call_frozen(call, state) if check_state else call(state)
        v = v if output is None else output(v)
        _check_one_array(v)
        if v.shape[:2] != (network.num_branches, 1):
            raise ValueError(
                f"the responses to one example have shape {v.shape}, and not [M, 1, "
                f"...] with M = {network.num_branches}: see example_axis"
            )
        return v[:, 0]

    return respond


def _batch_of_one(parts, axes, named):
    """The inputs, and the keywords, with an axis for the one example they are of."""
    expected = len(axes) + bool(named)
    if not isinstance(parts, (tuple, list)) or len(parts) != expected:
        raise ValueError(
            f"an example must be a tuple of {expected}, an input for each of the axes "
            f"{axes}" + f" and a dict of {', '.join(named)}" * bool(named)
        )
    own = parts[-1] if named else {}
    if not isinstance(own, Mapping) or own.keys() != named.keys():
        raise ValueError(f"an example must end in a dict of {', '.join(named)}")
    inputs = [_with_axis(part, axis) for part, axis in zip(parts, axes, strict=False)]
    return inputs, {name: _with_axis(own[name], axis) for name, axis in named.items()}


def _with_axis(tree: Tree, axis: int | None) -> Tree:
    if axis is None:
        return tree
    return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, axis), tree)


def _check_keywords(kwargs, axes):
    for name, value in kwargs.items():
        if name in axes:
            if axes[name] is not None:
                raise ValueError(
                    f"{name} is declared as part of the examples: give it there, as in "
                    f"(x, {{{name!r}: ...}})"
                )
            continue
        for leaf in jax.tree.leaves(value):
            dtype = getattr(leaf, "dtype", None)
            is_key = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
            if is_key or getattr(leaf, "shape", ()):
                raise ValueError(
                    f"every example would get the whole of {name}: if it is one per "
                    f"example, say keyword_axes={{{name!r}: 0}} and make it part of "
                    f"the examples, (x, {{{name!r}: ...}}); if all share it, say "
                    f"keyword_axes={{{name!r}: None}}"
                )


def _check_one_array(v):
    if not hasattr(v, "shape"):
        what = ", ".join(leaf_paths(v))
        raise TypeError(
            f"the responses must be one array, not a {type(v).__name__} of {what}: "
            "select one, as in frozen_responses(..., output=lambda v: v[...])"
        )
