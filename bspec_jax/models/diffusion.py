"""The two residuals R of section 7: learnt nonlinear diffusion, and a Gaussian blur.

u_t = -p(u), u(0) = x, in M explicit steps; p is a small CNN that all branches share.
The components phi_k = t u_tt and the residual R add up to x, whatever p is:

    x = R + sum_k phi_k

Source: section 7, eq. 15 to 17; Gilboa, SIAM J. Imaging Sci. 7 (2014), p. 1937.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float
from scipy.ndimage import gaussian_filter1d

WIDTHS = (32, 32, 28, 8, 28, 32, 32)  # 40,515 parameters with 3 channels in and out
LEAK = 0.2  # of the leaky ReLU, as in the generator


class Velocity(nn.Module):
    """p: 8 convolutions of 3 x 3 with bias, narrow in the middle.

    Args:
      widths: channels between them; the last has as many as the image.
    """

    widths: Sequence[int] = WIDTHS

    @nn.compact
    def __call__(self, u: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        """How fast each pixel falls."""
        channels = u.shape[-1]
        for width in self.widths:
            u = nn.leaky_relu(self._conv(width)(u), LEAK)
        return self._conv(channels)(u)

    def _conv(self, width):
        init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        return nn.Conv(width, (3, 3), kernel_init=init)


class Diffused(NamedTuple):
    """x = residual + components.sum(0).

    residual: R, `[N, H, W, C]`.
    components: phi_k, k = 1..M, `[M, N, H, W, C]`.
    """

    residual: Float[Array, "N H W C"]
    components: Float[Array, "M N H W C"]


def diffuse(
    velocity: Callable[[Array], Array],
    x: Float[Array, "N H W C"],
    num_steps: int,
    step: float,
) -> Diffused:
    """Decomposes images by M explicit steps of u_t = -velocity(u).

    With p_n = p(u_n) and u_{n+1} = u_n - step p_n:

        phi_k = k step (p_{k-1} - p_k),    R = u_M + M step p_M,

    which add up to x exactly, by summation by parts. (The equal form of R by u_{M+1}
    cancels and loses a digit.) Takes M + 1 evaluations of p, in float32.

    Args:
      velocity: p, such as `lambda u: Velocity().apply(variables, u)`.
      num_steps: M.
      step: of time.

    Source: eq. 16 and 17.
    """
    u, values = x.astype(jnp.float32), []
    # Unrolled, since XLA runs convolutions inside a compiled loop at half the speed on
    # a CPU.
    for _ in range(num_steps):
        values.append(velocity(u))
        u = u - step * values[-1]
    values.append(velocity(u))
    p = jnp.stack(values)
    weights = step * jnp.arange(1, num_steps + 1).reshape(-1, *(1,) * x.ndim)
    return Diffused(u + num_steps * step * p[-1], weights * (p[:-1] - p[1:]))


def spectrum(components: Float[Array, "M N H W C"], step: float) -> Float[Array, "M N"]:
    """S(t_k) = ||phi_k||_1 / step: how much of each image is of which scale.

    Source: Gilboa (2014), with phi_k that already holds the weight `step`.
    """
    return jnp.abs(components).sum((2, 3, 4)) / step


def blur(x: Float[Array, "N H W C"], sigma: float) -> Float[Array, "N H W C"]:
    """Gaussian smoothing, images mirrored at their borders.

    Args:
      sigma: standard deviation, in pixels.

    SciPy's `gaussian_filter` in H and W, as a product with a matrix for each.
    """
    rows, columns = (
        jnp.asarray(gaussian_filter1d(np.eye(n), sigma, 0), x.dtype)
        for n in x.shape[1:3]
    )
    return jnp.einsum("ih,nhwc,jw->nijc", rows, x, columns)
