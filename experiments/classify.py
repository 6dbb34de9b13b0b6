r"""Image classification by a sum of slim ResNets: Figures 5 to 8, 16 and 17.

    python -m experiments.classify                                # the paper's setting
    python -m experiments.classify --sweep-branches 2 4 8 16 32   # and Figures 5.1, 17
    python -m experiments.classify --dataset fashion_mnist --optimizer adamw \
        --train-examples 40000 --validation-examples 1000 --epochs 2 --batch-size 64 \
        --crop-padding 0

Trains M branches on the sum's loss (section 6), and as a control as many branches that
are trained separately and then summed; measures how the branches of both divide the
classes, at initialisation too; removes branches and exports the network without its
silent ones. The last command takes 51 minutes on 2 cores, and gives a test accuracy of
0.906, and 0.887 for the control (seed 0). The Hessian of its checkpoint:
`python -m experiments.hessian --checkpoint RUN`.
"""

import dataclasses
import math
import shutil
import time
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from bspec_jax import classifier, data, figures, runs
from bspec_jax.analysis.specialization import active_branches
from bspec_jax.branching import BranchedNetwork
from bspec_jax.classifier import contributions
from bspec_jax.classifier.network import Pixels
from bspec_jax.classifier.resnet import WIDTHS
from bspec_jax.classifier.training import Recipe, Schedule, TrainState, fit, model_of
from bspec_jax.losses import Clamp, classification_floor
from bspec_jax.storage import checkpoints, files
from experiments.classify_analysis import CONTROL, Job, Responses, analyse
from experiments.tables import observation_lines

NAME = "classify"
DATA_FLAGS = (
    "dataset",
    "data_dir",
    "image_size",
    "train_examples",
    "validation_examples",
    "test_examples",
)
EXAMPLES = "examples.npz"  # of a run: the test images and their labels
LEARNING_RATES = {"sgd": 0.005, "adamw": 0.001}
WIDTHS_HELP = f"one of {', '.join(WIDTHS)}, or four integers"


@dataclasses.dataclass(frozen=True)
class Config(runs.RunConfig):
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

    dataset: str = "cifar10"
    """cifar10, fashion_mnist, folder (of images by class), or another image
    classification set of TensorFlow Datasets."""
    data_dir: Path | None = None
    """Where the data are: the folder of tfds, of the IDX files or of the images."""
    image_size: int | None = None
    """Resize images to squares of so many pixels. Default: as they are; folder 32."""
    train_examples: int | None = None
    """Train on so many examples only, for small machines. Default: all."""
    validation_examples: int = 5000
    """Training examples that are held out; their accuracy is logged each epoch."""
    test_examples: int | None = None
    """Report on so many test examples only, drawn at random. Default: all."""
    branches: int = 16
    """Number of branches M."""
    widths: tuple[str, ...] = ("paper",)
    """Channels of a branch's four stages: paper (5 11 22 43), wide8, resnet18, tiny, or
    four integers."""
    sweep_branches: tuple[int, ...] = ()
    """Train a network for each of these M, too (Figures 5.1 and 17)."""
    repeats: int = 1
    """Networks for each M, of different seeds; intervals and verdicts need two."""
    skip_control: bool = False
    """Leave out the control: as many branches trained separately and then summed."""
    epochs: int = 200
    """Passes over the training examples."""
    batch_size: int = 128
    """Images of a step."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd with momentum 0.9, or adamw; both with a rate that falls as a cosine."""
    learning_rate: float | None = None
    """Its rate at the start. Default: 0.005 for sgd, 0.001 for adamw. A sum of many
    branches moves M times as far as one, and the hard clamp stalls what overshoots."""
    weight_decay: float = 5e-4
    """Its weight decay."""
    clamp: Clamp = "hard"
    """How the loss limits the sum to [-1, 1]; hard is the paper's."""
    last_scale: float = 0.05
    """Scale of the last layer's initial weights. At 1 many branches start beyond the
    hard clamp, where there is no gradient."""
    crop_padding: int = 4
    """Random crops are off by up to so many pixels; 0 for none."""
    skip_flip: bool = False
    """Do not mirror images at random."""
    log_every: int = 50
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: int = 500
    """Steps between two checkpoints within an epoch; each epoch's end has one, too."""
    figure_branches: tuple[int, ...] | None = None
    """Branches of Figures 8 and 16, from 0. Default: the two of largest response."""
    figure_classes: tuple[int, ...] | None = None
    """Classes of Figures 8 and 16, from 0. Default: the three that are least carried by
    a single branch."""

    PRESENTATION: ClassVar = ("figure_branches", "figure_classes")

    def check(self) -> None:
        super().check()
        for name in "validation_examples", "crop_padding", *self.PRESENTATION:
            runs.check_flag(self, name, lambda v: v >= 0, "at least 0")
        for name in "learning_rate", "last_scale":
            runs.check_flag(
                self, name, lambda v: 0 < v < math.inf, "positive and finite"
            )
        runs.check_flag(
            self, "weight_decay", lambda v: 0 <= v < math.inf, "finite, >= 0"
        )
        self.widths_list  # noqa: B018 - raises if they make no sense

    @property
    def widths_list(self) -> tuple[int, ...]:
        if len(self.widths) == 1 and self.widths[0] in WIDTHS:
            return WIDTHS[self.widths[0]]
        given = " ".join(self.widths)
        if len(self.widths) != 4 or not all(w.isdigit() for w in self.widths):
            raise runs.FlagError(f"--widths must be {WIDTHS_HELP}, got {given}")
        widths = tuple(map(int, self.widths))
        if min(widths) < 1:
            raise runs.FlagError(f"--widths must be at least 1, got {given}")
        return widths

    @property
    def branches_list(self) -> list[int]:
        return sorted({self.branches, *self.sweep_branches})

    def jobs(self) -> list[Job]:
        """The networks to train, the main one first."""
        jobs = []
        for repeat in range(self.repeats):
            suffix = f"_repeat_{repeat}" if repeat else ""
            names = {m: f"branches_{m}" for m in self.branches_list}
            names[self.branches] = classifier.MAIN
            for m in sorted(names, key=lambda m: (m != self.branches, m)):
                jobs.append(Job(names[m] + suffix, m, repeat, separate=False))
            if not self.skip_control:
                most = max(self.branches_list)
                jobs.append(Job(CONTROL + suffix, most, repeat, separate=True))
        return jobs


