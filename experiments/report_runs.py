"""The finished runs that `experiments.report` gathers."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bspec_jax import runs
from bspec_jax.storage import files
from bspec_jax.storage.errors import UserError

EXPERIMENTS = (
    "toy",
    "hessian",
    "classify",
    "class_transfer",
    "segment",
    "applications",
)
# What reading files of another form than a run's raises; SyntaxError is Pillow's.
DAMAGE = (
    KeyError,
    TypeError,
    ValueError,
    IndexError,
    AttributeError,
    OSError,
    SyntaxError,
)


class Run(NamedTuple):
    """A finished run: its folder and what it holds."""

    folder: Path
    experiment: str
    results: dict
    environment: dict

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def figures(self) -> list[Path]:
        """Its pictures, by name."""
        return sorted((self.folder / "figures").glob("*.png"))

    @property
    def command(self) -> str:
        return shlex.join(self.environment["command"])

    @property
    def commit(self) -> str:
        """Short, with what says that files differed from it."""
        commit, *changes = (self.environment["commit"] or "-").split("+")
        return "+".join([commit[:10], *changes])


def load(
    folders: Sequence[Path], check: Callable[[Run], object]
) -> tuple[list[Run], list[str]]:
    """The finished runs among folders, and a complaint about each other one.

    Args:
      check: makes of a run what is to be shown of it; a run of which it cannot is
        damaged.
    """
    runs, complaints = [], []
    for folder in folders:
        try:
            one = read(folder)
            check(one)
            runs.append(one)
        except UserError as error:
            complaints.append(f"{folder.name}: {error}")
        except DAMAGE as error:
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            complaints.append(f"{folder.name}: damaged ({what})")
    order = {name: i for i, name in enumerate(EXPERIMENTS)}
    return sorted(runs, key=lambda one: order[one.experiment]), complaints


def read(folder: Path) -> Run:
    """A finished run.

    Raises:
      UserError: if it is not finished, damaged, or of no kind that is reported.
    """
    config = files.read_json(folder / "config.json", "run")
    experiment = config.get("experiment")
    if experiment not in EXPERIMENTS:
        raise UserError(f"a run of {experiment}, which is not reported")
    if not (folder / "results.json").exists():
        raise UserError(f"an unfinished run of {experiment}")
    results = runs.load_results(folder)
    environment = files.read_json(folder / "environment.json", "environment")
    for name, holder in (("config", results), ("command", environment)):
        if name not in holder:
            raise UserError(f"damaged: it has no {name}")
    return Run(folder, experiment, results, environment)
