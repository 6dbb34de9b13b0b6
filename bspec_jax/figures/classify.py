"""Figures of the classifier's responses, accuracy and training: 5 (left half), 6, 17.

Branches and classes are numbered from 0, as in results.json and on the command line.
"""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bspec_jax.figures.style import (
    COLOURS,
    DIVERGING,
    band,
    class_axis,
    floats,
    frame,
    intervals,
    limit_of,
    nothing,
    styled,
    undefined,
)

Numbers = Sequence[float | int | None] | np.ndarray


@styled
def active_against_branches(sweep: Mapping) -> Figure:
    """Figure 5.1: active and silent branches against M, both axes logarithmic.

    By the centred rule, with the active ones by the paper's norm beside it. With
    intervals over networks, where there are any. Zero, which has no logarithm, is drawn
    at 1/2 and labelled 0.
    """
    figure = Figure(figsize=(4.6, 3.4))
    ax = figure.subplots()
    branches = sweep["branches"]
    ax.plot(branches, branches, color="0.8", lw=1, ls=":", label="all $M$")
    series = (
        ("active in the control", "o-", "0.75", 5, "control_active"),
        ("active", "o-", COLOURS[0], 1.5, "active_centred"),
        ("active, norm", "o--", COLOURS[2], 1.5, "active"),
        ("silent", "s-", COLOURS[1], 1.5, "silent"),
    )
    for label, style, colour, width, name in series:
        values = floats(sweep.get(name, []))
        if np.isnan(values).all():
            continue
        values = np.maximum(values, 0.5)
        ax.plot(branches, values, style, color=colour, lw=width, ms=4, label=label)
        if f"{name}_interval" in sweep:
            low, high = np.maximum(intervals(sweep[f"{name}_interval"]), 0.5).T
            band(ax, branches, low, high, colour)
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
    """Figure 5.2: covariances F F^T of the branches, each on its own colour scale.

    Args:
      panels: matrices `[M, M]` by title, such as before and after training.
    """
    figure = Figure(figsize=(3.0 * len(panels) + 0.4, 2.6))
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for ax, (title, matrix) in zip(axes, panels.items(), strict=True):
        image = _matrix(ax, floats(matrix))
        ax.set(title=title, xlabel="branch $l$", ylabel="branch $k$")
        figure.colorbar(image, ax=ax, shrink=0.75)
    return figure


