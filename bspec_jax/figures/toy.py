"""Figures of the toys: Figures 2, 3 and 4, and the phase diagram."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure

from bspec_jax.figures.style import (
    COLOURS,
    DIVERGING,
    TASK_TITLES,
    band,
    floats,
    intervals,
    limit_of,
    nothing,
    styled,
    text_colour,
)

DYNAMICS_TITLES = {
    "typical": "one branch responds to each point, the other is silent there",
    "rare_takeover": "both branches are silent at a point until one takes it over",
    "rare_shared": "both branches respond to the same point",
}


@styled
def toy_dynamics(example: Mapping, kind: str, searched: str) -> Figure:
    """Figure 2: response of the two branches to each point along training.

    Args:
      searched: among which networks the example was found, in words.
    """
    steps, responses = np.array(example["steps"]), np.array(example["responses"])
    figure = Figure(figsize=(7.2, 2.9))
    axes = figure.subplots(1, responses.shape[1], sharey=True)
    points = np.unique(np.stack([example["x"], example["y"]], 1), axis=0)
    for k, ax in enumerate(axes):
        for colour, (x, y) in zip(COLOURS, points, strict=False):
            j = example["x"].index(x)
            label = f"$x = {x:g}$ (target {y:g})"
            ax.axhline(y, color=colour, lw=0.8, ls=":")
            ax.plot(steps, responses[:, k, j], color=colour, label=label)
        ax.set(title=f"branch {k}", xlabel="gradient step")
    axes[0].set_ylabel("response $v_k(x)$")
    axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    task = TASK_TITLES[example["task"]]
    share = f"{100 * example['share']:.0f} %"
    figure.suptitle(
        f"{task}, $M = 2$: {DYNAMICS_TITLES[kind]}\n"
        f"trial {example['trial']}; {share} of {searched} are of this kind",
        fontsize=10,
    )
    return figure


@styled
def toy_success(tasks: Mapping) -> Figure:
    """Figure 3 left: success rate against M, with 95 % intervals."""
    figure = Figure(figsize=(4.4, 3.1))
    ax = figure.subplots()
    for colour, (task, data) in zip(COLOURS, tasks.items(), strict=False):
        low, high = intervals(data["success_interval"]).T
        band(ax, data["branches"], low, high, colour)
        ax.plot(
            data["branches"],
            floats(data["success_rate"]),
            marker="o",
            ms=3,
            color=colour,
            label=f"{TASK_TITLES[task]} ({data['trials']} trials each)",
        )
    ax.set(
        title="Success rate against the number of branches",
        xlabel="number of branches $M$",
        ylabel="success rate (95 % interval)",
        ylim=(min(0.4, ax.get_ylim()[0]), 1.02),
    )
    ax.legend(loc="lower right")
    return figure


@styled
def toy_covariances(data: Mapping) -> Figure:
    """Figure 3 right: covariance matrices F F^T of several trials, one colour scale.

    Diverged trials, whose matrices are null, are left out.
    """
    matrices = floats(data["matrices"])
    shown = np.flatnonzero(np.isfinite(matrices).all((1, 2)))
    if not len(shown):
        return nothing("all trials diverged: no covariances")
    rows, columns = 2, (len(shown) + 1) // 2
    figure = Figure(figsize=(1.35 * columns + 0.9, 3.5))
    grid = figure.subplots(rows, columns, squeeze=False)
    limit = np.abs(matrices[shown]).max(initial=1e-12)
    for ax in grid.flat[len(shown) :]:
        ax.axis("off")
    for i, ax in zip(shown, grid.flat, strict=False):
        image = ax.imshow(matrices[i], cmap=DIVERGING, vmin=-limit, vmax=limit)
        failed = "" if data["converged"][i] else " (failed)"
        ax.set_title(f"trial {i}{failed}", fontsize=8)
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[["top", "right"]].set_visible(True)
    figure.colorbar(image, ax=grid, label="$(F F^T)_{kl}$", shrink=0.8)
    figure.supxlabel("branch $l$", fontsize=9)
    figure.supylabel("branch $k$", fontsize=9)
    figure.suptitle(
        f"{TASK_TITLES[data['task']]}, $M = {data['branches']}$: covariance of the "
        f"branches in {len(shown)} trials",
        fontsize=10,
    )
    return figure


@styled
def toy_responses(data: Mapping) -> Figure:
    """Figure 4 left and middle: the response of every branch, a row per trial."""
    examples = data["examples"]
    figure = Figure(figsize=(8.6, 2.9 * len(examples)))
    grid = figure.subplots(len(examples), 2, squeeze=False, width_ratios=(1.5, 1))
    order = np.unique(data["x"], return_index=True)[1]
    for (left, right), example in zip(grid, examples, strict=True):
        responses = floats(example["responses"])
        limit = limit_of(responses)
        image = left.imshow(
            responses[:, order].T,
            cmap=DIVERGING,
            vmin=-limit,
            vmax=limit,
            aspect="auto",
        )
        left.grid(False)
        num_branches = len(responses)
        left.set(
            title=f"trial {example['trial']}: {example['num_active']} of "
            f"{num_branches} branches active",
            xlabel="branch $k$",
            ylabel="point $x_j$",
            xticks=range(0, num_branches, 2),
            yticks=range(len(order)),
        )
        left.set_yticklabels([f"${data['x'][j]:g}$" for j in order])
        figure.colorbar(image, ax=left, label="$v_k(x_j)$", pad=0.01)
        _response_curves(right, data, example)
    figure.suptitle(
        f"{TASK_TITLES[data['task']]}: response of every branch after training",
        fontsize=10,
    )
    return figure


def _response_curves(ax, data, example):
    """v_k(x) between the points: active branches in colour, the sum in black."""
    curves, active = example["curves"], np.array(example["active"])
    x, v = np.array(curves["x"]), np.array(curves["responses"])
    ax.plot(x, v[~active].T, color="0.75", lw=0.8)
    ax.plot([], [], color="0.75", lw=0.8, label=f"{(~active).sum()} silent")
    for colour, k in zip(COLOURS[1:] * 4, np.flatnonzero(active), strict=False):
        ax.plot(x, v[k], color=colour, label=f"branch {k}")
    ax.plot(x, curves["total"], color="black", lw=1, ls="--", label="sum $f$")
    ax.plot(data["x"], data["y"], "o", color="black", ms=4, label="targets")
    ax.set(xlabel="$x$", ylabel="response $v_k(x)$")
    ax.legend(fontsize=7, loc="upper center", ncols=2)


@styled
def toy_active(tasks: Mapping, overlay: Mapping, learning_rate: float) -> Figure:
    """Figure 4 right: mean number of active and silent branches against M."""
    figure = Figure(figsize=(8.2, 3.2))
    left, right = figure.subplots(1, 2)
    for colour, (task, data) in zip(COLOURS, tasks.items(), strict=False):
        runs = [(learning_rate, data, "-")]
        if task in overlay["tasks"]:
            runs.append((overlay["learning_rate"], overlay["tasks"][task], "--"))
        for rate, run, style in runs:
            m = run["branches"]
            look = {"color": colour, "ls": style, "marker": "o", "ms": 2.5}
            look["label"] = f"{TASK_TITLES[task]}, step {rate:g}"
            low, high = intervals(run["mean_active_interval"]).T
            band(left, m, low, high, colour, alpha=0.15)
            left.plot(m, floats(run["mean_active"]), **look)
            right.plot(m, floats(run["mean_silent"]), **look)
    left.set(
        title="Active branches",
        xlabel="number of branches $M$",
        ylabel="mean active branches (95 % interval)",
        ylim=(0, None),
    )
    right.set(
        title="Silent branches",
        xlabel="number of branches $M$",
        ylabel="mean silent branches",
    )
    left.legend(loc="lower right")
    return figure


@styled
def toy_phase(task: str, data: Mapping) -> Figure:
    """Success, active branches and their growth with M over the grid of a phase run.

    Rows: success at the largest M; mean active branches there; that mean over the one
    at a quarter of M, if the run has one, in white at the threshold of observation 6.
    Columns: slopes.
    """
    axes, top = data["axes"], data["branches"][-1]
    success, active = (floats(data[k])[-1] for k in ("success_rate", "mean_active"))
    highest = np.nanmax(active, initial=1)
    maps = [
        (success, f"success, $M = {top}$", "viridis", Normalize(0, 1)),
        (active, f"active branches, $M = {top}$", "magma", Normalize(0, highest)),
    ]
    if growth := data["active_growth"]:
        low, threshold = growth["branches"][0], growth["threshold"]
        norm = TwoSlopeNorm(threshold, 0.5, max(top / low, threshold + 0.1))
        label = f"active, $M = {top}$ / $M = {low}$"
        maps.append((floats(growth["ratio"]), label, DIVERGING, norm))
    slopes = axes["negative_slope"]
    figure = Figure(figsize=(2.35 * len(slopes) + 1.3, 2.1 * len(maps) + 0.6))
    grid = figure.subplots(
        len(maps), len(slopes), squeeze=False, sharex=True, sharey=True
    )
    for row, (values, label, cmap, norm) in zip(grid, maps, strict=True):
        for ax, image in zip(row, values, strict=True):
            _heat_map(ax, image, axes, cmap, norm)
        row[0].set_ylabel("initial scale")
        figure.colorbar(ScalarMappable(norm, cmap), ax=row, label=label)
    for top_ax, bottom_ax, slope in zip(grid[0], grid[-1], slopes, strict=True):
        top_ax.set_title(f"negative slope {slope:g}")
        bottom_ax.set_xlabel("learning rate")
    figure.suptitle(
        f"{TASK_TITLES[task]}: success and active branches, {data['trials']} trials "
        "per cell",
        fontsize=10,
    )
    return figure


def _heat_map(ax, image, axes, cmap, norm):
    ax.imshow(image, cmap=cmap, norm=norm, origin="lower", aspect="auto")
    ax.grid(False)
    rates, scales = axes["learning_rate"], axes["init_scale"]
    ax.set_xticks(range(len(rates)), [f"{v:g}" for v in rates], rotation=90, fontsize=7)
    ax.set_yticks(range(len(scales)), [f"{v:g}" for v in scales], fontsize=7)
    ax.set_facecolor("0.9")  # shows where every trial diverged
    for (i, j), value in np.ndenumerate(image):
        if not np.isfinite(value):
            ax.text(j, i, "div.", ha="center", va="center", fontsize=5)
        else:
            text = f"{value:.2f}" if value < 10 else f"{value:.0f}"
            colour = text_colour(mpl.colormaps[cmap](norm(value)))
            ax.text(j, i, text, ha="center", va="center", fontsize=5, color=colour)
