"""What each branch of a sum reads: inputs of its own, shared ones, and its random keys.

Positional and keyword arguments alike have an axis: 0 if the leading axis M holds one
value per branch, None if all branches share the value.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bspec_jax.trees import Tree

Own = tuple[dict[int, Tree], dict[str, Tree]]


class InputAxes(NamedTuple):
    """Which arguments hold one value per branch; see `branching.sum_of_branches`.

    positional: an axis for each argument, or one axis for all of them.
    keyword: an axis for each keyword that was declared.
    key_names: keywords that hold random keys, of which every branch gets its own.
    """

    positional: int | Sequence[int | None] | None
    keyword: Mapping[str, int | None]
    key_names: Sequence[str]

    def check(self) -> None:
        """Raises ValueError if an axis is neither 0 nor None."""
        given = self.positional
        several = isinstance(given, Sequence)
        _check_axes("in_axes", given if several else (given,))
        if not isinstance(self.keyword, Mapping):
            raise ValueError(
                "keyword_axes must be a dict from the names of keywords to 0 or None, "
                f"got {self.keyword!r}"
            )
        _check_axes("keyword_axes", self.keyword.values())

    def separate(
        self, args: Sequence[Tree], kwargs: Mapping[str, Any], num_branches: int
    ) -> tuple[Own, Callable[[Own], tuple[list[Tree], dict[str, Any]]]]:
        """The arguments with a leading axis M, and a function that adds the others.

        Raises:
          ValueError: for more arguments than axes, an argument per branch without the
            leading axis M, and an array by keyword that may be meant per branch.
        """
        axes = self._axes_of(args)
        own_args = {i: arg for i, arg in enumerate(args) if axes[i] == 0}
        for i, arg in own_args.items():
            check_stacked(arg, num_branches, f"input {i} (one per branch)")
        own_kwargs = {}
        for name, value in kwargs.items():
            if name in self.keyword:
                if self.keyword[name] == 0:
                    check_stacked(value, num_branches, f"{name} (one per branch)")
                    own_kwargs[name] = value
            elif name in self.key_names:
                own_kwargs[name] = _split_keys(name, value, num_branches)
            elif 0 in axes:
                _check_shared(name, value, num_branches, 0 in axes[len(args) :])

        def merge(own):
            own_args, own_kwargs = own
            merged = [own_args.get(i, arg) for i, arg in enumerate(args)]
            return merged, {**kwargs, **own_kwargs}

        return (own_args, own_kwargs), merge

    def _axes_of(self, args):
        """An axis for each argument, and those of arguments that are missing."""
        if not isinstance(self.positional, Sequence):
            # One axis for all inputs speaks of at least one.
            return (self.positional,) * max(1, len(args))
        if len(args) > len(self.positional):
            raise ValueError(
                f"in_axes covers {len(self.positional)} inputs, got {len(args)}"
            )
        return self.positional


def check_stacked(tree: Tree, num_branches: int, tree_name: str) -> None:
    """Raises ValueError unless every leaf has the leading axis M."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        shape = jnp.shape(leaf)
        if shape[:1] != (num_branches,):
            name = tree_name + jax.tree_util.keystr(path)
            raise ValueError(
                f"{name} has shape {shape}, but its leading axis must hold the "
                f"{num_branches} branches"
            )


def _check_axes(name, axes):
    for axis in axes:
        if axis is not None and not (type(axis) is int and axis == 0):
            raise ValueError(f"{name} must be 0 or None for each input, got {axis!r}")


def _split_keys(name, keys, num_branches):
    """One key per branch of each key of a tree."""

    def split(key):
        try:
            return jax.random.split(key, num_branches)
        except (TypeError, ValueError):
            raise ValueError(
                f"{name} must be a random key, such as jax.random.key(0), or a dict of "
                f"keys, and holds {type(key).__name__} {getattr(key, 'shape', key)}; "
                f"for keys of your own, one per branch, say keyword_axes="
                f"{{{name!r}: 0}}"
            ) from None

    return jax.tree.map(split, keys)


def _check_shared(name, value, num_branches, missing):
    """Refuses an array that may be meant per branch, where `in_axes` expects inputs so.

    It may be with a leading axis M, or while a positional argument is missing.
    """
    shapes = [getattr(leaf, "shape", ()) for leaf in jax.tree.leaves(value)]
    if any(s and (missing or s[0] == num_branches) for s in shapes):
        raise ValueError(
            f"{name} is an array given by keyword, and in_axes speaks of "
            f"positional arguments only: give it by position, or say "
            f"keyword_axes={{{name!r}: 0}} (one per branch) or "
            f"{{{name!r}: None}} (shared)"
        )
