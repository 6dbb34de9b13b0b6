"""Checks of arguments whose units or shapes are easily mistaken."""

from typing import Any

import numpy as np

from bspec_jax.storage.errors import ArgumentError

FARTHEST = 100  # of pixels from 0: generated ones leave -1..1, but bytes go further


def check_floats(name: str, x: Any) -> None:
    """Raises ArgumentError unless x is of floats; also inside a transformation."""
    if not np.issubdtype(x.dtype, np.floating):
        raise ArgumentError(
            f"`{name}` must be floats in -1..1, got {x.dtype}: use generator.to_signed"
        )


def check_signed(x: Any, name: str = "x") -> None:
    """Raises ArgumentError unless x is one image or more, `[N, H, W, C]` around -1..1.

    NaN pass, and what a generator makes of such images.
    """
    check_floats(name, x)
    if len(x.shape) != 4 or not x.shape[0]:
        raise ArgumentError(
            f"`{name}` must have shape [N, H, W, C], N at least 1, got {list(x.shape)}"
        )
    farthest = np.abs(x).max()
    if np.isfinite(farthest) and farthest > FARTHEST:
        raise ArgumentError(
            f"`{name}` must be in -1..1, got {farthest:g}: generator.to_signed makes "
            "that of bytes"
        )
