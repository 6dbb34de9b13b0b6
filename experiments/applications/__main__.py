r"""What the decomposition of an image is good for, in numbers on the synthetic faces.

    python -m experiments.applications --checkpoint docs/runs/faces_diffusion \
        --segmentation docs/runs/faces_segmentation   # 21 minutes
    python -m experiments.applications --checkpoint docs/runs/faces_gaussian \
        --applications filtering --attenuate 2 5 --attenuation 0.2   # 2 minutes

The applications that section 7 names, each scored on held-out faces by what they were
rendered from:

- editing: one component with another gain, inside the segmented eyes or everywhere;
  how much of the change falls in the true eyes.
- augmentation: a classifier trained on a few labels, with components perturbed at
  random and without; its accuracy.
- filtering: components attenuated to remove a part; how near that comes to the faces
  rendered without it.
- shape: the normals of the surface, by shape from shading of a component, of R and of
  the plain image; their angle to the true ones.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from bspec_jax import generator, runs
from bspec_jax.components import segmentation
from bspec_jax.components.segmentation import Border, Choice
from bspec_jax.data.faces import CLASSES
from bspec_jax.generator.network import Trained
from bspec_jax.storage.errors import FlagError, UserError
from experiments import applications_analysis as analysis
from experiments import applications_data, recogniser, segment_analysis
from experiments import applications_pictures as pictures
from experiments.applications_augmentation import augmentation
from experiments.applications_data import Faces
from experiments.class_transfer_data import first_of_each
from experiments.tables import number

NAME = "applications"
ALL = ("editing", "augmentation", "filtering", "shape")
SEARCHED = 8  # training faces of each class that a segmentation is chosen on


@dataclasses.dataclass(frozen=True)
class Config(runs.RunConfig):
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
    """A run of class_transfer on the synthetic faces."""
    applications: tuple[
        Literal["editing", "augmentation", "filtering", "shape"], ...
    ] = ALL
    """Which of them."""
    test_examples: int = 300
    """Held-out faces to score on, as many of each class."""
    choose_examples: int = 32
    """Training faces of each class that gains and settings are chosen on."""
    segmentation: Path | None = None
    """A run of segment, whose choice of components finds the part to edit. Default: the
    choice is searched for, without labels."""
    part: Literal["eyes", "ears"] = "eyes"
    """The part to edit."""
    gain: float = 2.0
    """Of the component that is edited; 1 changes nothing."""
    component: int | None = None
    """Whose edit is shown, from 0. Default: the one with most of it in the part."""
    labels_per_class: tuple[int, ...] = (50, 5, 2)
    """Labelled faces that classifiers are trained on."""
    trials: int = 5
    """Trainings of each kind, from one seed on."""
    steps: int = 120
    """Of each training, about."""
    scale: float = 0.2
    """Standard deviation of the random gains around 1."""
    attenuate: tuple[int, ...] = ()
    """Components to attenuate, from 0. Default: all gains are fitted."""
    attenuation: float = 0.0
    """Gain of these components."""

    def check(self) -> None:
        super().check()
        if self.resume:
            raise FlagError("applications takes some minutes and cannot be resumed")
        if self.checkpoint is None and not self.figures_only:
            raise FlagError("--checkpoint needs the folder of a class-transfer run")
        runs.check_flag(self, "applications", ALL.__contains__, f"some of {ALL}")
        for name in ("gain", "attenuation"):
            runs.check_flag(self, name, np.isfinite, "finite")
        runs.check_flag(self, "scale", lambda v: 0 < v < np.inf, "finite, above 0")


def main(config: Config) -> None:
    started = time.perf_counter()
    if config.figures_only:
        runs.redraw(config.workdir, NAME, partial(pictures.draw, config))
        return
    trained = load_generator(config)
    choice = saved_choice(config)
    classifier = recogniser.beside(config.checkpoint)
    workdir = runs.start(config, NAME)
    config = dataclasses.replace(config, workdir=workdir)
    each = len(trained.description["classes"])
    train, test = (
        applications_data.load(trained, split, count, config.seed)
        for split, count in (
            ("train", config.choose_examples * each),
            ("test", config.test_examples),
        )
    )
    results = {"classes": test.classes, "examples": len(test.x)}
    masks = None
    if "editing" in config.applications:
        choice = choice or search(train)
        masks = segmentation.segment(diffused(test), *choice)
        results["segmentation"] = {
            "choice": choice[0]._asdict(),
            "iou": segmentation.iou(masks, test.truth.masks[config.part]).mean(),
        }
        results["editing"] = analysis.editing(config, test, masks, classifier)
    if "filtering" in config.applications:
        results["filtering"] = analysis.filtering(config, train, test)
    if "shape" in config.applications:
        results["shape"] = analysis.shape(train, test)
    if "augmentation" in config.applications:
        results["augmentation"] = augmentation(config, trained, test)
    pictures.save(config, results, test, masks)
    draw = partial(pictures.draw, config)
    runs.conclude(workdir, config, results, started, draw, summary)


def load_generator(config: Config) -> Trained:
    """The generator of the checkpoint.

    Raises:
      UserError: if it was not trained on the synthetic faces.
      FlagError: if a component that a flag names does not exist.
    """
    trained = generator.load(config.checkpoint)
    about = trained.description
    if about.get("dataset") != "faces":
        raise UserError(
            f"{config.checkpoint} was trained on {about.get('dataset')}; applications "
            f"are scored by the ground truth of the synthetic faces ({CLASSES})"
        )
    runs.check_components(config, about["branches"], ("component", "attenuate"))
    return trained


def saved_choice(config: Config) -> tuple[Choice, Border] | None:
    """The choice of components of the segmentation's run, if there is one."""
    if config.segmentation is None:
        return None
    runs.check_experiment(config.segmentation, "segment")
    saved = runs.load_results(config.segmentation)
    choice = saved["methods"]["components"]["choice"]
    components = {key: tuple(choice[key]) for key in ("surface", "image")}
    settings = saved["config"]
    border = Border(length=settings["length"], inside=settings["inside"])
    return Choice(**{**choice, **components}), border