def main(config: Config) -> None:
    started = time.perf_counter()
    if config.figures_only:
        runs.redraw(config.workdir, NAME, partial(draw, config))
        return
    dataset = load_data(config)
    workdir = runs.start(config, NAME)
    config = dataclasses.replace(config, workdir=workdir)
    for job in config.jobs():
        finish(config, job, dataset)
    results = measure(config, dataset)
    runs.conclude(workdir, config, results, started, partial(draw, config), summary)


def load_data(config: Config) -> data.Dataset:
    flags = {flag: getattr(config, flag) for flag in DATA_FLAGS}
    dataset = data.load(seed=config.seed, **flags)
    have = len(dataset.train.labels)
    if config.batch_size > have:
        raise runs.FlagError(
            f"--batch-size {config.batch_size} is more than the {have} training "
            "examples"
        )
    check_selection(config, config.branches, dataset.test.labels)
    return dataset


def finish(config: Config, job: Job, dataset: data.Dataset) -> None:
    """Trains a network, or goes on, and saves its responses to the test examples."""
    path = predictions_path(config.workdir, job.name)
    if path.exists():
        return
    network, pixels = build(config, job.branches, dataset), pixels_of(dataset)
    folder = config.workdir / "checkpoints" / job.name
    checkpoints.describe(folder, describe(config, dataset, job.branches))
    state = train(config, job, network, dataset, folder)
    predict = partial(classifier.predict, network)
    trained = predict(state.params, state.batch_stats, dataset.test.images, pixels)
    (start,) = checkpoints.restore(folder, 0, model=model_of(state))
    stats = classifier.calibrate(
        network, **start, images=dataset.train.images, pixels=pixels
    )
    initial = predict(start["params"], stats, dataset.test.images, pixels)
    path.parent.mkdir(exist_ok=True)
    files.save_arrays(path, {"trained": trained, "initial": initial})


