"""Figure 1: a network of M branches."""

from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from bspec_jax.figures.style import COLOURS, styled

PITCH = 0.65  # distance between branches, in inches
DRAWN = 5  # maximum number of branches drawn; dots stand for the others
DOTS, RESIDUAL = r"\vdots", "R(x)"


@styled
def architecture(num_branches: int) -> Figure:
    """The input x, M parallel branches, the residual R, and their sum."""
    names = [f"v_{{{k}}}(x; \\theta_{{{k}}})" for k in range(1, num_branches + 1)]
    if num_branches > DRAWN:
        names = [*names[: DRAWN - 2], DOTS, names[-1]]
    rows = [*names, RESIDUAL]
    height = PITCH * len(rows)
    figure = Figure(figsize=(5.2, height))
    ax = figure.subplots()
    ax.set(xlim=(0, 5.2), ylim=(PITCH / 2 - height, PITCH / 2), aspect="equal")
    ax.axis("off")
    middle = -PITCH * (len(rows) - 1) / 2
    ax.text(0.35, middle, "$x$", ha="center", va="center", fontsize=14)
    for row, name in enumerate(rows):
        y = -PITCH * row
        ax.text(2.25, y, f"${name}$", ha="center", va="center", fontsize=12)
        if name != DOTS:
            _branch(ax, y, middle, "0.5" if name == RESIDUAL else COLOURS[0])
    ax.add_patch(Circle((4.1, middle), 0.2, facecolor="white", edgecolor="0.2"))
    ax.text(4.1, middle, "+", ha="center", va="center", fontsize=14)
    _arrow(ax, (4.3, middle), (4.62, middle))
    ax.text(4.7, middle, "$f(x)$", ha="left", va="center", fontsize=13)
    return figure


def _branch(ax, y, middle, colour):
    box = FancyBboxPatch(
        (1.6, y - 0.24),
        1.3,
        0.48,
        boxstyle="round,pad=0.02",
        facecolor=colour,
        edgecolor="none",
        alpha=0.25,
    )
    ax.add_patch(box)
    _arrow(ax, (0.55, middle), (1.56, y))
    _arrow(ax, (2.94, y), (3.92, middle))


def _arrow(ax, start, end):
    style = {"arrowstyle": "-|>", "mutation_scale": 9, "color": "0.3"}
    ax.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **style))
