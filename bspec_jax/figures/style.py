"""Style, colours and helpers that the figures share."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

STYLE = {
    "text.usetex": False,
    "figure.dpi": 160,
    "savefig.dpi": 160,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "axes.prop_cycle": mpl.cycler(
        color=["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
    ),
}
COLOURS = STYLE["axes.prop_cycle"].by_key()["color"]
TASK_TITLES = {"toy1": "Toy 1", "toy2": "Toy 2"}
DIVERGING = "RdBu_r"
LONGEST = 32  # characters of a name that a figure shows
CELL = 0.62  # side of a picture in a grid, in inches


class Name(str):
    """Text from the data, such as a class, which `as_drawn` and `shown` keep as it is.

    Matplotlib gets `AS_IT_IS` with what `shown` returns: `$` begins no mathematics.
    """


AS_IT_IS = {"parse_math": False}


def printable(name: str) -> str:
    """A name from the data on one line, with what cannot be printed escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def shown(name: str) -> str:
    """`printable`; of a long name, the middle is left out."""
    line = printable(name)
    if len(line) <= LONGEST:
        return line
    return f"{line[: LONGEST // 2]}…{line[-LONGEST // 2 + 1 :]}"


def as_drawn(text: str) -> tuple[str, dict]:
    """A text, and the options of the matplotlib Text that draws it."""
    return (shown(text), AS_IT_IS) if isinstance(text, Name) else (text, {})


def undefined(value: float | int | None, form: str = "g") -> str:
    """A number of results.json; null becomes a question mark."""
    return "?" if value is None else f"{value:{form}}"


def limit_of(values: np.ndarray) -> float:
    """The largest magnitude of the finite values, for symmetric colours; above 0."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0)) or 1.0


def intervals(values: Sequence) -> np.ndarray:
    """Intervals `[K, 2]` of JSON, of which each bound or the whole may be null."""
    pairs = [(None, None) if pair is None else pair for pair in values]
    return floats(pairs).reshape(-1, 2)


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorates a drawing function to use `STYLE` rather than the caller's settings."""

    @wraps(draw)
    def wrapper(*args, **kwargs):
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def text_colour(background: tuple[float, float, float, float]) -> str:
    """White or black, whichever is legible on the colour."""
    red, green, blue, _ = background
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"


def floats(values) -> np.ndarray:
    """JSON numbers as floats; null becomes NaN, which matplotlib does not draw."""
    return np.array(values, float)


def nothing(why: str) -> Figure:
    """A figure of results that hold nothing to draw."""
    figure = Figure(figsize=(4.4, 1.0))
    figure.text(0.5, 0.5, why, ha="center", va="center")
    return figure


def frame(ax):
    """Frames an image, without a grid over its pixels."""
    ax.grid(False)
    ax.spines[["top", "right"]].set_visible(True)


def band(ax, x, low, high, color, alpha=0.2):
    """An interval around a line; a bar where the line is a single point."""
    low, high = floats(low), floats(high)
    if len(x) == 1:
        ax.vlines(x, low, high, color=color, alpha=0.6)
    else:
        ax.fill_between(x, low, high, color=color, alpha=alpha, lw=0)


def class_axis(ax, classes):
    """Names the columns of an image by class."""
    frame(ax)
    ax.set_xticks(
        range(len(classes)),
        [shown(name) for name in classes],
        **AS_IT_IS,
        rotation=40,
        ha="right",
        rotation_mode="anchor",
        fontsize=7,
    )


def picture_grid(
    rows: Mapping[str, Sequence | np.ndarray], titles: Sequence[str] = (), title=None
):
    """A grid of pictures with values in -1..1, in named rows; NaN is left blank.

    Args:
      rows: pictures `[H, W, C]` by the name of their row.
      titles: of the columns.
      title: of the figure.

    Names of rows and columns may be a `Name`.
    """
    width = max(len(row) for row in rows.values())
    height = CELL * len(rows) + (0.25 if titles else 0) + (0.3 if title else 0)
    figure = Figure(figsize=(CELL * width + 1.2, height))
    axes = figure.subplots(len(rows), width, squeeze=False)
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        for ax in line:
            ax.axis("off")
        for ax, picture in zip(line, row, strict=False):
            if np.isfinite(picture).all():
                values = np.clip((floats(picture) + 1) / 2, 0, 1)
                ax.imshow(values.squeeze(), cmap="gray", vmin=0, vmax=1)
        text, options = as_drawn(name)
        line[0].text(
            -0.1,
            0.5,
            text,
            **options,
            ha="right",
            va="center",
            fontsize=8,
            transform=line[0].transAxes,
        )
    for ax, name in zip(axes[0], titles, strict=False):
        text, options = as_drawn(name)
        ax.set_title(text, **options, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    return figure
