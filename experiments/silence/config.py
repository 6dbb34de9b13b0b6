"""Flags of the silence experiment."""

import dataclasses
from typing import ClassVar

from bspec_jax import runs
from bspec_jax.classifier.branches import STRIDES, BranchKind, Normalisation, depth
from bspec_jax.classifier.recipe import MOST_STEPS, RateSchedule
from experiments.flags import (
    ClassifierConfig,
    check_not_negative,
    check_positive,
    check_single,
    unused_by_data,
)

NAME = "silence"
RECORDS = 40  # along each training

# What a grid sets where its flag is not given.
GRIDS = {
    "default": {
        "sweep_branches": (2, 4, 8, 32),
        "sweep_depths": (1, 2, 4),
        "weight_decay": 4e-3,
        "sweep_weight_decays": (0.0, 1e-3, 2e-3, 8e-3),
        "sweep_learning_rates": (0.025, 0.4),
        "sweep_init_scales": (1.0,),
        "repeats": 5,
        "steps": 5000,
    },
    "quick": {
        "sweep_branches": (4,),
        "sweep_depths": (1,),
        "weight_decay": 8e-3,
        "sweep_weight_decays": (0.0,),
        "sweep_learning_rates": (),
        "sweep_init_scales": (),
        "repeats": 3,
        "steps": 2000,
    },
    "full": {
        "sweep_branches": (2, 4, 8, 32),
        "sweep_depths": (1, 2, 4),
        "weight_decay": 1e-3,
        "sweep_weight_decays": (0.0, 1.25e-4, 2.5e-4, 5e-4, 2e-3, 4e-3),
        "sweep_learning_rates": (0.025, 0.05, 0.2, 0.4),
        "sweep_init_scales": (0.25, 1.0),
        "repeats": 10,
        "steps": 40_000,
    },
}


@dataclasses.dataclass(frozen=True)
class Config(ClassifierConfig):
    """Flags of the silence experiment."""

    COUNTS: ClassVar = (
        "branches",
        "sweep_branches",
        "depth",
        "sweep_depths",
        "width",
        "repeats",
        "steps",
        "batch_size",
        "image_size",
        "train_examples",
        "test_examples",
    )

    quick: bool = False
    """Train few networks for a short time: 3 minutes instead of 20 on 2 cores."""
    full: bool = False
    """Train many networks for a long time: a day on 2 cores."""
    dataset: str = "fashion_mnist"
    """Data set: fashion_mnist, faces (rendered, nothing to install), folder (of images
    by class), or an image classification set of TensorFlow Datasets."""
    image_size: int | None = 14
    """Side of the images, in pixels."""
    train_examples: int | None = None
    """Number of training examples. Default: all."""
    test_examples: int | None = None
    """Number of test examples, drawn at random. Default: all."""
    branch: BranchKind = "mlp"
    """A branch: mlp, a perceptron; cnn, 3 x 3 convolutions of stride 2 and a linear
    layer; or resnet, the paper's slim ResNet-18."""
    branches: int = 16
    """Number of branches M of the main networks."""
    sweep_branches: tuple[int, ...] | None = None
    """Further values of M, with the main decay and without any."""
    depth: int = 3
    """Layers with weights in a branch of the main networks: without normalisation the
    degree of its response. A resnet has 18."""
    sweep_depths: tuple[int, ...] | None = None
    """Further depths, with every decay."""
    width: int = 16
    """Units, or channels, of every hidden layer. Of a resnet, the channels of the first
    of its four stages; each later one has twice as many as the one before."""
    normalisation: Normalisation = "none"
    """Normalisation in the main networks."""
    sweep_normalisations: tuple[Normalisation, ...] = ()
    """Further normalisations, with every decay."""
    weight_decay: float | None = None
    """Main weight decay: an L2 penalty in SGD."""
    sweep_weight_decays: tuple[float, ...] | None = None
    """Further decays, at the main depth, M and initial scale with every learning
    rate."""
    learning_rate: float = 0.1
    """Main initial learning rate, of SGD with momentum 0.9."""
    sweep_learning_rates: tuple[float, ...] | None = None
    """Further learning rates, at the main depth, M and initial scale with every
    decay."""
    schedule: RateSchedule = "cosine"
    """Of the learning rate: cosine decay to 0, or constant."""
    init_scale: float = 0.5
    """Main scale of the initial parameters, relative to the usual one. At 1 the sum of
    many branches starts beyond the hard clamp, and some networks never come back."""
    sweep_init_scales: tuple[float, ...] | None = None
    """Further initial scales, with the main decay and without any."""
    repeats: int | None = None
    """Networks of each kind, of different seeds."""
    steps: int | None = None
    """Steps of a training."""
    batch_size: int = 128
    """Images per step."""

    def check(self) -> None:
        super().check()
        if self.quick and self.full:
            raise runs.FlagError("--quick and --full exclude one another: give one")
        runs.check_flag(self, "steps", lambda v: v <= MOST_STEPS, "below 2^31")
        for name in "learning_rate", "init_scale":
            for flag_name in (name, f"sweep_{name}s"):
                check_positive(self, flag_name)
                check_single(self, flag_name)
        for name in "weight_decay", "sweep_weight_decays":
            check_not_negative(self, name)
            check_single(self, name)

    def unused(self) -> dict[str, str]:
        modes = super().unused() | unused_by_data(self.dataset)
        if self.branch == "resnet":
            fixed = "with --branch resnet, whose depth is fixed"
            modes |= {"depth": fixed, "sweep_depths": fixed}
        return modes

    def resolved(self) -> "Config":
        """The config with a value for each flag that the grid decides."""
        grid = "quick" if self.quick else "full" if self.full else "default"
        missing = {n: v for n, v in GRIDS[grid].items() if getattr(self, n) is None}
        config = dataclasses.replace(self, **missing)
        if self.branch == "resnet":
            layers = depth("resnet", config.widths_of(0))
            config = dataclasses.replace(config, depth=layers, sweep_depths=(layers,))
        return config

    def widths_of(self, depth: int) -> tuple[int, ...]:
        """The widths of a branch of so many layers, which a resnet ignores."""
        if self.branch == "resnet":
            return tuple(self.width * 2**stage for stage in range(len(STRIDES)))
        return (self.width,) * (depth - 1)

    def all_of(self, name: str) -> list:
        """The main value of a flag and its further ones, ascending."""
        return sorted({getattr(self, name), *getattr(self, _sweep_of(name))})

    def data_arguments(self) -> dict:
        """The arguments of `data.load`."""
        names = ("dataset", "data_dir", "image_size", "test_share", "seed")
        counts = ("train_examples", "test_examples")
        arguments = {name: getattr(self, name) for name in (*names, *counts)}
        return arguments | {"validation_examples": 0}


def _sweep_of(name: str) -> str:
    return {"branches": "sweep_branches"}.get(name, f"sweep_{name}s")
