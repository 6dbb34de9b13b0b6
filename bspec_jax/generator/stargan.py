"""The slim StarGAN-v2 of section 7: a generator's branch, and the discriminator.

    branch = adapters.from_linen(Generator(16, 128, num_classes=3))
    net = sum_of_branches(branch, 9, in_axes=(0, None))  # phi_k to branch k, one class
    params, _ = net.init(key, phi, labels)
    fake, _ = net.apply(params, {}, phi, labels, residual=r)

Channels double with each halving of the image, from `base` to at most `most`. Source:
Choi et al., arXiv 1912.01865, appendix A, without style codes: each branch has its own
embedding of the classes, which enters AdaIN.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from bspec_jax.conv import conv_general_dilated
from bspec_jax.generator import diffusion

LEAK = 0.2  # slope of the leaky ReLU below zero
EPSILON = 1e-5  # of instance norm
STYLE = 64  # dimensions of a class embedding
SMALLEST = 16  # side of the generator's bottleneck, in pixels

Norm = Literal["none", "instance", "adaptive"]
Resize = Literal["none", "half", "double"]
PresetName = Literal["paper256", "small64", "small32", "tiny"]


class Preset(NamedTuple):
    """An image size and the channels for it.

    size: default side of the images, in pixels.
    base, most: channels of a branch at full size, and their limit.
    discriminator_base, discriminator_most: the same of the discriminator.
    velocity: channels of the diffusion's p, between its 8 convolutions.
    """

    size: int
    base: int
    most: int
    discriminator_base: int
    discriminator_most: int
    velocity: tuple[int, ...]


# Parameters with 3 channels and 3 classes, at each preset's own size:
#             a branch   discriminator   p
#   paper256  2,229,603  20,852,803      40,515   (9 branches: 20.1 M)
#   small64     119,475     714,515      12,491
#   small32      34,371     177,363      12,491
# p is slim in the small ones: it runs M + 1 times and would dominate a step.
SLIM = (16, 16, 16, 8, 16, 16, 16)
PRESETS: dict[PresetName, Preset] = {
    "paper256": Preset(256, 16, 128, 64, 512, diffusion.WIDTHS),
    "small64": Preset(64, 8, 32, 16, 128, SLIM),
    "small32": Preset(32, 8, 16, 16, 64, SLIM),
    "tiny": Preset(16, 2, 4, 4, 8, (6,) * 7),
}

HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
SLOPED = partial(nn.leaky_relu, negative_slope=LEAK)
ROOT_HALF = math.sqrt(0.5)  # preserves the variance of a sum of two terms


def instance_norm(x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
    """Each channel of each image to mean 0 and variance 1, in at least float32."""
    full = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return _standardised(full).astype(x.dtype)


@jax.custom_jvp
def _standardised(x):
    return _standardise(x)[0]


def _standardise(x):
    """The standardised x, and the factor that scaled it."""
    centred = x - _mean(x)
    scale = jax.lax.rsqrt(_mean(centred**2) + EPSILON)
    return centred * scale, scale


def _mean(x):
    return x.mean((1, 2), keepdims=True)


@_standardised.defjvp
def _standardised_jvp(primals, tangents):
    """In closed form: a training step is a fifth faster than by the chain rule."""
    (x,), (dx,) = primals, tangents
    y, scale = _standardise(x)
    return y, scale * (dx - _mean(dx) - y * _mean(y * dx))


class InstanceNorm(nn.Module):
    """Instance norm with a learnt scale and shift per channel."""

    @nn.compact
    def __call__(self, x):
        """`[N, H, W, C]` to the same."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        return instance_norm(x) * scale + bias


class AdaIN(nn.Module):
    """Instance norm whose scale and shift are affine in the style."""

    @nn.compact
    def __call__(self, x, style):
        """`[N, H, W, C]` and `[N, STYLE]` to `[N, H, W, C]`."""
        both = nn.Dense(2 * x.shape[-1], kernel_init=HE_NORMAL)(style)
        scale, shift = jnp.split(both[:, None, None], 2, -1)
        return (1 + scale) * instance_norm(x) + shift


