"""Flags of the Hessian experiment."""

import dataclasses
import math
from pathlib import Path
from typing import ClassVar

import numpy as np

from bspec_jax import runs
from bspec_jax.toys import hessians, sweeps
from bspec_jax.toys.measures import control_shape
from bspec_jax.trees import select_leaves
from experiments.flags import ToyConfig

NAME = "hessian"
MOST_SHOWN = 100  # branches of a network whose Hessian is drawn
NUMBER = 8  # bytes, in double precision
IN_RESULTS = 50  # bytes of a number in results.json, before it is written


@dataclasses.dataclass(frozen=True)
class Config(ToyConfig):
    """Flags of the Hessian experiment."""

    COUNTS: ClassVar = ("branches", "trials", "at_steps", "examples")

    branches: tuple[int, ...] = (2, 5, 10, 20, 30)
    """Numbers of branches M."""
    trials: int = 1000
    """Networks for each task and M."""
    at_steps: tuple[int, ...] = (10, 30, 100, 300, 1000, 3000)
    """Gradient steps of the Hessians, besides the first and the last."""
    float64: bool = False
    """Double precision for the Hessians."""
    checkpoint: Path | None = None
    """Run of the classifier, or one step in it, to analyse instead of the toys."""
    leaves: tuple[str, ...] | None = None
    """Paths or patterns of the Hessian's parameters. Default: w and b of a toy, the
    first layer of a --checkpoint."""
    examples: int | None = None
    """Number of training examples in the loss of a --checkpoint. Default: 128."""

    def check(self) -> None:
        super().check()
        if self.leaves == ():
            raise runs.FlagError("--leaves needs at least one value")
        if self.checkpoint is None:
            self._check_toys()

    def _check_toys(self):
        if self.at_steps != type(self).at_steps:  # the default suits any --steps
            most = self.steps
            runs.check_flag(
                self, "at_steps", lambda v: v <= most, f"at most --steps, {most}"
            )
        if self.leaves is not None:
            try:
                select_leaves({"b": np.zeros(1), "w": np.zeros(1)}, self.leaves)
            except ValueError as error:
                raise runs.FlagError(f"--leaves: {error}") from None
        widest, num_tasks = max(self.branches), len(self.tasks_list)
        _, sums = shape = control_shape(widest)
        each = len(self.branches_list) * self.trials + math.prod(shape)
        networks = num_tasks * each
        stages = len(self.stage_steps) * num_tasks
        runs.check_memory(
            sweeps.memory_estimate(networks, widest)
            + hessians.memory_estimate(max(self.trials, sums), widest)
            # One Hessian may exceed the batches that the estimate counts.
            + 8 * NUMBER * (2 * widest) ** 2
            + stages * IN_RESULTS * (widest**2 + (2 * min(widest, MOST_SHOWN)) ** 2),
            f"{networks:,} networks of up to {widest:,} branches at "
            f"{len(self.stage_steps)} stages",
            "use fewer --branches, --trials or --at-steps",
        )

    def unused(self) -> dict[str, str]:
        if self.checkpoint is None:
            modes = {"examples": "without --checkpoint"}
        else:
            names = {field.name for field in dataclasses.fields(self)}
            read = ("checkpoint", "leaves", "examples", "workdir", "resume")
            names -= {*read, "figures_only"}
            modes = dict.fromkeys(names, "with --checkpoint")
        return super().unused() | modes

    @property
    def branches_list(self) -> list[int]:
        return sorted(set(self.branches))

    @property
    def stage_steps(self) -> list[int]:
        """Steps of the stages, from 0 to the last."""
        return sorted({0, self.steps} | {s for s in self.at_steps if s < self.steps})

    @property
    def shown_branches(self) -> int | None:
        """The largest M that a heat map can show; None if there is none."""
        shown = [m for m in self.branches_list if m <= MOST_SHOWN]
        return max(shown, default=None)
