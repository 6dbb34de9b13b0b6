"""Checks of arguments whose units, shapes or classes are easily mistaken."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bspec_jax.data.images import check_bytes
from bspec_jax.storage.errors import ArgumentError


def check_images(images: Any, image_shape: Sequence[int | None]) -> None:
    """Raises ArgumentError unless these are bytes `[N, H, W, channels]`, one at least.

    Args:
      image_shape: (H, W, channels); None for any length.
    """
    check_bytes(images)
    shape = tuple(images.shape)
    fits = len(shape) == 4 and all(
        wanted in (None, length)
        for wanted, length in zip(image_shape, shape[1:], strict=True)
    )
    if not (fits and shape[0]):
        axes = zip(image_shape, ("H", "W", "channels"), strict=True)
        wanted = ", ".join(name if n is None else str(n) for n, name in axes)
        raise ArgumentError(
            f"`images` must have shape [N, {wanted}], N at least 1, got {list(shape)}"
        )


def check_labels(labels: Any, num_examples: int, num_classes: int | None) -> None:
    """Raises ArgumentError unless labels are a class in 0..C-1 of each example.

    Args:
      num_classes: C; None if it is not known.
    """
    labels = np.asarray(labels)
    if labels.shape != (num_examples,) or labels.dtype.kind not in "iu":
        raise ArgumentError(
            f"`labels` must be integers, one for each of the {num_examples} examples, "
            f"got {labels.dtype}{list(labels.shape)}; of one-hot rows take argmax(-1)"
        )
    last = np.inf if num_classes is None else num_classes - 1
    if (wrong := labels[(labels < 0) | (labels > last)]).size:
        raise ArgumentError(f"`labels` must be in 0..{last}, got {wrong[0]}")
