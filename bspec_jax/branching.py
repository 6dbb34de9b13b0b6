"""The combinator: a sum of M branches as one batched computation (eq. 1 and 15).

A *branch* is a pair of pure functions, `init(key, *args) -> (params, state)` and
`apply(params, state, *args) -> (response, state)`. `state` is whatever changes without
a gradient (BatchNorm statistics, dropout keys). A branch without state has an empty
tree, so that every kind of branch has the same signature.

`sum_of_branches(branch, M)` builds a network of M branches that share an architecture
but no parameters: `params` and `state` are the branch's trees with a leading axis M on
every leaf, and `f(x) = R + sum_k v_k(x)`.

    branch = from_functions(init, apply)          # or adapters.from_linen(module), ...
    net = sum_of_branches(branch, 16)
    params, state = net.init(key, x)
    v, state = net.responses(params, state, x)    # [M, N, ...]
    f, state = net.apply(params, state, x)        # [N, ...]
"""

import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp

from bspec_jax.trees import Tree


class Branch(NamedTuple):
    """A branch: a pair of pure functions.

    init: `(key, *args, **kwargs) -> (params, state)`.
    apply: `(params, state, *args, **kwargs) -> (response, new_state)`.
    """

    init: Callable[..., tuple[Tree, Tree]]
    apply: Callable[..., tuple[Tree, Tree]]


class BranchedNetwork(NamedTuple):
    """A sum of M branches; every leaf of `params` and `state` is `[M, ...]`.

    init: `(key, *args, **kwargs) -> (params, state)`; splits the key, one per branch.
    responses: `(params, state, *args, **kwargs) -> (v, new_state)`, v `[M, N, ...]`.
    apply: `(params, state, *args, residual=None, **kwargs) -> (f, new_state)` with
        f = residual + sum_k v_k, `[N, ...]`.
    """

    num_branches: int
    init: Callable[..., tuple[Tree, Tree]]
    responses: Callable[..., tuple[Tree, Tree]]
    apply: Callable[..., tuple[Tree, Tree]]


def from_functions(init: Callable[..., Tree], apply: Callable[..., Tree]) -> Branch:
    """Makes a branch from plain functions without state; the state is `()`.

    Args:
      init: `(key, *args) -> params`.
      apply: `(params, *args) -> response`.
    """

    def init_branch(key, *args, **kwargs):
        return init(key, *args, **kwargs), ()

    def apply_branch(params, state, *args, **kwargs):
        return apply(params, *args, **kwargs), state

    return Branch(init_branch, apply_branch)


