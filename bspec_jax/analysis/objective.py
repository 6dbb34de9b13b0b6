"""A loss of a sum of branches over examples: what Hessians and factors are taken of.

    objective = Objective(frozen_responses(net, state), squared_error, x, y)
    hessian.blocks(objective, params)

The loss is a sum over examples of `loss(f_j, target_j)` with f_j = sum_k v_k(x_j), with
any state frozen (a gradient per example does not exist while BatchNorm averages over
the batch).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bspec_jax.branching import BranchedNetwork
from bspec_jax.trees import Tree, select_leaves

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
        """N."""
        return jax.tree.leaves(self.examples)[0].shape[0]

    def total(self, params: Tree) -> Float[Array, ""]:
        """The loss, summed over examples.

        Args:
          params: leaves `[M, ...]`.

        Raises:
          ValueError: if the loss of an example is not a scalar.
        """
        v = jax.vmap(self.respond, (None, 0))(params, self.examples)
        losses = jax.vmap(self.loss)(v.sum(1), self.targets)
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
    network: BranchedNetwork,
    state: Tree,
    *,
    example_axis: int | tuple[int, ...] = 0,
    **kwargs,
) -> Respond:
    """`(params, example) -> v`, `[M, *C]`, of a network whose state stays as it is.

    Args:
      network: branches with one positional input (any tree), or several.
      state: of the network; its updates are dropped.
      example_axis: where the branches expect the axis of examples: 0 for an input that
        all share, 1 for one input per branch, `[M, N, ...]`. With several positional
        inputs a tuple with an axis for each; an example is then a tuple of inputs.
      kwargs: passed to every call. They must put a module with BatchNorm into its
        evaluation mode, such as `train=False`; see `check_frozen`.
    """
    several = isinstance(example_axis, tuple)
    axes = example_axis if several else (example_axis,)

    def respond(params, example):
        inputs = [
            jax.tree.map(lambda leaf, axis=axis: jnp.expand_dims(leaf, axis), part)
            for part, axis in zip(example if several else (example,), axes, strict=True)
        ]
        v, _ = network.responses(params, state, *inputs, **kwargs)
        return v[:, 0]

    return respond


def check_frozen(network: BranchedNetwork, params: Tree, state: Tree, x, **kwargs):
    """Raises ValueError if a call with these keywords changes the network's state."""
    _, after = network.responses(params, state, x, **kwargs)
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(after), strict=True
    ):
        if not jnp.array_equal(old, new):
            raise ValueError(
                f"the state changes at {jax.tree_util.keystr(path)}: call the network "
                "in evaluation mode (for Linen's BatchNorm use_running_average=True)"
            )
