"""The memory that a run takes, estimated before it starts."""

import math
from itertools import pairwise

from bspec_jax import runs
from experiments.silence.config import RECORDS, Config
from experiments.silence.grid import Group, groups

FLOAT = 4  # bytes
COPIES_OF_PARAMETERS = 4  # themselves, their gradient, the momentum, an update
COPIES_OF_OUTPUTS = 6  # of a hidden layer, in a training step
PER_BRANCH = 12  # numbers in a record


def check(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> None:
    """Raises FlagError if a group takes more memory than the machine has."""
    for group in groups(config):
        networks = len(group.settings) * config.repeats
        runs.check_memory(
            estimate(config, group, image_shape, num_classes),
            f"training {networks:,} networks of {group.branches:,} branches together",
            "use fewer --branches, --repeats or settings, or a smaller --width",
        )


def estimate(
    config: Config, group: Group, image_shape: tuple[int, int, int], num_classes: int
) -> int:
    """Bytes that training a group takes."""
    height, width, channels = image_shape
    if config.branch == "mlp":
        sizes = (height * width * channels, *group.widths)
        parameters = sum(math.prod(pair) for pair in pairwise(sizes))
        outputs = sum(group.widths)
        last = sizes[-1]
    else:
        sizes = (channels, *group.widths)
        parameters = sum(9 * math.prod(pair) for pair in pairwise(sizes))
        pixels = [
            math.ceil(height / 2**i) * math.ceil(width / 2**i)
            for i in range(len(sizes))
        ]
        outputs = sum(w * n for w, n in zip(group.widths, pixels[1:], strict=True))
        last = sizes[-1] * pixels[-1]
    parameters += last * num_classes
    each = COPIES_OF_PARAMETERS * parameters + RECORDS * PER_BRANCH
    each += COPIES_OF_OUTPUTS * config.batch_size * (outputs + num_classes)
    return FLOAT * len(group.settings) * config.repeats * group.branches * each
