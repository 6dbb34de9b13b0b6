"""The memory that a run takes, estimated before it starts."""

from bspec_jax import runs
from experiments.branch_size import COPIES_OF_OUTPUTS, branch_size
from experiments.silence.config import RECORDS, Config
from experiments.silence.grid import Group, groups

FLOAT = 4  # bytes
COPIES_OF_PARAMETERS = 4  # themselves, their gradient, the momentum, an update
COPIES_BESIDE = 3  # of the outputs, where many networks train together
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
    parameters, outputs = branch_size(
        group.branch, group.widths, image_shape, num_classes
    )
    copies = COPIES_OF_OUTPUTS[group.branch] + COPIES_BESIDE
    each = COPIES_OF_PARAMETERS * parameters + RECORDS * PER_BRANCH
    each += config.batch_size * copies * (outputs + num_classes)
    return FLOAT * len(group.settings) * config.repeats * group.branches * each
