"""The flags of class_transfer."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from bspec_jax import runs
from bspec_jax.generator.network import Precision, Residual
from bspec_jax.generator.stargan import PRESETS, SMALLEST, PresetName
from bspec_jax.generator.training import Recipe
from bspec_jax.runs import FlagError, check_flag
from experiments.flags import (
    DataConfig,
    check_not_negative,
    check_positive,
    check_single,
    unused_by_data,
)

NAME = "class_transfer"
MOST_EPOCHS = 1_000_000  # of the classifier, whose steps an int32 counts
PAPERS_SIZE = 256  # pixels each way, at which the gradient penalty weighs 1


@dataclasses.dataclass(frozen=True)
class Config(DataConfig):
    """Flags of the class-transfer experiment."""

    COUNTS: ClassVar = (
        "branches",
        "iterations",
        "batch_size",
        "accumulate",
        "r1_every",
        "test_examples",
        "recogniser_epochs",
        "log_every",
        "checkpoint_every",
    )
    PRESENTATION: ClassVar = ("components", "sweep", "subset", "images", "workers")

    dataset: str = "faces"
    """Data set: faces (synthetic, with ground truth), fashion_mnist, folder (images by
    class, as StarGAN-v2 lays out AFHQ and CelebA-HQ), or a name in TensorFlow
    Datasets."""
    classes: tuple[str, ...] = ()
    """Names of the classes to transfer between. Default: all."""
    image_size: int | None = None
    """Side of the images, in pixels: 16 times a power of two. Default: the
    preset's."""
    test_examples: int = 600
    """Number of held-out images to measure on, equally many of each class."""
    branches: int = 9
    """Number of branches M."""
    preset: PresetName = "small64"
    """Channels of branches and discriminator; paper256 has 2.2 M parameters per
    branch."""
    residual: Residual = "diffusion"
    """Residual R: learnt nonlinear diffusion, whose components are the branches'
    inputs, or a Gaussian blur, with the image as input of every branch."""
    sigma: float | None = None
    """Standard deviation of the Gaussian blur, in pixels. Default: an eighth of the
    side."""
    diffusion_step: float = 1.0
    """Time step of the diffusion."""
    precision: Precision = "float32"
    """Precision of the branches; parameters, diffusion and sum stay in float32."""
    sequential: bool = False
    """Run the branches one by one, to save memory."""
    iterations: int = 2500
    """Number of training steps."""
    batch_size: int = 8
    """Images per step."""
    accumulate: int = 1
    """Number of parts of a batch that are computed one by one, to save memory."""
    learning_rate: float = 5e-4
    """Learning rate of Adam, for generator and discriminator; StarGAN-v2 uses 1e-4."""
    velocity_rate: float = 0.003
    """Learning rate of the diffusion's p, relative to --learning-rate. The larger, the
    sooner R becomes constant."""
    r1_weight: float | None = None
    """Weight of the gradient penalty. Default: StarGAN-v2's 1 at 256 px, scaled by the
    number of pixels."""
    r1_every: int = 4
    """Steps between gradient penalties; each weighs this many times."""
    average: float = 0.999
    """Decay per step of the generator's running average, in 0..1."""
    reconstruction_weight: float = 0.0
    """Weight of |x - f(x, own class)|; the paper has no such term."""
    crop: float = 0.0
    """Probability of a random resized crop (80 to 100 % of the area); StarGAN-v2 uses
    0.5."""
    skip_flip: bool = False
    """Train without random mirroring."""
    workers: int = 0
    """Number of processes that decode images; 0 decodes in threads of this one."""
    inception_weights: Path | None = None
    """File of Inception-v3 weights (inception-v3-compat of torch-fidelity), for the
    FID. Default: no FID."""
    recogniser_epochs: int = 3
    """Training epochs of the classifier that recognises classes."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: int = 500
    """Steps between checkpoints, each with samples and an evaluation."""
    components: tuple[int, ...] = ()
    """Components in Figures 10 and 11, from 0. Default: all."""
    sweep: tuple[int, ...] = ()
    """Components in Figures 13 and 14, from 0. Default: the two of most energy."""
    subset: tuple[str, ...] = ()
    """Sums of components in Figure 15, such as 0,2,5 1,3. Default: the smooth half and
    the rough half."""
    images: tuple[Path, ...] = ()
    """Image files or folders to show instead of held-out images."""

    def check(self) -> None:
        super().check()
        for name in ("sigma", "diffusion_step", "learning_rate"):
            check_positive(self, name)
        for name in ("velocity_rate", "r1_weight", "reconstruction_weight"):
            check_not_negative(self, name)
        for name in ("sigma", "diffusion_step", "learning_rate", "velocity_rate"):
            check_single(self, name)
        for name in ("r1_weight", "reconstruction_weight"):
            check_single(self, name)
        check_flag(self, "iterations", lambda v: v < 2**31, "below 2^31")
        most = f"at most {MOST_EPOCHS:,}"
        check_flag(self, "recogniser_epochs", lambda v: v <= MOST_EPOCHS, most)
        check_flag(self, "average", lambda v: 0 <= v < 1, "in 0..1, below 1")
        check_flag(self, "crop", lambda v: 0 <= v <= 1, "in 0..1")
        check_flag(self, "workers", lambda v: v >= 0, "at least 0")
        check_flag(self, "image_size", _is_side, f"{SMALLEST} times a power of two")
        runs.check_components(self, self.branches, ("components", "sweep"))
        sides = f"at most the images' side of {self.size} pixels"
        check_flag(self, "sigma", lambda v: v <= self.size, sides)
        self._check_subsets()
        self._check_combinations()

    def unused(self) -> dict[str, str]:
        modes = super().unused() | unused_by_data(self.dataset)
        if self.residual == "gaussian":
            names = ("diffusion_step", "velocity_rate")
            modes |= dict.fromkeys(names, "with --residual gaussian")
        else:
            modes["sigma"] = "without --residual gaussian"
        if self.r1_weight == 0:
            modes["r1_every"] = "with --r1-weight 0"
        if self.figures_only:
            modes["workers"] = "to --figures-only, which decodes no data set"
        return modes

    def _check_subsets(self) -> None:
        last = self.branches - 1
        if any(not 0 <= k <= last for subset in self.subsets for k in subset):
            raise FlagError(f"--subset must name components in 0..{last}")

    def _check_combinations(self) -> None:
        if self.batch_size % self.accumulate:
            raise FlagError(
                f"--batch-size {self.batch_size} has no {self.accumulate} equal parts "
                "for --accumulate"
            )
        if len(self.classes) == 1:
            raise FlagError("--classes needs at least two, to transfer between")
        if self.images and not self.figures_only:
            raise FlagError("--images needs --figures-only, and the --workdir of a run")

    @property
    def size(self) -> int:
        """Side of the images, in pixels."""
        return self.image_size or PRESETS[self.preset].size

    @property
    def subsets(self) -> list[list[int]]:
        """The components of each sum of Figure 15."""
        try:
            return [[int(k) for k in subset.split(",")] for subset in self.subset]
        except ValueError:
            raise FlagError(
                f"--subset must be numbers with commas, such as 0,2,5, got "
                f"{' '.join(self.subset)}"
            ) from None

    @property
    def recipe(self) -> Recipe:
        """How the generator is trained."""
        weight = self.r1_weight
        if weight is None:
            weight = (self.size / PAPERS_SIZE) ** 2
        return Recipe(
            learning_rate=self.learning_rate,
            velocity_rate=self.velocity_rate,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            r1_weight=weight,
            r1_every=self.r1_every,
            average=self.average,
            reconstruction_weight=self.reconstruction_weight,
            flip=not self.skip_flip,
            crop=self.crop,
        )


def _is_side(pixels: int) -> bool:
    """Whether the generator takes images of this side."""
    factor, rest = divmod(pixels, SMALLEST)
    return rest == 0 and factor > 0 and factor & (factor - 1) == 0
