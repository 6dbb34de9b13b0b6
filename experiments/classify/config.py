"""Flags of the classification experiment."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from bspec_jax import runs
from bspec_jax.classifier.resnet import WIDTHS
from bspec_jax.losses import Clamp
from experiments.flags import (
    DataConfig,
    check_not_negative,
    check_positive,
    check_single,
    unused_by_data,
)

NAME = "classify"
SOURCE_ARGUMENTS = ("dataset", "data_dir", "image_size", "test_share")
EXAMPLE_ARGUMENTS = (
    "train_examples",
    "validation_examples",
    "test_examples",
    "seed",
)
LEARNING_RATES = {"sgd": 0.005, "adamw": 0.001}
STAGES = 4  # of a ResNet


@dataclasses.dataclass(frozen=True)
class Config(DataConfig):
    """Flags of the classification experiment."""

    COUNTS: ClassVar = (
        "branches",
        "sweep_branches",
        "repeats",
        "epochs",
        "batch_size",
        "train_examples",
        "test_examples",
        "image_size",
        "log_every",
        "checkpoint_every",
    )
    FIGURES_8_16: ClassVar = ("figure_branches", "figure_classes")
    PRESENTATION: ClassVar = (*FIGURES_8_16, "images")

    dataset: str = "cifar10"
    """Data set: cifar10, fashion_mnist, folder (of images by class), or another image
    classification set of TensorFlow Datasets."""
    image_size: int | None = None
    """Side of the images, in pixels. Default: as stored, and 32 for a folder."""
    train_examples: int | None = None
    """Number of training examples. Default: all that are not held out."""
    validation_examples: int | None = None
    """Number of training examples held out for the validation accuracy. Default: a
    tenth, at most 5,000."""
    test_examples: int | None = None
    """Number of test examples, drawn at random. Default: all."""
    branches: int = 16
    """Number of branches M."""
    widths: tuple[str, ...] = ("paper",)
    """Channels of a branch's four stages: paper (5 11 22 43), wide8, resnet18, tiny, or
    four integers."""
    sweep_branches: tuple[int, ...] = ()
    """Further values of M to train a network for (Figures 5.1 and 17)."""
    repeats: int = 1
    """Networks per M, of different seeds; intervals and verdicts need at least two."""
    skip_control: bool = False
    """Skip the control, whose branches are trained separately and then summed."""
    epochs: int = 200
    """Passes over the training examples."""
    batch_size: int = 128
    """Images per step."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimizer: sgd (momentum 0.9) or adamw, both with cosine decay."""
    learning_rate: float | None = None
    """Initial learning rate. Default: 0.005 for sgd, 0.001 for adamw; the sum of M
    branches moves M times as far as one, and the hard clamp stalls what overshoots."""
    weight_decay: float = 5e-4
    """Weight decay of the optimizer."""
    clamp: Clamp = "hard"
    """How the loss limits the sum to [-1, 1]; hard is the paper's."""
    last_scale: float = 0.05
    """Scale of the last layer's initial weights, relative to the usual one. At 1, the
    sum of many branches starts beyond the hard clamp, where there is no gradient."""
    crop_padding: int = 4
    """Largest offset of random crops, in pixels; 0 for no crops."""
    skip_flip: bool = False
    """Skip random horizontal flips."""
    log_every: int = 50
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: int = 500
    """Steps between two checkpoints within an epoch; each epoch also ends with one."""
    figure_branches: tuple[int, ...] | None = None
    """Branches in Figures 8 and 16, from 0. Default: the two of largest response."""
    figure_classes: tuple[int, ...] | None = None
    """Classes in Figures 8 and 16, from 0. Default: the three least carried by a single
    branch."""
    images: tuple[Path, ...] = ()
    """Images of your own, files or folders, for the run in --workdir to classify: which
    class, how sure, and what each branch contributes. No other flag applies."""

    def check(self) -> None:
        super().check()
        for name in "validation_examples", "crop_padding", *self.FIGURES_8_16:
            runs.check_flag(self, name, lambda v: v >= 0, "at least 0")
        for name in "learning_rate", "last_scale":
            check_positive(self, name)
        check_not_negative(self, "weight_decay")
        for name in "learning_rate", "last_scale", "weight_decay":
            check_single(self, name)
        if self.images and self.workdir is None:
            raise runs.FlagError("--images needs --workdir, the folder of a run")
        _ = self.widths_list  # raises FlagError for invalid widths

    @property
    def starts_run(self) -> bool:
        return super().starts_run and not self.images

    def unused(self) -> dict[str, str]:
        modes = super().unused() | unused_by_data(self.dataset)
        if self.images:
            names = {field.name for field in dataclasses.fields(self)}
            others = names - {"images", "workdir"}
            modes |= dict.fromkeys(others, "with --images, which a run classifies")
        return modes

    @property
    def widths_list(self) -> tuple[int, ...]:
        if len(self.widths) == 1 and self.widths[0] in WIDTHS:
            return WIDTHS[self.widths[0]]
        given = " ".join(self.widths)
        if len(self.widths) != STAGES or not all(w.isdecimal() for w in self.widths):
            presets = ", ".join(WIDTHS)
            raise runs.FlagError(
                f"--widths must be one of {presets}, or four integers, got {given}"
            )
        widths = tuple(map(int, self.widths))
        if min(widths) < 1:
            raise runs.FlagError(f"--widths must be at least 1, got {given}")
        return widths

    @property
    def branches_list(self) -> list[int]:
        return sorted({self.branches, *self.sweep_branches})

    def source_arguments(self) -> dict:
        """The arguments of `data.find`."""
        return {name: getattr(self, name) for name in SOURCE_ARGUMENTS}

    def example_arguments(self) -> dict:
        """The arguments of `data.read`."""
        return {name: getattr(self, name) for name in EXAMPLE_ARGUMENTS}

    def data_arguments(self) -> dict:
        """The arguments of `data.load`, which finds and reads."""
        return self.source_arguments() | self.example_arguments()


def check_selection(config: Config, num_branches: int, labels: np.ndarray) -> None:
    """Raises FlagError if Figures 8 and 16 are to show what does not exist.

    Args:
      labels: classes of the test examples.
    """
    runs.check_flag(
        config, "figure_branches", lambda v: v < num_branches, f"below {num_branches}"
    )
    present = set(labels.tolist())
    what = f"a class of the test data ({', '.join(map(str, sorted(present)))})"
    runs.check_flag(config, "figure_classes", present.__contains__, what)
