"""Synthetic faces of three animal-like classes, with ground truth.

    truth = ground_truth("test", [0, 1], size=64)
    truth.image           # [2, 64, 64, 3] in 0..1: albedo * diffuse + specular
    truth.masks["eyes"]   # [2, 64, 64], where that part is visible

Real images have no ground truth of their parts, layers and lighting. These faces do, so
that decompositions can be scored.
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
