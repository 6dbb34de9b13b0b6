"""Figures of the segmentation by components: 12 and 21, and the scores of each choice.

They show a few images `[S, H, W, C]` in -1..1, and their masks `[S, H, W]`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from bspec_jax.figures.style import (
    AS_IT_IS,
    COLOURS,
    Name,
    floats,
    intervals,
    picture_grid,
    shown,
    styled,
)

MASK_COLOUR = np.array([1.0, -0.7, -0.7])  # red
TRUTH_COLOUR = np.array([-0.8, 1.0, 1.0])  # cyan
OPACITY = 0.55  # of masks

Images = Float[np.ndarray, "S H W C"]
Masks = Bool[np.ndarray, "S H W"]


@styled
def segmentations(
    images: Images,
    masks: Mapping[str, Masks],
    titles: Sequence[str],
    truth: Masks | None = None,
) -> Figure:
    """Figure 12: images, and masks laid over them.

    Args:
      masks: by name, a row each; red.
      titles: of the images.
      truth: outlined in cyan.
    """
    rows = {name: overlaid(images, of_row, truth) for name, of_row in masks.items()}
    return picture_grid({"image $x$": images, **rows}, list(map(Name, titles)))


@styled
def segmentation_steps(
    arrays: Mapping[str, np.ndarray], titles: Sequence[str]
) -> Figure:
    """Figure 21: the steps from the components to the pair of parts, a row each.

    Args:
      arrays: images `images`; scalar images in 0..1 `located` and `segmented`; the
        initial `surface` in -1..1; masks `inside` the border and of the `pairs`, and
        the `truth` where it is known.
      titles: of the images.
    """
    images = arrays["images"]
    rows = {
        "image $x$": images,
        "surface components": 2 * arrays["located"][..., None] - 1,
        "initial surface": arrays["surface"][..., None],
        "image to segment": 2 * arrays["segmented"][..., None] - 1,
        "Chan-Vese": overlaid(images, arrays["inside"]),
        "pairs": overlaid(images, arrays["pairs"], arrays.get("truth")),
    }
    return picture_grid(rows, list(map(Name, titles)))


def overlaid(
    images: Images, masks: Masks, truth: Masks | None = None
) -> Float[np.ndarray, "S H W 3"]:
    """Images in colour with masks laid over them, and the outlines of the truth."""
    colour = np.broadcast_to(images, (*images.shape[:3], 3)).copy()
    colour[masks] = (1 - OPACITY) * colour[masks] + OPACITY * MASK_COLOUR
    if truth is not None:
        colour[_outline(truth)] = TRUTH_COLOUR
    return colour


def _outline(masks):
    """The pixels just outside the masks."""
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    neighbours = (
        padded[:, 2:, 1:-1]
        | padded[:, :-2, 1:-1]
        | padded[:, 1:-1, 2:]
        | padded[:, 1:-1, :-2]
    )
    return neighbours & ~masks


@styled
def segmentation_scores(results: Mapping, names: Mapping[str, str]) -> Figure:
    """IoU of each method on held-out images, by class, with 95 % intervals.

    Args:
      results: of experiments.segment, with a ground truth.
      names: names in the legend, by method.
    """
    figure = Figure(figsize=(6.4, 3.2))
    ax = figure.subplots()
    classes = results["classes"]
    width = 0.8 / len(names)
    for i, (method, name) in enumerate(names.items()):
        by_class = results["methods"][method]["by_class"]
        scores = [by_class[class_name] for class_name in classes]
        means = floats([score["iou"] for score in scores])
        bounds = intervals([score["iou_interval"] for score in scores])
        places = np.arange(len(classes)) + (i - (len(names) - 1) / 2) * width
        ax.bar(
            places,
            means,
            width,
            yerr=np.abs(bounds.T - means),
            label=name,
            color=COLOURS[i],
            capsize=2,
        )
    ax.set(ylim=(0, 1), ylabel=f"IoU of {results['part']}")
    labels = [shown(name) for name in classes]
    ax.set_xticks(range(len(classes)), labels, **AS_IT_IS)
    # Above the axes: bars may reach the top.
    figure.legend(loc="outside upper center", ncols=2)
    return figure
