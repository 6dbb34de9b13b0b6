"""Flags that several experiments share."""

import dataclasses
import math
from pathlib import Path
from typing import Literal

import numpy as np

from bspec_jax import runs, toys
from bspec_jax.data.folder import TEST_SHARE
from bspec_jax.figures import TASK_TITLES
from bspec_jax.losses import Clamp

FLOAT32 = np.finfo(np.float32)


@dataclasses.dataclass(frozen=True)
class ToyConfig(runs.RunConfig):
    """Flags of the experiments that train toys."""

    tasks: tuple[Literal["toy1", "toy2"], ...] = ("toy1", "toy2")
    """Tasks to train on."""
    steps: int = 20_000
    """Maximum number of gradient steps; training stops at convergence."""
    learning_rate: float = 0.02
    """Step size of gradient descent."""
    negative_slope: float = 0.01
    """Slope of the leaky ReLU below zero."""
    init: toys.InitDistribution = "normal"
    """Distribution of the initial w and b: N(0, s^2) or U(-s, s)."""
    init_scale: float = 1.0
    """The s of --init."""

    def check(self) -> None:
        super().check()
        runs.check_flag(self, "steps", lambda v: 1 <= v < 2**31, "in 1..2^31-1")
        runs.check_flag(self, "tasks", toys.TASKS.__contains__, "a task")
        check_single(self, "negative_slope")
        for name in ("learning_rate", "init_scale"):
            check_positive(self, name)
            check_single(self, name)

    @property
    def tasks_list(self) -> list[str]:
        return sorted(set(self.tasks))

    def setting(self, task: str, trials: int) -> str:
        """The setting of a task's findings, in words."""
        return (
            f"{TASK_TITLES[task]}, step {self.learning_rate:g}, slope "
            f"{self.negative_slope:g}, {self.init} init of scale {self.init_scale:g}, "
            f"x {trials}"
        )


@dataclasses.dataclass(frozen=True)
class DataConfig(runs.RunConfig):
    """Flags of the experiments that read images."""

    data_dir: Path | None = None
    """Folder of the data: of TensorFlow Datasets, of the IDX files, or of the images
    (DIR/train/<class>/*.png and DIR/test/<class>/*.png, or DIR/<class>/*.png)."""
    test_share: float = TEST_SHARE
    """Share of the images of each class that are for testing, in a folder of images
    that is not split into train and test."""

    def check(self) -> None:
        super().check()
        valid = "above 0 and below 1"
        runs.check_flag(self, "test_share", lambda v: 0 < v < 1, valid)


@dataclasses.dataclass(frozen=True)
class ClassifierConfig(DataConfig):
    """Flags of the experiments that train classifiers."""

    skip_biases: bool = False
    """Give no layer a bias, and no normalisation a shift. A branch without
    normalisation then is homogeneous in its layers, and a silent one says nothing."""
    clamp: Clamp = "hard"
    """How the loss limits the sum to [-1, 1]; hard is the paper's."""


def unused_by_data(dataset: str) -> dict[str, str]:
    """Flags of `DataConfig` that a data set does not read, as `RunConfig.unused`."""
    family, mode = dataset.split("/")[0].lower(), f"with --dataset {dataset}"
    unused = {} if family == "folder" else {"test_share": mode}
    if family == "faces":
        unused["data_dir"] = f"{mode}, which is rendered"
    return unused


def check_positive(config: runs.RunConfig, name: str) -> None:
    """Raises FlagError unless the flag is positive and finite."""
    runs.check_flag(config, name, lambda v: 0 < v < math.inf, "positive and finite")


def check_single(config: runs.RunConfig, name: str) -> None:
    """Raises FlagError unless the flag is 0 or a finite number of single precision.

    Anything smaller would count as 0 in a computation, and anything larger as infinite.
    """
    low, high = (float(v) for v in (FLOAT32.tiny, FLOAT32.max))
    runs.check_flag(
        config,
        name,
        lambda v: v == 0 or low <= abs(v) <= high,
        f"finite and, unless 0, of size {low:.1e}..{high:.1e} (single precision)",
    )


def check_not_negative(config: runs.RunConfig, name: str) -> None:
    """Raises FlagError unless the flag is finite and at least 0."""
    runs.check_flag(config, name, lambda v: 0 <= v < math.inf, "finite, >= 0")
