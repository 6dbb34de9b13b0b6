"""Figures of class transfer and decomposition: 9 to 11, 13 to 15, 18 to 20, and more.

Components are numbered from 0.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bspec_jax.components.pictures import Pictures
from bspec_jax.figures.style import (
    AS_IT_IS,
    COLOURS,
    DIVERGING,
    Name,
    floats,
    picture_grid,
    shown,
    styled,
    text_colour,
    undefined,
)

GAINS = (-1, 0, 1, 2, 3)  # of a component in Figures 13 and 14; 1 is as generated
QUANTILE = 0.995  # of |values|, drawn as black or white in a stretched component


@styled
def transfers(classes: Sequence[str], pictures: Pictures) -> Figure:
    """Figure 9: images, R, and what is generated for their own and for every class."""
    order = np.argsort(pictures.labels, kind="stable")
    rows = {
        "image $x$": pictures.images,
        "$R$": pictures.residual,
        "own class": pictures.generated,
        **{
            Name(f"as {name}"): images
            for name, images in zip(classes, pictures.transfers, strict=True)
        },
    }
    titles = [Name(classes[pictures.labels[i]]) for i in order]
    return picture_grid({name: row[order] for name, row in rows.items()}, titles)


@styled
def image_components(
    pictures: Pictures, example: int, components: Sequence[int]
) -> Figure:
    """Figures 10 and 11: an image's components, and each added to the generated image.

    Each component is stretched on its own; grey is 0.
    """
    chosen = list(components)
    f = pictures.generated[example]
    doubled = [pictures.with_gain(k, 2)[example] for k in chosen]
    rows = {
        "$v_k$, stretched": [
            pictures.images[example],
            *stretched(pictures.components[chosen, example]),
        ],
        "$f + v_k$": [f, *doubled],
    }
    if len(pictures.inputs):
        inputs = stretched(pictures.inputs[chosen, example])
        rows["$\\varphi_k$, stretched"] = [_blank(f), *inputs]
    return picture_grid(rows, ["$x$, and $f$", *(f"$k = {k}$" for k in chosen)])


@styled
def component_sweep(pictures: Pictures, component: int) -> Figure:
    """Figures 13 and 14: generated images with several gains of a component."""
    rows = {
        "image $x$": pictures.images,
        "$v_k$, stretched": stretched(pictures.components[component]),
        **{
            f"${gain} \\times v_k$": pictures.with_gain(component, gain)
            for gain in GAINS
        },
    }
    return picture_grid(rows, title=f"Component {component} at several magnitudes")


@styled
def component_subsets(pictures: Pictures, subsets: Sequence[Sequence[int]]) -> Figure:
    """Figure 15: sums of some components, stretched, and over R."""
    rows = {"image $x$": pictures.images, "generated": pictures.generated}
    for subset in subsets:
        name = ", ".join(map(str, subset))
        total = pictures.sum_of(subset)
        rows[f"sum of {name}"] = stretched(total)
        rows[f"$R$ + {name}"] = pictures.residual + total
    return picture_grid(rows, title="Sums of components")


@styled
def decompositions(
    pictures: Pictures, examples: Sequence[int], class_name: str
) -> Figure:
    """Figures 18 to 20: x, f, R and the components of some images of a class.

    Below each component is its branch's input, where that is not the image.
    """
    rows = {}
    for i, example in enumerate(examples):
        whole = [
            stack[example]
            for stack in (pictures.images, pictures.generated, pictures.residual)
        ]
        components = stretched(pictures.components[:, example])
        rows[Name(f"{class_name} {i}")] = [*whole, *components]
        if len(pictures.inputs):
            inputs = stretched(pictures.inputs[:, example])
            blanks = [_blank(image) for image in whole]
            rows[f"$\\varphi_k$ of {i}"] = [*blanks, *inputs]
    numbers = [f"$v_{{{k}}}$" for k in range(len(pictures.components))]
    return picture_grid(rows, ["$x$", "$f$", "$R$", *numbers])


def _blank(image):
    """A cell of a picture grid that stays empty."""
    return np.full_like(image, np.nan)


def stretched(images: np.ndarray) -> np.ndarray:
    """Each image `[..., H, W, C]` scaled to fill -1..1; 0 stays 0, which is grey."""
    axes = (-3, -2, -1)
    limit = np.quantile(np.abs(images), QUANTILE, axis=axes, keepdims=True)
    return np.clip(images / np.maximum(limit, 1e-12), -1, 1)


@styled
def generator_training(curves: Sequence[Mapping], energy_shares: np.ndarray) -> Figure:
    """Losses, discriminator accuracy and monitored measures along training.

    Args:
      curves: lines of the log; those with "kept" hold what is monitored.
      energy_shares: of each branch, for each monitored line, `[K, M]`.
    """
    figure = Figure(figsize=(9.6, 4.6))
    axes = figure.subplots(2, 3)
    monitored = [line for line in curves if "kept" in line]
    _curves(axes[0, 0], curves, ("generator_loss", "discriminator_loss"), "loss")
    _curves(
        axes[0, 1], curves, ("real_accuracy", "fake_accuracy"), "discriminator accuracy"
    )
    steps = [line["step"] for line in monitored]
    for key, label in (("transfer_accuracy", "transfers"), ("kept", "own class kept")):
        rates = floats([line[key] for line in monitored])
        axes[0, 2].plot(steps, rates, "o-", ms=3, label=label)
    axes[0, 2].set(title="share recognised", ylim=(0, 1.02))
    axes[0, 2].legend()
    psnr = floats([line["psnr"] for line in monitored])
    axes[1, 0].plot(steps, psnr, "o-", ms=3)
    axes[1, 0].set(title="PSNR of re-generation, dB")
    _energy_panel(axes[1, 1], steps, energy_shares)
    _deviation_panel(axes[1, 2], steps, monitored)
    for ax in axes[1]:
        ax.set_xlabel("step")
    return figure


def _curves(ax, curves, keys, title):
    """One curve per key, labelled by its first word."""
    steps = [line["step"] for line in curves]
    for key in keys:
        values = floats([line[key] for line in curves])
        ax.plot(steps, values, marker=_marker(steps), label=key.split("_")[0])
    ax.set(title=title, ylim=(0, None))
    ax.legend()


def _marker(points):
    return "o" if len(points) == 1 else None  # a single point makes no line


def _energy_panel(ax, steps, shares):
    """Shares of energy, with the branch's number at the end of its curve."""
    lines = ax.plot(steps, shares, lw=1.2, marker=_marker(steps), ms=3)
    for k, line in enumerate(lines):
        if not steps or not np.isfinite(share := shares[-1][k]):
            continue
        ax.annotate(
            f" {k}",
            (steps[-1], share),
            color=line.get_color(),
            fontsize=7,
            va="center",
            annotation_clip=False,
        )
    ax.set(title="each component's share of energy", ylim=(0, None))


