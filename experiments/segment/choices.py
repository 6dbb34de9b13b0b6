"""The choices of components that `experiments.segment` compares.

METHODS: what each method segments, the generator's components or the plain image.
`components` chooses by hand or without labels, and `plain` without labels; with a
ground truth, `best` and `plain_best` choose by the true masks of the same images.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from bspec_jax import generator, runs
from bspec_jax.components import segmentation
from bspec_jax.components.chan_vese import Border
from bspec_jax.components.pairs import Masks, mean_pair_score
from bspec_jax.components.segmentation import RankedChoice
from bspec_jax.generator import Trained
from experiments.segment.config import Config
from experiments.segment.data import LabelledImages

COMPONENTS, PLAIN = "components", "plain"  # methods, and the stacks that they segment
METHODS = {
    COMPONENTS: COMPONENTS,
    "best": COMPONENTS,
    PLAIN: PLAIN,
    "plain_best": PLAIN,
}

Source = Literal["responses", "inputs"]
Scalars = Float[np.ndarray, "M N H W"]
Criterion = Callable[[Masks], float]


def scalar_stacks(
    trained: Trained, images: LabelledImages, source: Source
) -> dict[str, Scalars]:
    """The stacks to segment: the components, and the plain image as one component."""
    own = generator.decompose(trained.model, trained.params, images.x, images.labels)
    components = own.inputs if source == "inputs" else own.components
    return {
        COMPONENTS: segmentation.scalarise(components),
        PLAIN: segmentation.scalarise(images.x[None]),
    }


def choose(
    config: Config, stacks: Mapping[str, Scalars], images: LabelledImages
) -> dict[str, RankedChoice]:
    """The choice of each method, with its value by that method's criterion.

    Args:
      stacks: of `images`, which components are chosen on.
    """
    criteria: dict[str, Criterion] = {
        COMPONENTS: mean_pair_score,
        PLAIN: mean_pair_score,
    }
    truth = images.true_masks(config.part)
    if truth is not None:

        def mean_iou(masks):
            return float(segmentation.iou(masks, truth).mean())

        criteria |= {"best": mean_iou, "plain_best": mean_iou}
    choices = {}
    if (given := config.given_choice) is not None:
        (masks,), (converged,) = segmentation.segment_all(
            stacks[COMPONENTS], [given], config.border
        )
        value = criteria.pop(COMPONENTS)(masks)
        choices[COMPONENTS] = RankedChoice(value, given, converged.mean())
    for name, stack in stacks.items():
        methods = [method for method in criteria if METHODS[method] == name]
        if methods:
            # In one search, since the criteria share most of its segmentations.
            rankings = search(
                name,
                stack,
                [criteria[method] for method in methods],
                config.border,
                config.largest,
            )
            best = [ranking[0] for ranking in rankings]
            choices |= dict(zip(methods, best, strict=True))
    return {method: choices[method] for method in METHODS if method in choices}


def search(
    name: str,
    scalars: Scalars,
    criteria: Sequence[Criterion] = (mean_pair_score,),
    border: Border = segmentation.BORDER,
    largest: int = 2,
) -> list[list[RankedChoice]]:
    """`segmentation.search` with a progress bar, which shows `name`."""
    size = segmentation.search_size(len(scalars), len(criteria), largest)
    total = size * scalars.shape[1]
    with runs.progress_bar(total, f"choosing {name}", "image") as advance:
        return segmentation.search(scalars, criteria, border, largest, advance)
