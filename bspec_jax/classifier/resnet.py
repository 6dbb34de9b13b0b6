"""The slim ResNet-18 of section 6, in its CIFAR form.

    branch = adapters.from_linen(ResNet(WIDTHS["paper"], num_classes=10))
    net = sum_of_branches(branch, 16)
    params, state = net.init(key, images)
    f, state = net.apply(params, state, images, train=True)

Its convolutions are those of `bspec_jax.conv`, which stay fast under vmap.
"""

from collections.abc import Callable, Sequence
from functools import partial

from flax import linen as nn
from jaxtyping import Array, Float

from bspec_jax.conv import conv_general_dilated

# Channels of the four stages. With 3 input channels and 10 classes these have 80,973
# (the paper's |theta_k| = 0.08e6), 82,578, 11,173,962 and 2,128 parameters.
WIDTHS = {
    "paper": (5, 11, 22, 43),
    "wide8": (8, 16, 32, 32),  # multiples of 8 for accelerators
    "resnet18": (64, 128, 256, 512),
    "tiny": (2, 3, 4, 5),
}
BLOCKS = 2  # per stage, of two convolutions each
STRIDES = (1, 2, 2, 2)  # of the first block of each stage
BATCH_NORM_MOMENTUM = 0.9  # share of a running statistic that a step keeps

BatchNorm = partial(nn.BatchNorm, momentum=BATCH_NORM_MOMENTUM)


class Block(nn.Module):
    """A residual block: two 3 x 3 convolutions and a shortcut."""

    width: int
    stride: int
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x, train: bool):
        """`[N, H, W, C]` to `[N, H', W', width]`, where H' = ceil(H / stride)."""
        norm = partial(BatchNorm, use_running_average=not train)
        y = nn.relu(
            norm()(self.conv(self.width, (3, 3), self.stride, name="Conv_0")(x))
        )
        y = norm()(self.conv(self.width, (3, 3), name="Conv_1")(y))
        if x.shape != y.shape:
            shortcut = self.conv(
                self.width, (1, 1), self.stride, padding=0, name="shortcut"
            )
            x = norm(name="shortcut_norm")(shortcut(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """One branch: 3 x 3 stem without pooling, four stages, global mean, linear layer.

    Takes images of any size and number of channels.

    Args:
      widths: channels of the stages; see `WIDTHS`.
      num_classes: C.
      last_scale: scale of the last layer's initial weights, relative to the usual one.
        Unless it is small, a sum of many branches starts outside the loss's clamp
        (section 6).
      conv_general_dilated: convolution; `jax.lax`'s own is far slower under vmap on a
        CPU.

    Source: He et al., arXiv 1512.03385, section 4.2, with the basic blocks of
    ResNet-18, slimmed as in section 6.
    """

    widths: Sequence[int] = WIDTHS["paper"]
    num_classes: int = 10
    last_scale: float = 1.0
    conv_general_dilated: Callable = conv_general_dilated

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "N H W channels"],
        train: bool = True,
        features: bool = False,
    ) -> Float[Array, "N C"]:
        """Logits; with `features`, the last layer's inputs `[N, D]` instead.

        With `train`, BatchNorm normalises by the statistics of the batch.
        """
        conv = partial(
            nn.Conv,
            use_bias=False,
            padding=1,
            conv_general_dilated=self.conv_general_dilated,
        )
        x = conv(self.widths[0], (3, 3), name="stem")(x)
        norm = BatchNorm(not train, name="stem_norm")
        x = nn.relu(norm(x))
        for width, first_stride in zip(self.widths, STRIDES, strict=True):
            for stride in (first_stride, *(1,) * (BLOCKS - 1)):
                x = Block(width, stride, conv)(x, train)
        x = x.mean((1, 2))
        if features:
            return x
        init = nn.initializers.variance_scaling(
            self.last_scale**2, "fan_in", "truncated_normal"
        )
        return nn.Dense(self.num_classes, kernel_init=init, name="head")(x)
