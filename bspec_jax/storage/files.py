"""The files of a run: JSON, named arrays and lines of metrics.

Files are replaced atomically. JSON numbers that are not finite are written as null.
"""

import hashlib
import json
import math
import tokenize
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bspec_jax.storage.errors import UserError, notify

UNSAFE = set('<>:"/\\|?*')
DEVICES = {
    *("CON", "PRN", "AUX", "NUL"),
    *(f"{port}{digit}" for port in ("COM", "LPT") for digit in "0123456789¹²³"),
}
LONGEST_NAME = 60  # characters, of up to 4 bytes each; systems take 255 bytes
# What NumPy raises for arrays that are not as they were written.
DAMAGE = (
    ValueError,
    KeyError,
    EOFError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
)


def to_json(value: Any) -> Any:
    """Converts to JSON values; arrays become lists, numbers not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return to_json(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


def safe_names(names: Sequence[str]) -> list[str]:
    """Names of files, on every system, for names that come from data, such as classes.

    They are as alike as can be, and distinct even where case does not count; they leave
    room for a suffix.
    """
    taken, safe = set(), []
    for name in names:
        stem = _without_unsafe(name)
        found, number = stem, 1
        while (key := unicodedata.normalize("NFC", found).casefold()) in taken:
            number += 1
            found = f"{stem}_{number}"
        taken.add(key)
        safe.append(found)
    return safe


def _without_unsafe(name):
    """The name with what some system does not take, or takes apart, replaced by _."""
    stem = "".join(c if c.isprintable() and c not in UNSAFE else "_" for c in name)
    stem = stem[:LONGEST_NAME].rstrip(" .") or "_"
    device = stem.partition(".")[0].rstrip().upper() in DEVICES
    return f"_{stem}" if device or stem[0] in ".- ~" else stem


def write_json(path: Path, data: Any, *, compact: bool = False) -> None:
    """Writes a JSON file atomically; a `compact` one is a single line."""
    style = {"separators": (",", ":")} if compact else {"indent": 1}
    text = json.dumps(to_json(data), allow_nan=False, **style)
    partial = path.with_suffix(".partial")
    partial.write_text(text + "\n")
    partial.replace(path)


def read_json(path: Path, what: str, advice: str = "") -> dict:
    """Reads a JSON object.

    Args:
      what: what the file holds, for the message if it is missing.
      advice: ends the message if it is damaged.

    Raises:
      UserError: if the file is missing or damaged.
    """
    try:
        data = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"no {what} at {path}: {error.strerror}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is damaged: it is not JSON{advice}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} is damaged: it is not a JSON object{advice}")
    return data


def hash_file(path: Path) -> str:
    """A hash of the file's bytes, 32 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.blake2b(digest_size=16)
        ).hexdigest()


def save_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], *, compressed: bool = False
) -> None:
    """Writes named arrays to an .npz file atomically."""
    partial = path.with_suffix(".partial.npz")
    save = np.savez_compressed if compressed else np.savez
    save(partial, **arrays)
    partial.replace(path)


def shortened(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with floats as float16, which is enough for pictures."""
    return _with_floats(arrays, np.float16)


def widened(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with floats as float32."""
    return _with_floats(arrays, np.float32)


def _with_floats(arrays, dtype):
    return {
        name: a.astype(dtype) if a.dtype.kind == "f" else a
        for name, a in arrays.items()
    }


def load_arrays(
    path: Path, like: Mapping[str, np.ndarray | None] | None = None
) -> dict[str, np.ndarray]:
    """Reads arrays that `save_arrays` wrote.

    Args:
      like: the expected arrays by name; None for one of any shape. By default all
        arrays in the file are read.

    Raises:
      UserError: if the file is missing, damaged or holds other arrays.
    """
    again = "if any, and resume the run; or start another"
    try:
        with np.load(path) as saved:
            arrays = {name: saved[name] for name in like or saved.files}
        for name, expected in (like or {}).items():
            if expected is not None and arrays[name].shape != expected.shape:
                raise ValueError
    except FileNotFoundError:
        raise UserError(f"no {path}: move results.json away, {again}") from None
    except DAMAGE:
        advice = f"move it away, and results.json, {again}"
        raise UserError(f"{path} is damaged: {advice}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    return arrays


def append_metrics(workdir: Path, record: Mapping[str, Any]) -> None:
    """Appends one line to metrics.jsonl."""
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(to_json(record), allow_nan=False) + "\n")


def keep_metrics(workdir: Path, keep: Callable[[dict], bool]) -> None:
    """Drops lines of metrics.jsonl that a resumed run will write again.

    Args:
      keep: whether to keep a line, given its record.
    """
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return
    kept = [record for record in read_metrics(workdir) if keep(record)]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(record) + "\n" for record in kept))
    partial.replace(path)


def read_metrics(workdir: Path) -> list[dict]:
    """The records in metrics.jsonl; empty if there is no such file yet.

    Damaged lines, which a power cut may leave, are skipped with a Notice.
    """
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines()
    records = [record for line in lines if (record := _record(line)) is not None]
    if (damaged := len(lines) - len(records)) > 0:
        notify(f"{path}: skipped {damaged} damaged line{'s' * (damaged > 1)}")
    return records


def _record(line: bytes) -> dict | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
