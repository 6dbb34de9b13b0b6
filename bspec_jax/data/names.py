"""Names and paths as users type them, and as messages show them."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from bspec_jax.storage.errors import UserError


def position(name: str, names: Sequence[str]) -> int | None:
    """Where a name is among others; None if it is not there.

    It must be equal, or else equal to a single one but for upper and lower case and
    the way in which Unicode composes letters.

    Raises:
      ValueError: if it is none of several that differ in these alone.
    """
    if name in names:
        return names.index(name)
    alike = [i for i, other in enumerate(names) if _folded(other) == _folded(name)]
    if len(alike) > 1:
        which = " or ".join(names[i] for i in alike)
        raise ValueError(f"{name} may be {which}: give it as it is written")
    return alike[0] if alike else None


def expanded(path: Path | str) -> Path:
    """The path, with the home folder that a leading ~ stands for.

    Raises:
      UserError: if there is none, as for an unknown user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{shown(path)}: no such home folder") from None


def shown(text: object) -> str:
    """A name or path on one line, with what cannot be printed escaped."""
    text = str(text)
    return text if text.isprintable() else repr(text)[1:-1]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
