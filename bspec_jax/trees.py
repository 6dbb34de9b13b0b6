"""Parameter trees: selecting leaves by path, and one vector per branch."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

Tree = Any


def leaf_paths(tree: Tree) -> list[str]:
    """The path of each leaf, such as `"Conv_0/kernel"`, in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in leaves]


def select_leaves(
    tree: Tree, patterns: str | Sequence[str]
) -> tuple[dict[str, jax.Array], Callable[[dict[str, jax.Array]], Tree]]:
    """Selects leaves by path, and returns a function that puts them back.

    Any function of a tree of parameters becomes one of the selected leaves alone:

        selected, restore = select_leaves(params, ["Conv_0/*"])
        jax.grad(lambda selected: loss(restore(selected)))(selected)

    Args:
      tree: parameters.
      patterns: paths, or shell patterns (`*`, `?`, `[ab]`) over paths; one or several.
        The first components of a path select everything below it: "Conv_0" is
        "Conv_0/*". What is a path as it stands is no pattern, so that any name can be
        chosen.

    Returns:
      The leaves by path, and `restore`, which returns `tree` with the given leaves in
      place of its own; ValueError if there is no such leaf.

    Raises:
      ValueError: if a pattern matches no leaf (the message lists the paths), there is
        no pattern, or two leaves have the same path (keys that contain a `/`).
    """
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    leaves, structure = jax.tree.flatten(tree)
    paths = leaf_paths(tree)
    if not patterns or len(set(paths)) < len(paths):
        problem = (
            "name at least one leaf of" if not patterns else "paths are not unique:"
        )
        raise ValueError(f"{problem} {', '.join(paths)}")
    selected = {}
    for pattern in patterns:
        matching = _matching(paths, pattern)
        if not matching:
            listing = ", ".join(paths)
            raise ValueError(f"no leaf matches {pattern!r}; the leaves are {listing}")
        selected |= {path: leaves[paths.index(path)] for path in matching}

    def restore(selected):
        unknown = set(selected) - set(paths)
        if unknown:
            raise ValueError(
                f"there is no leaf {min(unknown)!r}; the leaves are {', '.join(paths)}"
            )
        pairs = zip(paths, leaves, strict=True)
        return structure.unflatten([selected.get(path, leaf) for path, leaf in pairs])

    return selected, restore


def _matching(paths: list[str], pattern: str) -> list[str]:
    """The path itself, or all below it, or else all that the pattern matches."""
    if pattern in paths:
        return [pattern]
    below = [path for path in paths if path.startswith(pattern.rstrip("/") + "/")]
    return below or [path for path in paths if fnmatchcase(path, pattern)]


def ravel_branches(
    params: Tree,
) -> tuple[Float[Array, "M P"], Callable[[Float[Array, "M P"]], Tree]]:
    """Flattens each branch to one vector, `[M, P]`, and returns the inverse.

    Not `ravel_pytree` of the stacked tree, which is leaf-major: a branch would not be a
    row.

    Raises:
      ValueError: for a leaf that is not of a floating type, leaves that differ in M,
        and a tree without leaves.
    """
    params = jax.tree.map(jnp.asarray, params)
    leaves = dict(zip(leaf_paths(params), jax.tree.leaves(params), strict=True))
    for path, leaf in leaves.items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"{path} is {leaf.dtype}, which has no derivative")
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    if len({shape[:1] for shape in shapes.values()}) != 1 or () in shapes.values():
        raise ValueError(
            f"the leaves must share the leading axis M of branches, got {shapes}"
        )
    # Types that differ are promoted to one on purpose.
    with jax.numpy_dtype_promotion("standard"):
        _, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], params))
        flat = jax.vmap(lambda branch: ravel_pytree(branch)[0])(params)
    return flat, jax.vmap(unravel)
