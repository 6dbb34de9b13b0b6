"""Orbax checkpoints of a network, with the JSON specification that rebuilds it.

    FOLDER/network.json            specification of the network
    FOLDER/<step>/model            parameters and state
    FOLDER/<step>/training         needed only to resume training
    FOLDER/<step>/checksums.json   of every file of the step

A step is written to a temporary folder and then renamed, so that it is either complete
or absent.
"""

import dataclasses
import gc
import hashlib
import json
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from bspec_jax.storage.errors import UserError
from bspec_jax.storage.files import hash_file, read_json, to_json, write_json

SPEC = "network.json"
CHECKSUMS = "checksums.json"
# What TensorStore says of files that may well be intact.
UNREADABLE = re.compile(
    "RESOURCE_EXHAUSTED|PERMISSION_DENIED|Permission denied|Too many open files"
)
KEPT = 2  # latest steps that are kept, besides step 0 and those asked for


@runtime_checkable
class Spec(Protocol):
    """A frozen dataclass that specifies a network; `KIND` names the kind of network."""

    KIND: ClassVar[str]


SomeSpec = TypeVar("SomeSpec")  # a class as `Spec`


def write_spec(folder: Path, spec: Spec) -> None:
    """Writes the specification of the network in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"kind": spec.KIND, **to_json(dataclasses.asdict(spec))}
    write_json(folder / SPEC, {**fields, "checksum": _checksum_of_fields(fields)})


def read_spec(folder: Path, kind: type[SomeSpec]) -> SomeSpec:
    """Reads a specification that `write_spec` wrote; lists become tuples.

    Raises:
      UserError: if it is missing, damaged, or of another kind of network.
    """
    saved = read_json(folder / SPEC, "network")
    checksum = saved.pop("checksum", None)
    if checksum not in (None, _checksum_of_fields(saved)):
        raise UserError(f"{folder / SPEC} is damaged: it is not as it was written")
    if saved.pop("kind", None) != kind.KIND:
        raise UserError(f"{folder} holds no {kind.KIND}")
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
    try:
        return kind(**fields)
    except TypeError as error:
        raise UserError(f"{folder / SPEC} is damaged ({error})") from None


def _checksum_of_fields(fields: dict) -> str:
    text = json.dumps(fields, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def save(folder: Path, step: int, *, keep: Collection[int] = (), **parts: Any) -> None:
    """Writes trees as one step, and deletes others.

    Step 0, the `KEPT` latest steps and those in `keep` stay. Leaves may be arrays of
    any type, random keys among them.
    """
    items = {
        name: ocp.args.StandardSave(jax.tree.map(_storable, tree))
        for name, tree in parts.items()
    }
    with _manager(folder, keep) as manager:
        manager.save(step, args=ocp.args.Composite(**items), force=True)
    written = folder / str(step)
    write_json(written / CHECKSUMS, _checksums(written))


def steps(folder: Path) -> list[int]:
    """The steps in a folder, ascending; empty if there is no such folder."""
    if not folder.is_dir():
        return []
    # Only digits: the names of unfinished steps have a suffix.
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def last_step(folder: Path) -> int:
    """The newest step in a folder; 0 if there is none."""
    return max(steps(folder), default=0)


def restore(folder: Path, step: int, *, verify: bool = True, **like: Any) -> list[Any]:
    """Reads trees of a step, in the order of `like`, onto the default device.

    Args:
      verify: compare every file with its checksum first.
      like: by name, trees of the same structure, shapes and types.

    Raises:
      UserError: if the step is missing, damaged, of another network, or cannot be read.
    """
    with _reader(folder / str(step), verify) as reader:
        return [
            _read(reader, (folder / str(step) / name).resolve(), tree)
            for name, tree in like.items()
        ]


def saved_shapes(folder: Path, step: int, name: str) -> Any:
    """Shapes and types of the tree `name` of a step: a `like` for any network.

    Random keys are described as the integers that they consist of.

    Raises:
      UserError: if the step is missing or cannot be read.
    """
    with _reader(folder / str(step), verify=False) as reader:
        saved = reader.metadata((folder / str(step) / name).resolve())
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
            saved.item_metadata.tree,
        )


def find(path: Path | str, network: str) -> tuple[Path, int]:
    """The network's folder and the step that a path refers to.

    Args:
      path: a run's folder or a network's folder in it, for the last step; or the folder
        of one step.
      network: name of the network in a run's folder.

    Raises:
      UserError: if there is no checkpoint.
    """
    path = Path(path)
    if path.name.isdigit() and (path.parent / SPEC).exists():
        return path.parent, int(path.name)
    folder = path if (path / SPEC).exists() else path / "checkpoints" / network
    available = steps(folder)
    if not available:
        raise UserError(f"no checkpoint in {folder}")
    return folder, available[-1]


def _manager(folder: Path, keep: Collection[int]) -> ocp.CheckpointManager:
    kept = preservation_policy.AnyPreservationPolicy(
        [
            preservation_policy.LatestN(KEPT),
            preservation_policy.CustomSteps([0, *keep]),
        ]
    )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=kept,
        enable_async_checkpointing=False,
        cleanup_tmp_directories=True,
    )
    return ocp.CheckpointManager(folder.resolve(), options=options)


@contextmanager
def _reader(path: Path, verify: bool) -> Iterator[ocp.StandardCheckpointer]:
    """A reader of the step at `path`; turns every error into a UserError."""
    if not path.is_dir():
        raise UserError(f"no checkpoint at {path}")
    if verify:
        _check_intact(path)
    with _stray_errors_ignored():
        try:
            with ocp.StandardCheckpointer() as reader:
                yield reader
                return
        except MemoryError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds
            reason = str(error).strip().split("\n")[0][:160] or type(error).__name__
            unreadable = isinstance(error, OSError) or UNREADABLE.search(str(error))
    if unreadable:
        raise UserError(f"cannot read the checkpoint {path}: {reason}")
    intact = verify and (path / CHECKSUMS).exists()
    cause = "of another network" if intact else "damaged, or of another network"
    raise UserError(f"the checkpoint {path} is {cause} ({reason})")


def _check_intact(path: Path) -> None:
    """Raises UserError if a file of a step is not as it was written.

    A step without checksums passes: they are written last.
    """
    if not (path / CHECKSUMS).exists():
        return
    saved = read_json(path / CHECKSUMS, "checksums")
    try:
        now = _checksums(path)
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    differing = sorted(name for name in saved if saved[name] != now.get(name))
    if differing:
        raise UserError(
            f"the checkpoint {path} is damaged: {differing[0]} is not as it was "
            "written; move the folder away to use the step before it"
        )


def _checksums(path: Path) -> dict[str, str]:
    """A checksum of each file below a step's folder."""
    return {
        file.relative_to(path).as_posix(): hash_file(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != CHECKSUMS
    }


@contextmanager
def _stray_errors_ignored() -> Iterator[None]:
    """Silences errors of the reads that Orbax abandons when one of them fails.

    Nobody awaits them, so that Python would print their errors.
    """
    hook = sys.unraisablehook

    def ignore(caught):
        if issubclass(caught.exc_type, KeyboardInterrupt):  # see runs.command_line
            hook(caught)

    sys.unraisablehook = ignore
    try:
        yield
    finally:
        gc.collect()
        sys.unraisablehook = hook


def _read(reader: ocp.StandardCheckpointer, path: Path, like: Any) -> Any:
    plain = jax.eval_shape(lambda tree: jax.tree.map(_storable, tree), like)
    # Via NumPy, because the device that saved the arrays need not exist here.
    read = reader.restore(
        path, jax.tree.map(lambda leaf: np.empty((), leaf.dtype), plain)
    )
    for leaf, expected in zip(*map(jax.tree.leaves, (read, plain)), strict=True):
        if (leaf.shape, leaf.dtype) != (expected.shape, expected.dtype):
            raise ValueError(f"{leaf.shape} is not {expected.shape}")
    return jax.tree.map(_as_before, read, like)


def _storable(leaf):
    """A leaf as an array that Orbax saves: neither random keys nor without elements."""
    if _holds_keys(leaf):
        return jax.random.key_data(leaf)
    return jnp.zeros(1, leaf.dtype) if jnp.size(leaf) == 0 else leaf


def _as_before(saved, like):
    """The inverse of `_storable`, given a leaf of the same kind."""
    if _holds_keys(like):
        return jax.random.wrap_key_data(saved, impl=_key_impl(like))
    return jnp.zeros(like.shape, like.dtype) if like.size == 0 else jnp.asarray(saved)


def _key_impl(like):
    """The implementation of random keys, also of a ShapeDtypeStruct."""
    found = []
    jax.eval_shape(lambda keys: found.append(jax.random.key_impl(keys)), like)
    return found[0]


def _holds_keys(leaf) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
