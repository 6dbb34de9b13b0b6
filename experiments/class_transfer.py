r"""Class transfer by a sum of branches, and the decomposition that it is.

    python -m experiments.class_transfer   # synthetic faces, 64 px: 58 minutes,
                                            # transfers .98, class kept 1.00
    python -m experiments.class_transfer --dataset fashion_mnist --preset small32 \
        --classes sandal sneaker "ankle boot" --residual gaussian --skip-flip \
        --batch-size 16 --iterations 4000   # 31 minutes, transfers .80, class kept .99
    python -m experiments.class_transfer --dataset folder --data-dir afhq \
        --preset paper256 --crop 0.5 --iterations 100000 --learning-rate 1e-4

Trains f(x, y) = R(x) + sum of M branches against a discriminator (section 7), which
shows an image as one of another class, and measures on held-out images how well: class
accuracy by a classifier that is trained first, fidelity of what is given its own class,
what each branch adds, and on the synthetic faces which part and which layer it shows.
Figures 9 to 11, 13 to 15 and 18 to 20; of a finished run also for other components and
your own images:

    python -m experiments.class_transfer --workdir RUN --figures-only \
        --components 1 4 --sweep 4 --subset 0,2 1,3,4 --images my.png
"""

import dataclasses
import math
import time
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from bspec_jax import generator, runs
from bspec_jax.generator import training as gt
from bspec_jax.generator.stargan import PRESETS, SMALLEST
from bspec_jax.generator.training import Recipe
from bspec_jax.storage import checkpoints, files
from bspec_jax.storage.errors import FlagError
from experiments import class_transfer_analysis as analysis
from experiments import class_transfer_data, inception, recogniser
from experiments import class_transfer_pictures as pictures
from experiments.class_transfer_data import Data
from experiments.class_transfer_training import train, unreadable
from experiments.recogniser import Recogniser
from experiments.tables import number

NAME = "class_transfer"
POSITIVE = ("sigma", "diffusion_step", "learning_rate")


@dataclasses.dataclass(frozen=True)
class Config(runs.RunConfig):
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

    dataset: str = "faces"
    """faces (synthetic, with a ground truth), fashion_mnist, folder (of images by
    class, as for AFHQ and CelebA-HQ in StarGAN-v2), or a set of TensorFlow Datasets."""
    data_dir: Path | None = None
    """Where the data are: the folder of tfds, of the IDX files or of the images."""
    classes: tuple[str, ...] = ()
    """The classes to transfer between, by name. Default: all."""
    image_size: int | None = None
    """Side of the images: 16 times a power of two. Default: the preset's."""
    test_examples: int = 600
    """Held-out images to measure on, as many of each class."""
    branches: int = 9
    """Number of branches M."""
    preset: Literal["paper256", "small64", "small32", "tiny"] = "small64"
    """Channels of the branches and of the discriminator; paper256 has 2.2 M parameters
    a branch."""
    residual: Literal["diffusion", "gaussian"] = "diffusion"
    """R: of the learnt nonlinear diffusion, whose components the branches read, or a
    Gaussian blur, where they read the image."""
    sigma: float | None = None
    """Of the Gaussian blur, in pixels. Default: an eighth of the side."""
    diffusion_step: float = 1.0
    """Step of the diffusion."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the branches; parameters, diffusion and sum stay in float32."""
    sequential: bool = False
    """Run the branches one after another, for less memory."""
    iterations: int = 2500
    """Steps of the training."""
    batch_size: int = 8
    """Images of a step."""
    accumulate: int = 1
    """Parts of a batch that are computed one after another, for less memory."""
    learning_rate: float = 5e-4
    """Of Adam, for both players; StarGAN-v2 has 1e-4."""
    velocity_rate: float = 0.003
    """Learning rate of the diffusion's p, relative to that of the branches. The larger,
    the sooner R is a constant."""
    r1_weight: float | None = None
    """Weight of the gradient penalty. Default: that of StarGAN-v2, 1 at 256 px, in
    proportion to the number of pixels."""
    r1_every: int = 4
    """Steps from one penalty to the next, which weighs as many times."""
    average: float = 0.999
    """How much of the generator's running average a step keeps."""
    reconstruction_weight: float = 0.0
    """Weight of |x - f(x)| for an image's own class; the paper has none."""
    crop: float = 0.0
    """Probability that an image is cropped at random (80 to 100 %) and resized;
    StarGAN-v2 has 0.5."""
    skip_flip: bool = False
    """Do not mirror images at random."""
    workers: int = 0
    """Processes that decode images; 0 decodes in threads of this one."""
    inception_weights: Path | None = None
    """Weights of Inception-v3 (inception-v3-compat of torch-fidelity), for the FID."""
    recogniser_epochs: int = 3
    """Passes of the classifier that recognises classes, of the training examples."""
    log_every: int = 50
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: int = 500
    """Steps between two checkpoints, each with samples and an evaluation."""
    components: tuple[int, ...] = ()
    """Components of Figures 10 and 11, from 0. Default: all."""
    sweep: tuple[int, ...] = ()
    """Components of Figures 13 and 14. Default: the two of most energy."""
    subset: tuple[str, ...] = ()
    """Sums of components of Figure 15, such as 0,2,5 1,3. Default: the smooth half and
    the rough half."""
    images: tuple[Path, ...] = ()
    """Images of your own, or folders of them, to show in place of held-out ones."""

    PRESENTATION: ClassVar = ("components", "sweep", "subset", "images", "workers")

    def check(self) -> None:
        super().check()
        for name in POSITIVE:
            runs.check_flag(
                self, name, lambda v: 0 < v < math.inf, "positive and finite"
            )
        for name in ("velocity_rate", "r1_weight", "reconstruction_weight"):
            runs.check_flag(self, name, lambda v: 0 <= v < math.inf, "finite, >= 0")
        runs.check_flag(self, "average", lambda v: 0 <= v < 1, "in 0..1, below 1")
        runs.check_flag(self, "crop", lambda v: 0 <= v <= 1, "in 0..1")
        runs.check_flag(self, "workers", lambda v: v >= 0, "at least 0")
        runs.check_flag(self, "image_size", is_size, f"{SMALLEST} times a power of two")
        if self.batch_size % self.accumulate:
            raise FlagError(
                f"--batch-size {self.batch_size} has no {self.accumulate} equal parts "
                "for --accumulate"
            )
        if self.sigma and self.residual != "gaussian":
            raise FlagError("--sigma needs --residual gaussian")
        if len(self.classes) == 1:
            raise FlagError("--classes needs at least two, to transfer between")
        if self.images and not self.figures_only:
            raise FlagError("--images needs --figures-only, and the --workdir of a run")
        if self.inception_weights:
            inception.check(self.inception_weights)
        runs.check_components(self, self.branches, ("components", "sweep"))
        within = range(self.branches)
        if any(k not in within for group in self.subsets for k in group):
            raise FlagError(f"--subset must name components in 0..{within[-1]}")

    @property
    def size(self) -> int:
        return self.image_size or PRESETS[self.preset].size

    @property
    def subsets(self) -> list[list[int]]:
        try:
            return [[int(k) for k in group.split(",")] for group in self.subset]
        except ValueError:
            raise FlagError(
                f"--subset must be numbers with commas, such as 0,2,5, got "
                f"{' '.join(self.subset)}"
            ) from None

    def recipe(self) -> Recipe:
        weight = self.r1_weight
        return Recipe(
            learning_rate=self.learning_rate,
            velocity_rate=self.velocity_rate,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            r1_weight=(self.size / 256) ** 2 if weight is None else weight,
            r1_every=self.r1_every,
            average=self.average,
            reconstruction_weight=self.reconstruction_weight,
            flip=not self.skip_flip,
            crop=self.crop,
        )


