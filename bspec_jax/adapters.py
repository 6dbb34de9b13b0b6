"""Flax Linen and NNX modules as branches, without changes to the modules.

The only module of the core that imports Flax.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import cache, partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import nnx

from bspec_jax.branching import ADAPTERS, Branch, describe, library_of
from bspec_jax.trees import Tree

MAKERS = (
    "flax.nnx",
    None,
)  # libraries of what builds an NNX module: classes, functions


def from_linen(module: nn.Module | Any) -> Branch:
    """Wraps a Flax Linen module as a branch.

    `params` is the collection of that name; `state` holds every other collection that
    `module.init` creates (such as `batch_stats`), and each call updates it. What a
    module sows there replaces what the last call sowed, so that the state keeps its
    structure. A collection that is left out of `state` is not sown into. Intermediates
    are recorded in the state if both `init` and `apply` get `capture_intermediates`.

    Other keyword arguments go to both `module.init` and `module.apply`. `rngs` is a key
    or a dict of keys, such as `{"dropout": key}`. Every branch makes its own draws from
    it; `sum_of_branches(..., keyword_axes={"rngs": None})` gives all the same.

    Raises:
      TypeError: for what is not an instance of a Linen module.
      ValueError: in a call, for the keyword `mutable`, and if the call changes the
        structure of the state in another way than by sowing.
    """
    if not isinstance(module, nn.Module):
        library = library_of(module)
        advice = ADAPTERS[library]
        if library == "flax.linen":
            advice = f"from_linen({getattr(module, '__name__', 'Module')}(...))"
        raise TypeError(
            "module must be an instance of a Flax Linen module, got "
            f"{describe(module)}: use {advice}"
        )

    def init(key, *args, rngs=None, **kwargs):
        streams = rngs if isinstance(rngs, Mapping) else {}
        variables = dict(module.init({**streams, "params": key}, *args, **kwargs))
        params = variables.pop("params", {})
        return params, variables

    def apply(params, state, *args, **kwargs):
        if "mutable" in kwargs:
            raise ValueError(
                "mutable is always the collections of the state: to add one, let "
                "init create it"
            )
        response, updated = module.apply(
            {"params": params, **state}, *args, mutable=list(state), **kwargs
        )
        new_state = _without_appended(state, updated)
        _check_structure(state, new_state)
        return response, new_state

    return Branch(init, apply, key_names=("rngs",))


def _without_appended(old: Tree, new: Tree) -> Tree:
    """The new state, where tuples hold only what was appended to the old ones."""
    if isinstance(new, Mapping):
        was = old if isinstance(old, Mapping) else {}
        return {k: _without_appended(was.get(k), leaf) for k, leaf in new.items()}
    if isinstance(new, tuple) and isinstance(old, tuple) and len(new) > len(old):
        return new[len(old) :]
    return new


def _check_structure(old: Tree, new: Tree) -> None:
    was, now = _paths(old), _paths(new)
    if was.keys() != now.keys():
        added, lost = sorted(now.keys() - was.keys()), sorted(was.keys() - now.keys())
        change = f"adds {added[0]} to" if added else f"removes {lost[0]} from"
        raise ValueError(
            f"the call {change} the state, whose structure must not change: let init "
            "create the same variables (for intermediates, by the same "
            "capture_intermediates)"
        )


def _paths(tree: Tree) -> dict[str, Any]:
    """The leaves by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def from_nnx(
    make: Callable[[nnx.Rngs], nnx.Module] | Any,
    *,
    check_arrays: bool = True,
    **attributes,
) -> Branch:
    """Wraps a Flax NNX module as a branch.

    Args:
      make: builds the module from `nnx.Rngs`, such as `lambda rngs: MLP(8, rngs=rngs)`.
      check_arrays: build the module once more, before the first call, to check that
        its plain arrays are constants.
      attributes: set on the module before each `apply`, as by `module.set_attributes`;
        for evaluation, `use_running_average=True, deterministic=True`.

    `params` is the pure dict of the module's `nnx.Param` variables, and `state` that of
    all others: BatchNorm statistics and random streams, so that dropout differs between
    branches and between calls. Arrays that are no variables are in the state as well;
    those that depend on the key must be wrapped, by `nnx.data` or in a variable.
    `nnx.Intermediate` is not kept: what a module sows is lost (return it instead).

    `init` takes a key and ignores further arguments, since an NNX module knows its
    shapes. A keyword `rngs` of `apply` is a key; every branch makes its own draws.

    Raises:
      TypeError: if `make` is a module and not a function that makes one.
      ValueError: in a call, for plain arrays that depend on the key or on something
        outside JAX, parameters of another module, and a state that the call extends.
    """
    library = library_of(make)
    if not callable(make) or isinstance(make, nnx.Module) or library not in MAKERS:
        advice = "adapters.from_nnx(lambda rngs: Net(..., rngs=rngs))"
        if library not in MAKERS:
            advice = ADAPTERS[library]
        raise TypeError(
            "make must be a function of nnx.Rngs that builds an NNX module, got "
            f"{describe(make)}: use {advice}"
        )

    @cache
    def template():
        # Built for real: a tracer as a plain attribute is no data to NNX, so that a
        # traced module has another structure.
        with jax.ensure_compile_time_eval():
            module = _made(make, jax.random.key(0))
            if check_arrays:
                _check_arrays(make, module)
            return _split(module)

    def init(key, *args, **kwargs):
        constants = nnx.to_pure_dict(template()[-1])
        _, params, _, state = _split(_made(make, key))
        return nnx.to_pure_dict(params), _filled(constants, nnx.to_pure_dict(state))

    def apply(params, state, *args, **kwargs):
        graph, params_like, intermediates, state_like = template()
        module = nnx.merge(
            graph,
            _replaced(params_like, params, "params"),
            intermediates,
            _replaced(state_like, state, "state"),
        )
        if attributes:
            module.set_attributes(**attributes)
        response = module(*args, **kwargs)
        new_state = nnx.to_pure_dict(_split(module)[-1])
        _check_structure(state, new_state)
        return response, new_state

    return Branch(init, apply, key_names=("rngs",))


