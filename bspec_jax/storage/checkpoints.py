"""Checkpoints of a network, by Orbax: steps of trees beside a specification in JSON.

    FOLDER/network.json            the specification that rebuilds the network
    FOLDER/<step>/model            parameters and state
    FOLDER/<step>/training         what only resuming the training needs

A step is written beside its place and then renamed: it is complete or absent.
"""

import dataclasses
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from bspec_jax.storage.errors import UserError
from bspec_jax.storage.files import read_json, write_json

SPEC = "network.json"
KEPT = 2  # latest steps, besides step 0


@runtime_checkable
class Spec(Protocol):
    """A frozen dataclass that rebuilds a network; `KIND` names what it is of."""

    KIND: ClassVar[str]


SomeSpec = TypeVar("SomeSpec")  # a class as `Spec`


def write_spec(folder: Path, spec: Spec) -> None:
    """Writes the specification of a folder's network."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SPEC, {"kind": spec.KIND, **dataclasses.asdict(spec)})


def read_spec(folder: Path, kind: type[SomeSpec]) -> SomeSpec:
    """Reads what `write_spec` wrote; lists become tuples.

    Raises:
      UserError: if it is missing, damaged or of another kind of network.
    """
    saved = read_json(folder / SPEC, "network")
    if saved.pop("kind", None) != kind.KIND:
        raise UserError(f"{folder} holds no {kind.KIND}")
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
    try:
        return kind(**fields)
    except TypeError as error:
        raise UserError(f"{folder / SPEC} is damaged ({error})") from None


def save(folder: Path, step: int, **parts: Any) -> None:
    """Writes the trees `parts` as one step; of earlier ones 0 and the latest stay."""
    items = {name: ocp.args.StandardSave(tree) for name, tree in parts.items()}
    with _manager(folder) as manager:
        manager.save(step, args=ocp.args.Composite(**items), force=True)


def steps(folder: Path) -> list[int]:
    """The steps in a folder, ascending; none if there is no such folder."""
    if not folder.is_dir():
        return []
    # Named by digits alone: what was not finished has a longer name.
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def last_step(folder: Path) -> int:
    """The newest step in a folder; 0 without any."""
    return max(steps(folder), default=0)


def restore(folder: Path, step: int, **like: Any) -> list[Any]:
    """The trees of a step, of the structure, shapes and types of `like`, in its order.

    They come to this process's first device, whatever device they were saved from.

    Raises:
      UserError: if the step is missing, damaged or of another network.
    """
    path = folder / str(step)
    if not path.is_dir():
        raise UserError(f"no checkpoint at {path}")
    with _stray_errors_ignored():
        try:
            with ocp.StandardCheckpointer() as reader:
                return [
                    _read(reader, (path / name).resolve(), tree)
                    for name, tree in like.items()
                ]
        except Exception as error:  # Orbax and TensorStore raise many kinds
            reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
    raise UserError(
        f"the checkpoint {path} is damaged or of another network; delete it and resume "
        f"from the one before ({reason})"
    )


def find(path: Path | str, network: str) -> tuple[Path, int]:
    """The folder and the step that `path` means.

    Args:
      path: a run's folder (then its last step of `network`), a network's folder in it
        (its last step), or one step.

    Raises:
      UserError: if there is no checkpoint.
    """
    path = Path(path)
    if path.name.isdigit() and (path.parent / SPEC).exists():
        return path.parent, int(path.name)
    folder = path if (path / SPEC).exists() else path / "checkpoints" / network
    found = steps(folder)
    if not found:
        raise UserError(f"no checkpoint in {folder}")
    return folder, found[-1]


def _manager(folder: Path) -> ocp.CheckpointManager:
    kept = preservation_policy.AnyPreservationPolicy(
        [preservation_policy.LatestN(KEPT), preservation_policy.CustomSteps([0])]
    )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=kept,
        enable_async_checkpointing=False,
        cleanup_tmp_directories=True,
    )
    return ocp.CheckpointManager(folder.resolve(), options=options)


@contextmanager
def _stray_errors_ignored() -> Iterator[None]:
    """Where a read fails, Orbax drops the others, whose errors Python would print."""
    hook = sys.unraisablehook

    def ignore(caught):
        if issubclass(caught.exc_type, KeyboardInterrupt):  # see run.command_line
            hook(caught)

    sys.unraisablehook = ignore
    try:
        yield
    finally:
        gc.collect()
        sys.unraisablehook = hook


def _read(reader: ocp.StandardCheckpointer, path: Path, like: Any) -> Any:
    # By way of NumPy, since the device that they were saved from need not exist here.
    read = reader.restore(
        path, jax.tree.map(lambda leaf: np.empty((), leaf.dtype), like)
    )
    for leaf, expected in zip(*map(jax.tree.leaves, (read, like)), strict=True):
        if (leaf.shape, leaf.dtype) != (expected.shape, expected.dtype):
            raise ValueError(f"{leaf.shape} is not {expected.shape}")
    return jax.tree.map(jnp.asarray, read)
