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

from bspec_jax import generator, runs
from bspec_jax.components import segmentation
from bspec_jax.generator import recogniser
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
    segmenter = config.segmentation and saved_segmenter(config.segmentation)
    classifier = recogniser.beside(config.checkpoint)
    config = dataclasses.replace(config, workdir=runs.start(config, NAME))
    count = config.choose_examples * len(trained.spec.classes)
    train = draw_examples(trained, source.train, count, config.seed)
    test = draw_examples(trained, source.test, config.test_examples, config.seed)
    results = {"classes": trained.spec.classes, "examples": len(test.x)}
    masks = None
    if "editing" in config.applications:
        segmenter = segmenter or search_segmenter(train)
        masks = segmenter.masks(test)
        results["segmentation"] = {
            "choice": segmenter.choice._asdict(),
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


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
