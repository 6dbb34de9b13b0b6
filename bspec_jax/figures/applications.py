"""Figures of the decomposition's applications."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from bspec_jax.figures.style import (
    COLOURS,
    Name,
    floats,
    intervals,
    picture_grid,
    styled,
    undefined,
)

PLACES = {"everywhere": "changed everywhere", "inside": "inside the masks"}


@styled
def pictures(rows: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Rows of images `[S, H, W, C]` in -1..1, by name; classes head the columns."""
    return picture_grid(rows, list(map(Name, classes)))


@styled
def edit_shares(results: Mapping, names: Mapping[str, str]) -> Figure:
    """Share of each component's edit in the true part, with and without masks.

    Args:
      results: `chance`, and for each source of components a row per component.
      names: titles, by source.
    """
    sources = [source for source in names if source in results]
    figure = Figure(figsize=(3.2 * len(sources), 2.6))
    axes = figure.subplots(1, len(sources), squeeze=False, sharey=True)[0]
    for ax, source in zip(axes, sources, strict=True):
        rows = results[source]
        for i, (place, label) in enumerate(PLACES.items()):
            ax.bar(
                np.arange(len(rows)) + 0.4 * i - 0.2,
                floats([row[place]["mean"] for row in rows]),
                0.4,
                color=COLOURS[i],
                label=label,
            )
        ax.axhline(
            floats(results["chance"]), color="0.3", linestyle=":", label="chance"
        )
        ax.set(title=names[source], xlabel="component", xticks=range(len(rows)))
        ax.set(ylim=(0, 1))
    axes[0].set_ylabel("share of the change in the part")
    axes[0].legend(fontsize=8)
    return figure


@styled
def normal_errors(results: Mapping, names: Mapping[str, str]) -> Figure:
    """Mean angular error of the normals from each shading, with 95 % intervals.

    Args:
      results: `mean` and `interval`, in degrees, by shading.
      names: labels, by shading.
    """
    shadings = [name for name in names if name in results]
    means = floats([results[name]["mean"] for name in shadings])
    bounds = intervals([results[name]["interval"] for name in shadings])
    figure = Figure(figsize=(5.4, 2.8))
    ax = figure.subplots()
    places = np.arange(len(shadings))
    ax.barh(places, means, xerr=np.abs(bounds.T - means), capsize=2)
    for y, name in zip(places, shadings, strict=True):
        mean = results[name]["mean"]
        ax.text(
            0.02,
            y,
            undefined(mean, ".1f"),
            va="center",
            color="0.3" if mean is None else "white",
            fontsize=8,
            transform=ax.get_yaxis_transform(),
        )
    ax.set_yticks(places, [names[name] for name in shadings])
    ax.invert_yaxis()
    ax.set(xlabel="mean angular error of the normals, degrees")
    return figure


@styled
def augmentation(results: Mapping, names: Mapping[str, str]) -> Figure:
    """Accuracy of each trial and kind of augmentation; lines join trials of one seed.

    Args:
      results: `accuracies` of the trials and their mean `accuracy`, by the number of
        labels per class, and then by kind.
      names: labels, by kind.
    """
    figure = Figure(figsize=(4.2 * len(results), 2.8))
    axes = figure.subplots(1, len(results), squeeze=False)[0]
    for ax, (labels, by_kind) in zip(axes, results.items(), strict=True):
        kinds = [kind for kind in names if kind in by_kind]
        accuracies = floats([by_kind[kind]["accuracies"] for kind in kinds])
        means = floats([by_kind[kind]["accuracy"] for kind in kinds])
        places = np.arange(len(kinds))
        ax.plot(accuracies, color="0.8", linewidth=0.8, zorder=1)
        for of_trial in accuracies.T:
            ax.scatter(places, of_trial, s=14, color=COLOURS[0], zorder=2)
        ax.scatter(places, means, marker="_", s=500, color=COLOURS[1], zorder=3)
        ax.set_xticks(places, [names[kind] for kind in kinds], fontsize=8)
        ax.set(title=f"{labels} labels per class", xlabel="perturbed components")
        ax.margins(x=0.15)
    axes[0].set_ylabel("accuracy on held-out faces")
    return figure
