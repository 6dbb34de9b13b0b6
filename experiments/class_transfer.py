r"""Class transfer by a sum of branches, and the decomposition that it is.

    python -m experiments.class_transfer                       # synthetic faces, 64 px
    python -m experiments.class_transfer --dataset fashion_mnist --preset small32 \
        --classes sandal sneaker "ankle boot" --residual gaussian
    python -m experiments.class_transfer --dataset folder --data-dir afhq \
        --preset paper256 --batch-size 8 --iterations 100000 --learning-rate 1e-4

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

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from bspec_jax import checkpoints, figures, files, generator, run
from bspec_jax import generator_training as gt
from bspec_jax.data import sources, streaming
from bspec_jax.data.folder import read_images
from bspec_jax.data.images import Split, of_classes
from bspec_jax.errors import FlagError
from bspec_jax.generator_training import Recipe, Schedule
from bspec_jax.models.stargan import PRESETS, SMALLEST, Discriminator
from experiments import class_transfer_analysis as analysis
from experiments import inception
from experiments.tables import number

NAME = "class_transfer"
SHOWN = 3  # examples of each class in the figures
MONITORED = 96  # test images that are looked at while training
COUNTS = (
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
POSITIVE = ("sigma", "diffusion_step", "learning_rate")


@dataclasses.dataclass(frozen=True)
class Config(run.RunConfig):
    """Flags of the class-transfer experiment."""

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
    """Of the blur, in pixels. Default: a sixteenth of the side."""
    diffusion_step: float = 0.1
    """Step of the diffusion."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the branches; parameters, diffusion and sum stay in float32."""
    sequential: bool = False
    """Run the branches one after another, for less memory."""
    iterations: int = 2000
    """Steps of the training."""
    batch_size: int = 16
    """Images of a step."""
    accumulate: int = 1
    """Parts of a batch that are computed one after another, for less memory."""
    learning_rate: float = 2e-4
    """Of Adam, for both players; StarGAN-v2 has 1e-4."""
    r1_weight: float | None = None
    """Weight of the gradient penalty. Default: that of StarGAN-v2, 1 at 256 px, in
    proportion to the number of pixels."""
    r1_every: int = 4
    """Steps from one penalty to the next, which weighs as many times."""
    average: float = 0.999
    """How much of the generator's running average a step keeps."""
    reconstruction_weight: float = 0.0
    """Weight of |x - f(x)| for an image's own class; the paper has none."""
    crop: float = 0.5
    """Probability that an image is cropped at random (80 to 100 %) and resized."""
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
        for name in COUNTS:
            run.check_flag(self, name, lambda v: v >= 1, "at least 1")
        for name in POSITIVE:
            run.check_flag(
                self, name, lambda v: 0 < v < math.inf, "positive and finite"
            )
        for name in ("r1_weight", "reconstruction_weight"):
            run.check_flag(self, name, lambda v: 0 <= v < math.inf, "finite, >= 0")
        run.check_flag(self, "average", lambda v: 0 <= v < 1, "in 0..1, below 1")
        run.check_flag(self, "crop", lambda v: 0 <= v <= 1, "in 0..1")
        run.check_flag(self, "workers", lambda v: v >= 0, "at least 0")
        run.check_flag(self, "image_size", is_size, f"{SMALLEST} times a power of two")
        if self.batch_size % self.accumulate:
            raise FlagError(
                f"--batch-size {self.batch_size} has no {self.accumulate} equal parts "
                "for --accumulate"
            )
        if len(self.classes) == 1:
            raise FlagError("--classes needs at least two, to transfer between")
        if self.images and not self.figures_only:
            raise FlagError("--images needs --figures-only, and the --workdir of a run")
        if self.inception_weights:
            inception.check(self.inception_weights)
        within = range(self.branches)
        for name in ("components", "sweep"):
            if getattr(self, name):
                run.check_flag(self, name, within.__contains__, f"in {span(within)}")
        if any(k not in within for group in self.subsets for k in group):
            raise FlagError(f"--subset must name components in {span(within)}")

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


def span(numbers: range) -> str:
    return f"{numbers.start}..{numbers.stop - 1}"


def main(config: Config) -> None:
    started = time.perf_counter()
    if config.figures_only:
        run.redraw(config.workdir, NAME, partial(draw, config))
        return
    data = load_data(config)
    workdir = run.start(config, NAME)
    config = dataclasses.replace(config, workdir=workdir)
    recogniser = analysis.finish_recogniser(
        workdir / "checkpoints", data, config.recogniser_epochs, config.seed
    )
    state = finish_generator(config, data, recogniser)
    results = measure(config, data, recogniser, state)
    run.conclude(workdir, config, results, started, partial(draw, config), summary)