def search(train: Faces) -> tuple[Choice, Border]:
    """The components that segment a pair of parts, found without labels."""
    few = train.of(first_of_each(train.labels, SEARCHED))
    scalars = segmentation.scalarise(diffused(few))
    (ranking,) = segment_analysis.search("components", scalars)
    return ranking[0].choice, segmentation.BORDER


def diffused(faces: Faces) -> np.ndarray:
    """The components that are segmented, as in `experiments.segment`."""
    return faces.stacks.get("inputs", faces.stacks["responses"])


def summary(results: dict) -> str:
    """A table for each application."""
    lines = []
    if editing := results.get("editing"):
        lines.append(
            f"editing: share of the change in the true {results['config']['part']} "
            f"(chance {editing['chance']:.2f}, IoU of the masks "
            f"{results['segmentation']['iou']:.2f})"
        )
        for source in pictures.sources(editing):
            rows = editing[source]
            means = {
                place: np.mean([row[place]["mean"] for row in rows])
                for place in ("everywhere", "inside")
            }
            lowest = min(row["class_kept"] for row in rows)
            lines.append(
                f"  {source:12} everywhere {means['everywhere']:.2f}, inside the masks "
                f"{means['inside']:.2f}; class kept {lowest:.2f} at least"
            )
    if filtering := results.get("filtering"):
        lines.append("filtering: against the faces rendered without the part")
        lines.append(
            f"  {'':8} {'':22} {'PSNR':>6} {'SSIM':>6} {'PSNR in the part':>16}"
        )
        for part, found in filtering.items():
            for name, row in found["methods"].items():
                values = (row[key]["mean"] for key in ("psnr", "ssim", "psnr_inside"))
                psnr, ssim, inside = map(number, values)
                lines.append(f"  {part:8} {name:22} {psnr:>6} {ssim:>6} {inside:>16}")
    if shape := results.get("shape"):
        lines.append("shape: mean angular error of the normals, degrees")
        lines += [f"  {name:12} {row['mean']:.1f}" for name, row in shape.items()]
    if found := results.get("augmentation"):
        for labels, ways in found.items():
            lines.append(f"augmentation: {labels} labels a class")
            for way, row in ways.items():
                low, high = (number(bound, 3) for bound in row["gain_interval"])
                lines.append(
                    f"  {way:12} accuracy {row['accuracy']:.3f}, gain "
                    f"{row['gain']:+.3f} ({low} to {high})"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
