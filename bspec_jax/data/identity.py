"""What identifies data, so that a run that goes on notices when they changed."""

import hashlib
import os
import sys
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bspec_jax.data.names import shown
from bspec_jax.storage.errors import UserError
from bspec_jax.storage.files import hash_file

DIGEST = 16  # bytes of a hash
ANNOUNCED = 2**31  # bytes of files from which reading them is announced


def hash_array(array: np.ndarray) -> str:
    """The hash of an array's shape and bytes."""
    header = repr((array.shape, array.dtype.str)).encode()
    data = np.ascontiguousarray(array).tobytes()
    return hashlib.blake2b(header + data, digest_size=DIGEST).hexdigest()


def hash_groups(groups: Mapping[str, Collection[Path]]) -> dict[str, str]:
    """A hash of each group of files: of their names and contents, in any order.

    A file is read once per process while its size and time stay the same. Cost: about
    a second per GiB and core, announced on stderr from 2 GiB on.

    Raises:
      UserError: if a file cannot be read.
    """
    files = sorted({path for group in groups.values() for path in group})
    try:
        stats = {path: path.stat() for path in files}
        total = sum(stat.st_size for stat in stats.values())
        if total >= ANNOUNCED:
            gib, cores = total / 2**30, os.cpu_count() or 1
            print(
                f"reading {gib:,.1f} GiB once, to recognise the data later: from "
                f"{gib / cores:.0f} s on, as fast as the disk",
                file=sys.stderr,
            )
        with ThreadPoolExecutor() as threads:
            hashes = threads.map(
                lambda path: _hash_file(
                    path, stats[path].st_size, stats[path].st_mtime_ns
                ),
                files,
            )
            by_file = dict(zip(files, hashes, strict=True))
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    return {
        name: _combined((path.name, by_file[path]) for path in group)
        for name, group in groups.items()
    }


@cache
def _hash_file(path: Path, size: int, modified: int) -> str:
    """The hash of a file that had this size and this time in ns when asked for."""
    return hash_file(path)


def _combined(named: Iterable[tuple[str, str]]) -> str:
    whole = hashlib.blake2b(digest_size=DIGEST)
    for name, digest in sorted(named):
        whole.update(os.fsencode(name) + b"\0" + digest.encode())
    return whole.hexdigest()


def check_same(
    saved: Mapping[str, Any], now: Mapping[str, Any], where: Path | str
) -> None:
    """Raises UserError, naming the first change, unless both identities are equal.

    Args:
      saved, now: of `Source.identity`; `contents` may be left out of either, and is
        then not compared.
      where: the run whose data they are.
    """
    try:
        change = _change(saved, now)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"the record of the data of {where} is damaged") from None
    if change:
        raise UserError(
            f"the data of {where} have changed: {shown(change)}. Restore them, or "
            "start another run"
        )


def _change(saved, now):
    """The first change in words; empty without any."""
    if saved["dataset"] != now["dataset"]:
        return f"the data set was {saved['dataset']}, and is now {now['dataset']}"
    before, after = (list(identity["classes"]) for identity in (saved, now))
    gone = [name for name in before if name not in after]
    new = [name for name in after if name not in before]
    if gone and new:
        return f"class {gone[0]} is gone, and {new[0]} is new"
    if gone or new:
        return f"class {gone[0]} is gone" if gone else f"class {new[0]} is new"
    if before != after:
        return f"the classes were {', '.join(before)}, and are now {', '.join(after)}"
    for split, title in (("train", "training"), ("test", "test")):
        for name, was, count in zip(before, saved[split], now[split], strict=True):
            if was != count:
                return f"class {name} had {was} {title} images, and now has {count}"
    old, contents = (identity.get("contents") or {} for identity in (saved, now))
    if not (old and contents):
        return ""
    for key in sorted(old.keys() | contents.keys()):
        if old.get(key) != contents.get(key):
            return f"{key} has other images, or other names of them, than before"
    return ""
