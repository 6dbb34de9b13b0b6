"""Flags of `experiments.applications`."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from bspec_jax.runs import FlagError, RunConfig, check_flag
from experiments.flags import check_single
from experiments.segment.config import check_distinct

NAME = "applications"
ALL = ("editing", "augmentation", "filtering", "shape")


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """Flags of the applications."""

    COUNTS: ClassVar = (
        "test_examples",
        "choose_examples",
        "labels_per_class",
        "trials",
        "steps",
    )

    PRESENTATION: ClassVar = ("component",)

    checkpoint: Path | None = None
    """Run of class_transfer on data with a ground truth: the synthetic faces."""
    applications: tuple[
        Literal["editing", "augmentation", "filtering", "shape"], ...
    ] = ALL
    """Applications to score."""
    test_examples: int = 300
    """Number of held-out images to score on, balanced over the classes; fewer if there
    are fewer."""
    choose_examples: int = 32
    """Number of training images per class to fit gains and settings on."""
    segmentation: Path | None = None
    """Run of segment whose choice of components finds the part to edit. Default: a
    search without labels."""
    part: Literal["eyes", "ears"] = "eyes"
    """Part to edit."""
    gain: float = 2.0
    """Gain of the edited component; 1 changes nothing."""
    component: int | None = None
    """Component whose edit the figure shows, from 0. Default: the one with the largest
    share of its change in the part."""
    labels_per_class: tuple[int, ...] = (50, 5, 2)
    """Numbers of labelled images per class to train classifiers on."""
    trials: int = 5
    """Number of trainings of each kind, with seeds from --seed on."""
    steps: int = 120
    """Approximate number of steps of each training."""
    scale: float = 0.2
    """Standard deviation of the random gains around 1."""
    attenuate: tuple[int, ...] = ()
    """Components to attenuate, from 0. Default: the gains of all are fitted."""
    attenuation: float = 0.0
    """Gain of the attenuated components."""

    def check(self) -> None:
        super().check()
        if self.checkpoint is None and not self.figures_only:
            raise FlagError("--checkpoint needs the folder of a class-transfer run")
        check_flag(self, "applications", ALL.__contains__, f"some of {ALL}")
        for name in ("applications", "labels_per_class", "attenuate"):
            check_distinct(self, name)
        for name in ("gain", "attenuation"):
            check_flag(self, name, np.isfinite, "finite")
        check_flag(self, "scale", lambda v: 0 < v < np.inf, "finite, above 0")
        for name in ("gain", "attenuation", "scale"):
            check_single(self, name)

    def unused(self) -> dict[str, str]:
        flags = {
            "editing": ("segmentation", "part", "gain", "component"),
            "augmentation": ("labels_per_class", "trials", "steps", "scale"),
            "filtering": ("attenuate", "attenuation"),
        }
        chosen = f"to --applications {' '.join(self.applications)}"
        names = {
            name: chosen
            for application, of_one in flags.items()
            if application not in self.applications
            for name in of_one
        }
        if not self.attenuate:
            names["attenuation"] = "without --attenuate"
        names["resume"] = "to applications, which takes some minutes"
        return super().unused() | names