def _matrix(ax, matrix):
    limit = limit_of(matrix)
    image = ax.imshow(matrix, cmap=DIVERGING, vmin=-limit, vmax=limit)
    frame(ax)
    ticks = range(0, len(matrix), max(1, len(matrix) // 8))
    ax.set_xticks(ticks)
    ax.set_yticks(ticks)
    return image


@styled
def branch_outputs(network: Mapping, classes: Sequence[str]) -> Figure:
    """Figure 6: output and response norm of each branch for each class.

    Left: the branch's mean output for a class, over the examples of that class. Right:
    the root mean square norm of its whole response there. A class without examples
    stays empty.

    Args:
      network: an entry of `networks` in results.json.
    """
    outputs, norms = floats(network["class_outputs"]), floats(network["class_norms"])
    figure = Figure(figsize=(8.4, 0.19 * len(outputs) + 1.9))
    left, right = figure.subplots(1, 2)
    limit = limit_of(outputs)
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
        class_axis(ax, classes)
        ax.set(ylabel="branch $k$")
        ax.set_yticks(range(0, len(values), 1 if len(values) <= 16 else 4))
        figure.colorbar(image, ax=ax, label=label, pad=0.02)
    left.set_title("output for the true class")
    right.set_title("size of the response")
    figure.suptitle(count_of_active(network), fontsize=10)
    return figure


def count_of_active(network: Mapping) -> str:
    """M, and the active branches by the centred rule and by the paper's."""
    m, centred, norm = (network[k] for k in ("branches", "active_centred", "active"))
    silent = None if centred is None else m - centred
    counts = f"{undefined(centred)} active, {undefined(silent)} silent"
    return f"$M = {m}$: {counts} (by norm {undefined(norm)} active)"


@styled
def branch_outputs_sweep(networks: Sequence[Mapping], classes: Sequence[str]) -> Figure:
    """Figure 17: the left half of Figure 6, and Figure 5.2, for each M.

    Args:
      networks: entries of `networks` in results.json, a row each.
    """
    heights = [max(network["branches"], 6) for network in networks]
    figure = Figure(figsize=(8.2, 0.13 * sum(heights) + 0.5 * len(networks) + 0.6))
    grid = figure.subplots(
        len(networks), 2, height_ratios=heights, squeeze=False, width_ratios=(1.6, 1)
    )
    for (left, right), network in zip(grid, networks, strict=True):
        outputs = floats(network["class_outputs"])
        limit = limit_of(outputs)
        image = left.imshow(
            outputs, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto"
        )
        frame(left)
        left.set_xticks([])
        left.set_yticks(range(0, len(outputs), max(1, len(outputs) // 8)))
        left.set(
            title=count_of_active(network),
            ylabel="branch $k$",
        )
        figure.colorbar(image, ax=left, pad=0.01)
        image = _matrix(right, floats(network["covariance"]))
        # An inset, to be as tall as the matrix, which does not fill its axes.
        figure.colorbar(image, cax=right.inset_axes([1.03, 0, 0.04, 1]))
    class_axis(grid[-1][0], classes)
    figure.suptitle("Mean output for the true class, and covariance", fontsize=10)
    return figure


@styled
def classifier_training(curves: Sequence[Mapping], network: str = "main") -> Figure:
    """Excess loss, accuracy and response norms of a network during training.

    Args:
      curves: lines of metrics.jsonl.
      network: name of the network; lines of others are ignored.
    """
    lines = [line for line in curves if line["network"] == network]
    epochs = floats([line["epoch"] for line in lines])
    figure = Figure(figsize=(9.6, 2.9))
    loss, accuracy, norms = figure.subplots(1, 3)
    marker = "o" if len(lines) == 1 else None  # a single point makes no line
    excess = floats([line["excess_loss"] for line in lines])
    loss.semilogy(epochs, excess, marker=marker)
    loss.set(title="loss beyond its floor", xlabel="epoch")
    for name, label in (("accuracy", "training"), ("saturated", "saturated examples")):
        values = floats([line[name] for line in lines])
        accuracy.plot(epochs, values, marker=marker, label=label)
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
    rms = floats([line["norms"] for line in lines])
    norms.plot(epochs, rms, marker=marker, lw=1)
    norms.set(title="rms response of each branch", xlabel="epoch", ylim=(0, None))
    return figure


# Norms of metrics.jsonl by the title of their panel.
NORMS = {
    "norms": "rms response $\\|v_k\\|$",
    "centred_norms": "the same without its mean",
    "parameter_norms": "parameters $\\|\\theta_k\\|$",
}


@styled
def branch_norms(curves: Sequence[Mapping], network: str = "main") -> Figure:
    """Norms of each branch's response and parameters along training, on a log axis.

    A branch that falls silent is a line that falls; the axis on top is the decay budget
    spent so far. Lines are coloured by their last centred norm, smallest first.

    Args:
      curves: lines of metrics.jsonl.
      network: name of the network; lines of others are ignored.
    """
    lines = [line for line in curves if line["network"] == network]
    drawn = [name for name in NORMS if lines and name in lines[0]]
    if not drawn:
        return nothing("no norms along the training")
    steps = floats([line["step"] for line in lines])
    figure = Figure(figsize=(3.4 * len(drawn) + 0.2, 3.2))
    axes = np.atleast_1d(figure.subplots(1, len(drawn)))
    last = floats(lines[-1][drawn[min(1, len(drawn) - 1)]])
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.95, len(last)))
    rank = np.argsort(np.argsort(last))
    marker = "o" if len(lines) == 1 else None
    for ax, name in zip(axes, drawn, strict=True):
        norms = floats([line[name] for line in lines])
        for k, curve in enumerate(norms.T):
            ax.semilogy(steps, curve, marker=marker, lw=1, color=colours[rank[k]])
        ax.set(title=NORMS[name], xlabel="step")
        _decay_axis(ax, steps, floats([line.get("decay_budget") for line in lines]))
    return figure


def _decay_axis(ax, steps, budget):
    """The decay budget at some of the steps, on top; none without decay."""
    if not (len(steps) > 1 and np.all(np.diff(budget) > 0)):
        return
    ticks = MaxNLocator(5).tick_values(0, budget[-1])
    ticks = ticks[(ticks >= budget[0]) & (ticks <= budget[-1])]
    top = ax.secondary_xaxis("top")
    top.set_xticks(np.interp(ticks, budget, steps), [f"{tick:g}" for tick in ticks])
    top.set_xlabel("decay budget $\\beta$", fontsize=8)


@styled
def branch_ablation(
    points_lost: Numbers,
    kept: Numbers,
    alone: Numbers,
    num_active: int | None,
) -> Figure:
    """Accuracy without each branch, and with the largest 1, 2 ... M branches only.

    Args:
      points_lost: percentage points of accuracy lost without each branch, `[M]`.
      kept: accuracy of the largest 1, 2 ... M branches, summed, `[M]`.
      alone: accuracy of each branch on its own, largest first, `[M]`.
      num_active: number of active branches, which are the largest.

    Null or NaN leaves a gap.
    """
    points_lost, kept, alone = map(floats, (points_lost, kept, alone))
    figure = Figure(figsize=(8.4, 3.0))
    left, right = figure.subplots(1, 2)
    left.bar(range(len(points_lost)), points_lost, color=COLOURS[0])
    left.set(
        title="accuracy lost without a branch",
        xlabel="branch $k$",
        ylabel="percentage points",
    )
    ranks = range(1, len(kept) + 1)
    right.plot(ranks, kept, "o-", ms=3, label="kept in the sum")
    right.plot(ranks, alone, "s:", ms=3, color=COLOURS[1], label="alone")
    if num_active is not None:
        right.axvline(num_active, color="0.6", lw=1, ls="--")
        right.text(
            num_active + 0.1,
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
