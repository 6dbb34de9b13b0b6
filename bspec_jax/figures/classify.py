"""Figures of the classifier: 5 (left half), 6, 7, 8, 16, 17, and what goes beyond them.

Branches and classes are numbered from 0, as in results.json and on the command line.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bspec_jax.contributions import most_confident
from bspec_jax.figures.style import COLOURS, DIVERGING, floats, styled, text_colour

SAMPLES = 20  # of each class in Figure 7
SAMPLE_SEED = 0
SHOWN = 20  # images in a row of Figures 8 and 16


@styled
def active_against_branches(sweep: Mapping) -> Figure:
    """Figure 5.1: active and silent branches against M, both axes logarithmic.

    A logarithm has no zero: where no branch is silent, the point is at 1/2.
    """
    figure = Figure(figsize=(4.6, 3.4))
    ax = figure.subplots()
    branches = sweep["branches"]
    ax.plot(branches, branches, color="0.8", lw=1, ls=":", label="all $M$")
    series = (
        ("active in the control", "o-", "0.75", 5, sweep["control_active"]),
        ("active", "o-", COLOURS[0], 1.5, sweep["active"]),
        ("silent", "s-", COLOURS[1], 1.5, sweep["silent"]),
    )
    for label, style, colour, width, values in series:
        values = floats(values)
        if np.isnan(values).all():
            continue
        shown = np.maximum(values, 0.5)
        ax.plot(branches, shown, style, color=colour, lw=width, ms=4, label=label)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ticks = [0.5, *(2**i for i in range(int(np.log2(max(branches))) + 1))]
    ax.set_yticks(ticks, ["0", *(str(t) for t in ticks[1:])])
    ax.set_xticks(branches, [str(m) for m in branches])
    ax.minorticks_off()
    ax.set(
        title="Active and silent branches",
        xlabel="number of branches $M$",
        ylabel=f"branches (mean of {sweep['repeats']})"
        if sweep["repeats"] > 1
        else "branches",
    )
    ax.legend()
    return figure


@styled
def branch_covariances(panels: Mapping[str, Sequence]) -> Figure:
    """Figure 5.2: covariance F F^T of the branches, and of the same network before
    training and of branches trained separately, each on its own scale.

    Args:
      panels: title: matrix `[M, M]`.
    """
    figure = Figure(figsize=(3.0 * len(panels) + 0.4, 2.6))
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for ax, (title, matrix) in zip(axes, panels.items(), strict=True):
        image = _matrix(ax, floats(matrix))
        ax.set(title=title, xlabel="branch $l$", ylabel="branch $k$")
        figure.colorbar(image, ax=ax, shrink=0.75)
    return figure


def _matrix(ax, matrix, limit=None):
    limit = limit or np.abs(matrix).max(initial=1e-12)
    image = ax.imshow(matrix, cmap=DIVERGING, vmin=-limit, vmax=limit)
    _pixels(ax)
    ticks = range(0, len(matrix), max(1, len(matrix) // 8))
    ax.set_xticks(ticks)
    ax.set_yticks(ticks)
    return image


def _pixels(ax):
    ax.grid(False)
    ax.spines[["top", "right"]].set_visible(True)


@styled
def branch_outputs(network: Mapping, classes: Sequence[str]) -> Figure:
    """Figure 6: what each branch says of each class, and how loudly.

    Left: mean over the examples of a class of the branch's output for that class.
    Right: root mean square of the norm of all its outputs there. A class without
    examples stays empty.
    """
    outputs, norms = floats(network["class_outputs"]), floats(network["class_norms"])
    figure = Figure(figsize=(8.4, 0.19 * len(outputs) + 1.9))
    left, right = figure.subplots(1, 2)
    limit = np.nanmax(np.abs(outputs), initial=1e-12)
    for ax, values, label, options in (
        (
            left,
            outputs,
            "mean $v_k(x)_y$",
            {"cmap": DIVERGING, "vmin": -limit, "vmax": limit},
        ),
        (right, norms, "rms $\\|v_k(x)\\|$", {"cmap": "viridis", "vmin": 0}),
    ):
        image = ax.imshow(values, aspect="auto", **options)
        _class_axis(ax, classes)
        ax.set(ylabel="branch $k$")
        ax.set_yticks(range(0, len(values), 1 if len(values) <= 16 else 4))
        figure.colorbar(image, ax=ax, label=label, pad=0.02)
    left.set_title("output for the true class")
    right.set_title("size of the response")
    figure.suptitle(
        f"$M = {network['branches']}$: {network['active']} active and "
        f"{network['silent']} silent branches",
        fontsize=10,
    )
    return figure


def _class_axis(ax, classes):
    _pixels(ax)
    ax.set_xticks(
        range(len(classes)),
        classes,
        rotation=40,
        ha="right",
        rotation_mode="anchor",
        fontsize=7,
    )


@styled
def branch_confidence(
    classes: Sequence[str],
    confidence: np.ndarray,
    labels: np.ndarray,
) -> Figure:
    """Figure 7: confidence of each branch in the true class of 20 examples a class.

    The examples are drawn at random, by a fixed seed.

    Args:
      confidence: `[M, N]`.
      labels: `[N]`.
    """
    rng = np.random.default_rng(SAMPLE_SEED)
    chosen, edges = [], [0]
    for label in range(len(classes)):
        of_class = np.flatnonzero(labels == label)
        count = min(SAMPLES, len(of_class))
        chosen.append(rng.choice(of_class, count, replace=False))
        edges.append(edges[-1] + count)
    values = confidence[:, np.concatenate(chosen)]
    limit = np.quantile(np.abs(values), 0.995)
    figure = Figure(figsize=(9.6, 0.19 * len(values) + 1.5))
    ax = figure.subplots()
    image = ax.imshow(
        values,
        aspect="auto",
        cmap=DIVERGING,
        vmin=-limit,
        vmax=limit,
        interpolation="nearest",
    )
    _pixels(ax)
    for edge in edges[1:-1]:
        ax.axvline(edge - 0.5, color="black", lw=0.8)
    ax.set_xticks(
        [(a + b - 1) / 2 for a, b in pairwise(edges)],
        classes,
        fontsize=8,
    )
    ax.set_yticks(range(0, len(values), 1 if len(values) <= 16 else 4))
    ax.set(
        xlabel=f"test examples, {SAMPLES} of each class where there are as many",
        ylabel="branch $k$",
        title="Confidence in the true class (red) and in others (blue)",
    )
    figure.colorbar(image, ax=ax, label="$v_k(x)_y$ less mean over classes", pad=0.01)
    return figure


@styled
def most_confident_images(
    classes: Sequence[str],
    branches: Sequence[int],
    labels_shown: Sequence[int],
    share: float,
    images: np.ndarray,
    labels: np.ndarray,
    confidence: np.ndarray,
) -> Figure:
    """Figures 8 and 16: the test images of a class that a branch is most sure of.

    One block of rows for each (class, branch), most confident first.

    Args:
      share: of the class's examples that are shown.
      images: `[N, H, W, channels]`, bytes.
      confidence: `[M, N]`.
    """
    blocks = []
    for label in labels_shown:
        for branch in branches:
            top, *others = (
                most_confident(confidence[b], labels, label, share)
                for b in (branch, *(b for b in branches if b != branch))
            )
            common = np.isin(top, np.concatenate([[], *others])).sum()
            blocks.append((label, branch, top, common))
    heights = [-(-len(top) // SHOWN) for _, _, top, _ in blocks]
    figure = Figure(figsize=(9.6, 0.45 * sum(heights) + 0.3 * len(blocks) + 0.4))
    axes = figure.subplots(len(blocks), 1, height_ratios=heights, squeeze=False)[:, 0]
    for ax, (label, branch, top, common), rows in zip(
        axes, blocks, heights, strict=True
    ):
        ax.imshow(_montage(images[top], rows), cmap="gray", aspect="equal")
        ax.axis("off")
        first, last = confidence[branch][top[[0, -1]]]
        also = (
            f"; {common} of {len(top)} are also in another branch's top"
            if len(branches) > 1
            else ""
        )
        ax.set_title(
            f"{classes[label]}, branch {branch}: confidence {first:.2f} to "
            f"{last:.2f}{also}",
            fontsize=8,
            loc="left",
        )
    figure.suptitle(
        f"Test images in the top {100 * share:g} % of confidence", fontsize=10
    )
    return figure


def _montage(images: np.ndarray, rows: int) -> np.ndarray:
    """Images `[n, H, W, channels]` in rows of `SHOWN`, a white pixel apart."""
    height, width, channels = images.shape[1:]
    sheet = np.full((rows * (height + 1), SHOWN * (width + 1), channels), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = i // SHOWN * (height + 1), i % SHOWN * (width + 1)
        sheet[y : y + height, x : x + width] = image
    return sheet[..., 0] if channels == 1 else sheet


@styled
def branch_outputs_sweep(networks: Sequence[Mapping], classes: Sequence[str]) -> Figure:
    """Figure 17: Figures 6 and 5.2 for each M."""
    heights = [max(one["branches"], 6) for one in networks]
    figure = Figure(figsize=(8.2, 0.13 * sum(heights) + 0.5 * len(networks) + 0.6))
    grid = figure.subplots(
        len(networks), 2, height_ratios=heights, squeeze=False, width_ratios=(1.6, 1)
    )
    for (left, right), one in zip(grid, networks, strict=True):
        outputs = floats(one["class_outputs"])
        limit = np.nanmax(np.abs(outputs), initial=1e-12)
        image = left.imshow(
            outputs, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto"
        )
        _pixels(left)
        left.set_xticks([])
        left.set_yticks(range(0, len(outputs), max(1, len(outputs) // 8)))
        left.set(
            title=f"$M = {one['branches']}$: {one['active']} active, "
            f"{one['silent']} silent",
            ylabel="branch $k$",
        )
        figure.colorbar(image, ax=left, pad=0.01)
        image = _matrix(right, floats(one["covariance"]))
        # As tall as the matrix, which is not as tall as its part of the grid.
        figure.colorbar(image, cax=right.inset_axes([1.03, 0, 0.04, 1]))
    _class_axis(grid[-1][0], classes)
    figure.suptitle("Mean output for the true class, and covariance", fontsize=10)
    return figure


@styled
def classifier_training(curves: Sequence[Mapping], network: str = "main") -> Figure:
    """Loss beyond its floor, accuracy, and each branch's size, along training."""
    lines = [line for line in curves if line["network"] == network]
    epochs = floats([line["epoch"] for line in lines])
    figure = Figure(figsize=(9.6, 2.9))
    loss, accuracy, norms = figure.subplots(1, 3)
    loss.semilogy(epochs, floats([line["excess_loss"] for line in lines]))
    loss.set(title="loss beyond its floor", xlabel="epoch")
    for name, label in (("accuracy", "training"), ("saturated", "saturated examples")):
        accuracy.plot(epochs, floats([line[name] for line in lines]), label=label)
    held_out = [line for line in lines if "validation_accuracy" in line]
    if held_out:
        accuracy.plot(
            [line["epoch"] for line in held_out],
            floats([line["validation_accuracy"] for line in held_out]),
            "o",
            color="black",
            ms=3,
            label="validation",
        )
    accuracy.set(title="accuracy", xlabel="epoch", ylim=(0, 1))
    accuracy.legend()
    norms.plot(epochs, floats([line["norms"] for line in lines]), lw=1)
    norms.set(title="rms response of each branch", xlabel="epoch", ylim=(0, None))
    return figure


