r"""Segmentation of a pair of parts, such as the eyes, by a generator's components.

    python -m experiments.segment --checkpoint docs/runs/faces_diffusion   # 8 minutes
    python -m experiments.segment --checkpoint docs/runs/faces_diffusion \
        --surface-components 3 8 --image-components 6 8 --dark
    python -m experiments.segment --checkpoint RUN --images my_pictures

Follows the steps of appendix F with the generator of a class-transfer run: some
components locate the parts, Chan-Vese segments others, and the two regions that form a
pair are kept. The components are given by hand, or found from a few training images by
how much the masks look like a mirrored, compact pair, which needs no labels. Writes the
masks as PNG, with overlays as in Figures 12 and 21. For data with a ground truth, also
scores them by the true masks, beside the choice that is best by these, and beside the
same search on the plain image.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from bspec_jax import generator, runs
from bspec_jax.data.names import shown
from bspec_jax.generator import GeneratorSpec
from bspec_jax.storage import files
from experiments.segment.analysis import analyse, choose_source
from experiments.segment.config import NAME, Config
from experiments.segment.data import load_images
from experiments.segment.draw import ARRAYS_FILE, draw
from experiments.tables import number


def main(config: Config) -> None:
    started = time.perf_counter()
    if config.figures_only:
        runs.redraw(config.workdir, NAME, partial(draw, config))
        return
    trained = generator.load(config.checkpoint)
    runs.check_components(
        config, trained.spec.branches, ("surface_components", "image_components")
    )
    source = choose_source(config, trained.spec)
    chosen_on, segmented = load_images(config, trained.spec)
    check_memory(len(segmented.x), trained.spec)
    workdir = runs.start(config, NAME)
    config = dataclasses.replace(config, workdir=workdir)
    analysis = analyse(config, trained, source, chosen_on, segmented)
    write_masks(workdir / "masks", segmented.names, analysis.masks)
    files.save_arrays(workdir / ARRAYS_FILE, analysis.arrays)
    runs.conclude(
        workdir, config, analysis.results, started, partial(draw, config), summary
    )


def check_memory(num_images: int, spec: GeneratorSpec) -> None:
    """Raises FlagError if so many images cannot be decomposed in memory."""
    height, width, channels = spec.image_shape
    # Per pixel: the images and their stacks v_k and phi_k, and the scalars of a stack.
    values = channels * (2 * spec.branches + 6) + 2 * spec.branches + 8
    runs.check_memory(
        4 * num_images * height * width * values,
        f"the components of {num_images} images",
        "give fewer --images, or lower --test-examples",
    )


def write_masks(folder: Path, names: list[str], masks: np.ndarray) -> None:
    """Writes each mask as a black and white PNG."""
    folder.mkdir()
    for name, mask in zip(names, masks, strict=True):
        Image.fromarray(mask).save(folder / f"{name}.png")


def summary(results: dict) -> str:
    """The choice of each method, its scores by class, and the converged borders."""
    lines, count = [], results["examples"]
    for method, result in results["methods"].items():
        choice = result["choice"]
        lines.append(
            f"{method:12} surface {choice['surface']}"
            f"{' (dark)' if choice['dark'] else ''} above {choice['level']}, "
            f"image {choice['image']}; {result['converged']} of {count} borders "
            "converged"
        )
    width = max(8, *(len(shown(name)) for name in results["classes"]))
    heading = f"{'IoU':>6} {'prec.':>6} {'recall':>6} {'empty':>6}"
    lines.append(f"{'':12} {'':{width}} {heading}")
    for method, result in results["methods"].items():
        for name, scores in {**result["by_class"], "all": result["all"]}.items():
            row = (scores[key] for key in ("iou", "precision", "recall", "empty"))
            lines.append(
                f"{method:12} {shown(name):{width}} "
                + " ".join(f"{number(v):>6}" for v in row)
            )
    return "\n".join(lines)


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
