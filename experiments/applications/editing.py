"""Editing: one component with another gain, everywhere or in the segmented part."""

from functools import partial

import numpy as np
from jaxtyping import Float

from bspec_jax.components.measures import RANGE, energy_share
from bspec_jax.components.pairs import Masks
from bspec_jax.components.recombination import recombine, remainder
from bspec_jax.generator.recogniser import Recogniser
from experiments.applications.config import Config
from experiments.applications.data import Examples, mean_over_images

Images = Float[np.ndarray, "N H W C"]


def editing_scores(
    config: Config, examples: Examples, masks: Masks, recogniser: Recogniser
) -> dict:
    """Scores of the edit of each component, by source.

    `everywhere` and `inside` are the shares of the change's energy in the true part, of
    an edit of all pixels and of those in `masks`; `class_kept` is the share of images
    edited inside that are still recognised as their class.
    """
    truth = examples.truth.masks[config.part]
    scores = {
        "chance": truth.mean(),
        "classes_right": share_recognised(recogniser, examples, examples.x),
    }
    for source, stack in examples.stacks.items():
        edit = partial(recombine, remainder(examples.x, stack), stack)
        # Not x itself, which differs by rounding: unchanged pixels must give exactly 0.
        before = np.asarray(edit(np.ones(len(stack), np.float32)))
        scores[source] = []
        for component in np.eye(len(stack), dtype=bool):
            gains = np.where(component, config.gain, 1).astype(np.float32)
            everywhere = np.asarray(edit(gains))
            inside = np.asarray(edit(gains, masks))
            scores[source].append(
                {
                    "everywhere": share_of_change(everywhere - before, truth),
                    "inside": share_of_change(inside - before, truth),
                    "change": root_mean_square((inside - before)[masks]) / RANGE,
                    "class_kept": share_recognised(recogniser, examples, inside),
                    "class_kept_everywhere": share_recognised(
                        recogniser, examples, everywhere
                    ),
                }
            )
    return scores


def share_of_change(change: Images, truth: Masks) -> dict:
    """Share of the change's energy in the true part; 0 where nothing changes."""
    return mean_over_images(energy_share(change, truth))


def root_mean_square(values: np.ndarray) -> float:
    """Root mean square; 0 of no values."""
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0


def share_recognised(
    recogniser: Recogniser, examples: Examples, images: Images
) -> float:
    """Share of the images that are recognised as the examples' classes."""
    right = recogniser.recognise(np.clip(images, -1, 1)) == examples.labels
    return float(right.mean())