def _made(make, key) -> nnx.Module:
    module = make(nnx.Rngs(key))
    if not isinstance(module, nnx.Module):
        raise TypeError(
            f"make must return an NNX module, got {describe(module)}: use "
            f"{ADAPTERS[library_of(module)]}"
        )
    return module


def _split(module):
    """Graph, parameters, intermediates, and the rest, which is the state."""
    return nnx.split(module, nnx.Param, nnx.Intermediate, ...)


def _replaced(like: Tree, values: Tree, name: str) -> Tree:
    """A state of the same variables with other values."""
    expected, got = _paths(nnx.to_pure_dict(like)), _paths(values)
    if expected.keys() != got.keys():
        wrong = sorted(expected.keys() ^ got.keys())[0]
        problem = "lacks" if wrong in expected else "has no place for"
        what = name if problem == "lacks" else "the module"
        raise ValueError(
            f"{name} is of another module: {what} {problem} {wrong}; take it from init"
        )
    # A copy, because replace_by_pure_dict writes in place.
    state = jax.tree.map(lambda leaf: leaf, like)
    nnx.replace_by_pure_dict(state, values)
    return state


def _filled(constants: Tree, state: Tree) -> Tree:
    """The state, with the constants of plain attributes that tracing hides."""
    if not isinstance(constants, dict):
        return state
    return {
        key: _filled(constant, state[key]) if key in state else constant
        for key, constant in constants.items()
    }


