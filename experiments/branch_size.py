"""About how large a branch of a classifier is, before anything is computed."""

import math
from collections.abc import Sequence
from itertools import pairwise

from bspec_jax.classifier.branches import BranchKind

# Copies of the outputs of a branch's stages, or hidden layers, that a training step
# holds: what XLA counts on a CPU, for 2 to 8 branches of several widths and images of
# 14 to 32 pixels.
COPIES_OF_OUTPUTS = {"resnet": 15, "cnn": 3, "mlp": 3}


def branch_size(
    branch: BranchKind,
    widths: Sequence[int],
    image_shape: tuple[int, int, int],
    num_classes: int,
) -> tuple[int, int]:
    """How many parameters a branch has, and outputs of stages or layers for an image.

    Args:
      branch, widths: as of `classifier.branches.make`.
    """
    height, width, channels = image_shape
    if branch == "mlp":
        layers = (height * width * channels, *widths, num_classes)
        return sum(a * b for a, b in pairwise(layers)), sum(widths)
    residual = branch == "resnet"
    first = 0 if residual else 1  # how often the first stage's output is halved
    areas = [
        math.ceil(height / 2**i) * math.ceil(width / 2**i)
        for i in range(first, first + len(widths))
    ]
    outputs = sum(w * area for w, area in zip(widths, areas, strict=True))
    if residual:  # a stage has four 3 x 3 convolutions, one of which changes the width
        kernels = (9 * w * (before + 3 * w) for before, w in pairwise((1, *widths)))
        return sum(kernels), outputs
    kernels = sum(9 * before * w for before, w in pairwise((channels, *widths)))
    last = widths[-1] * areas[-1] if widths else height * width * channels
    return kernels + last * num_classes, outputs
