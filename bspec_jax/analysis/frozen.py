"""Calls that leave a state as it is, which tracing alone can tell."""

from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core

from bspec_jax.trees import Tree, leaf_paths


def call_frozen(
    call: Callable[[Tree], tuple[Any, Tree]], state: Tree
) -> tuple[Any, Tree]:
    """`call(state) -> (result, state)`, which must return the state that it got.

    The same variables, not equal values: a running average of constant data and a
    counter that is set to what it was count as changes.

    Raises:
      ValueError: if the call changes, adds or removes a part of the state.
    Cost: none besides the call, which is traced and then evaluated.
    """
    traced, shapes = jax.make_jaxpr(call, return_shape=True)(state)
    before, after = leaf_paths(state), leaf_paths(shapes[1])
    first = len(traced.jaxpr.outvars) - len(after)
    origins = {path: _origin(traced.jaxpr, first + i) for i, path in enumerate(after)}
    expected = {path: i for i, path in enumerate(before)}
    changed = sorted(set(origins.items()) ^ set(expected.items()), key=lambda c: c[0])
    if changed:
        raise ValueError(
            f"the call changes the state at {changed[0][0]}: call the network in "
            "evaluation mode (for BatchNorm use_running_average=True, for dropout "
            "deterministic=True), leave what is only recorded out of the state, or "
            "drop the change by check_state=False"
        )
    leaves = jax.extend.core.jaxpr_as_fun(traced)(*jax.tree.leaves(state))
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _origin(jaxpr, output: int) -> int | None:
    """Which input an output of a jaxpr is; None for what is computed.

    Looks into the jaxprs that jit, remat, scan and custom derivatives call.
    """
    variable = jaxpr.outvars[output]
    if variable in jaxpr.invars:
        return jaxpr.invars.index(variable)
    for equation in jaxpr.eqns:
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if variable in equation.outvars and inner is not None:
            index = equation.outvars.index(variable)
            source = _origin(getattr(inner, "jaxpr", inner), index)
            carried = index < equation.params.get("num_carry", 0)
            if carried and source != index + equation.params["num_consts"]:
                return None  # a carry of the scan that becomes another one
            origin = None if source is None else equation.invars[source]
            # A scan's slices are of another shape than its carries and constants.
            if origin in jaxpr.invars and origin.aval == variable.aval:
                return jaxpr.invars.index(origin)
    return None
