"""Components chosen by their numbers."""

from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np

from bspec_jax.storage.errors import ArgumentError


def component_indices(
    chosen: Sequence[SupportsIndex], num_components: int
) -> list[int]:
    """The chosen components, as they index a stack of them.

    Raises:
      ArgumentError: if there is none, or one is not an integer in 0..M-1, or is there
        twice.
    """
    indices = list(chosen)
    for k in indices:
        # A bool is an int to Python, and a mask to NumPy.
        if not isinstance(k, int | np.integer) or isinstance(k, bool):
            raise ArgumentError(f"components must be integers, got {k!r}")
    if not indices or not set(indices) <= set(range(num_components)):
        raise ArgumentError(
            f"components must be some of 0..{num_components - 1}, got {indices}"
        )
    if len(set(indices)) < len(indices):
        raise ArgumentError(f"components must differ, got {indices}")
    return [int(k) for k in indices]
