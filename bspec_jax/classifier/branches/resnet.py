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

from bspec_jax.classifier.branches.layers import HE, BatchNorm, Normalisation
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

# A block's first convolution without normalisation: He's, scaled by the root of the
# number of blocks, so that all of them together move the output as far as one would.
FIXUP = nn.initializers.variance_scaling(
    2 / (len(STRIDES) * BLOCKS), "fan_in", "normal"
)


class Block(nn.Module):
    """A residual block: two 3 x 3 convolutions and a shortcut.

    Without normalisation the second convolution starts at zero, and so the block as its
    shortcut.
    """

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    normalisation: Normalisation = "batch"
    biases: bool = True

    @nn.compact
    def __call__(self, x, train: bool):
        """`[N, H, W, C]` to `[N, H', W', width]`, where H' = ceil(H / stride)."""
        if self.normalisation == "batch":
            norm = partial(
                BatchNorm, use_running_average=not train, use_bias=self.biases
            )
            first = second = shortcut = self.conv
        else:
            norm = _identity
            first = partial(self.conv, kernel_init=FIXUP)
            second = partial(self.conv, kernel_init=nn.initializers.zeros)
            shortcut = partial(self.conv, kernel_init=HE)
        y = nn.relu(norm()(first(self.width, (3, 3), self.stride, name="Conv_0")(x)))
        y = norm()(second(self.width, (3, 3), name="Conv_1")(y))
        if x.shape != y.shape:
            project = shortcut(
                self.width, (1, 1), self.stride, padding=0, name="shortcut"
            )
            x = norm(name="shortcut_norm")(project(x))
        return nn.relu(x + y)


def _identity(name: str | None = None) -> Callable[[Array], Array]:
    """What stands in for a BatchNorm."""
    return lambda x: x


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
      normalisation: "none" for no BatchNorm. Then every block starts as its shortcut,
        as with a zero scale of its last BatchNorm (Goyal et al., arXiv 1706.02677,
        section 5.1), and its first convolution is scaled down (Zhang et al., Fixup,
        arXiv 1901.09321, rules 1 and 2). Unlike Fixup's, the head does not start at
        zero, each convolution has a bias per channel and no block a multiplier, which
        would add to the degree (see `branches.degree`).
      biases: of the head, and of the convolutions or their BatchNorms.

    Source: He et al., arXiv 1512.03385, section 4.2, with the basic blocks of
    ResNet-18, slimmed as in section 6.
    """

    widths: Sequence[int] = WIDTHS["paper"]
    num_classes: int = 10
    last_scale: float = 1.0
    conv_general_dilated: Callable = conv_general_dilated
    normalisation: Normalisation = "batch"
    biases: bool = True

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
        normalised = self.normalisation == "batch"
        conv = partial(
            nn.Conv,
            use_bias=self.biases and not normalised,
            padding=1,
            conv_general_dilated=self.conv_general_dilated,
        )
        stem = conv if normalised else partial(conv, kernel_init=HE)
        x = stem(self.widths[0], (3, 3), name="stem")(x)
        if normalised:
            x = BatchNorm(not train, use_bias=self.biases, name="stem_norm")(x)
        x = nn.relu(x)
        for width, first_stride in zip(self.widths, STRIDES, strict=True):
            for stride in (first_stride, *(1,) * (BLOCKS - 1)):
                x = Block(width, stride, conv, self.normalisation, self.biases)(
                    x, train
                )
        x = x.mean((1, 2))
        if features:
            return x
        init = nn.initializers.variance_scaling(
            self.last_scale**2, "fan_in", "truncated_normal"
        )
        return nn.Dense(
            self.num_classes, use_bias=self.biases, kernel_init=init, name="head"
        )(x)
