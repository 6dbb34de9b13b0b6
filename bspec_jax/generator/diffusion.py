"""The two residuals R of section 7: learnt nonlinear diffusion and Gaussian blur.

u_t = -p(u), u(0) = x, in M explicit steps; p is a small CNN shared by all branches. The
components phi_k = t u_tt and the residual R add up to x, whatever p is:

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

from bspec_jax.generator.checks import check_floats
from bspec_jax.storage.errors import ArgumentError

WIDTHS = (32, 32, 28, 8, 28, 32, 32)  # 40,515 parameters for 3-channel images
LEAK = 0.2  # slope of the leaky ReLU below zero, as in the generator
BINOMIAL = np.outer((1, 2, 1), (1, 2, 1)) / 16  # blur of variance 1/2 along each axis
SHIFT = 3.0  # makes values in -3..3 positive


class Velocity(nn.Module):
    """p: 8 convolutions (3 x 3, biased, mirrored borders) around a bottleneck.

    Initialised as the velocity of heat flow, p(u) = u - (u blurred 7 times by a
    binomial kernel; standard deviation 1.9 pixels): R starts smooth, and the phi_k
    start as frequency bands. With random weights the flow would be unstable, and R
    rougher than x.

    Args:
      widths: channels after each convolution but the last, each at least twice those of
        the image; the last has the image's.
    """

    widths: Sequence[int] = WIDTHS

    @nn.compact
    def __call__(self, u: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        """The rate at which each pixel decreases."""
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
    """He-normal, except for two isolated paths in the first channels: u and its blur.

    Both are shifted to where the leaky ReLU is linear (`_heat_bias`).
    """
    kernel = nn.initializers.he_normal()(key, shape, dtype)
    copy, blurred = jnp.arange(channels), jnp.arange(channels, 2 * channels)
    if last:  # the difference of the two paths; other channels start unused
        kernel = jnp.zeros_like(kernel).at[1, 1, copy, copy].set(1)
        return kernel.at[1, 1, blurred, copy].set(-1)
    kernel = kernel.at[..., : 2 * channels].set(0).at[1, 1, copy, copy].set(1)
    # The first convolution reads the image itself.
    source = copy if shape[2] == channels else blurred
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

    which add up to x exactly, by summation by parts. (The equivalent form of R by
    u_{M+1} loses a digit to cancellation.) Computes in float32.

    Args:
      velocity: p, such as `partial(Velocity().apply, variables)`.
      x: images, in any range.
      num_steps: M.
      step: time step.

    Source: eq. 16 and 17. Cost: M + 1 evaluations of p.
    """
    u, values = x.astype(jnp.float32), []
    # Unrolled: on a CPU, XLA runs convolutions inside a compiled loop at half speed.
    for _ in range(num_steps):
        values.append(velocity(u))
        u = u - step * values[-1]
    values.append(velocity(u))
    p = jnp.stack(values)
    weights = step * jnp.arange(1, num_steps + 1).reshape(-1, *(1,) * x.ndim)
    return Diffused(u + num_steps * step * p[-1], weights * (p[:-1] - p[1:]))


def spectrum(components: Float[Array, "M N H W C"], step: float) -> Float[Array, "M N"]:
    """S(t_k) = ||phi_k||_1 / step: how much of each image is at which scale.

    Args:
      components: phi_k of `diffuse`, which contain the factor `step`.
      step: time step.

    Source: Gilboa (2014).
    """
    return jnp.abs(components).sum((2, 3, 4)) / step


def blur(x: Float[Array, "N H W C"], sigma: float) -> Float[Array, "N H W C"]:
    """Gaussian blur of images, mirrored at their borders.

    SciPy's `gaussian_filter` along H and W, as a matrix product for each.

    Args:
      sigma: standard deviation, in pixels.

    Raises:
      ArgumentError: if x is not of floats, or sigma not positive and finite.
    """
    check_floats("x", x)
    if not 0 < sigma < np.inf:
        raise ArgumentError(f"`sigma` must be positive and finite, got {sigma}")
    rows, columns = (
        jnp.asarray(gaussian_filter1d(np.eye(n), sigma, 0), x.dtype)
        for n in x.shape[1:3]
    )
    return jnp.einsum("ih,nhwc,jw->nijc", rows, x, columns)
