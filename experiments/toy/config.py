"""Flags of the toy experiment."""

import dataclasses
import math
from typing import ClassVar, Literal

from bspec_jax import runs
from bspec_jax.storage.errors import flag
from bspec_jax.toys import sweeps
from bspec_jax.toys.measures import control_shape
from experiments.flags import (
    ToyConfig,
    check_not_negative,
    check_positive,
    check_single,
)

NAME = "toy"
MOST_SHOWN = 100  # branches of a network that a figure can show

PHASE_LEARNING_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1)
PHASE_AXES = {
    "negative_slope": "phase_negative_slopes",
    "init_scale": "phase_init_scales",
    "learning_rate": "phase_learning_rates",
}


@dataclasses.dataclass(frozen=True)
class Config(ToyConfig):
    """Flags of the toy experiment."""

    COUNTS: ClassVar = ("trials", "overlay_trials", "branches")

    mode: Literal["sweep", "phase"] = "sweep"
    """Figures 2 to 4 from a sweep over M, or a phase diagram over a grid of learning
    rates, initial scales and slopes (--phase-...)."""
    branches: tuple[int, ...] | None = None
    """Numbers of branches M. Default: 2 to 30; for phase 8 and 32."""
    trials: int | None = None
    """Trials for each M and each point of the phase grid. Default: 1000; phase 200."""
    weight_decay: float = 0.0
    """L2 penalty on w and b. With it fewer trials reach the tolerance of success, at
    which they stop; all others take --steps steps."""
    overlay_learning_rate: float = 0.005
    """Second learning rate, for the dashed lines in Figure 4 right; 0 for none."""
    overlay_trials: int = 200
    """Trials for each M at the second learning rate."""
    phase_learning_rates: tuple[float, ...] = PHASE_LEARNING_RATES
    """Learning rates of the phase grid."""
    phase_init_scales: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0)
    """Initial scales of the phase grid."""
    phase_negative_slopes: tuple[float, ...] = (0.0, 0.01, 0.1, 0.3)
    """Slopes of the phase grid."""

    def check(self) -> None:
        super().check()
        for name in ("phase_init_scales", "phase_learning_rates"):
            check_positive(self, name)
        for name in "overlay_learning_rate", "weight_decay":
            check_not_negative(self, name)
            check_single(self, name)
        for name in PHASE_AXES.values():
            check_single(self, name)
        widest = max(self.branches_list)
        runs.check_memory(
            sweeps.memory_estimate(self.num_trials, widest),
            f"{self.num_trials:,} trials of up to {widest:,} branches",
            "use fewer --branches or --trials",
        )

    def unused(self) -> dict[str, str]:
        if self.mode == "phase":
            modes = {
                name: f"with --mode phase, which has {flag(values)}"
                for name, values in PHASE_AXES.items()
            }
            overlay = ("overlay_learning_rate", "overlay_trials")
            modes |= dict.fromkeys(overlay, "with --mode phase")
        else:
            modes = dict.fromkeys(PHASE_AXES.values(), "without --mode phase")
            if not self.overlay_learning_rate:
                modes["overlay_trials"] = "with --overlay-learning-rate 0"
        return super().unused() | modes

    @property
    def branches_list(self) -> list[int]:
        default = range(2, 31) if self.mode == "sweep" else (8, 32)
        return sorted(set(self.branches or default))

    @property
    def trials_count(self) -> int:
        return self.trials or (1000 if self.mode == "sweep" else 200)

    @property
    def phase_grid(self) -> dict[str, list[float]]:
        """Values along each axis of the phase grid."""
        axes = PHASE_AXES.items()
        return {name: sorted(set(getattr(self, values))) for name, values in axes}

    def setting(self, task: str, trials: int) -> str:
        decay = f", decay {self.weight_decay:g}" if self.weight_decay else ""
        return super().setting(task, trials) + decay

    def shown_branches(self, wanted: int) -> int | None:
        """The M of a figure of single networks; None if all are too large to be shown.

        The one in --branches that is nearest to `wanted`, the paper's.
        """
        nearest = min(self.branches_list, key=lambda m: abs(m - wanted))
        return nearest if nearest <= MOST_SHOWN else None

    @property
    def num_trials(self) -> int:
        """Trials of the whole run, including overlay and control."""
        each = len(self.tasks_list) * len(self.branches_list)
        if self.mode == "phase":
            cells = math.prod(map(len, self.phase_grid.values()))
            return each * cells * self.trials_count
        overlay = self.overlay_trials if self.overlay_learning_rate else 0
        alone = math.prod(control_shape(self.branches_list[-1]))
        control = len(self.tasks_list) * alone
        return each * (self.trials_count + overlay) + control