def is_size(value: int) -> bool:
    """Whether the generator takes images of that side."""
    times = value // SMALLEST
    return value % SMALLEST == 0 and times > 0 and times & (times - 1) == 0


def main(config: Config) -> None:
    started = time.perf_counter()
    if config.figures_only:
        runs.redraw(config.workdir, NAME, partial(pictures.draw, config))
        return
    data = class_transfer_data.load(
        config.dataset,
        config.data_dir,
        config.classes,
        config.size,
        config.test_examples,
        config.seed,
    )
    workdir = runs.start(config, NAME)
    config = dataclasses.replace(config, workdir=workdir)
    for complaint in data.unreadable:
        print(f"skipped: {complaint}")
    classifier = recogniser.finish(
        workdir / "checkpoints", data, config.recogniser_epochs, config.seed
    )
    about = describe(config, data)
    state = train(config, data, about, classifier)
    results = measure(config, data, about, classifier, state)
    draw = partial(pictures.draw, config)
    runs.conclude(workdir, config, results, started, draw, summary)


def describe(config: Config, data: Data) -> dict:
    """The description of the generator."""
    return generator.describe(
        config.preset,
        config.branches,
        data.class_names,
        data.test.images.shape[1:],
        config.residual,
        sigma=config.sigma or config.size / 8,
        diffusion_step=config.diffusion_step,
        precision=config.precision,
        dataset=data.name,
    )


def measure(
    config: Config,
    data: Data,
    about: dict,
    classifier: Recogniser,
    state: gt.TrainState,
) -> dict:
    """All that results.json holds; saves what the figures show."""
    model = generator.build(about)
    folder = config.workdir / "checkpoints" / generator.MAIN
    (initial,) = checkpoints.restore(folder, 0, model=state.average)
    pictures.save(config, data, model, state.average)
    return {
        "classes": data.class_names,
        **analysis.analyse(
            model,
            state.average,
            initial,
            data,
            classifier,
            config.diffusion_step,
            config.inception_weights,
        ),
        "sigma": about["sigma"] if config.residual == "gaussian" else None,
        "parameters": analysis.count_parameters(state),
        "unreadable": unreadable(config, data),
        "curves": files.read_metrics(config.workdir),
    }


def summary(results: dict) -> str:
    """The table that ends a run."""
    rows = (
        ("transfers recognised", "transfer_accuracy"),
        ("class kept by re-generation", "kept"),
        ("PSNR of re-generation, dB", "psnr"),
        ("SSIM of re-generation", "ssim"),
        ("Frechet distance of transfers", "frechet"),
        ("FID of transfers", "fid"),
    )
    lines = [f"{'on held-out images':32} {'generated':>9}  {'R alone':>8}"]
    lines += [
        f"{what:32} {number(results[key]):>9}  {number(results[f'{key}_residual']):>8}"
        for what, key in rows
    ]
    shares = " ".join(f"{share:.2f}" for share in results["energy_share"])
    lines += [
        f"the classifier itself: {results['recogniser_accuracy']:.3f}; Frechet "
        f"distance of real images {number(results['frechet_real'])}",
        f"{results['active']} active branches; shares of energy {shares}",
    ]
    for part, scores in results["part_scores"].items():
        best = int(np.argmax(scores["mean"]))
        times = scores["mean"][best]
        lines.append(f"{part:10} most in component {best}: {times:.1f} times chance")
    if results["unreadable"]:
        lines.append(f"{len(results['unreadable'])} unreadable images were skipped")
    return "\n".join(lines)


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
