"""The masks of the part that `experiments.applications` edits."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bspec_jax import runs
from bspec_jax.components import segmentation
from bspec_jax.components.chan_vese import Border
from bspec_jax.components.pairs import Masks
from bspec_jax.components.segmentation import Choice
from bspec_jax.data.selection import first_of_each
from experiments.applications.data import Examples
from experiments.segment.choices import COMPONENTS, search

SEARCHED = 8  # training images of each class that components are chosen on


class Segmenter(NamedTuple):
    """The components that segment a part, and the settings of Chan-Vese."""

    choice: Choice
    border: Border

    def masks(self, examples: Examples) -> Masks:
        """The masks of the examples' parts."""
        return segmentation.segment(stack_to_segment(examples), *self)


def saved_segmenter(workdir: Path) -> Segmenter:
    """The choice by components that a run of segment made.

    Raises:
      UserError: if there is no such run.
    """
    runs.check_experiment(workdir, "segment")
    saved = runs.load_results(workdir)
    choice = saved["methods"][COMPONENTS]["choice"]
    components = {key: tuple(choice[key]) for key in ("surface", "image")}
    settings = saved["config"]
    border = Border(length=settings["length"], inside=settings["inside"])
    return Segmenter(Choice(**{**choice, **components}), border)


def search_segmenter(train: Examples) -> Segmenter:
    """The best choice by how much the masks look like pairs, without labels."""
    few = train.select(first_of_each(train.labels, SEARCHED))
    scalars = segmentation.scalarise(stack_to_segment(few))
    (ranking,) = search(COMPONENTS, scalars)
    return Segmenter(ranking[0].choice, segmentation.BORDER)


def stack_to_segment(examples: Examples) -> Float[np.ndarray, "M N H W C"]:
    """The components that `experiments.segment` segments by default."""
    return examples.stacks.get("inputs", examples.stacks["responses"])
