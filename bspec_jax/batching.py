"""Batches of one shape, so that jitted functions compile once."""

from collections.abc import Iterator

import numpy as np

from bspec_jax.numerics import check_count


def batches_of_one_shape(count: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields each batch's indices, `[size]`, and how many of them are its own.

    Args:
      count: number of examples.
      size: examples per batch. The last batch is padded with the first examples,
        repeatedly if there are fewer than `size`.

    Raises:
      ValueError: for a negative number of examples, and batches of less than one.
    """
    count, size = check_count("count", count, 0), check_count("size", size)
    for start in range(0, count, size):
        yield np.arange(start, start + size) % count, min(size, count - start)
