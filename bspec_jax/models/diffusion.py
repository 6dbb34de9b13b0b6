"""The two residuals R of section 7: learnt nonlinear diffusion, and a Gaussian blur.

u_t = -p(u), u(0) = x, in M explicit steps; p is a small CNN that all branches share.
The components phi_k = t u_tt and the residual R add up to x, whatever p is:

    x = R + sum_k phi_k

Source: section 7, eq. 15 to 17; Gilboa, SIAM J. Imaging Sci. 7 (2014), p. 1937.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float
from scipy.ndimage import gaussian_filter1d

WIDTHS = (32, 32, 28, 8, 28, 32, 32)  # 40,515 parameters with 3 channels in and out
LEAK = 0.2  # of the leaky ReLU, as in the generator
BINOMIAL = np.outer((1, 2, 1), (1, 2, 1)) / 16  # a blur of variance 1/2
SHIFT = 3.0  # makes what is within -3..3 positive


class Velocity(nn.Module):
    """p: 8 convolutions of 3 x 3 with bias, narrow in the middle, mirrored borders.

    It starts as the velocity of heat flow, p(u) = u - (u blurred 7 times by a binomial
    kernel, standard deviation 1.9 pixels), from which it is learnt: so R starts smooth
    and the phi_k as bands of frequency. With random weights the flow is unstable, and R
    rougher than x.

    Args:
      widths: channels between them, each at least twice those of the image; the last
        convolution has as many as the image.
    """

    widths: Sequence[int] = WIDTHS

    @nn.compact
    def __call__(self, u: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        """How fast each pixel falls."""
        channels = u.shape[-1]
        for i, width in enumerate((*self.widths, channels)):
            last = i == len(self.widths)
            u = jnp.pad(u, ((0, 0), (1, 1), (1, 1), (0, 0)), "symmetric")
            u = nn.Conv(
                width,
                (3, 3),
                padding="VALID",
                kernel_init=partial(_heat_kernel, channels, last),
                bias_init=partial(_heat_bias, channels, i == 0),
            )(u)
            if not last:
                u = nn.leaky_relu(u, LEAK)
        return u


def _heat_kernel(channels, last, key, shape, dtype):
    """He-normal, but for two paths that nothing else leads into: u, and its blur.

    Both are in the first channels, shifted to where the leaky ReLU is linear.
    """
    kernel = nn.initializers.he_normal()(key, shape, dtype)
    copy, blurred = jnp.arange(channels), jnp.arange(channels, 2 * channels)
    if last:  # the difference of the paths, and nothing of the other channels yet
        kernel = jnp.zeros_like(kernel).at[1, 1, copy, copy].set(1)
        return kernel.at[1, 1, blurred, copy].set(-1)
    kernel = kernel.at[..., : 2 * channels].set(0).at[1, 1, copy, copy].set(1)
    source = copy if shape[2] == channels else blurred  # the first reads the image
    return kernel.at[:, :, source, blurred].set(jnp.array(BINOMIAL)[..., None])


def _heat_bias(channels, first, key, shape, dtype):
    path = jnp.arange(shape[0]) < 2 * channels
    return jnp.where(path & first, SHIFT, 0).astype(dtype)


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