def sum_of_branches(
    branch: Branch,
    num_branches: SupportsIndex,
    *,
    in_axes: int | Sequence[int | None] | None = None,
    sequential: bool = False,
) -> BranchedNetwork:
    """The network f(x) = R + sum_k v_k(x) of M branches with stacked parameters.

    With one input per branch, f(x) = R + sum_k v_k(x_k).

    Args:
      branch: the pair `(init, apply)`; see `from_functions` and `bspec_jax.adapters`.
      num_branches: M, at least 1.
      in_axes: for each positional argument of `init` and `apply` after the parameters
        and the state: None if all branches share it (the default), 0 if its leading
        axis M holds one input per branch. A single value applies to all positional
        arguments. Keyword arguments are always shared, and may be static.
      sequential: run the branches one after another instead of as one batch, and
        rematerialise each in the backward pass. Values and gradients agree to rounding.
        The gradient's temporary memory is that of one branch instead of M; the forward
        pass is computed twice. Call it under jit: eagerly, every call compiles again.

    Returns:
      A network that works under jit, grad, vmap (an ensemble of networks) and
      eval_shape. Sharding the leading axis of `params` shards the branches.

    Raises:
      ValueError: at once, if M < 1 or `in_axes` holds anything but 0 and None; in a
        call, if a leaf of the parameters, the state or a per-branch argument does not
        have the leading axis M, or the residual's structure or shape differs from the
        sum's.

    Source: eq. 1 and 15. Cost: that of M branches, as one batched computation.
    """
    num_branches = _check_num_branches(num_branches)
    one_axis = not isinstance(in_axes, Sequence)
    for axis in (in_axes,) if one_axis else in_axes:
        if axis is not None and (axis != 0 or isinstance(axis, bool)):
            raise ValueError(f"in_axes must be 0 or None for each input, got {axis!r}")

    def separate(args):
        """The per-branch arguments, and a function that fills in the shared ones."""
        axes = (in_axes,) * len(args) if one_axis else tuple(in_axes)
        if len(args) > len(axes):
            raise ValueError(f"in_axes covers {len(axes)} inputs, got {len(args)}")
        mapped = {i: arg for i, arg in enumerate(args) if axes[i] == 0}
        for i, arg in mapped.items():
            _check_stacked(arg, num_branches, f"input {i} (one per branch)")
        return mapped, lambda own: [own.get(i, arg) for i, arg in enumerate(args)]

    def init(key, *args, **kwargs):
        mapped, merge = separate(args)

        def init_branch(key, inputs):
            return branch.init(key, *merge(inputs), **kwargs)

        return jax.vmap(init_branch)(jax.random.split(key, num_branches), mapped)

    def prepare(params, state, args, kwargs):
        """A branch as a function of its slices, and the stacked slices."""
        _check_stacked(params, num_branches, "params")
        _check_stacked(state, num_branches, "state")
        mapped, merge = separate(args)

        def apply_branch(params, state, inputs):
            return branch.apply(params, state, *merge(inputs), **kwargs)

        if sequential:
            apply_branch = jax.checkpoint(apply_branch)
        return apply_branch, (params, state, mapped)

    def responses(params, state, *args, **kwargs):
        apply_branch, slices = prepare(params, state, args, kwargs)
        if sequential:

            def step(_, branch_slices):
                return None, apply_branch(*branch_slices)

            return jax.lax.scan(step, None, slices, length=num_branches)[1]
        return jax.vmap(apply_branch, axis_size=num_branches)(*slices)

    def apply(params, state, *args, residual=None, **kwargs):
        apply_branch, slices = prepare(params, state, args, kwargs)
        if sequential:
            total, new_state = _running_sum(apply_branch, slices, num_branches)
        else:
            run = jax.vmap(apply_branch, axis_size=num_branches)
            stacked, new_state = run(*slices)
            total = jax.tree.map(lambda v: v.sum(0, dtype=v.dtype), stacked)
        if residual is not None:
            _check_residual(residual, total)
            total = jax.tree.map(jnp.add, residual, total)
        return total, new_state

    return BranchedNetwork(num_branches, init, responses, apply)


def _running_sum(apply_branch, slices, num_branches):
    """The sum over branches by a scan that keeps no branch's response."""
    first = jax.tree.map(lambda leaf: leaf[0], slices)
    response, _ = jax.eval_shape(lambda first: apply_branch(*first), first)

    def zero(r):
        # Short floats are summed in float32, as in XLA's reductions.
        short = jnp.issubdtype(r.dtype, jnp.floating) and r.dtype.itemsize < 4
        return jnp.zeros(r.shape, jnp.float32 if short else r.dtype)

    def step(total, branch_slices):
        # Only the branch is checkpointed: a checkpointed step would also save the
        # running sum.
        response, state = apply_branch(*branch_slices)
        return jax.tree.map(jnp.add, total, response), state

    start = jax.tree.map(zero, response)
    total, state = jax.lax.scan(step, start, slices, length=num_branches)
    return jax.tree.map(lambda t, r: t.astype(r.dtype), total, response), state


def _check_num_branches(num_branches) -> int:
    try:
        if isinstance(num_branches, bool):
            raise TypeError
        num_branches = operator.index(num_branches)
    except TypeError:
        raise ValueError(
            f"num_branches must be an integer, got {num_branches!r}"
        ) from None
    if num_branches < 1:
        raise ValueError(f"num_branches must be at least 1, got {num_branches}")
    return num_branches


def _check_stacked(tree, num_branches, tree_name):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        shape = jnp.shape(leaf)
        if shape[:1] != (num_branches,):
            name = tree_name + jax.tree_util.keystr(path)
            raise ValueError(
                f"{name} has shape {shape}, but its leading axis must hold the "
                f"{num_branches} branches"
            )


def _check_residual(residual, total):
    expected = jax.tree.map(jnp.shape, total)
    if jax.tree.map(jnp.shape, residual) != expected:
        got = jax.tree.map(jnp.shape, residual)
        raise ValueError(
            f"the residual has shape {got}, but the sum of the branches has {expected}"
        )
