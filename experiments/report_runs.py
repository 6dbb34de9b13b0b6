"""The finished runs that `experiments.report` gathers."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bspec_jax import files, run
from bspec_jax.errors import UserError

EXPERIMENTS = (
    "toy",
    "hessian",
    "classify",
    "class_transfer",
    "segment",
    "applications",
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
        return " ".join(self.environment["command"])


def load(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The finished runs among folders, and a complaint about each other one."""
    runs, complaints = [], []
    for folder in folders:
        try:
            runs.append(read(folder))
        except UserError as error:
            complaints.append(f"{folder.name}: {error}")
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
    results = run.load_results(folder)
    environment = files.read_json(folder / "environment.json", "environment")
    for name, holder in (("config", results), ("command", environment)):
        if name not in holder:
            raise UserError(f"damaged: it has no {name}")
    return Run(folder, experiment, results, environment)