def _check_arrays(make, module: nnx.Module) -> None:
    """Raises ValueError for an array of which init would not give each branch its own.

    Under vmap, a value that depends on the key is a tracer, which NNX does not find in
    a plain attribute. Other values are known, and must be the same in each module.
    """
    traced, numbers, hidden = {}, {}, []

    def build(key):
        traced_module = _made(make, key)
        traced.update(_paths(nnx.to_pure_dict(nnx.state(traced_module))))
        numbers.update(_numbers(traced_module))
        for entry, value in _attributes(traced_module):
            found = any(known.startswith(entry) for known in traced)
            if not found and not _is_seen(value) and _hides_arrays(value):
                hidden.append(entry)
        return ()

    try:
        jax.vmap(build)(jax.random.key(0)[None])
    except jax.errors.JAXTypeError as error:
        reason = str(error).splitlines()[0].removesuffix(".")
        raise ValueError(
            f"make takes the value of a random number out of JAX ({reason}): use "
            "jax.numpy in place of NumPy, and wrap the array, as in "
            "self.x = nnx.data(x)"
        ) from None
    for path in hidden:
        raise ValueError(
            f"the attribute {path} holds an array of this module where NNX does not "
            "see it: make the array an attribute, as in self.x = nnx.data(x)"
        )
    arrays = _paths(nnx.to_pure_dict(nnx.state(module)))
    traced = numbers | traced
    for path, leaf in (_numbers(module) | arrays).items():
        if path not in traced:
            problem, advice = "depends on the key, but is a plain array", "wrap it"
        elif not _is_same(traced[path], leaf):
            problem = "is drawn outside JAX, so that all branches would share it"
            advice = "draw it from rngs and wrap it"
        else:
            continue
        raise ValueError(
            f"the attribute {path} {problem}: {advice}, as in self.x = nnx.data(x) or "
            "nnx.Variable(x)"
        )


def _attributes(module: nnx.Module) -> list[tuple[str, Any]]:
    """The attributes of a module and of those in it, by path."""
    return [
        ("".join(f"[{key!r}]" for key in (*path, name)), value)
        for path, part in nnx.iter_modules(module)
        for name, value in vars(part).items()
    ]


def _numbers(module: nnx.Module) -> dict[str, float]:
    """Its plain numbers, but integers, which may count modules."""
    return {
        path: value for path, value in _attributes(module) if isinstance(value, float)
    }


def _is_tracer(value: Any) -> bool:
    return isinstance(value, jax.core.Tracer)


def _is_seen(value: Any) -> bool:
    """Whether a module's attribute is no static one to NNX."""
    return _is_tracer(value) or isinstance(value, (nnx.Pytree, nnx.Variable))


def _hides_arrays(value: Any, depth: int = 4) -> bool:
    """Whether a static attribute, such as a closure, holds a tracer or a variable."""
    if _is_tracer(value) or isinstance(value, nnx.Variable):
        return True
    if isinstance(value, nnx.Pytree):
        return bool(jax.tree.leaves(nnx.state(value)))
    if not depth or isinstance(value, (type, ModuleType)):
        return False
    if isinstance(value, FunctionType):
        inside = (
            *inspect.getclosurevars(value).nonlocals.values(),
            *(value.__defaults__ or ()),
            *(value.__kwdefaults__ or {}).values(),
        )
    elif isinstance(value, MethodType):
        inside = (value.__self__,)
    elif isinstance(value, partial):
        inside = (value.func, value.args, value.keywords)
    else:
        leaves = jax.tree.leaves(value, is_leaf=lambda leaf: leaf is not value)
        inside = [*leaves, *getattr(value, "__dict__", {}).values()]
    return any(_hides_arrays(part, depth - 1) for part in inside if part is not value)


def _is_same(traced: Any, leaf: Any) -> bool:
    """Whether a value is a tracer, which has none, or equals the other."""
    return _is_tracer(traced) or _bytes(traced) == _bytes(leaf)


def _bytes(leaf: Any) -> bytes:
    is_key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()
