"""Images of the user's own, and what each branch contributes to their classes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bspec_jax.figures.style import AS_IT_IS, COLOURS, floats, limit_of, shown, styled


@styled
def own_contributions(
    images: UInt8[np.ndarray, "N H W channels"],
    names: Sequence[str],
    answers: Sequence[str],
    contributions: Float[np.ndarray, "M N"],
) -> Figure:
    """A row for each image: the image, and what each branch adds for its class.

    Args:
      images: as the network reads them.
      names: of the images.
      answers: the class of each, in words.
      contributions: of each branch to that class.
    """
    rows, values = len(images), floats(contributions)
    figure = Figure(figsize=(7.2, 1.3 * rows + 0.4))
    axes = figure.subplots(rows, 2, squeeze=False, width_ratios=(1, 5))
    limit = 1.1 * limit_of(values)
    for n, (picture, bars) in enumerate(axes):
        pixels = images[n].squeeze(-1) if images.shape[-1] == 1 else images[n]
        picture.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        picture.axis("off")
        heights = values[:, n]
        colours = [COLOURS[0] if height >= 0 else COLOURS[1] for height in heights]
        bars.bar(range(len(heights)), heights, color=colours)
        bars.axhline(0, color="0.4", lw=0.6)
        bars.set(ylim=(-limit, limit))
        bars.xaxis.set_major_locator(MaxNLocator(integer=True))
        title = f"{shown(names[n])}: {shown(answers[n])}"
        bars.set_title(title, **AS_IT_IS, fontsize=8, loc="left")
    axes[-1, 1].set_xlabel("branch $k$")
    figure.supylabel("contribution to the class", fontsize=8)
    return figure
