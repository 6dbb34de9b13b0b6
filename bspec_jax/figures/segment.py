"""Figures of the segmentation by components: 12 and 21, and the IoU of each choice.

`shown` holds arrays of a few images: images `[S, H, W, C]` in -1..1; pictures of the
steps and masks `[S, H, W]`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from bspec_jax.figures.style import COLOURS, floats, picture_grid, styled

FOUND = np.array([1.0, -0.7, -0.7])  # the colour of a mask
TRUE = np.array([-0.8, 1.0, 1.0])  # of the outline of what is to be found
OPACITY = 0.55


@styled
def segmentations(
    shown: Mapping[str, np.ndarray], rows: Mapping[str, str], titles: Sequence[str]
) -> Figure:
    """Figure 12: images, and masks laid over them (red; the truth outlined in cyan).

    Args:
      rows: the name of the masks in `shown`, for each row's name.
    """
    images, truth = shown["images"], shown.get("truth")
    overlays = {
        name: overlaid(images, shown[masks], truth) for name, masks in rows.items()
    }
    return picture_grid({"image $x$": images, **overlays}, titles)


@styled
def segmentation_steps(
    shown: Mapping[str, np.ndarray], titles: Sequence[str]
) -> Figure:
    """Figure 21: the steps from the components to the pair of parts, a column each."""
    images, truth = shown["images"], shown.get("truth")
    rows = {
        "image $x$": images,
        "surface's components": 2 * shown["located"][..., None] - 1,
        "initial surface": shown["surface"][..., None],
        "image to segment": 2 * shown["segmented"][..., None] - 1,
        "Chan-Vese": overlaid(images, shown["inside"]),
        "pairs": overlaid(images, shown["masks"], truth),
    }
    return picture_grid(rows, titles)


def overlaid(
    images: np.ndarray, masks: np.ndarray, truth: np.ndarray | None = None
) -> np.ndarray:
    """Images in colour, `[S, H, W, 3]`, with masks and the outlines of the truth."""
    colour = np.broadcast_to(images, (*images.shape[:3], 3)).copy()
    colour[masks] = (1 - OPACITY) * colour[masks] + OPACITY * FOUND
    if truth is not None:
        colour[_outline(truth)] = TRUE
    return colour


def _outline(masks):
    """The pixels just outside."""
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
    """IoU of every choice of components on held-out images, by class, with intervals.

    Args:
      names: what to call each of `results["methods"]`.
    """
    figure = Figure(figsize=(6.4, 2.9))
    ax = figure.subplots()
    groups = results["classes"]
    width = 0.8 / len(names)
    for i, (method, name) in enumerate(names.items()):
        scores = [results["methods"][method]["by_class"][group] for group in groups]
        means = floats([score["iou"] for score in scores])
        bounds = floats([score["iou_interval"] for score in scores])
        place = np.arange(len(groups)) + (i - (len(names) - 1) / 2) * width
        error = np.abs(bounds.T - means)
        ax.bar(place, means, width, yerr=error, label=name, color=COLOURS[i], capsize=2)
    ax.set(ylim=(0, 1), ylabel=f"IoU of {results['part']}")
    ax.set_xticks(range(len(groups)), groups)
    ax.legend(ncols=2, loc="upper center")
    return figure
