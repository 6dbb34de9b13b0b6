r"""Segmentation of a pair of parts, such as the eyes, by a generator's components.

    python -m experiments.segment --checkpoint docs/runs/faces_diffusion   # 6 minutes
    python -m experiments.segment --checkpoint docs/runs/faces_diffusion \
        --surface-components 3 8 --image-components 6 8 --dark
    python -m experiments.segment --checkpoint RUN --images my_pictures

The steps of appendix F, with the checkpoint of a class-transfer run: some components
tell where to begin, some what Chan-Vese segments, and a pair of regions is kept. Which
components these are is found from a few training images, without labels, by how much
the masks look like a mirrored, compact pair; or given by hand. Masks are written as
PNG, with overlays as in Figures 12 and 21. On the synthetic faces they are scored by
the true masks, beside the choice that is best by these, and beside the same search on
the plain image.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from PIL import Image

from bspec_jax import files, generator, run
from bspec_jax.errors import FlagError
from bspec_jax.segmentation import Border
from experiments import segment_analysis as analysis
from experiments import segment_data, segment_pictures
from experiments.tables import number

NAME = "segment"


@dataclasses.dataclass(frozen=True)
class Config(run.RunConfig):
    """Flags of the segmentation."""

    COUNTS: ClassVar = ("test_examples", "choose_examples", "largest")

    checkpoint: Path | None = None
    """A run of class transfer, or its generator's checkpoints."""
    images: tuple[Path, ...] = ()
    """Images of your own, or folders of them. Default: held-out images of the data that
    the generator was trained on."""
    dataset: str | None = None
    """Another set of images, of the same classes. Default: the generator's."""
    data_dir: Path | None = None
    """Where the data are, as for class_transfer."""
    test_examples: int = 900
    """Held-out images to segment, as many of each class; fewer if there are not so
    many."""
    source: Literal["auto", "responses", "inputs"] = "auto"
    """Components: the responses v_k of the branches, or the phi_k that they read, which
    are taken by default where a diffusion makes them."""
    surface_components: tuple[int, ...] = ()
    """Components that locate the parts, from 0. Default: found without labels."""
    image_components: tuple[int, ...] = ()
    """Components that are nearly constant inside. Default: found without labels."""
    dark: bool = False
    """The parts are the dark ones in the surface's components, chosen by hand."""
    level: float = 0.7
    """Of the surface, 0..1, above which pixels are inside at first; chosen by hand."""
    choose_examples: int = 8
    """Training images of each class that components are chosen on."""
    largest: int = 2
    """Components that the search combines, at most."""
    part: Literal["eyes", "ears"] = "eyes"
    """The part of the synthetic faces that masks are scored by."""
    length: float = 0.02
    """Chan-Vese's mu, of the border's length."""
    inside: float = 4.0
    """Chan-Vese's lambda_1, of the variance inside; lambda_2 is 1."""

    def check(self) -> None:
        super().check()
        if self.resume:
            raise FlagError("segment takes a few minutes and cannot be resumed")
        if self.checkpoint is None and not self.figures_only:
            raise FlagError("--checkpoint needs the folder of a class-transfer run")
        if bool(self.surface_components) != bool(self.image_components):
            raise FlagError(
                "--surface-components and --image-components need each other"
            )
        run.check_flag(self, "level", lambda v: 0 <= v < 1, "in 0..1, below 1")
        for name in ("length", "inside"):
            run.check_flag(self, name, lambda v: 0 <= v < np.inf, "finite, >= 0")
        if self.images and (self.dataset or self.data_dir):
            raise FlagError("--images takes the place of --dataset and --data-dir")

    def border(self) -> Border:
        return Border(length=self.length, inside=self.inside)


def main(config: Config) -> None:
    started = time.perf_counter()
    if config.figures_only:
        run.redraw(config.workdir, NAME, partial(segment_pictures.draw, config))
        return
    trained = generator.load(config.checkpoint)
    run.check_components(
        config,
        trained.description["branches"],
        ("surface_components", "image_components"),
    )
    source = analysis.source_of(config, trained)
    chosen_on, segmented = segment_data.load(config, trained)
    workdir = run.start(config, NAME)
    config = dataclasses.replace(config, workdir=workdir)
    results, shown = analysis.analyse(config, trained, source, chosen_on, segmented)
    write_masks(workdir / "masks", segmented.names, results.pop("masks"))
    files.save_arrays(workdir / "segmentation.npz", shown)
    draw = partial(segment_pictures.draw, config)
    run.conclude(workdir, config, results, started, draw, summary)


def write_masks(folder: Path, names: list[str], masks: np.ndarray) -> None:
    """A black and white PNG for each image."""
    folder.mkdir()
    for name, mask in zip(names, masks, strict=True):
        Image.fromarray(mask).save(folder / f"{name}.png")


def summary(results: dict) -> str:
    """The choices, and where there is a truth the table of scores."""
    lines = []
    for method, found in results["methods"].items():
        choice = found["choice"]
        lines.append(
            f"{method:12} surface {choice['surface']}"
            f"{' (dark)' if choice['dark'] else ''} above {choice['level']}, "
            f"image {choice['image']}"
        )
    lines.append(f"{'':12} {'':8} {'IoU':>6} {'prec.':>6} {'recall':>6} {'empty':>6}")
    for method, found in results["methods"].items():
        for name, scores in {**found["by_class"], "all": found["all"]}.items():
            row = (scores[key] for key in ("iou", "precision", "recall", "empty"))
            lines.append(
                f"{method:12} {name:8} " + " ".join(f"{number(v):>6}" for v in row)
            )
    return "\n".join(lines)


if __name__ == "__main__":
    run.command_line(Config, main, NAME, __doc__)