class Block(nn.Module):
    """Pre-activation residual block of two 3 x 3 convolutions.

    Args:
      width: channels of the result.
      norm: before each convolution; "adaptive" takes the style.
      resize: of the image; "half" averages 2 x 2 pixels, "double" repeats each.
    """

    width: int
    norm: Norm = "none"
    resize: Resize = "none"
    conv_general_dilated: Callable = conv_general_dilated

    @nn.compact
    def __call__(self, x, style=None):
        """`[N, H, W, C]`, and `[N, STYLE]` if adaptive, to `[N, H', W', width]`."""
        conv = partial(
            nn.Conv,
            kernel_init=HE_NORMAL,
            conv_general_dilated=self.conv_general_dilated,
        )
        middle = self.width if self.norm == "adaptive" else x.shape[-1]
        y = SLOPED(self._normalise(x, style))
        if self.resize == "double":
            y = double(y)
        y = conv(middle, (3, 3))(y)
        if self.resize == "half":
            x, y = half(x), half(y)
        y = conv(self.width, (3, 3))(SLOPED(self._normalise(y, style)))
        # A 1 x 1 convolution commutes with resizing: do it at the smaller size.
        if x.shape[-1] != self.width:
            x = conv(self.width, (1, 1), use_bias=False, name="shortcut")(x)
        if self.resize == "double":
            x = double(x)
        return (x + y) * ROOT_HALF

    def _normalise(self, x, style):
        if self.norm == "adaptive":
            return AdaIN()(x, style)
        return InstanceNorm()(x) if self.norm == "instance" else x


def half(x):
    """Means of 2 x 2 pixels."""
    return nn.avg_pool(x, (2, 2), (2, 2))


def double(x):
    """Each pixel repeated to 2 x 2."""
    return x.repeat(2, 1).repeat(2, 2)


class Generator(nn.Module):
    """One branch: from an image and its target class to a component.

    log2(size) - 4 blocks halve the image, four keep the bottleneck's size, and as many
    double it again; the class enters the second half of them all. Instance norm, leaky
    ReLU and a 1 x 1 convolution, without tanh, make the component.

    Args:
      base, most: channels at full size, and their limit.
      num_classes: number of target classes.
    """

    base: int
    most: int
    num_classes: int
    conv_general_dilated: Callable = conv_general_dilated

    @nn.compact
    def __call__(
        self, x: Float[Array, "N H W C"], labels: Int[Array, " N"]
    ) -> Float[Array, "N H W C"]:
        """The component for target classes `labels`."""
        channels, depth = x.shape[-1], depth_of(x.shape, SMALLEST)
        block = partial(Block, conv_general_dilated=self.conv_general_dilated)
        widths = [min(self.base * 2**i, self.most) for i in range(depth + 1)]
        # Standard deviation 1, as of StarGAN-v2's style codes: with Flax's default, an
        # eighth of it, the branches learn to tell classes apart much more slowly.
        embed = nn.Embed(
            self.num_classes,
            STYLE,
            embedding_init=nn.initializers.normal(1.0),
            name="classes",
        )
        style = embed(labels)
        x = self._conv(widths[0], 3, "first")(x)
        for width in widths[1:]:
            x = block(width, "instance", "half")(x)
        for norm in ("instance", "instance", "adaptive", "adaptive"):
            x = block(widths[-1], norm)(x, style)
        for width in widths[-2::-1]:
            x = block(width, "adaptive", "double")(x, style)
        return self._conv(channels, 1, "last")(SLOPED(InstanceNorm(name="norm")(x)))

    def _conv(self, width, size, name):
        return nn.Conv(
            width,
            (size, size),
            kernel_init=HE_NORMAL,
            conv_general_dilated=self.conv_general_dilated,
            name=name,
        )


class Discriminator(nn.Module):
    """Whether an image is real: one logit per class.

    log2(size) - 2 blocks halve the image to a side of 4 pixels, without any norm.

    Args:
      base, most: channels at full size, and their limit.
      num_classes: number of classes.
    """

    base: int
    most: int
    num_classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N classes"]:
        """Logits, positive for an image that looks like a real one of the class."""
        conv = partial(nn.Conv, kernel_init=HE_NORMAL)
        depth = depth_of(x.shape, 4)
        x = conv(self.base, (3, 3))(x)
        for i in range(1, depth + 1):
            x = Block(min(self.base * 2**i, self.most), resize="half")(x)
        x = SLOPED(conv(x.shape[-1], (4, 4), padding="VALID")(SLOPED(x)))
        return conv(self.num_classes, (1, 1))(x)[:, 0, 0]


def depth_of(shape: Sequence[int], smallest: int) -> int:
    """How many halvings take images `[N, H, W, C]` to a side of `smallest` pixels.

    Raises:
      ValueError: unless they are squares of `smallest` pixels times a power of two.
    """
    height, width = shape[1:3]
    depth = int(math.log2(height // smallest)) if height >= smallest else -1
    if height != width or depth < 0 or smallest * 2**depth != height:
        raise ValueError(
            f"images must be squares of {smallest} pixels times a power of two, got "
            f"{height} x {width}"
        )
    return depth
