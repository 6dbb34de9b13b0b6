"""The memory that a run takes, estimated before it starts."""

from typing import NamedTuple

from bspec_jax import runs
from bspec_jax.data.images import Source
from experiments.branch_size import COPIES_OF_OUTPUTS, branch_size
from experiments.classify.config import Config

FLOAT = 4  # bytes
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
    parameters, outputs = branch_size(
        config.branch, config.widths_list, size.image_shape, size.classes
    )
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
