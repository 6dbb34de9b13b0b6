"""The masks of the part that `experiments.applications` edits."""

from pathlib import Path
from typing import NamedTuple

from bspec_jax import runs
from bspec_jax.components import segmentation
from bspec_jax.components.chan_vese import Border
from bspec_jax.components.segmentation import Choice, Segmented
from bspec_jax.data.selection import first_of_each
from bspec_jax.generator import GeneratorSpec
from bspec_jax.storage.errors import UserError
from experiments.applications.data import Examples
from experiments.segment.choices import COMPONENTS, Source, search

SEARCHED = 8  # training images of each class that components are chosen on


class Segmenter(NamedTuple):
    """The components that segment a part, and the settings of Chan-Vese.

    source: of the components that `choice` refers to.
    """

    source: Source
    choice: Choice
    border: Border

    def segment(self, examples: Examples) -> Segmented:
        """The masks `[1, N, H, W]` of the examples' parts."""
        scalars = segmentation.scalarise(examples.stacks[self.source])
        return segmentation.segment_all(scalars, [self.choice], self.border)


def saved_segmenter(workdir: Path, spec: GeneratorSpec) -> Segmenter:
    """The choice by components that a run of segment made, for a generator.

    Raises:
      UserError: if there is no such run, its results are damaged, or it chose
        components that the generator does not have.
    """
    runs.check_experiment(workdir, "segment")
    saved = runs.load_results(workdir)
    try:
        choice = saved["methods"][COMPONENTS]["choice"]
        components = {key: tuple(choice[key]) for key in ("surface", "image")}
        settings = {key: float(saved["config"][key]) for key in ("length", "inside")}
        segmenter = Segmenter(
            saved["source"],
            Choice(**{**choice, **components}),
            segmentation.BORDER._replace(**settings),
        )
        highest = max(max(indices) for indices in components.values())
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{workdir / 'results.json'} is damaged or incomplete: run segment again"
        ) from None
    if segmenter.source not in sources_of(spec):
        raise UserError(
            f"{workdir} chose among the {segmenter.source} of another generator: this "
            "one has responses only"
        )
    if highest >= spec.branches:
        raise UserError(
            f"{workdir} chose component {highest} of another generator: this one has "
            f"0..{spec.branches - 1}"
        )
    return segmenter


def search_segmenter(train: Examples) -> Segmenter:
    """The best choice by how much the masks look like pairs, without labels."""
    few = train.select(first_of_each(train.labels, SEARCHED))
    source = list(few.stacks)[-1]  # inputs, where there are any
    (ranking,) = search(COMPONENTS, segmentation.scalarise(few.stacks[source]))
    return Segmenter(source, ranking[0].choice, segmentation.BORDER)


def sources_of(spec: GeneratorSpec) -> tuple[Source, ...]:
    """The components that a generator has."""
    return ("responses", "inputs") if spec.residual == "diffusion" else ("responses",)
