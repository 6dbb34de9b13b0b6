"""Masks by each method of `experiments.segment`, their scores, and examples."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from bspec_jax.analysis.statistics import mean_interval
from bspec_jax.components import segmentation
from bspec_jax.components.pairs import Masks
from bspec_jax.components.segmentation import Choice
from bspec_jax.generator import GeneratorSpec, Trained
from bspec_jax.runs import FlagError
from experiments.segment.choices import (
    COMPONENTS,
    METHODS,
    PLAIN,
    Scalars,
    Source,
    choose,
    scalar_stacks,
)
from experiments.segment.config import Config
from experiments.segment.data import LabelledImages

SHOWN = 3  # images of each class in the figures


class Analysis(NamedTuple):
    """Results of a segmentation.

    results: content of results.json.
    masks: of the components, `[N, H, W]`.
    arrays: what the figures show of a few images.
    """

    results: dict[str, Any]
    masks: Masks
    arrays: dict[str, np.ndarray]


def choose_source(config: Config, spec: GeneratorSpec) -> Source:
    """The components to use.

    Raises:
      FlagError: for inputs of a generator whose branches all read the image.
    """
    has_inputs = spec.residual == "diffusion"
    if config.source == "inputs" and not has_inputs:
        raise FlagError(
            "--source inputs needs a generator with the diffusion; here all branches "
            "read the image"
        )
    if config.source == "auto":
        return "inputs" if has_inputs else "responses"
    return config.source


def analyse(
    config: Config,
    trained: Trained,
    source: Source,
    chosen_on: LabelledImages,
    segmented: LabelledImages,
) -> Analysis:
    """Chooses components by each method, segments the images and scores the masks.

    Args:
      source: of the components.
      chosen_on: the few images that components are chosen on.
      segmented: the images to segment.
    """
    classes = trained.spec.classes
    chosen = choose(config, scalar_stacks(trained, chosen_on, source), chosen_on)
    stacks = scalar_stacks(trained, segmented, source)
    masks, converged = {}, {}
    for method, ranked in chosen.items():
        stack = stacks[METHODS[method]]
        (masks[method],), (still,) = segmentation.segment_all(
            stack, [ranked.choice], config.border
        )
        converged[method] = int(still.sum())
    results = {
        "classes": [classes[label] for label in np.unique(segmented.labels)],
        "source": source,
        "part": config.part,
        "examples": len(segmented.x),
        "methods": {
            method: {
                "choice": ranked.choice._asdict(),
                "value": ranked.value,
                "converged": converged[method],
                "converged_share_of_choice": ranked.converged,
                **class_scores(config, masks[method], segmented, classes),
            }
            for method, ranked in chosen.items()
        },
        "iou": part_overlap(masks[COMPONENTS], segmented),
        "iou_plain": part_overlap(masks[PLAIN], segmented),
    }
    arrays = example_arrays(
        config, stacks[COMPONENTS], chosen[COMPONENTS].choice, masks, segmented
    )
    return Analysis(results, masks[COMPONENTS], arrays)


def class_scores(
    config: Config, masks: Masks, images: LabelledImages, classes: Sequence[str]
) -> dict[str, dict]:
    """`mask_scores` of the images of each class, and of all images."""
    truth = images.true_masks(config.part)
    by_class = {
        classes[label]: mask_scores(masks, truth, images.labels == label)
        for label in np.unique(images.labels)
    }
    everything = np.ones(len(masks), bool)
    return {"by_class": by_class, "all": mask_scores(masks, truth, everything)}


def mask_scores(
    masks: Masks, truth: Masks | None, selected: Bool[np.ndarray, " N"]
) -> dict:
    """Scores of the selected masks; without a truth, only the share of empty ones.

    `iou` is a mean over images, in which an empty mask counts 0; `precision` and
    `recall` are over the pixels of all images, null where there are none.
    """
    masks = masks[selected]
    scores = {"empty": float((~masks.any((1, 2))).mean())}
    if truth is None:
        return scores | dict.fromkeys(("iou", "iou_interval", "precision", "recall"))
    truth = truth[selected]
    mean, interval = mean_interval(segmentation.iou(masks, truth))
    both = (masks & truth).sum()
    return scores | {
        "iou": mean,
        "iou_interval": interval,
        "precision": both / masks.sum() if masks.any() else None,
        "recall": both / truth.sum() if truth.any() else None,
    }


def part_overlap(masks: Masks, images: LabelledImages) -> dict[str, float] | None:
    """Mean IoU of the masks with each true part; None without a ground truth."""
    if images.masks is None:
        return None
    return {
        part: segmentation.iou(masks, truth).mean()
        for part, truth in images.masks.items()
    }


def example_arrays(
    config: Config,
    scalars: Scalars,
    choice: Choice,
    masks: Mapping[str, Masks],
    images: LabelledImages,
) -> dict[str, np.ndarray]:
    """The steps of the segmentation of a few images.

    Args:
      scalars: components of all images.
      choice: of components.
      masks: of all images, by method.
    """
    truth = images.true_masks(config.part)
    index = example_indices(images.labels, masks[COMPONENTS], truth)
    scalars = scalars[:, index]
    to_segment = segmentation.combine(scalars, choice.image)
    surface = segmentation.initial_surface(scalars, choice)
    arrays = {
        "labels": images.labels[index],
        "images": images.x[index],
        "located": segmentation.combine(scalars, choice.surface),
        "surface": surface,
        "segmented": to_segment,
        "inside": segmentation.inside(to_segment, surface, config.border).masks,
        **{f"masks_{method}": of_method[index] for method, of_method in masks.items()},
    }
    return arrays if truth is None else arrays | {"truth": truth[index]}


def example_indices(labels: np.ndarray, masks: Masks, truth: Masks | None) -> list[int]:
    """Images of each class to show: upper quartile, median and worst by IoU.

    The first ones without a ground truth.
    """
    index = []
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        if truth is not None:
            order = np.argsort(segmentation.iou(masks[of_class], truth[of_class]))
            places = [3 * len(order) // 4, len(order) // 2, 0]
            of_class = of_class[order[places]]
        index += of_class[:SHOWN].tolist()
    return index