@styled
def branch_ablation(results: Mapping) -> Figure:
    """Accuracy without each branch, and with the largest 1, 2 ... M branches only."""
    ablation, pruned = results["ablation"], results["pruned"]
    lost = 100 * (ablation["full"] - floats(ablation["without"]))
    figure = Figure(figsize=(8.4, 3.0))
    left, right = figure.subplots(1, 2)
    left.bar(range(len(lost)), lost, color=COLOURS[0])
    left.set(
        title="accuracy lost without a branch",
        xlabel="branch $k$",
        ylabel="percentage points",
    )
    kept = floats(ablation["kept"])
    right.plot(range(1, len(kept) + 1), kept, "o-", ms=3, label="kept in the sum")
    alone = floats(ablation["alone"])[ablation["order"]]
    right.plot(
        range(1, len(kept) + 1), alone, "s:", ms=3, color=COLOURS[1], label="alone"
    )
    right.axvline(pruned["branches"], color="0.6", lw=1, ls="--")
    right.text(
        pruned["branches"] + 0.1,
        0.03,
        "active",
        fontsize=7,
        color="0.4",
        transform=right.get_xaxis_transform(),
    )
    right.set(
        title="accuracy of the largest branches",
        xlabel="branches in order of their response norm",
        ylabel="test accuracy",
        ylim=(0, 1),
    )
    right.legend()
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@styled
def branch_enrichment(enrichment: Mapping, classes: Sequence[str]) -> Figure:
    """Examples of each class that each branch is responsible for, against chance."""
    count, expected = floats(enrichment["count"]), floats(enrichment["expected"])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log2(count / expected)
    limit = 3
    figure = Figure(figsize=(6.2, 0.22 * len(count) + 1.7))
    ax = figure.subplots()
    ax.set_facecolor("0.85")
    norm = Normalize(-limit, limit)
    ax.imshow(np.clip(ratio, -limit, limit), cmap=DIVERGING, norm=norm, aspect="auto")
    _class_axis(ax, classes)
    ax.set_yticks(range(len(count)))
    for (k, c), number in np.ndenumerate(count):
        if number:
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
    told = "; ".join(f"{number} {name}" for name, number in pairs.items())
    ax.set_xlabel(f"pairs beyond chance: {told}", fontsize=7)
    figure.colorbar(
        ScalarMappable(norm, DIVERGING), ax=ax, label="$\\log_2$ (count / chance)"
    )
    return figure
