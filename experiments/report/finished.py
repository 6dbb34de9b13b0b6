"""Reads finished runs; a run that cannot be reported becomes one line of complaint."""

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bspec_jax import runs
from bspec_jax.data.names import shown
from bspec_jax.storage import files
from bspec_jax.storage.errors import UserError

EXPERIMENTS = (
    "toy",
    "hessian",
    "classify",
    "silence",
    "class_transfer",
    "segment",
    "applications",
)
# Raised by files whose content is not what a run writes; SyntaxError is Pillow's.
DAMAGE = (
    KeyError,
    TypeError,
    ValueError,
    IndexError,
    AttributeError,
    OSError,
    SyntaxError,
)


class FinishedRun(NamedTuple):
    """A finished run.

    results, environment: content of results.json and environment.json.
    """

    folder: Path
    experiment: str
    results: dict
    environment: dict

    @property
    def name(self) -> str:
        return Path(os.path.abspath(self.folder)).name  # noqa: PTH100  keeps links

    @property
    def figures(self) -> list[Path]:
        """Paths of its figures, sorted by name."""
        return sorted((self.folder / "figures").glob("*.png"))

    @property
    def command(self) -> str:
        """The command line, quoted for a shell."""
        return shlex.join(self.environment["command"])

    @property
    def commit(self) -> str:
        """Abbreviated; "+changes" follows where files differed from it."""
        commit, *changes = (self.environment["commit"] or "-").split("+")
        return "+".join([commit[:10], *changes])


def load_runs(
    folders: Sequence[Path], check: Callable[[FinishedRun], object]
) -> tuple[list[FinishedRun], list[str]]:
    """Reads runs in the order of `EXPERIMENTS`; one complaint for each other folder.

    Args:
      check: raises one of `DAMAGE` if the report could not show the run.
    """
    finished, complaints = [], []
    for folder in folders:
        try:
            run = read(folder)
            check(run)
            finished.append(run)
        except UserError as error:
            complaints.append(f"{folder.name or folder}: {error}")
        except DAMAGE as error:
            reason = shown(f"{type(error).__name__}: {error}".splitlines()[0])
            complaints.append(f"{folder.name or folder}: damaged ({reason})")
    return sorted(finished, key=lambda r: EXPERIMENTS.index(r.experiment)), complaints


def read(folder: Path) -> FinishedRun:
    """Reads a finished run.

    Raises:
      UserError: if it is unfinished, damaged, of another schema or of an experiment
        that the report does not cover.
    """
    config = files.read_json(folder / "config.json", "run")
    experiment = config.get("experiment")
    if experiment not in EXPERIMENTS:
        raise UserError(f"a run of {experiment}, which the report does not cover")
    if not (folder / "results.json").exists():
        raise UserError(f"an unfinished run of {experiment}")
    results = runs.load_results(folder)
    environment = files.read_json(folder / "environment.json", "environment")
    for name, holder in (("config", results), ("command", environment)):
        if name not in holder:
            raise UserError(f"damaged: it has no {name}")
    return FinishedRun(folder, experiment, results, environment)
