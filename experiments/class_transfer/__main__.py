r"""Class transfer by a sum of branches, and the image decomposition that it gives.

    python -m experiments.class_transfer   # synthetic faces, 64 px: 58 minutes,
                                            # transfers .98, class kept 1.00
    python -m experiments.class_transfer --dataset fashion_mnist --preset small32 \
        --classes sandal sneaker "ankle boot" --residual gaussian --skip-flip \
        --batch-size 16 --iterations 4000   # 31 minutes, transfers .80, class kept .99
    python -m experiments.class_transfer --dataset folder --data-dir afhq \
        --preset paper256 --crop 0.5 --iterations 100000 --learning-rate 1e-4

Trains f(x, y) = R(x) + sum of M branches, which shows image x as one of class y,
against a discriminator (section 7). Measures on held-out images: accuracy of transfers
by a classifier that is trained first, fidelity of re-generations (transfers to the own
class), the components that the branches add and, on the synthetic faces, the parts and
layers that each shows. Draws Figures 9 to 11, 13 to 15 and 18 to 20; for a finished run
also for other components and for your own images:

    python -m experiments.class_transfer --workdir RUN --figures-only \
        --components 1 4 --sweep 4 --subset 0,2 1,3,4 --images my.png
"""

import dataclasses
import time
from functools import partial

import numpy as np

from bspec_jax import data, runs
from bspec_jax.data import Selection
from bspec_jax.data.names import shown
from bspec_jax.generator import GeneratorSpec, recogniser
from bspec_jax.generator.transfers import FEWEST_FOR_FRECHET
from bspec_jax.storage.errors import notify
from bspec_jax.storage.optional import needs
from experiments.class_transfer import fid, memory
from experiments.class_transfer.config import NAME, Config
from experiments.class_transfer.draw import draw
from experiments.class_transfer.measure import measure
from experiments.class_transfer.training import train
from experiments.tables import number


def main(config: Config) -> None:
    started = time.perf_counter()
    if config.figures_only:
        runs.redraw(config.workdir, NAME, partial(draw, config))
        return
    check_packages(config)
    memory.check_before_reading(config)
    selection = data.select(
        config.dataset,
        config.data_dir,
        config.classes,
        config.size,
        config.test_examples,
        config.seed,
        config.test_share,
    )
    check_data(config, selection)
    workdir = runs.start(config, NAME, selection.identity)
    config = dataclasses.replace(config, workdir=workdir)
    print(*data.describe(selection), sep="\n")
    for message in selection.unreadable:
        print(f"skipped: {message}")
    trained_recogniser = recogniser.finish(
        config.workdir / "checkpoints",
        selection,
        config.recogniser_epochs,
        config.seed,
        lambda total, done: runs.progress_bar(total, "classifier", "step", done),
    )
    spec = specify(config, selection)
    state = train(config, selection, spec, trained_recogniser)
    results = measure(config, selection, spec, trained_recogniser, state)
    runs.conclude(
        config.workdir, config, results, started, partial(draw, config), summary
    )


def check_packages(config: Config) -> None:
    """Raises UserError if a package that a run needs, late, is not installed."""
    needs("grain", extra="generator")
    needs("skimage.metrics", extra="generator")
    if config.inception_weights:
        fid.check(config.inception_weights)


def check_data(config: Config, selection: Selection) -> None:
    """Refuses what these data do not allow, and tells what will not be measured.

    Raises:
      FlagError: if the memory does not suffice.
      UserError: if the FID cannot be computed.
    """
    test = selection.test
    memory.check(config, test.images.shape, len(selection.class_names))
    if config.inception_weights:
        fid.fid(test.images[:2], test.images[-2:], config.inception_weights)
    counts = np.bincount(test.labels, minlength=len(selection.class_names))
    scarce = int(counts.argmin())
    if counts[scarce] < FEWEST_FOR_FRECHET:
        notify(
            f"{shown(selection.class_names[scarce])} has {counts[scarce]} test images: "
            f"Frechet distances need {FEWEST_FOR_FRECHET} of each class, and will be "
            "null"
        )


def specify(config: Config, selection: Selection) -> GeneratorSpec:
    return GeneratorSpec(
        preset=config.preset,
        branches=config.branches,
        classes=selection.class_names,
        image_shape=selection.test.images.shape[1:],
        residual=config.residual,
        sigma=config.sigma or config.size / 8,
        diffusion_step=config.diffusion_step,
        precision=config.precision,
        dataset=selection.name,
    )


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
        f"{title:32} {number(results[key]):>9}  {number(results[f'{key}_residual']):>8}"
        for title, key in rows
    ]
    shares = " ".join(map(number, results["energy_share"]))
    lines += [
        f"the classifier itself: {number(results['recogniser_accuracy'], 3)}; Frechet "
        f"distance of real images {number(results['frechet_real'])}",
        f"{number(results['active'], 0)} active branches; shares of energy {shares}",
    ]
    for part, scores in results["part_scores"].items():
        means = np.array(scores["mean"], float)
        if np.isfinite(means).all():
            largest = int(np.argmax(means))
            lines.append(
                f"{part:10} most in component {largest}: {means[largest]:.1f} times "
                "chance"
            )
    if results["unreadable"]:
        lines.append(f"{len(results['unreadable'])} unreadable images were skipped")
    return "\n".join(lines)


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