def load_data(config: Config) -> analysis.Data:
    """The chosen classes, held-out images of each of them, and what is unreadable."""
    source = sources.find(config.dataset, config.data_dir, config.size)
    source = of_classes(source, config.classes or source.class_names)
    if len(source.class_names) < 2:
        raise FlagError(
            f"{config.dataset} has a single class: choose another --dataset"
        )
    for part, name in ((source.train, "training"), (source.test, "test")):
        present = set(part.labels().tolist())
        for label, of in enumerate(source.class_names):
            if label not in present:
                raise run.UserError(
                    f"{source.name} has no {name} image of class {of}: add some, or "
                    "leave it out of --classes"
                )
    held_out = analysis.balanced(
        source.test.labels(), config.test_examples, config.seed
    )
    test, unreadable = streaming.read_readable(source.test, held_out)
    train, more = streaming.in_memory(source.train, test.images[0].size)
    for complaint in (*unreadable, *more):
        print(f"skipped: {complaint}")
    return analysis.Data(
        source.name, source.class_names, train, test, held_out, [*unreadable, *more]
    )


def describe(config: Config, data: analysis.Data) -> dict:
    return generator.describe(
        config.preset,
        config.branches,
        data.class_names,
        data.test.images.shape[1:],
        config.residual,
        sigma=config.sigma or config.size / 16,
        diffusion_step=config.diffusion_step,
        precision=config.precision,
        dataset=data.name,
    )


def finish_generator(
    config: Config, data: analysis.Data, recogniser: analysis.Recogniser
) -> gt.TrainState:
    """Trains the generator, or goes on; writes metrics.jsonl, samples, checkpoints."""
    folder = config.workdir / "checkpoints" / generator.MAIN
    about, recipe = describe(config, data), config.recipe()
    model = generator.build(about, sequential=config.sequential)
    preset, num_classes = PRESETS[config.preset], len(data.class_names)
    judge = Discriminator(
        preset.discriminator_base, preset.discriminator_most, num_classes
    )
    train = gt.training(model, judge, num_classes, recipe)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1))
    first = data.test.images[:1], data.test.labels[:1]
    state = train.init(keys[0], *first)
    done = max(checkpoints.steps(folder), default=0)
    if checkpoints.steps(folder):
        state = gt.restore(folder, done, state)
    else:
        checkpoints.describe(folder, about)
        gt.save(folder, state)
    files.keep_metrics(config.workdir, lambda line: line["step"] <= done)
    monitored = Split(*(leaf[:MONITORED] for leaf in data.test))
    known, new = set(unreadable(config, data)), []

    def on_batch(batch):
        for index in set(batch.skipped.tolist()) - {-1}:
            complaint = streaming.complaint(data.train, index)
            if complaint not in known:
                known.add(complaint)
                new.append(complaint)
                tqdm.write(f"skipped: {complaint}")

    with run.progress_bar(
        config.iterations * config.batch_size,
        f"{config.residual} R, M = {config.branches}",
        "image",
        done * config.batch_size,
    ) as advance:

        def on_log(state, step, log):
            record = {"step": step, **{k: v.mean() for k, v in log.items()}}
            if new:
                record["skipped"] = list(new)
                new.clear()
            if step % config.checkpoint_every == 0 or step == config.iterations:
                found, samples = analysis.look(
                    model, state.average, monitored, recogniser
                )
                record |= found
                run.save_figures(
                    config.workdir,
                    {f"{step:07d}": figures.transfers(data.class_names, **samples)},
                    "samples",
                )
            files.append_metrics(config.workdir, record)
            advance(len(log["penalty"]) * config.batch_size)

        return gt.fit(
            train,
            recipe,
            partial(
                streaming.batches,
                data.train,
                config.batch_size,
                config.seed,
                workers=config.workers,
            ),
            state,
            keys[1],
            folder,
            Schedule(config.iterations, config.log_every, config.checkpoint_every),
            on_log,
            on_batch,
        )


def unreadable(config: Config, data: analysis.Data) -> list[str]:
    """Complaints about all files that were left out so far."""
    lines = files.read_metrics(config.workdir)
    later = [complaint for line in lines for complaint in line.get("skipped", ())]
    return [*data.unreadable, *later]


