r"""Applications of the decomposition of an image, scored on the synthetic faces.

    python -m experiments.applications --checkpoint docs/runs/faces_diffusion \
        --segmentation docs/runs/faces_segmentation   # 21 minutes
    python -m experiments.applications --checkpoint docs/runs/faces_diffusion \
        --applications filtering --attenuate 2 5 --attenuation 0.2   # 2 minutes

Scores the applications that section 7 names by what the held-out faces were rendered
from:

- editing: one component with another gain, inside the segmented eyes or everywhere;
  the share of the change in the true eyes.
- augmentation: a classifier trained on few labels, with and without randomly perturbed
  components; its accuracy.
- filtering: components attenuated to remove a part; the similarity to the faces
  rendered without it.
- shape: normals by shape from shading of a component, of R and of the plain image; the
  angle to the true normals.
"""

import dataclasses
import time
from functools import partial

import numpy as np

from bspec_jax import generator, runs
from bspec_jax.components import segmentation
from bspec_jax.data.images import Source
from bspec_jax.generator import GeneratorSpec, recogniser
from experiments.applications.augmentation import augmentation_scores
from experiments.applications.config import NAME, Config
from experiments.applications.data import draw_examples, rendered_source
from experiments.applications.draw import draw, save_examples
from experiments.applications.editing import editing_scores
from experiments.applications.filtering import filtering_scores
from experiments.applications.masks import saved_segmenter, search_segmenter
from experiments.applications.shape import shape_scores
from experiments.applications.summary import summary


def main(config: Config) -> None:
    started = time.perf_counter()
    if config.figures_only:
        runs.redraw(config.workdir, NAME, partial(draw, config))
        return
    trained = generator.load(config.checkpoint)
    source = rendered_source(config.checkpoint, trained.spec)
    runs.check_components(config, trained.spec.branches, ("component", "attenuate"))
    segmenter = None
    if config.segmentation and "editing" in config.applications:
        segmenter = saved_segmenter(config.segmentation, trained.spec)
    classifier = recogniser.beside(config.checkpoint)
    count = config.choose_examples * len(trained.spec.classes)
    if "augmentation" in config.applications:
        most = int(np.bincount(source.train.labels()).min())
        what = f"at most {most}, the training images of a class"
        runs.check_flag(config, "labels_per_class", lambda v: v <= most, what)
    check_memory(config, count, source, trained.spec)
    config = dataclasses.replace(config, workdir=runs.start(config, NAME))
    train = draw_examples(trained, source.train, count, config.seed)
    test = draw_examples(trained, source.test, config.test_examples, config.seed)
    results = {"classes": trained.spec.classes, "examples": len(test.x)}
    masks = None
    if "editing" in config.applications:
        segmenter = segmenter or search_segmenter(train)
        (masks,), (converged,) = segmenter.segment(test)
        results["segmentation"] = {
            "source": segmenter.source,
            "choice": segmenter.choice._asdict(),
            "converged": int(converged.sum()),
            "iou": segmentation.iou(masks, test.truth.masks[config.part]).mean(),
        }
        results["editing"] = editing_scores(config, test, masks, classifier)
    if "filtering" in config.applications:
        results["filtering"] = filtering_scores(config, train, test)
    if "shape" in config.applications:
        results["shape"] = shape_scores(train, test)
    if "augmentation" in config.applications:
        results["augmentation"] = augmentation_scores(
            config, trained, source.train, test
        )
    save_examples(config, results, test, masks)
    runs.conclude(
        config.workdir, config, results, started, partial(draw, config), summary
    )


def check_memory(
    config: Config, num_train: int, source: Source, spec: GeneratorSpec
) -> None:
    """Raises FlagError if the images cannot be decomposed and recombined in memory."""
    height, width, channels = spec.image_shape
    test = min(config.test_examples, len(source.test.labels()))
    labelled = max(config.labels_per_class) * len(spec.classes)
    train = min(max(num_train, labelled), len(source.train.labels()))
    # Per value of an image: v_k, phi_k and their product with gains, in float32; for
    # training images, the equations of the gains and their factor in float64, too.
    floats = test * (3 * spec.branches + 12) + train * (7 * spec.branches + 12)
    runs.check_memory(
        4 * floats * height * width * channels,
        f"the components of {test} + {train} images",
        "lower --test-examples, --choose-examples or --labels-per-class",
    )


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
