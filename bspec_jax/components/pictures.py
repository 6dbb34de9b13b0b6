"""A few images with their decomposition and their transfers: what the figures show."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bspec_jax.components.indices import component_indices


class Pictures(NamedTuple):
    """generated = residual + components.sum(0), around -1..1.

    images: x, `[S, H, W, C]`.
    labels: classes, `[S]`.
    residual: R, `[S, H, W, C]`.
    generated: f(x, own class), `[S, H, W, C]`.
    transfers: f(x, y) for every class y, `[classes, S, H, W, C]`.
    components: v_k, `[M, S, H, W, C]`.
    inputs: phi_k, `[M, S, H, W, C]`; `[0, S, H, W, C]` where all branches read x.
    """

    images: Float[np.ndarray, "S H W C"]
    labels: Int[np.ndarray, " S"]
    residual: Float[np.ndarray, "S H W C"]
    generated: Float[np.ndarray, "S H W C"]
    transfers: Float[np.ndarray, "classes S H W C"]
    components: Float[np.ndarray, "M S H W C"]
    inputs: Float[np.ndarray, "K S H W C"]

    def with_gain(
        self, component: int, gain: float | int
    ) -> Float[np.ndarray, "S H W C"]:
        """The generated images with another gain of a component; 1 is as generated.

        Raises:
          ArgumentError: as `component_indices`.

        Source: Figures 10, 11, 13 and 14.
        """
        (index,) = component_indices([component], len(self.components))
        return self.generated + (gain - 1) * self.components[index]

    def sum_of(self, subset: Sequence[int]) -> Float[np.ndarray, "S H W C"]:
        """The sum of some components, without R. Source: Figure 15.

        Raises:
          ArgumentError: as `component_indices`.
        """
        indices = component_indices(subset, len(self.components))
        return self.components[indices].sum(0)
