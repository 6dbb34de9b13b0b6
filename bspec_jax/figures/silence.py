"""When branches fall silent: decay, M, degree and rate (`experiments.silence`)."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from bspec_jax.figures.style import (
    COLOURS,
    band,
    floats,
    intervals,
    styled,
    text_colour,
)


@styled
def silence_against_branches(rows: Mapping[str, Mapping]) -> Figure:
    """Figure 5.1 with intervals: active and silent branches against M.

    Args:
      rows: by name, such as a decay: `branches`, and for `active` and `silent` the
        `mean` and `interval` at each of these M.

    Both axes are logarithmic; zero is drawn at 1/2 and labelled 0.
    """
    figure = Figure(figsize=(3.3 * len(rows) + 0.6, 3.2))
    axes = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
    for ax, (name, row) in zip(axes, rows.items(), strict=True):
        m = row["branches"]
        ax.plot(m, m, color="0.8", lw=1, ls=":", label="all $M$")
        for key, colour, marker in (
            ("active", COLOURS[0], "o"),
            ("silent", COLOURS[1], "s"),
        ):
            low, high = np.maximum(intervals(row[key]["interval"]).T, 0.5)
            mean = np.maximum(floats(row[key]["mean"]), 0.5)
            ax.fill_between(m, low, high, color=colour, alpha=0.2, lw=0)
            ax.plot(m, mean, color=colour, marker=marker, ms=4, label=key)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        ticks = [0.5, *(2**i for i in range(int(np.log2(max(m))) + 1))]
        ax.set_yticks(ticks, ["0", *(str(t) for t in ticks[1:])])
        ax.set_xticks(m, [str(v) for v in m])
        ax.minorticks_off()
        ax.set(title=name, xlabel="number of branches $M$")
    axes[0].set_ylabel("branches (mean, 95 % interval)")
    axes[0].legend()
    return figure


@styled
def silence_against_budget(curves: Mapping[str, Mapping]) -> Figure:
    """Share of active branches against the decay budget, a curve for each degree.

    Args:
      curves: by name: `decay_budget`, `active_share` and `active_share_interval` along
        one training; `ends`, the same three at the end of trainings of other decays;
        and `earliest`, the budget by which decay alone silences a branch, None if it
        never does.
    """
    figure = Figure(figsize=(6.4, 3.4))
    ax = figure.subplots()
    looks = zip(COLOURS, ("-", "--", "-", "-"), strict=False)  # equal curves overlap
    for (name, curve), (colour, dashes) in zip(curves.items(), looks, strict=False):
        x, ends = floats(curve["decay_budget"]), curve["ends"]
        low, high = intervals(curve["active_share_interval"]).T
        band(ax, x, low, high, colour, alpha=0.15)
        ax.plot(x, floats(curve["active_share"]), dashes, color=colour, label=name)
        mean = floats(ends["active_share"])
        error = np.abs(intervals(ends["active_share_interval"]).T - mean)
        style = {"fmt": "o", "ms": 4, "color": colour, "lw": 1, "mfc": "white"}
        ax.errorbar(floats(ends["decay_budget"]), mean, error, **style)
        if curve["earliest"] is not None:
            ax.axvline(curve["earliest"], color=colour, lw=1, ls=":")
    ax.set(
        title="Branches that stay active, by degree",
        xlabel=r"decay budget $\beta = \lambda \sum_t \eta_t / (1 - \mu)$",
        ylabel="share of active branches",
        ylim=(0, 1.05),
    )
    note = "lines: along training\ndots: the ends of\ntrainings by decay"
    if any(curve["earliest"] is not None for curve in curves.values()):
        note += "\n" + r"dotted: $\beta = \ln(10) / d$"
    ax.legend(title=note, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled
def silence_norms(example: Mapping) -> Figure:
    """Norms of one network's branches along its training, against the decay budget.

    Left, of the responses without their constant part, with the slope of a branch that
    gets no gradient. Right, of the weights of each layer.

    Args:
      example: `degree`, `decay_budget` `[R]`, `centred_norms` `[M, R]`, `layer_norms`
        `[M, L, R]` and `is_silent` `[M]`.
    """
    beta, silent = floats(example["decay_budget"]), np.array(example["is_silent"])
    figure = Figure(figsize=(7.2, 3.4))
    left, right = figure.subplots(1, 2)
    panels = (
        (left, floats(example["centred_norms"])[:, None], example["degree"]),
        (right, floats(example["layer_norms"]), 1),
    )
    for ax, norms, slope in panels:
        for of_layers, is_silent in zip(norms, silent, strict=True):
            for norm in of_layers:
                ax.plot(beta, norm, color=COLOURS[int(is_silent)], lw=0.8)
        positive = norms[norms > 0]
        start = norms[:, :, 0].max() if norms.size else 1
        power = f"{slope}" if slope != 1 else ""
        fall = {"color": "k", "lw": 1, "ls": "--", "label": rf"$e^{{-{power}\beta}}$"}
        ax.plot(beta, start * np.exp(-slope * beta), **fall)
        ax.set_yscale("log")
        if positive.size:
            ax.set_ylim(positive.min() / 2, positive.max() * 2)
        ax.set_xlabel(r"decay budget $\beta$")
        for label, colour in (("active", COLOURS[0]), ("silent", COLOURS[1])):
            ax.plot([], [], color=colour, label=f"{label} at the end")
        ax.legend(loc="lower left")
    left.set(title="Responses, constant part removed", ylabel="norm")
    right.set(title="Weights of each layer", ylabel="norm")
    return figure


@styled
def silence_heat_map(grid: Mapping) -> Figure:
    """Share of active branches and test accuracy over weight decay and learning rate.

    Args:
      grid: `decays`, `learning_rates`, and for each pair `active_share` and `accuracy`.
    """
    rates, decays = grid["learning_rates"], grid["decays"]
    figure = Figure(figsize=(1.0 * 2 * len(rates) + 2.6, 0.45 * len(decays) + 1.3))
    panels = (
        ("share of active branches", floats(grid["active_share"]), "magma", (0, 1)),
        ("test accuracy", floats(grid["accuracy"]), "viridis", None),
    )
    for ax, (title, values, cmap, limits) in zip(
        figure.subplots(1, 2, sharey=True), panels, strict=True
    ):
        finite = values[np.isfinite(values)]
        if limits is None and finite.size:
            limits = finite.min(), finite.max()
        low, high = limits or (0, 1)
        norm = Normalize(low, high)
        ax.imshow(values, cmap=cmap, norm=norm, origin="lower", aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            colour = text_colour(mpl.colormaps[cmap](norm(value)))
            text = f"{value:.2f}" if np.isfinite(value) else "div."
            ax.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)
        ax.grid(False)
        ax.set_xticks(range(len(rates)), [f"{v:g}" for v in rates])
        ax.set_yticks(range(len(decays)), [f"{v:g}" for v in decays])
        ax.set(title=title, xlabel="learning rate")
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel("weight decay")
    return figure


@styled
def silence_threshold(found: Mapping) -> Figure:
    """What is left of networks of degree 2 against weight decay, with the threshold.

    Args:
      found: `lambda_star`; `decays`, ascending; and for each the `mean` and `interval`
        of `largest`, the root mean square response of the largest branch, and of
        `active_share`.
    """
    figure = Figure(figsize=(7.2, 3.0))
    decay = floats(found["decays"])
    panels = (
        ("largest", "response of the largest branch"),
        ("active_share", "share of active branches"),
    )
    for ax, (key, title) in zip(figure.subplots(1, 2), panels, strict=True):
        mean = floats(found[key]["mean"])
        low, high = intervals(found[key]["interval"]).T
        error = np.maximum([mean - low, high - mean], 0)
        ax.errorbar(decay, mean, error, fmt="o-", ms=4, color=COLOURS[0], lw=1)
        star = {"color": "k", "lw": 1, "ls": "--", "label": r"$\lambda^*$"}
        ax.axvline(found["lambda_star"], **star)
        ax.set(title=title, xlabel=r"weight decay $\lambda$")
        ax.legend(loc="center left")
    if (floats(found["largest"]["mean"]) > 0).any():
        figure.axes[0].set(yscale="log")
    figure.axes[1].set(ylim=(-0.05, 1.05))
    return figure
