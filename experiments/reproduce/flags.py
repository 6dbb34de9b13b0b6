"""Flags of a reproduction: its own, and those that it hands on."""

import dataclasses
import math
from pathlib import Path
from typing import TypeVar

import tyro

from bspec_jax import runs
from bspec_jax.data.names import expanded
from bspec_jax.storage.errors import UserError, flag
from experiments.reproduce.stages import What

Config = TypeVar("Config", bound=runs.RunConfig)
MODES = ("resume", "figures_only")


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of a reproduction."""

    what: What
    """What to reproduce. classify: the paper's classifier on CIFAR-10, for M = 2, 4, 8,
    16 and 32, with its control, its Hessian and the report of both."""
    workdir: Path = Path("runs/reproduce")
    """Folder of the runs, one for each stage. The same command goes on there."""
    tera_flops: float = 1.0
    """What the device sustains while it trains, in 10^12 floating-point operations per
    second: for the hours expected alone. Small convolutions sustain a small part of
    what a device is sold for: one H200 reached 2.3 with 16 branches of the paper's
    ResNet, 2 CPU cores 0.012. Less at small M."""
    plan: bool = False
    """Print the stages, their commands, states and hours, and exit."""

    def check(self) -> None:
        """Raises FlagError or UserError for the first invalid flag."""
        if not 0 < self.tera_flops < math.inf:
            raise runs.FlagError(
                f"--tera-flops must be positive and finite, got {self.tera_flops}"
            )
        if self.workdir.exists() and not self.workdir.is_dir():
            raise UserError(f"{self.workdir} is a file; choose another --workdir")


def parse(program: str, description: str) -> tuple[Flags, list[str]]:
    """The flags, and the words of those that are not among them.

    Raises:
      UserError: if a flag is invalid or given twice.
    """
    flags, others = runs.parse_flags(
        Flags,
        program,
        description,
        config=(tyro.conf.FlagCreatePairsOff,),
        return_unknown_args=True,
    )
    flags = dataclasses.replace(flags, workdir=expanded(flags.workdir))
    flags.check()
    return flags, others


def parse_others(
    words: list[str], default: Config, program: str, *, begun: bool
) -> Config:
    """The config of the experiment that the other flags are of.

    Args:
      default: for flags that are not given.
      begun: whether these are the flags of a reproduction that has begun.

    Raises:
      FlagError: if a flag is invalid, does not apply, or differs from those.
    """
    # As for a run that is resumed: of a flag that is on, a pair is all that can say so.
    options = () if begun else (tyro.conf.FlagCreatePairsOff,)
    config = runs.with_paths_expanded(
        runs.parse_flags(
            type(default), program, "", default=default, config=options, args=words
        )
    )
    for name in (*MODES, *config.PRESENTATION):
        if getattr(config, name) != getattr(default, name):
            raise runs.FlagError(
                f"{flag(name)} does not apply to a reproduction, which goes on and "
                "draws by itself: leave it out"
            )
    config.check()
    runs.check_given(config, words)
    if begun:
        _check_same(config, default)
    return config


def _check_same(config: runs.RunConfig, saved: runs.RunConfig) -> None:
    """Raises FlagError for a flag that is not as saved."""
    was = saved.settings()
    for name, value in config.settings().items():
        if value != was[name]:
            raise runs.FlagError(
                f"the reproduction in --workdir was begun with {flag(name)} "
                f"{_typed(was[name])}, not {_typed(value)}: leave the flag out, or "
                "choose another --workdir"
            )


def _typed(value: object) -> str:
    """A flag's value as on a command line."""
    if value is None:
        return "at its default"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
