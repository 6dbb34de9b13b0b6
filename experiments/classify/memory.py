"""The memory that a run takes, estimated before it starts."""

import math
from itertools import pairwise
from typing import NamedTuple

from bspec_jax import runs
from bspec_jax.data.images import Source
from experiments.classify.config import Config

FLOAT = 4  # bytes
# Copies of the outputs of a branch's stages, or hidden layers, that a training step
# holds: what XLA counts on a CPU, for 2 to 8 branches of several widths and images of
# 14 to 32 pixels.
COPIES_OF_OUTPUTS = {"resnet": 15, "cnn": 3, "mlp": 3}
COPIES_OF_PARAMETERS = 4  # themselves, their gradient, two moments of AdamW
COPIES_OF_RESPONSES = 3  # while they are measured


class Size(NamedTuple):
    """What a run reads: its image shape, and numbers of examples and of classes."""

    image_shape: tuple[int, int, int]
    train: int
    test: int
    classes: int


def check_before_reading(config: Config, source: Source | None = None) -> None:
    """Raises FlagError if a run cannot fit, whatever the images of its data are.

    Args:
      source: of the data, for their number; None to count a single image.
    """
    stored = (source.train.count, source.test.count) if source else (1, 1)
    train = config.train_examples or stored[0]
    test = config.test_examples or stored[1]
    side = config.image_size or 1
    check(config, Size((side, side, 1), train, test, 2))


def check(config: Config, size: Size) -> None:
    """Raises FlagError if a run takes more memory than the machine has."""
    height, width, _ = size.image_shape
    branches = max(config.branches_list)
    runs.check_memory(
        estimate(config, size),
        f"a run of {branches} branches on {size.train + size.test} images of {height} "
        f"x {width} pixels, {config.batch_size} a step,",
        "use fewer --branches, or a smaller --batch-size or --image-size",
    )


def estimate(config: Config, size: Size) -> int:
    """Bytes of the parameters, a step, the images and the responses of all networks."""
    height, width, channels = size.image_shape
    branches = max(config.branches_list)
    parameters, outputs = branch_size(config, size)
    padded = (height + 2 * config.crop_padding) * (width + 2 * config.crop_padding)
    networks = (len(config.branches_list) + (not config.skip_control)) * config.repeats
    images_seen = branches * config.batch_size
    responses = branches * size.test * size.classes
    images = (2 * size.train + size.test) * height * width * channels  # on two devices
    return (
        FLOAT * COPIES_OF_PARAMETERS * branches * parameters
        + FLOAT * COPIES_OF_OUTPUTS[config.branch] * images_seen * outputs
        + config.batch_size * padded * channels
        + FLOAT * (2 * networks + COPIES_OF_RESPONSES) * responses
        + FLOAT * COPIES_OF_RESPONSES * branches**2  # covariances
        + images
    )


def branch_size(config: Config, size: Size) -> tuple[int, int]:
    """About how many parameters a branch has, and outputs of stages for an image."""
    height, width, channels = size.image_shape
    widths = config.widths_list
    if config.branch == "mlp":
        layers = (height * width * channels, *widths, size.classes)
        return sum(a * b for a, b in pairwise(layers)), sum(widths)
    residual = config.branch == "resnet"
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
    return kernels + last * size.classes, outputs
