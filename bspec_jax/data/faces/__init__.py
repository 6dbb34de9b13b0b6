"""Synthetic faces of three animal-like classes, with everything they are rendered from.

    truth = ground_truth("test", [0, 1], size=64)
    truth.image           # [2, 64, 64, 3] in 0..1: albedo * diffuse + specular
    truth.masks["eyes"]   # [2, 64, 64], where that part is seen

No real data set has a ground truth of its parts, layers and light; these faces score a
decomposition by theirs.
"""

from bspec_jax.data.faces.parts import CLASSES, PARTS
from bspec_jax.data.faces.rendering import Face, render
from bspec_jax.data.faces.source import (
    COUNTS,
    IMAGE_SIZE,
    example_key,
    find,
    ground_truth,
    labels,
)

__all__ = [
    "CLASSES",
    "COUNTS",
    "IMAGE_SIZE",
    "PARTS",
    "Face",
    "example_key",
    "find",
    "ground_truth",
    "labels",
    "render",
]
