"""Batches of one shape, so that jitted functions compile once."""

from collections.abc import Iterator

import numpy as np


def batches_of_one_shape(count: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields each batch's indices, `[size]`, and how many of them are its own.

    Args:
      count: number of examples.
      size: examples per batch. The last batch is padded with the first examples,
        repeatedly if there are fewer than `size`.
    """
    for start in range(0, count, size):
        yield np.arange(start, start + size) % count, min(size, count - start)
