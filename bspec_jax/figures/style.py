"""What all figures share: the style, the colours, and how JSON numbers are read."""

from collections.abc import Callable
from functools import wraps

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

STYLE = {
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


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draws under this module's style, whatever the caller's settings are."""

    @wraps(draw)
    def wrapper(*args, **kwargs):
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def text_colour(background: tuple[float, float, float, float]) -> str:
    """White or black, whichever can be read on the colour."""
    red, green, blue, _ = background
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"


def floats(values) -> np.ndarray:
    """JSON numbers as floats; null becomes NaN, which is not drawn."""
    return np.array(values, float)
