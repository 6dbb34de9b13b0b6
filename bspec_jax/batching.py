"""Batches of one shape, so that what is jitted is compiled once."""

from collections.abc import Iterator

import numpy as np


def batches_of_one_shape(count: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Indices `[size]` of each batch of `count` examples, and how many of them count.

    The last batch is filled up with the first examples, again and again if need be.
    """
    for start in range(0, count, size):
        yield np.arange(start, start + size) % count, min(size, count - start)