def train(config, job, network, dataset, folder: Path) -> TrainState:
    """Fits a network; shows the progress and writes metrics.jsonl."""
    recipe = Recipe(
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer=config.optimizer,
        learning_rate=config.learning_rate or LEARNING_RATES[config.optimizer],
        weight_decay=config.weight_decay,
        clamp=config.clamp,
        crop_padding=config.crop_padding,
        flip=not config.skip_flip,
        separate=job.separate,
    )
    key = jax.random.fold_in(jax.random.key(config.seed), job.repeat)
    images, labels = dataset.validation
    steps = len(dataset.train.labels) // config.batch_size
    done = max(checkpoints.steps(folder), default=0)
    files.keep_metrics(
        config.workdir, lambda line: line["network"] != job.name or line["step"] <= done
    )
    with runs.progress_bar(
        steps * config.epochs * config.batch_size,
        f"{job.name} (M = {job.branches})",
        "image",
        done * config.batch_size,
    ) as advance:

        def on_log(state, step, epoch, log):
            record = {"network": job.name, "step": step, "epoch": epoch}
            record |= means_of(log, len(dataset.class_names))
            if step % steps == 0 and len(labels):
                v = classifier.predict(
                    network, state.params, state.batch_stats, images, pixels_of(dataset)
                )
                accuracy = contributions.accuracy(v.sum(0), labels)
                record["validation_accuracy"] = accuracy
            files.append_metrics(config.workdir, record)
            advance(len(log["loss"]) * config.batch_size)

        schedule = Schedule(config.log_every, config.checkpoint_every)
        return fit(
            network,
            recipe,
            pixels_of(dataset),
            dataset.train,
            key,
            folder,
            schedule,
            on_log,
        )


def means_of(log: dict, num_classes: int) -> dict:
    """A line of metrics.jsonl: means over the steps since the last."""
    rms = np.sqrt(log["energy"].mean(0))
    return {
        "loss": log["loss"].mean(),
        "excess_loss": log["loss"].mean() - classification_floor(num_classes),
        "accuracy": log["accuracy"].mean(),
        "saturated": log["saturated"].mean(),
        "gradient_norm": log["gradient_norm"].mean(),
        "norms": rms,
        "active": int(active_branches(jnp.asarray(rms)[:, None]).sum()),
    }


def pixels_of(dataset: data.Dataset) -> Pixels:
    return Pixels(*(np.asarray(a, np.float32) for a in (dataset.mean, dataset.std)))


def build(config: Config, branches: int, dataset: data.Dataset) -> BranchedNetwork:
    return classifier.build(
        config.widths_list, branches, len(dataset.class_names), config.last_scale
    )


def describe(config: Config, dataset: data.Dataset, branches: int) -> dict:
    """The description of a network's checkpoints."""
    return classifier.describe(
        config.widths_list,
        branches,
        dataset.class_names,
        dataset.train.images.shape[1:],
        pixels_of(dataset),
        clamp=config.clamp,
        data={name: getattr(config, name) for name in DATA_FLAGS}
        | {"seed": config.seed},
    )


def predictions_path(workdir: Path, name: str) -> Path:
    """Where a network's responses are saved."""
    return workdir / "predictions" / f"{name}.npz"


def measure(config: Config, dataset: data.Dataset) -> dict:
    """All that results.json holds."""
    labels, num_classes = dataset.test.labels, len(dataset.class_names)
    responses = load_responses(config, len(labels), num_classes)
    shown = {"images": dataset.test.images, "labels": labels}
    files.save_arrays(config.workdir / EXAMPLES, shown, compressed=True)
    active = np.asarray(active_branches(responses[classifier.MAIN].trained))
    return {
        "classes": dataset.class_names,
        **analyse(config.jobs(), responses, labels, num_classes),
        "pruned": export_pruned(config, dataset, active),
        "curves": files.read_metrics(config.workdir),
    }


def load_responses(config: Config, num_examples: int, num_classes: int) -> dict:
    """The responses of every network."""
    loaded = {}
    for job in config.jobs():
        like = np.empty((job.branches, num_examples, num_classes))
        path = predictions_path(config.workdir, job.name)
        arrays = files.load_arrays(path, dict.fromkeys(Responses._fields, like))
        loaded[job.name] = Responses(**arrays)
    return loaded


