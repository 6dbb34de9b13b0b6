"""Figures of the decomposition's applications."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from bspec_jax.figures.style import COLOURS, floats, picture_grid, styled


@styled
def pictures(rows: Mapping[str, np.ndarray], titles: Sequence[str]) -> Figure:
    """Rows of images `[S, H, W, C]` in -1..1, by name, with a title of each column."""
    return picture_grid(rows, titles)


@styled
def edit_shares(results: Mapping, names: Mapping[str, str]) -> Figure:
    """How much of each component's edit falls in the true part, in and out of masks.

    Args:
      results: `chance`, and for each source a row for each component.
      names: what to call each of the sources.
    """
    sources = [source for source in names if source in results]
    figure = Figure(figsize=(3.2 * len(sources), 2.6))
    axes = figure.subplots(1, len(sources), squeeze=False, sharey=True)[0]
    for ax, source in zip(axes, sources, strict=True):
        rows = results[source]
        for i, (place, name) in enumerate(
            (("everywhere", "changed everywhere"), ("inside", "inside the masks"))
        ):
            ax.bar(
                np.arange(len(rows)) + 0.4 * i - 0.2,
                [row[place]["mean"] for row in rows],
                0.4,
                color=COLOURS[i],
                label=name,
            )
        ax.axhline(results["chance"], color="0.3", linestyle=":", label="chance")
        ax.set(title=names[source], xlabel="component", xticks=range(len(rows)))
        ax.set(ylim=(0, 1))
    axes[0].set_ylabel("share of the change in the part")
    axes[0].legend(fontsize=8)
    return figure


@styled
def normal_errors(results: Mapping, names: Mapping[str, str]) -> Figure:
    """Mean angular error of the normals by each shading, with 95 % intervals."""
    shadings = [name for name in names if name in results]
    means = floats([results[name]["mean"] for name in shadings])
    bounds = floats([results[name]["interval"] for name in shadings])
    figure = Figure(figsize=(5.4, 2.8))
    ax = figure.subplots()
    place = np.arange(len(shadings))
    ax.barh(place, means, xerr=np.abs(bounds.T - means), capsize=2)
    for y, mean in zip(place, means, strict=True):
        ax.text(0.6, y, f"{mean:.1f}", va="center", color="white", fontsize=8)
    ax.set_yticks(place, [names[name] for name in shadings])
    ax.invert_yaxis()
    ax.set(xlabel="mean angular error of the normals, degrees")
    return figure


@styled
def augmentation(results: Mapping, names: Mapping[str, str]) -> Figure:
    """Accuracies of all trials for each way to augment; lines join those of a seed.

    Args:
      results: by the number of labels a class, and then by the way.
    """
    figure = Figure(figsize=(4.2 * len(results), 2.8))
    axes = figure.subplots(1, len(results), squeeze=False)[0]
    for ax, (labels, found) in zip(axes, results.items(), strict=True):
        ways = [name for name in names if name in found]
        accuracies = floats([found[name]["accuracies"] for name in ways])
        place = np.arange(len(ways))
        ax.plot(accuracies, color="0.8", linewidth=0.8, zorder=1)
        for column in accuracies.T:
            ax.scatter(place, column, s=14, color=COLOURS[0], zorder=2)
        means = accuracies.mean(1)
        ax.scatter(place, means, marker="_", s=500, color=COLOURS[1], zorder=3)
        ax.set_xticks(place, [names[name] for name in ways], fontsize=8)
        ax.set(title=f"{labels} labels a class", xlabel="components perturbed")
        ax.margins(x=0.15)
    axes[0].set_ylabel("accuracy on held-out faces")
    return figure
