"""Branches without shortcuts: a perceptron and a small convolutional network.

Hidden layers begin as He et al. (arXiv 1502.01852) propose, and are followed by a leaky
ReLU. Without normalisation and biases, the response is homogeneous of degree 1 in every
layer (see `branches.degree`). The first hidden layer is called `stem`, the others
`layer_1`, `layer_2` ..., and the last layer `head`.
"""

from collections.abc import Callable, Sequence
from functools import partial

from flax import linen as nn
from jaxtyping import Array, Float

from bspec_jax.classifier.branches.layers import HE, BatchNorm, Normalisation
from bspec_jax.conv import conv_general_dilated

NEGATIVE_SLOPE = 0.01  # of the leaky ReLU, as of the toys'


class MLP(nn.Module):
    """One branch: a perceptron on the image's pixels.

    Args:
      widths: of the hidden layers; none for a linear branch.
      num_classes: C.
      normalisation: "batch" for BatchNorm before every leaky ReLU.
      last_scale: standard deviation of the head's initial weights, times the square
        root of the number of its inputs.
      biases: of the layers; with BatchNorm, its shifts and the head's bias.
    """

    widths: Sequence[int] = ()
    num_classes: int = 10
    normalisation: Normalisation = "none"
    last_scale: float = 1.0
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
        return _feedforward(self, nn.Dense, x.reshape(len(x), -1), train, features)


class CNN(nn.Module):
    """One branch: 3 x 3 convolutions of stride 2, and a head on all that they give.

    Args:
      widths: channels of the convolutions; each halves height and width (rounded up).
      num_classes, normalisation, last_scale, biases: as of `MLP`.
    """

    widths: Sequence[int] = (8, 16)
    num_classes: int = 10
    normalisation: Normalisation = "none"
    last_scale: float = 1.0
    biases: bool = True

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "N H W channels"],
        train: bool = True,
        features: bool = False,
    ) -> Float[Array, "N C"]:
        """As of `MLP`."""
        conv = partial(
            nn.Conv,
            kernel_size=(3, 3),
            strides=2,
            padding=1,
            conv_general_dilated=conv_general_dilated,
        )
        return _feedforward(self, conv, x, train, features)


def _feedforward(
    module: MLP | CNN, layer: Callable[..., nn.Module], x: Array, train: bool, features
) -> Array:
    """The layers of a module; the functions that `layer` makes differ in kind only."""
    normalised = module.normalisation == "batch"
    biased = module.biases and not normalised  # BatchNorm would subtract the bias
    for i, width in enumerate(module.widths):
        name = f"layer_{i}" if i else "stem"
        x = layer(width, use_bias=biased, kernel_init=HE, name=name)(x)
        if normalised:
            x = BatchNorm(not train, use_bias=module.biases, name=f"{name}_norm")(x)
        x = nn.leaky_relu(x, NEGATIVE_SLOPE)
    x = x.reshape(len(x), -1)
    if features:
        return x
    init = nn.initializers.variance_scaling(module.last_scale**2, "fan_in", "normal")
    return nn.Dense(
        module.num_classes, use_bias=module.biases, kernel_init=init, name="head"
    )(x)
