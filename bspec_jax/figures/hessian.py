"""Figures of the Hessian and of the gradient's factors (sections 5 and 8)."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from bspec_jax.figures.style import (
    AS_IT_IS,
    COLOURS,
    DIVERGING,
    TASK_TITLES,
    band,
    floats,
    intervals,
    limit_of,
    printable,
    styled,
)

SPREAD = "median, quartiles, 5 % and 95 %"
MOST_CELLS = 600  # along an axis of a heat map
SHOWN_EIGENVALUES = 6  # a toy's Hessian has rank 4 at most


def heat_map_stages(examples: Sequence[Mapping]) -> list[Mapping]:
    """Of the examples at all stages those that `hessian_heat_maps` shows."""
    return [examples[i] for i in sorted({0, len(examples) // 2, len(examples) - 1})]


@styled
def hessian_heat_maps(title: str, examples: Sequence[Mapping]) -> Figure:
    """One network's block Hessian at the first, a middle and the last stage.

    Figure 5, panels 3 and 4, for the classifier's first layer.

    Args:
      title: task or parameters.
      examples: one for each stage: "step", "branches", "offdiagonal_ratio" and the
        "hessian" `[M P, M P]`. A large one is shown by its `largest_entries`.
    """
    chosen = heat_map_stages(examples)
    figure = Figure(figsize=(3.1 * len(chosen) + 0.9, 3.6))
    row = figure.subplots(1, len(chosen), squeeze=False)[0]
    limit = limit_of(floats([e["hessian"] for e in chosen]))
    norm = SymLogNorm(limit / 1000, vmin=-limit, vmax=limit)
    for ax, example in zip(row, chosen, strict=True):
        m = example["branches"]
        matrix = largest_entries(floats(example["hessian"]), m)
        image = ax.imshow(matrix, cmap=DIVERGING, norm=norm, interpolation="nearest")
        p = len(matrix) // m
        edges = np.arange(1, m) * p - 0.5
        ax.vlines(edges, -0.5, m * p - 0.5, color="0.55", lw=0.3)
        ax.hlines(edges, -0.5, m * p - 0.5, color="0.55", lw=0.3)
        ticks = range(0, m, max(1, m // 6))
        centres = [(k + 0.5) * p - 0.5 for k in ticks]
        labels = [str(k) for k in ticks]
        ax.set(xticks=centres, yticks=centres, xlabel="branch $l$")
        ax.set(xticklabels=labels, yticklabels=labels)
        ax.grid(False)
        ratio = example["offdiagonal_ratio"]
        ratio = "undefined" if ratio is None else f"{ratio:.2f}"
        ax.set_title(f"step {example['step']}: off-diagonal ratio {ratio}", fontsize=9)
    row[0].set_ylabel("branch $k$")
    powers = 10.0 ** np.arange(-9, 9)
    powers = powers[(powers > limit / 500) & (powers <= limit)]
    ticks = [*-powers[::-1], 0, *powers]
    bar = figure.colorbar(
        image, ax=row, ticks=ticks, label="entry of $H_{kl}$", shrink=0.85
    )
    bar.minorticks_off()
    figure.suptitle(
        f"{printable(title)}, M = {m}: block Hessian of one network",
        **AS_IT_IS,
        fontsize=10,
    )
    return figure


def largest_entries(matrix: np.ndarray, branches: int) -> np.ndarray:
    """A block matrix at `MOST_CELLS` rows or so: of adjacent entries the largest.

    By magnitude, within a block. Drawn as it is, a matrix of thousands of rows would
    lose what is sparse.

    Args:
      matrix: `[M P, M P]`.
      branches: M.
    """
    p = len(matrix) // branches
    cells = max(1, min(p, MOST_CELLS // branches))
    edges = np.arange(cells) * p // cells
    starts = (p * np.arange(branches)[:, None] + edges).ravel()
    high, low = matrix, matrix
    for axis in (0, 1):
        high = np.maximum.reduceat(high, starts, axis)
        low = np.minimum.reduceat(low, starts, axis)
    return np.where(high >= -low, high, low)


@styled
def hessian_block_index(tasks: Mapping) -> Figure:
    """The block index S_H along training, and against M with start and control."""
    figure = Figure(figsize=(8.2, 2.9 * len(tasks) + 0.3))
    grid = figure.subplots(len(tasks), 2, squeeze=False)
    for (left, right), (task, data) in zip(grid, tasks.items(), strict=True):
        stages, title = data["stages"], TASK_TITLES[task]
        steps = [stage["step"] for stage in stages]
        quantiles = [stage["block_index_quantiles"] for stage in stages]
        _spread(left, steps, quantiles, SPREAD)
        m, limit = data["branches"][-1], data["observations"]["7"]["threshold"]
        left.set(title=f"{title}, $M = {m}$", ylabel="block index $S_H$")
        lines = (
            (stages[0]["measures"], "at initialisation", COLOURS[4], "-"),
            (stages[-1]["measures"], "at the end", COLOURS[0], "-"),
            (data["control"], "trained separately", "0.4", "--"),
        )
        for measures, label, colour, style in lines:
            look = {"ls": style, "marker": "o", "ms": 3, "label": label}
            _against_branches(
                right, data["branches"], measures["block_index"], colour, **look
            )
        right.set(title=f"{title}: mean over networks", xlabel="number of branches $M$")
        for ax in (left, right):
            ax.axhline(limit, color=COLOURS[1], lw=0.8, label="threshold")
            ax.legend(fontsize=7)
            ax.set_ylim(min(0, ax.get_ylim()[0]), 1.02)
    figure.suptitle(
        "How nearly block diagonal the Hessian of the active branches is\n"
        "(1: block diagonal; 0: identical branches)",
        fontsize=10,
    )
    return figure


def _against_branches(ax, branches, means, colour, **look):
    """Means with their intervals, as in `results.json`, against M."""
    band(ax, branches, *intervals(means["interval"]).T, colour)
    ax.plot(branches, floats(means["mean"]), color=colour, **look)


@styled
def hessian_eigenvalues(tasks: Mapping) -> Figure:
    """The largest eigenvalue against 2 / learning rate, and the whole spectrum."""
    figure = Figure(figsize=(8.2, 2.9 * len(tasks) + 0.3))
    grid = figure.subplots(len(tasks), 2, squeeze=False)
    for (left, right), (task, data) in zip(grid, tasks.items(), strict=True):
        stages, m = data["stages"], data["branches"][-1]
        steps = [stage["step"] for stage in stages]
        limit = stages[-1]["spectra"]["limit"]
        quantiles = [s["spectra"]["largest_quantiles"] for s in stages]
        _spread(left, steps, quantiles, SPREAD)
        left.axhline(limit, color=COLOURS[1], ls="--", label=r"$2\,/$ learning rate")
        left.set(
            title=f"{TASK_TITLES[task]}, $M = {m}$",
            ylabel="largest eigenvalue",
            yscale="log",
        )
        left.legend(fontsize=7, loc="right")
        for stage, colour, label in (
            (stages[0], COLOURS[4], "at initialisation"),
            (stages[-1], COLOURS[0], "at the end"),
        ):
            values = floats(stage["spectra"]["whole"])[::-1]
            values = values[:SHOWN_EIGENVALUES]
            right.plot(
                np.arange(1, len(values) + 1),
                values,
                marker=".",
                color=colour,
                label=label,
            )
        right.axhline(limit, color=COLOURS[1], ls="--")
        right.set(
            title="spectrum, mean over networks",
            xlabel="rank",
            ylabel="eigenvalue",
            yscale="log",
            ylim=(1e-4, None),
        )
        right.legend(fontsize=7)
    return figure


@styled
def hessian_index(tasks: Mapping) -> Figure:
    """Each network's off-diagonal ratio against its index S, at the start and end."""
    figure = Figure(figsize=(4.2 * len(tasks), 3.3))
    row = figure.subplots(1, len(tasks), squeeze=False)[0]
    for ax, (task, data) in zip(row, tasks.items(), strict=True):
        for stage, colour, label in (
            (data["stages"][0], COLOURS[4], "initialisation"),
            (data["stages"][-1], COLOURS[0], "end"),
        ):
            index = stage["index"]
            rho = index["rank_correlation"]
            rho = "undefined" if rho is None else f"{rho:.2f}"
            ax.plot(
                floats(index["indices"]),
                floats(index["ratios"]),
                ".",
                ms=2.5,
                alpha=0.5,
                color=colour,
                label=f"{label}, rank correlation {rho}",
            )
        ax.set(
            title=f"{TASK_TITLES[task]}, $M = {data['branches'][-1]}$",
            xlabel="specialization index $S$",
            ylabel="off-diagonal ratio",
        )
        ax.legend(fontsize=7, markerscale=3)
    return figure