def export_pruned(config: Config, dataset: data.Dataset, active: np.ndarray) -> dict:
    """Saves the main network without its silent branches; says what that saves."""
    main = classifier.load(config.workdir / "checkpoints" / classifier.MAIN)
    model = {"params": main.params, "batch_stats": main.batch_stats}
    folder = config.workdir / "checkpoints" / "pruned"
    shutil.rmtree(folder, ignore_errors=True)  # of an analysis that was stopped
    count = int(active.sum())
    checkpoints.describe(folder, describe(config, dataset, count))
    kept = jax.tree.map(lambda leaf: leaf[active], model)
    checkpoints.save(folder, main.step, model=kept)
    parameters = sum(leaf[0].size for leaf in jax.tree.leaves(main.params))
    flops = classifier.forward_flops(main.description)
    return {
        "branches": count,
        "parameters": count * parameters,
        "parameters_before": len(active) * parameters,
        "flops": count * flops,
        "flops_before": len(active) * flops,
    }


def draw(config: Config, results: dict) -> dict:
    """The figures of finished results, by file name."""
    classes, networks = results["classes"], results["networks"]
    shown = load_examples(config)
    check_selection(config, results["config"]["branches"], shown["labels"])
    drawn = {
        "fig05_covariance": figures.branch_covariances(results["covariances"]),
        "fig06_outputs": figures.branch_outputs(networks[0], classes),
        "fig07_confidence": figures.branch_confidence(
            classes, shown["confidence"], shown["labels"]
        ),
        "classify_training": figures.classifier_training(results["curves"]),
        "classify_ablation": figures.branch_ablation(results),
        "classify_enrichment": figures.branch_enrichment(
            results["enrichment"], classes
        ),
    }
    branches = config.figure_branches or results["selection"]["branches"]
    labels = config.figure_classes or results["selection"]["classes"]
    for name, share, of in (("fig08", 0.02, labels), ("fig16", 0.07, labels[:1])):
        drawn[f"{name}_confident"] = figures.most_confident_images(
            classes, branches, of, share, **shown
        )
    if len(results["sweep"]["branches"]) > 1:
        drawn["fig05_active"] = figures.active_against_branches(results["sweep"])
        first = [one for one in networks if not one["repeat"] and not one["separate"]]
        first.sort(key=lambda one: one["branches"])
        drawn["fig17_sweep"] = figures.branch_outputs_sweep(first, classes)
    return drawn


def check_selection(config: Config, num_branches: int, labels: np.ndarray) -> None:
    """Raises FlagError for a branch that there is not, or a class without examples."""
    runs.check_flag(
        config, "figure_branches", lambda v: v < num_branches, f"below {num_branches}"
    )
    have = set(labels.tolist())
    what = f"a class of the test data ({', '.join(map(str, sorted(have)))})"
    runs.check_flag(config, "figure_classes", have.__contains__, what)


def load_examples(config: Config) -> dict:
    """Test images, labels and the main network's confidence in them."""
    like = {"images": None, "labels": None}
    examples = files.load_arrays(config.workdir / EXAMPLES, like)
    saved = predictions_path(config.workdir, classifier.MAIN)
    if saved.exists():
        v = files.load_arrays(saved, {"trained": None})["trained"]
    else:  # a run that was kept has the network alone
        v = classifier.load(config.workdir).responses(examples["images"])
    confidence = contributions.confidence(v, examples["labels"])
    return {**examples, "confidence": confidence}


def summary(results: dict) -> str:
    """The table that ends a run."""
    lines = [
        f"{results['config']['dataset']}, chance {1 / len(results['classes']):.2f}",
        "network          M  accuracy  excess loss  saturated  active  silent  index S",
    ]
    for one in results["networks"]:
        lines.append(
            f"{one['name']:15}{one['branches']:3}  {one['test_accuracy']:8.4f}  "
            f"{one['excess_loss']:11.4f}  {one['saturated']:9.3f}  {one['active']:6}  "
            f"{one['silent']:6}  {one['specialization_index']:7.3f}"
        )
    ablation, pruned = results["ablation"], results["pruned"]
    lines += [
        "",
        f"without its silent branches: accuracy {ablation['without_silent']:.4f}, "
        f"{pruned['parameters']:,} of {pruned['parameters_before']:,} parameters",
        "",
        *observation_lines(results["observations"], ("value", "initial", "control")),
    ]
    if results["config"]["repeats"] == 1:
        lines.append("(verdicts need several networks: --repeats 5)")
    return "\n".join(lines)


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