def measure(
    config: Config,
    data: analysis.Data,
    recogniser: analysis.Recogniser,
    state: gt.TrainState,
) -> dict:
    """All that results.json holds; saves what the figures show."""
    about = describe(config, data)
    model = generator.build(about)
    folder = config.workdir / "checkpoints" / generator.MAIN
    (initial,) = checkpoints.restore(folder, 0, model=state.average)
    chosen = analysis.balanced(
        data.test.labels, SHOWN * len(data.class_names), config.seed
    )
    chosen = chosen[np.argsort(data.test.labels[chosen], kind="stable")]
    shown = show(
        model,
        state.average,
        data.test.images[chosen],
        data.test.labels[chosen],
        len(data.class_names),
    )
    files.save_arrays(config.workdir / "decompositions.npz", shown)
    truth = None
    if data.name == "faces":
        truth = analysis.ground_truth(data, config.size)
    return {
        "classes": data.class_names,
        **analysis.analyse(
            model,
            state.average,
            initial,
            data,
            recogniser,
            truth,
            config.diffusion_step,
            config.inception_weights,
        ),
        "sigma": about["sigma"] if config.residual == "gaussian" else None,
        "parameters": analysis.count_parameters(state),
        "unreadable": unreadable(config, data),
        "curves": files.read_metrics(config.workdir),
    }


def show(
    model: generator.ClassTransfer,
    params,
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
) -> dict[str, np.ndarray]:
    """What the figures show of some images, in short floats.

    images, residual, generated `[S, H, W, C]`, labels `[S]`, transfers `[classes, S,
    ...]`, components and, unless all branches read the image, inputs `[M, S, ...]`.
    """
    x = np.asarray(generator.to_signed(jnp.asarray(images)))
    own = generator.decompose(model, params, x, labels)
    shown = {
        "images": x,
        "residual": own.residual,
        "generated": own.image,
        "transfers": analysis.to_all_classes(model, params, x, num_classes),
        "components": own.components,
        "inputs": own.components[:0] if own.inputs is None else own.inputs,
    }
    short = {name: leaf.astype(np.float16) for name, leaf in shown.items()}
    return short | {"labels": labels}


SHOWN_ARRAYS = (
    "images",
    "labels",
    "residual",
    "generated",
    "transfers",
    "components",
    "inputs",
)


def draw(config: Config, results: dict) -> dict:
    """The figures of finished results, by file name."""
    classes = results["classes"]
    if config.images:
        shown = show_own(config, results)
    else:
        like = dict.fromkeys(SHOWN_ARRAYS)
        shown = files.load_arrays(config.workdir / "decompositions.npz", like)
        shown = {
            name: leaf if name == "labels" else leaf.astype(np.float32)
            for name, leaf in shown.items()
        }
    drawn = draw_images(config, classes, shown, results)
    if config.images:
        return {f"own_{name}": figure for name, figure in drawn.items()}
    drawn |= {
        "class_transfer_training": figures.generator_training(results["curves"]),
        "class_transfer_energy": figures.component_energy(results),
        "class_transfer_rates": figures.transfer_rates(results),
    }
    if results["part_scores"]:
        drawn["class_transfer_scores"] = figures.component_scores(results)
    if results["spectrum"]:
        drawn["class_transfer_spectrum"] = figures.diffusion_spectrum(results)
    return drawn


def draw_images(config: Config, classes, shown: dict, results: dict) -> dict:
    """Figures 9 to 11, 13 to 15 and 18 to 20."""
    labels = shown["labels"]
    branches = range(len(shown["components"]))
    components = config.components or tuple(branches)
    largest = np.argsort(results["energy_share"])[::-1][:2].tolist()
    subsets = config.subsets or results["subsets"]
    drawn = {"fig09_regenerated": figures.transfers(classes, **shown)}
    of_two = sorted({0, len(labels) - 1})
    for name, example in zip(("fig10", "fig11"), of_two, strict=False):
        drawn[f"{name}_components"] = figures.image_components(
            shown, example, components
        )
    for name, component in zip(
        ("fig13", "fig14"), config.sweep or largest, strict=False
    ):
        drawn[f"{name}_sweep"] = figures.component_sweep(shown, component)
    drawn["fig15_subsets"] = figures.component_subsets(shown, subsets)
    present = sorted(set(labels.tolist()))[:3]
    for i, label in enumerate(present):
        drawn[f"fig{18 + i}_decomposition"] = figures.decompositions(
            shown, np.flatnonzero(labels == label), classes[label]
        )
    return drawn


def show_own(config: Config, results: dict) -> dict:
    """The user's images, each as one of the class that the classifier takes it for."""
    trained = generator.load(config.workdir)
    size, _, channels = trained.description["image_shape"]
    images, paths = read_images(config.images, size, channels)
    recogniser = analysis.load_recogniser(config.workdir / "checkpoints")
    x = np.asarray(generator.to_signed(jnp.asarray(images)))
    labels = recogniser.recognise(x).astype(np.int32)
    classes = results["classes"]
    for path, label in zip(paths, labels, strict=True):
        print(f"{path}: taken for {classes[label]}")
    return show(trained.model, trained.params, images, labels, len(classes))


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
    run.command_line(Config, main, NAME, __doc__)
