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

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp

from bspec_jax.inputs import InputAxes, check_stacked
from bspec_jax.numerics import check_count, widen
from bspec_jax.trees import Tree


class Branch(NamedTuple):
    """A branch: a pair of pure functions.

    init: `(key, *args, **kwargs) -> (params, state)`.
    apply: `(params, state, *args, **kwargs) -> (response, new_state)`.
    key_names: keyword arguments that are random keys (or trees of keys). A sum splits
        them, so that every branch makes its own draws.
    """

    init: Callable[..., tuple[Tree, Tree]]
    apply: Callable[..., tuple[Tree, Tree]]
    key_names: tuple[str, ...] = ()


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


def from_functions(
    init: Callable[..., Tree] | Any,
    apply: Callable[..., Tree] | Any,
    *,
    key_names: Sequence[str] = (),
) -> Branch:
    """Makes a branch from plain functions without state; the state is `()`.

    Args:
      init: `(key, *args) -> params`.
      apply: `(params, *args) -> response`.
      key_names: keyword arguments that are random keys; see `Branch`.

    Raises:
      TypeError: for what is not a function.
    """
    for name, function in (("init", init), ("apply", apply)):
        if not callable(function) or library_of(function) in ("flax.linen", "flax.nnx"):
            advice = ADAPTERS[library_of(function)]
            raise TypeError(
                f"{name} must be a function, got {describe(function)}: use {advice}"
            )

    def init_branch(key, *args, **kwargs):
        return init(key, *args, **kwargs), ()

    def apply_branch(params, state, *args, **kwargs):
        return apply(params, *args, **kwargs), state

    return Branch(init_branch, apply_branch, tuple(key_names))


def sum_of_branches(
    branch: Branch | Any,
    num_branches: SupportsIndex | Any,
    *,
    in_axes: int | Sequence[int | None] | None = None,
    keyword_axes: Mapping[str, int | None] | None = None,
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
        arguments.
      keyword_axes: the same for keyword arguments, by name. Those not named are shared
        and may be static, except random keys (`branch.key_names`), which are split.
        `{"rngs": None}` gives all branches the same draws. Where `in_axes` has a 0, an
        array that is not named here is refused if its leading axis is M, or if no
        positional argument takes that 0: it may be meant per branch.
      sequential: run the branches one after another instead of as one batch, and
        rematerialise each in the backward pass. Values and gradients agree to rounding.
        The gradient's temporary memory is that of one branch instead of M; the forward
        pass is computed twice. Call it under jit: eagerly, every call compiles again.

    Returns:
      A network that works under jit, grad, vmap (an ensemble of networks) and
      eval_shape. Sharding the leading axis of `params` shards the branches.

    Raises:
      TypeError: if `branch` is no `Branch`; the message names the adapter to call.
      ValueError: at once, if M < 1 or an axis is neither 0 nor None; in a call, if a
        leaf of the parameters, the state or a per-branch argument does not have the
        leading axis M, a keyword may be meant per branch, or the residual's structure
        or shape differs from the sum's.

    Source: eq. 1 and 15. Cost: that of M branches, as one batched computation.
    """
    _check_branch(branch)
    num_branches = check_count("num_branches", num_branches)
    axes = InputAxes(in_axes, keyword_axes or {}, branch.key_names)
    axes.check()

    def init(key, *args, **kwargs):
        own, merge = axes.separate(args, kwargs, num_branches)

        def init_branch(key, own):
            args, kwargs = merge(own)
            return branch.init(key, *args, **kwargs)

        return jax.vmap(init_branch)(jax.random.split(key, num_branches), own)

    def prepare(params, state, args, kwargs):
        """A branch as a function of its slices, and the stacked slices."""
        check_stacked(params, num_branches, "params")
        check_stacked(state, num_branches, "state")
        own, merge = axes.separate(args, kwargs, num_branches)

        def apply_branch(params, state, own):
            args, kwargs = merge(own)
            return branch.apply(params, state, *args, **kwargs)

        if sequential:
            apply_branch = jax.checkpoint(apply_branch)
        return apply_branch, (params, state, own)

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

    def step(total, branch_slices):
        # Only the branch is checkpointed: a checkpointed step would also save the
        # running sum.
        response, state = apply_branch(*branch_slices)
        return jax.tree.map(jnp.add, total, widen(response)), state

    # Short floats are summed in float32, as in XLA's reductions.
    start = widen(jax.tree.map(jnp.zeros_like, response))
    total, state = jax.lax.scan(step, start, slices, length=num_branches)
    return jax.tree.map(lambda t, r: t.astype(r.dtype), total, response), state


def _check_residual(residual, total):
    expected = jax.tree.map(jnp.shape, total)
    if jax.tree.map(jnp.shape, residual) != expected:
        got = jax.tree.map(jnp.shape, residual)
        raise ValueError(
            f"the residual has shape {got}, but the sum of the branches has {expected}"
        )


def _check_branch(branch):
    if isinstance(branch, Branch):
        return
    if isinstance(branch, BranchedNetwork):
        advice = "it is a sum already"
    elif isinstance(branch, (list, tuple)):
        advice = (
            "branches share one architecture, so give one Branch, as of "
            "from_functions(init, apply), and the number of branches"
        )
    else:
        advice = f"use {ADAPTERS[library_of(branch)]}"
    raise TypeError(f"branch must be a Branch, got {describe(branch)}: {advice}")


# The call that makes a branch of what comes from a library, by its name, since the core
# imports none of these.
ADAPTERS = {
    "flax.linen": "adapters.from_linen(module)",
    "flax.nnx": "adapters.from_nnx(make), with make(rngs) -> module",
    "equinox": (
        "from_functions(init, apply), with init(key) = eqx.filter(make(key), "
        "eqx.is_array) and apply(params, x) = eqx.combine(params, static)(x)"
    ),
    None: "from_functions(init, apply), with init(key) -> params and apply(params, x)",
}


def library_of(thing: Any) -> str | None:
    """The key in `ADAPTERS` of a module, or of a class of modules."""
    kind = thing if isinstance(thing, type) else type(thing)
    for base in kind.__mro__:
        for library in filter(None, ADAPTERS):
            if f"{base.__module__}.".startswith(f"{library}."):
                return library
    return None


def describe(thing: Any) -> str:
    """What it is, for a message of one line."""
    if isinstance(thing, type):
        return f"the class {thing.__name__}"
    return f"an instance of {type(thing).__name__}"
