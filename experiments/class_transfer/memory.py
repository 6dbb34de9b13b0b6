"""The memory that a run takes, estimated before it starts."""

from bspec_jax import runs
from bspec_jax.generator.stargan import PRESETS
from experiments.class_transfer.config import Config

FLOAT = 4  # bytes
# Floats per pixel that a training step holds, for each channel at full size: what XLA
# counts on a CPU for the presets tiny and small32, with 2 to 4 branches.
OF_NETWORKS = 20
OF_VELOCITY = 2  # and for each of its M + 1 calls
COPIES_OF_PARAMETERS = 5  # themselves, their average, gradient, two moments of Adam


def check_before_reading(config: Config) -> None:
    """Raises FlagError if a run cannot fit whatever its data are."""
    num_classes = max(2, len(config.classes))
    check(config, (num_classes, config.size, config.size, 1), num_classes)


def check(config: Config, shape: tuple[int, int, int, int], num_classes: int) -> None:
    """Raises FlagError if a run takes more memory than the machine has.

    Args:
      shape: of the test images, `[N, H, W, C]`.
    """
    count, size, *_ = shape
    runs.check_memory(
        step(config, size),
        f"a step of {config.branches} branches on {config.batch_size} images of {size} "
        "pixels",
        "use fewer --branches, a smaller --batch-size, --image-size or --preset, or "
        "--accumulate",
    )
    runs.check_memory(
        evaluation(config, shape, num_classes),
        f"measuring {config.branches} branches on {count} images of {size} pixels",
        "use fewer --test-examples or --branches, or a smaller --image-size",
    )


def step(config: Config, size: int) -> int:
    """Bytes of the parameters, and of what a training step computes from its images."""
    preset, branches = PRESETS[config.preset], config.branches
    at_once = 1 if config.sequential else branches
    channels = OF_NETWORKS * (preset.base * at_once + preset.discriminator_base)
    if config.residual == "diffusion":
        channels += OF_VELOCITY * sum(preset.velocity) * (branches + 1)
    pixels = config.batch_size // config.accumulate * size**2
    # The bottleneck's four blocks, of two 3 x 3 convolutions each, hold the most.
    parameters = branches * 4 * 2 * 9 * preset.most**2
    return FLOAT * (pixels * channels + COPIES_OF_PARAMETERS * parameters)


def evaluation(
    config: Config, shape: tuple[int, int, int, int], num_classes: int
) -> int:
    """Bytes of the test images, and of their decompositions and transfers."""
    count, height, width, channels = shape
    learnt = config.residual == "diffusion"
    # Components after and before training, and three copies while they are measured.
    stacks = 5 + learnt
    images = 5 + num_classes + stacks * config.branches
    return FLOAT * images * count * height * width * channels