@styled
def hessian_own_blocks(title: str, stages: Sequence[Mapping]) -> Figure:
    """What the data do to each branch at each stage, against the branch's size.

    The extreme eigenvalues of its own block of the Hessian, and its distributive
    factor. The decay adds its own coefficient to each eigenvalue.

    Args:
      stages: "step" and "branches", a `classifier.stability.BranchStability`.
    """
    figure = Figure(figsize=(9.4, 3.3))
    row = figure.subplots(1, 3)
    panels = {
        "lowest": "lowest eigenvalue of $H_{kk}$",
        "highest": "highest eigenvalue of $H_{kk}$",
        "distributive": r"distributive factor $\|\partial v_k / \partial \theta_k\|$",
    }
    sizes = [floats(stage["branches"]["size"]) for stage in stages]
    for ax, (name, label) in zip(row, panels.items(), strict=True):
        values = [floats(stage["branches"][name]) for stage in stages]
        for i, (stage, x, y) in enumerate(zip(stages, sizes, values, strict=True)):
            look = {"color": COLOURS[i % len(COLOURS)], "marker": "osv^D"[i % 5]}
            step = f"step {stage['step']:,}"
            ax.plot(x, y, ls="", ms=4, alpha=0.7, label=step, **look)
        ax.set(title=label, xlabel="rms response without its mean")
        for axis, shown in ((ax.xaxis, sizes), (ax.yaxis, values)):
            linear = _smallest(shown)
            getattr(ax, f"set_{axis.axis_name}scale")("symlog", linthresh=linear)
            locator = SymmetricalLogLocator(base=10, linthresh=linear)
            locator.set_params(numticks=6)
            axis.set_major_locator(locator)
        ax.tick_params(labelsize=7)
    row[0].legend(fontsize=7, title=title, title_fontsize=7)
    return figure


