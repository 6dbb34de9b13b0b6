"""The flags of an experiment: a frozen dataclass whose field docs are the help."""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import (
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from bspec_jax.storage.errors import UserError, flag
from bspec_jax.storage.files import to_json

Config = TypeVar("Config", bound="RunConfig")


class FlagError(UserError):
    """An invalid flag; exit status 2."""

    def __init__(self, message: str):
        super().__init__(message, status=2)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Flags of every experiment.

    PRESENTATION: fields that change figures only; COUNTS: fields that must be at least
    1 where they are given.
    """

    PRESENTATION: ClassVar[tuple[str, ...]] = ()
    COUNTS: ClassVar[tuple[str, ...]] = ()

    seed: int = 0
    """Random seed; the same seed gives the same results."""
    workdir: Path | None = None
    """Run folder, new or empty. Default: runs/NAME/<UTC time>."""
    resume: bool = False
    """Continue the stopped run in --workdir; its flags are read from there."""
    figures_only: bool = False
    """Redraw the figures of the finished run in --workdir."""

    def check(self) -> None:
        """Raises FlagError for the first invalid flag."""
        check_flag(self, "seed", lambda v: 0 <= v < 2**32, "in 0..2^32-1")
        for name in self.COUNTS:
            check_flag(self, name, lambda v: v >= 1, "at least 1")
        for name in ("resume", "figures_only"):
            if getattr(self, name) and self.workdir is None:
                raise FlagError(f"{flag(name)} needs --workdir, the folder of the run")

    def settings(self) -> dict:
        """The flags that determine the results, as JSON values."""
        return to_json(
            {name: getattr(self, name) for name in self._names_of_settings()}
        )

    @classmethod
    def from_settings(cls, saved: Mapping[str, Any]) -> "RunConfig":
        """The config whose `settings` these are; a missing one has its default.

        Raises:
          UserError: if a value is not of its flag's type.
        """
        types = get_type_hints(cls)
        values = {}
        for name in cls._names_of_settings():
            if name in saved:
                try:
                    values[name] = _from_json(saved[name], types[name])
                except ValueError:
                    raise UserError(
                        f"the saved config.json is damaged: {flag(name)} is "
                        f"{saved[name]!r}"
                    ) from None
        return cls(**values)

    @property
    def starts_run(self) -> bool:
        """Whether a new run begins, so that --workdir must be new or empty.

        A config with other modes that read a run overrides it.
        """
        return not (self.resume or self.figures_only)

    def unused(self) -> dict[str, str]:
        """Flags that do not apply in the mode chosen, and that mode, as in a message.

        Such as `{"seed": "to --figures-only"}`. A config with modes adds its own.
        """
        if not self.figures_only:
            return {}
        names = ("resume", *self._names_of_settings())
        return dict.fromkeys(names, "to --figures-only, which draws saved results")

    @classmethod
    def _names_of_settings(cls) -> list[str]:
        others = ("workdir", "resume", "figures_only", *cls.PRESENTATION)
        names = (field.name for field in dataclasses.fields(cls))
        return [name for name in names if name not in others]


def with_paths_expanded(config: Config) -> Config:
    """The config with the `~` of its paths replaced, as a shell does (not in `=~`).

    Raises:
      FlagError: if there is no such user.
    """

    def expanded(name, value):
        if isinstance(value, tuple):
            return tuple(expanded(name, item) for item in value)
        try:
            return value.expanduser() if isinstance(value, Path) else value
        except RuntimeError:
            raise FlagError(f"{flag(name)} {value}: there is no such user") from None

    names = [field.name for field in dataclasses.fields(config)]
    paths = {name: expanded(name, getattr(config, name)) for name in names}
    return dataclasses.replace(config, **paths)


def _from_json(value, hint):
    """A flag's value from JSON, which has neither tuples nor paths.

    Raises:
      ValueError: if it is not of the flag's type.
    """
    choices = get_args(hint)
    if get_origin(hint) in (UnionType, Union):
        return value if value is None else _from_json(value, choices[0])
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_from_json(item, choices[0]) for item in value)
    if get_origin(hint) is Literal and value in choices:
        return value
    if (hint, type(value)) in ((Path, str), (float, int), (hint, hint)):
        return hint(value)
    raise ValueError


def check_flag(
    config: RunConfig, name: str, valid: Callable[[Any], bool], what: str
) -> None:
    """Raises FlagError unless the flag, or each of its values, is `what`; None passes.

    A flag of several values needs at least one, unless its default is none.
    """
    value = getattr(config, name)
    if value == () and getattr(type(config), name) != ():
        raise FlagError(f"{flag(name)} needs at least one value")
    for item in value if isinstance(value, tuple) else (value,):
        if item is not None and not valid(item):
            raise FlagError(f"{flag(name)} must be {what}, got {item}")


def check_components(
    config: RunConfig, num_branches: int, names: Sequence[str]
) -> None:
    """Raises FlagError if one of these flags names a component outside 0..M-1."""
    for name in names:
        valid = range(num_branches).__contains__
        check_flag(config, name, valid, f"0..{num_branches - 1}")


def check_memory(needed: int, what: str, advice: str) -> None:
    """Raises FlagError if `needed` bytes exceed the machine's memory."""
    if not hasattr(os, "sysconf"):  # Windows does not say
        return
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > total:
        raise FlagError(
            f"{what} would take about {_bytes(needed)} of memory, and this machine has "
            f"{_bytes(total)}: {advice}"
        )


def _bytes(count: int) -> str:
    power = min(int(math.log(max(count, 1), 1024)), 6)
    unit = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")[power]
    return f"{count / 1024**power:,.1f} {unit}"
