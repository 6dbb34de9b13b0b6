"""Flags of the classification experiment."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from bspec_jax import runs
from bspec_jax.classifier.branches import STRIDES, WIDTHS, BranchKind, Normalisation
from experiments.flags import (
    ClassifierConfig,
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
# What a recipe decides where a flag is not given.
RECIPES = {
    "customary": {
        "dataset": "cifar10",
        "image_size": None,
        "branch": "resnet",
        "epochs": 200,
        "weight_decay": 5e-4,
        "last_scale": 1.0,
        "crop_padding": 4,
    },
    "quick": {
        "dataset": "fashion_mnist",
        "image_size": 14,
        "branch": "mlp",
        "epochs": 93,
        "weight_decay": 7e-4,
        "last_scale": 0.1,
        "crop_padding": 0,
    },
}
LEARNING_RATES = {"sgd": 0.1, "adamw": 0.001}
DEPTH = 4  # of a cnn or mlp
MOST_LAYERS = 1000
WIDTH = "32"  # of its hidden layers


@dataclasses.dataclass(frozen=True)
class Config(ClassifierConfig):
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

    recipe: Literal["customary", "quick"] = "customary"
    """Decides the flags that name it as their default and are not given. customary: the
    usual training of a ResNet on CIFAR-10, 200 epochs with decay 5e-4 and random crops,
    decay budget 18 (20 with --validation-examples 0). quick: for a small machine,
    an mlp on Fashion-MNIST at 14 pixels, 93 epochs with decay 7e-4 and no crops, decay
    budget 14, which leaves 7.4 of 16 branches active at a test accuracy of 0.880 (means
    of five seeds), in four minutes on 2 cores with the control. Both: sgd with momentum
    0.9, learning rate 0.1 with cosine decay to 0, batches of 128, random flips, and
    decay of all parameters."""
    dataset: str | None = None
    """Data set: cifar10, fashion_mnist, folder (of images by class), or another image
    classification set of TensorFlow Datasets. Default: the recipe's."""
    image_size: int | None = None
    """Side of the images, in pixels. Default: the recipe's, which for customary is as
    stored, and 32 for a folder."""
    train_examples: int | None = None
    """Number of training examples. Default: all that are not held out."""
    validation_examples: int | None = None
    """Number of training examples held out for the validation accuracy. Default: a
    tenth, at most 5,000."""
    test_examples: int | None = None
    """Number of test examples, drawn at random. Default: all."""
    branches: int = 16
    """Number of branches M."""
    branch: BranchKind | None = None
    """Architecture of a branch: resnet (the paper's), cnn (3 x 3 convolutions of stride
    2, then a linear layer) or mlp. Default: the recipe's."""
    depth: int | None = None
    """Layers with weights of a cnn or mlp; with 1 it is linear. Default: one more than
    --widths of several values, else 4."""
    widths: tuple[str, ...] = ()
    """Of a resnet, the channels of its four stages: paper (5 11 22 43), wide8,
    resnet18, tiny, or four integers; default paper. Of a cnn or mlp, the width of all
    hidden layers, or one for each; default 32."""
    normalisation: Normalisation | None = None
    """Normalisation of a branch's layers: batch or none. Default: batch for a resnet,
    none for others. Without it, a resnet's blocks start as their shortcuts."""
    sweep_branches: tuple[int, ...] = ()
    """Further values of M to train a network for (Figures 5.1 and 17)."""
    repeats: int = 1
    """Networks per M, of different seeds; intervals and verdicts need at least two."""
    skip_control: bool = False
    """Skip the control, whose branches are trained separately and then summed."""
    epochs: int | None = None
    """Passes over the training examples. Default: the recipe's."""
    batch_size: int = 128
    """Images per step."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimizer: sgd (momentum 0.9) or adamw, both with cosine decay."""
    learning_rate: float | None = None
    """Initial learning rate. Default: 0.1 for sgd, 0.001 for adamw. The sum of M
    branches moves M times as far as one."""
    weight_decay: float | None = None
    """Weight decay: an L2 penalty for sgd, decoupled for adamw. What it amounts to over
    the training is results.json's decay_budget. Default: the recipe's."""
    skip_bias_decay: bool = False
    """Do not decay biases, nor scales and shifts of a normalisation."""
    last_scale: float | None = None
    """Scale of the last layer's initial weights, relative to the usual one. At 1, the
    sum of many branches starts beyond the hard clamp, where there is no gradient, and
    weight decay brings it back, mostly; 0.1 starts within. Default: the recipe's."""
    crop_padding: int | None = None
    """Largest offset of random crops, in pixels; 0 for no crops. Default: the
    recipe's."""
    skip_flip: bool = False
    """Skip random horizontal flips."""
    log_every: int = 50
    """Steps between two lines of metrics.jsonl; each epoch also ends with one."""
    checkpoint_every: int = 500
    """Steps between two checkpoints, from the newest of which --resume goes on."""
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
        valid = f"in 1..{MOST_LAYERS}"
        runs.check_flag(self, "depth", lambda v: 1 <= v <= MOST_LAYERS, valid)
        for name in "learning_rate", "last_scale":
            check_positive(self, name)
        check_not_negative(self, "weight_decay")
        for name in "learning_rate", "last_scale", "weight_decay":
            check_single(self, name)
        if self.images and self.workdir is None:
            raise runs.FlagError("--images needs --workdir, the folder of a run")
        _ = self.resolved().widths_list  # raises FlagError for invalid widths

    def resolved(self) -> "Config":
        """The config with a value for each flag that the recipe or others decide."""
        decided = {
            name: value
            for name, value in RECIPES[self.recipe].items()
            if getattr(self, name) is None
        }
        config = dataclasses.replace(self, **decided)
        residual = config.branch == "resnet"
        depth, widths = self.depth, self.widths
        if residual:
            widths = widths or ("paper",)
        else:
            depth = depth or (len(widths) + 1 if len(widths) > 1 else DEPTH)
            widths = widths or (WIDTH,)
            widths = widths * (depth - 1) if len(widths) == 1 else widths
        rate = self.learning_rate
        return dataclasses.replace(
            config,
            depth=depth,
            widths=widths,
            normalisation=self.normalisation or ("batch" if residual else "none"),
            learning_rate=LEARNING_RATES[self.optimizer] if rate is None else rate,
        )

    @property
    def starts_run(self) -> bool:
        return super().starts_run and not self.images

    def unused(self) -> dict[str, str]:
        config = self.resolved()
        modes = super().unused() | unused_by_data(config.dataset)
        if config.branch == "resnet":
            modes["depth"] = "with --branch resnet, whose depth is fixed"
        elif config.depth == 1:
            modes["widths"] = "with --depth 1, which has no hidden layer"
        if self.images:
            names = {field.name for field in dataclasses.fields(self)}
            others = names - {"images", "workdir"}
            modes |= dict.fromkeys(others, "with --images, which a run classifies")
        return modes

    @property
    def widths_list(self) -> tuple[int, ...]:
        """The widths of a resolved config.

        Raises:
          FlagError: if they do not suit the branch.
        """
        residual = self.branch == "resnet"
        if residual and len(self.widths) == 1 and self.widths[0] in WIDTHS:
            return WIDTHS[self.widths[0]]
        given = " ".join(self.widths)
        count = len(STRIDES) if residual else self.depth - 1
        if len(self.widths) != count or not all(w.isdecimal() for w in self.widths):
            valid = (
                f"one of {', '.join(WIDTHS)}, or four integers"
                if residual
                else f"one integer, or {count} for --depth {self.depth}"
            )
            raise runs.FlagError(f"--widths must be {valid}, got {given}")
        widths = tuple(map(int, self.widths))
        if min(widths, default=1) < 1:
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
