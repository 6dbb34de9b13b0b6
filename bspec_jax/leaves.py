"""Parameter trees: leaves chosen by path, and one vector for each branch."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

Tree = Any


def leaf_paths(tree: Tree) -> list[str]:
    """The path of each leaf, in the tree's order: `"Conv_0/kernel"`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in leaves]


def select_leaves(
    tree: Tree, patterns: str | Sequence[str]
) -> tuple[dict[str, jax.Array], Callable[[dict[str, jax.Array]], Tree]]:
    """The leaves whose paths match, and the function that puts them back.

    Whatever takes a tree of parameters takes the chosen leaves instead:

        chosen, restore = select_leaves(params, ["Conv_0/*"])
        jax.grad(lambda chosen: loss(restore(chosen)))(chosen)

    Args:
      tree: of parameters.
      patterns: shell patterns (`*`, `?`) over paths, or one of them; a path's beginning
        up to a `/` stands for all that is below it.

    Returns the leaves by path, and `restore`, which returns `tree` with the given
    leaves in place of its own.

    Raises:
      ValueError: if a pattern matches no leaf (it lists the paths), if there is no
        pattern, and if two leaves have one path (keys that contain a `/`).
    """
    patterns = (patterns,) if isinstance(patterns, str) else patterns
    leaves, structure = jax.tree.flatten(tree)
    paths = leaf_paths(tree)
    if not patterns or len(set(paths)) < len(paths):
        what = "name at least one leaf of" if not patterns else "paths are not unique:"
        raise ValueError(f"{what} {', '.join(paths)}")
    chosen = {}
    for pattern in patterns:
        found = [p for p in paths if _matches(p, pattern)]
        if not found:
            listing = ", ".join(paths)
            raise ValueError(f"no leaf matches {pattern!r}; the leaves are {listing}")
        chosen |= {path: leaves[paths.index(path)] for path in found}

    def restore(chosen):
        pairs = zip(paths, leaves, strict=True)
        return structure.unflatten([chosen.get(path, leaf) for path, leaf in pairs])

    return chosen, restore


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern) or path.startswith(pattern.rstrip("/") + "/")


def ravel_branches(
    params: Tree,
) -> tuple[Float[Array, "M P"], Callable[[Float[Array, "M P"]], Tree]]:
    """One vector for each branch, `[M, P]`, and the function back to the stacked tree.

    (`ravel_pytree` of the stacked tree is leaf-major: a branch would not be a row.)

    Raises:
      ValueError: for a leaf that is not of a floating type.
    """
    for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"{path} is {leaf.dtype}, and has no derivative")
    _, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], params))
    return jax.vmap(lambda branch: ravel_pytree(branch)[0])(params), jax.vmap(unravel)
