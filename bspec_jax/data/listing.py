"""What a folder of images holds, and what of it is no example."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bspec_jax.data.decoding import SUFFIXES
from bspec_jax.data.names import shown
from bspec_jax.storage.errors import UserError


class Listing(NamedTuple):
    """The image files in a folder, by name, and how many others it holds and why."""

    images: list[Path]
    left_out: Counter

    def also(self) -> str:
        """In parentheses what was left out, to follow what is said of the folder."""
        return f" (but {in_words(self.left_out)})" if self.left_out else ""


NOTHING = Listing([], Counter())


def folders_in(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones."""
    if not folder.is_dir():
        return []
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".")
    )


def images_in(folder: Path) -> Listing:
    """The images in a folder, by the suffixes of their names.

    Raises:
      UserError: if the folder cannot be read.
    """
    images, left_out = [], Counter()
    with readable():
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            reason, count = _reason_left_out(entry)
            if reason:
                left_out[reason] += count
            else:
                images.append(Path(entry.path))
    return Listing(images, +left_out)


def _reason_left_out(entry):
    """Why an entry of a folder is no image, or "", and how many files it counts for."""
    if entry.name.startswith("."):
        return "hidden", 1
    if entry.is_dir():
        return "in subfolders", _count_files(entry.path)
    if not entry.is_file():
        return "broken links or devices", 1
    suffix = Path(entry.name).suffix.lower()
    if suffix not in SUFFIXES:
        return f"of type {shown(suffix)}" if suffix else "without a suffix", 1
    return ("" if entry.stat().st_size else "empty"), 1


def _count_files(folder):
    return sum(len(files) for _, _, files in os.walk(folder))


def beside(folder: Path, used: Collection[str]) -> Counter:
    """What a folder holds beside its folders in use."""
    left_out = Counter()
    for entry in os.scandir(folder):
        if entry.name in used:
            continue
        if entry.name.startswith("."):
            left_out["hidden"] += 1
        elif entry.is_dir():
            left_out[f"in {shown(entry.name)}/"] += _count_files(entry.path)
        else:
            left_out["outside the classes' folders"] += 1
    return +left_out


@contextmanager
def readable() -> Iterator[None]:
    """Turns the errors of folders that cannot be listed into UserErrors."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read {shown(error.filename)}: {error.strerror}"
        ) from None


def in_words(counts: Mapping[str, int]) -> str:
    """Counts by reason, as in "2 hidden, 1 of type .txt"."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
