"""Figures of the branches' confidence in the true class: 7, 8 and 16, and enrichment.

Branches and classes are numbered from 0, as in results.json and on the command line.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from bspec_jax.figures.style import (
    AS_IT_IS,
    DIVERGING,
    class_axis,
    floats,
    frame,
    limit_of,
    nothing,
    shown,
    styled,
    text_colour,
)

ROW = 20  # images in a row of Figures 8 and 16
LOG2_LIMIT = 3  # of the colours of count / chance


@styled
def branch_confidence(
    classes: Sequence[str],
    confidence: np.ndarray,
    labels: np.ndarray,
) -> Figure:
    """Figure 7: confidence of each branch in the true class of some examples.

    Args:
      confidence: `[M, K]`.
      labels: `[K]`, ascending.
    """
    counts = np.bincount(labels, minlength=len(classes))
    edges = [0, *np.cumsum(counts)]
    finite = np.abs(confidence[np.isfinite(confidence)])
    limit = limit_of(np.quantile(finite, [0.995])) if finite.size else 1.0
    figure = Figure(figsize=(9.6, 0.19 * len(confidence) + 1.5))
    ax = figure.subplots()
    image = ax.imshow(
        confidence,
        aspect="auto",
        cmap=DIVERGING,
        vmin=-limit,
        vmax=limit,
        interpolation="nearest",
    )
    frame(ax)
    for edge in edges[1:-1]:
        ax.axvline(edge - 0.5, color="black", lw=0.8)
    ax.set_xticks(
        [(a + b - 1) / 2 for a, b in pairwise(edges)],
        [shown(name) for name in classes],
        **AS_IT_IS,
        fontsize=8,
    )
    ax.set_yticks(range(0, len(confidence), 1 if len(confidence) <= 16 else 4))
    ax.set(
        xlabel=f"test examples, up to {max(counts)} of each class",
        ylabel="branch $k$",
        title="Confidence in the true class (red) and in others (blue)",
    )
    label = "$v_k(x)_y$ minus mean over classes"
    figure.colorbar(image, ax=ax, label=label, pad=0.01)
    return figure


@styled
def most_confident_images(
    classes: Sequence[str], blocks: Sequence[Mapping], share: float
) -> Figure:
    """Figures 8 and 16: images of a class in which a branch is most confident.

    Args:
      blocks: one for each (class, branch), of rows of images: `label`, `branch`,
        `images` `[n, H, W, channels]` (bytes, most confident first), `confidence`
        `[n]`, and `shared`, the number of images also in another branch's block.
      share: the share of the class that a block shows.
    """
    blocks = [block for block in blocks if len(block["images"])]
    if not blocks:
        return nothing("no test images of these classes and branches")
    several = len({block["branch"] for block in blocks}) > 1
    heights = [-(-len(block["images"]) // ROW) for block in blocks]
    figure = Figure(figsize=(9.6, 0.45 * sum(heights) + 0.3 * len(blocks) + 0.4))
    axes = figure.subplots(len(blocks), 1, height_ratios=heights, squeeze=False)[:, 0]
    for ax, block, rows in zip(axes, blocks, heights, strict=True):
        ax.imshow(_montage(block["images"], rows), cmap="gray", aspect="equal")
        ax.axis("off")
        confidence = block["confidence"]
        title = (
            f"{shown(classes[block['label']])}, branch {block['branch']}: confidence "
            f"{confidence[0]:.2f} to {confidence[-1]:.2f}"
        )
        if several:
            title += (
                f"; {block['shared']} of {len(block['images'])} are also in another "
                "branch's top"
            )
        ax.set_title(title, **AS_IT_IS, fontsize=8, loc="left")
    figure.suptitle(
        f"Test images in the top {100 * share:g} % of confidence", fontsize=10
    )
    return figure


def _montage(images: np.ndarray, rows: int) -> np.ndarray:
    """Images `[n, H, W, channels]` in rows of `ROW`, one white pixel apart."""
    height, width, channels = images.shape[1:]
    sheet = np.full((rows * (height + 1), ROW * (width + 1), channels), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = i // ROW * (height + 1), i % ROW * (width + 1)
        sheet[y : y + height, x : x + width] = image
    return sheet[..., 0] if channels == 1 else sheet


@styled
def branch_enrichment(enrichment: Mapping, classes: Sequence[str]) -> Figure:
    """Examples of each class for which each branch is responsible, against chance.

    Args:
      enrichment: `count`, `significant` and `log2_ratio` (of count to chance), each
        `[M, C]`, and `significant_pairs`, numbers by name of the network.
    """
    count, ratio = floats(enrichment["count"]), floats(enrichment["log2_ratio"])
    figure = Figure(figsize=(6.2, 0.22 * len(count) + 1.7))
    ax = figure.subplots()
    ax.set_facecolor("0.85")
    norm = Normalize(-LOG2_LIMIT, LOG2_LIMIT)
    clipped = np.clip(ratio, -LOG2_LIMIT, LOG2_LIMIT)
    ax.imshow(clipped, cmap=DIVERGING, norm=norm, aspect="auto")
    class_axis(ax, classes)
    ax.set_yticks(range(len(count)))
    for (k, c), number in np.ndenumerate(count):
        if number and np.isfinite(number):
            mark = "*" if enrichment["significant"][k][c] else ""
            ax.text(
                c,
                k,
                f"{number:.0f}{mark}",
                color=text_colour(mpl.colormaps[DIVERGING](norm(ratio[k, c]))),
                ha="center",
                va="center",
                fontsize=6,
            )
    ax.set(
        title="Examples whose most confident branch is $k$ (* beyond chance)",
        ylabel="branch $k$",
    )
    pairs = enrichment["significant_pairs"]
    numbers = "; ".join(f"{number} {name}" for name, number in pairs.items())
    ax.set_xlabel(f"pairs beyond chance: {numbers}", fontsize=7)
    figure.colorbar(
        ScalarMappable(norm, DIVERGING), ax=ax, label="$\\log_2$ (count / chance)"
    )
    return figure