def _deviation_panel(ax, steps, monitored):
    """Standard deviations of R, x and, where there are any, of the phi_k."""
    residual, image = (
        floats([line[f"{name}_std"] for line in monitored])
        for name in ("residual", "image")
    )
    marker = _marker(steps)
    ax.plot(steps, residual, "o-", ms=3, label="$R$")
    ax.plot(steps, image, "k--", lw=0.8, marker=marker, ms=3, label="$x$")
    if monitored and monitored[0]["input_std"]:
        inputs = floats([line["input_std"] for line in monitored])
        ax.plot(steps, inputs, color="0.6", lw=0.8, marker=marker, ms=3)
        ax.plot([], [], color="0.6", lw=0.8, label="$\\varphi_k$")
    room = 1.25  # for the legend: the curves lie anywhere below x
    ax.set(title="standard deviation", ylim=(0, room * ax.get_ylim()[1]))
    ax.legend(loc="upper center", ncols=3)


@styled
def component_energy(results: Mapping) -> Figure:
    """Each component's share of energy, and correlations before and after training."""
    figure = Figure(figsize=(9.6, 2.9))
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 1, 1))
    share = floats(results["energy_share"])
    left.bar(range(len(share)), share, color=COLOURS[0])
    left.set(
        title=f"energy: {undefined(results['active'])} active of {len(share)}",
        xlabel="component",
        ylabel="share",
    )
    for ax, scores, title in (
        (middle, results["initial"], "correlation, before training"),
        (right, results, "correlation, after training"),
    ):
        correlation = floats(scores["correlation"])
        image = ax.imshow(correlation, cmap=DIVERGING, vmin=-1, vmax=1)
        ax.grid(False)
        ax.set(title=title, xlabel="component")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=[middle, right], shrink=0.8)
    return figure


@styled
def transfer_rates(results: Mapping) -> Figure:
    """How often images of a class are recognised as their target class."""
    classes = results["classes"]
    figure = Figure(figsize=(1.1 * len(classes) * 2 + 2.4, 0.8 * len(classes) + 1.0))
    axes = figure.subplots(1, 2)
    for ax, rates, title in (
        (axes[0], results["rates"], "generated: share recognised"),
        (axes[1], results["rates_residual"], "$R$ alone: share recognised"),
    ):
        _table(ax, floats(rates), classes, classes)
        ax.set(title=title, xlabel="target class", ylabel="own class")
    return figure


def _table(ax, values, rows, columns, **options):
    image = ax.imshow(values, aspect="auto", **{"vmin": 0, "vmax": 1} | options)
    ax.grid(False)
    for set_ticks, names in ((ax.set_xticks, columns), (ax.set_yticks, rows)):
        labels = [shown(name) for name in names]
        set_ticks(range(len(names)), labels, **AS_IT_IS, fontsize=8)
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = text_colour(image.cmap(image.norm(value)))
            ax.text(
                j, i, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7
            )
    return image


@styled
def component_scores(results: Mapping) -> Figure:
    """Parts and rendered layers of the synthetic faces, by component."""
    parts, layers = results["part_scores"], results["layer_scores"]
    components = [str(k) for k in range(len(results["energy_share"]))]
    figure = Figure(figsize=(9.6, 4.4))
    axes = figure.subplots(2, 1, height_ratios=(len(parts), len(layers)))
    values = floats([part["mean"] for part in parts.values()])
    limit = np.nanmax(values, initial=2.0)
    _table(axes[0], values, list(parts), components, vmax=limit, cmap="viridis")
    axes[0].set_title("share of a component's energy in a part, relative to chance")
    values = floats([layer["mean"] for layer in layers.values()])
    names = [name.replace("_", " ") for name in layers]
    _table(axes[1], values, names, components, vmin=-1, cmap=DIVERGING)
    axes[1].set(title="correlation with a rendered layer", xlabel="component")
    return figure


@styled
def diffusion_spectrum(results: Mapping) -> Figure:
    """The spectrum S(t) of the learnt diffusion, a mean over images and pixels."""
    figure = Figure(figsize=(4.6, 3.0))
    ax = figure.subplots()
    values = floats(results["spectrum"])
    ax.plot(range(1, len(values) + 1), values, "o-", ms=4)
    ax.set(
        title="Spectrum of the learnt diffusion",
        xlabel="$k$, time in steps",
        ylabel="$\\|\\varphi_k\\|_1$ / pixels / step",
        ylim=(0, None),
    )
    return figure
