"""Flags of the Hessian experiment."""

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np

from bspec_jax import runs
from bspec_jax.toys import hessians, sweeps
from bspec_jax.trees import select_leaves
from experiments.flags import ToyConfig

NAME = "hessian"


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
        if self.examples is not None and self.checkpoint is None:
            raise runs.FlagError("--examples needs --checkpoint")
        if self.leaves is not None and self.checkpoint is None:
            try:
                select_leaves({"b": np.zeros(1), "w": np.zeros(1)}, self.leaves)
            except ValueError as error:
                raise runs.FlagError(f"--leaves: {error}") from None
        widest = max(self.branches)
        networks = len(self.tasks) * len(self.branches_list) * self.trials
        runs.check_memory(
            sweeps.memory_estimate(networks, widest)
            + hessians.memory_estimate(self.trials, widest),
            f"{networks:,} networks of up to {widest:,} branches",
            "use fewer --branches or --trials",
        )

    @property
    def branches_list(self) -> list[int]:
        return sorted(set(self.branches))

    @property
    def stage_steps(self) -> list[int]:
        """Steps of the stages, from 0 to the last."""
        return sorted({0, self.steps} | {s for s in self.at_steps if s < self.steps})