def _smallest(values: Sequence[np.ndarray]) -> float:
    """The range of a symmetric logarithmic axis around 0: of what is not rounding."""
    sizes = np.abs(np.concatenate(values))
    sizes = sizes[np.isfinite(sizes)]
    largest = sizes.max(initial=0) or 1.0
    return max(sizes[sizes > 0].min(initial=largest), 1e-6 * largest)


@styled
def vanishing_factors(tasks: Mapping) -> Figure:
    """Section 8: shares of vanishing factors and gradients at the end, against M.

    Among the points that are still to be learnt; below each M the number of networks
    that have one.
    """
    figure = Figure(figsize=(4.4 * len(tasks), 3.9))
    row = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    names = {
        "vanishing_distributive": "distributive factor, less the share at the start",
        "vanishing_share": r"distributive factor $|\partial v_k / \partial w|$",
        "vanishing_gradient": "gradient",
        "orthogonal": "gradient, and neither factor",
    }
    for ax, (task, data) in zip(row, tasks.items(), strict=True):
        measures = data["stages"][-1]["measures"]
        places = range(len(data["branches"]))
        styles = ("-", ":", "--", "-.")
        for colour, style, (name, label) in zip(
            COLOURS, styles, names.items(), strict=False
        ):
            look = {"ls": style, "marker": "o", "ms": 3, "label": label}
            _against_branches(ax, places, measures[name], colour, **look)
        limit = data["observations"]["section8"]["threshold"]
        ax.axhline(limit, color="0.5", lw=0.8, label="threshold of the first")
        counts = measures["vanishing_share"]["networks"]
        labels = [f"{m}\n({n})" for m, n in zip(data["branches"], counts, strict=True)]
        ax.set_xticks(places, labels, fontsize=8)
        ax.set(
            title=TASK_TITLES[task],
            xlabel="number of branches $M$ (networks with points to learn)",
            ylim=(min(-0.05, ax.get_ylim()[0]), 1.02),
        )
    row[0].set_ylabel("share of (parameter, point) pairs")
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _spread(ax, steps, quantiles, label):
    """Five quantiles along training, on a logarithmic axis that includes step 0."""
    unknown = [None] * 5
    lowest, low, median, high, highest = floats(
        [unknown if five is None else five for five in quantiles]
    ).T
    ax.fill_between(steps, lowest, highest, color=COLOURS[0], alpha=0.15)
    ax.fill_between(steps, low, high, color=COLOURS[0], alpha=0.3)
    ax.plot(steps, median, color=COLOURS[0], marker="o", ms=3, label=label)
    first = min((s for s in steps if s), default=1)
    ax.set_xscale("symlog", linthresh=first)
    ax.set_xticks(steps, [f"{s:g}" for s in steps], fontsize=7, rotation=45)
    ax.minorticks_off()
    ax.set(xlabel="gradient step", xlim=(-0.5 * first, 1.3 * max(steps[-1], 1)))
