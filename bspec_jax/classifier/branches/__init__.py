"""Branches for image classifiers: a perceptron, a convolutional network, a ResNet.

    module = branches.make("mlp", (16, 16), 10, normalisation="none")
    network = sum_of_branches(adapters.from_linen(module), 16)
    branches.degree("mlp", (16, 16), "none")                     # (3, 3)

Each is a Linen module called as `module(x, train=True, features=False)`, on images
`[N, H, W, channels]`. Its first layer with weights is `stem` (of a linear branch there
is only the `head`). Without normalisation it has no state.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from flax import linen as nn

from bspec_jax.classifier.branches.feedforward import CNN, MLP
from bspec_jax.classifier.branches.layers import BATCH_NORM_MOMENTUM, Normalisation
from bspec_jax.classifier.branches.resnet import BLOCKS, STRIDES, WIDTHS, ResNet
from bspec_jax.storage.errors import ArgumentError

__all__ = [
    "BATCH_NORM_MOMENTUM",
    "BLOCKS",
    "CNN",
    "MLP",
    "STRIDES",
    "WIDTHS",
    "BranchKind",
    "Normalisation",
    "ResNet",
    "degree",
    "depth",
    "make",
]

BranchKind = Literal["resnet", "cnn", "mlp"]
MODULES = {"resnet": ResNet, "cnn": CNN, "mlp": MLP}


def make(
    branch: BranchKind,
    widths: Sequence[int],
    num_classes: int,
    *,
    normalisation: Normalisation,
    last_scale: float = 1.0,
    biases: bool = True,
) -> nn.Module:
    """The module of a branch.

    Args:
      branch: "resnet", "cnn" or "mlp".
      widths: of the four stages of a resnet, or of each hidden layer of the others.
      num_classes: C.
      normalisation: "batch" or "none".
      last_scale: scale of the last layer's initial weights, relative to the usual one.
      biases: whether there are any parameters that are added to a signal.

    Raises:
      ArgumentError: for another branch, normalisation or number of stages.
    """
    _check(branch, widths, normalisation)
    return MODULES[branch](
        tuple(widths),
        num_classes,
        normalisation=normalisation,
        last_scale=last_scale,
        biases=biases,
    )


def degree(
    branch: BranchKind, widths: Sequence[int], normalisation: Normalisation
) -> tuple[int, int]:
    """Lowest and highest degree of the response in a branch's layers, without biases.

    With degrees (d, d), a times the parameters gives a^d times the response. Without
    normalisation a perceptron or convolutional network of L layers has (L, L). A
    residual network is a sum over paths: each block adds two layers to some of them,
    and a convolution in its shortcut one to all others. Close to zero the lowest degree
    decides, far from it the highest. With BatchNorm the layers before the last one have
    no scale, which leaves its own and the head's, (2, 2), whatever the depth. A linear
    branch has (1, 1).

    Args:
      branch, widths, normalisation: as of `make`, for images of 5 pixels and more,
        which every stage of a resnet but the first makes smaller.

    Raises:
      ArgumentError: as `make`.
    """
    _check(branch, widths, normalisation)
    if normalisation == "batch" and len(widths):
        return 2, 2
    if branch != "resnet":
        layers = len(widths) + 1
        return layers, layers
    shortcuts = sum(stride > 1 for stride in STRIDES)
    return 2 + shortcuts, 2 + 2 * BLOCKS * len(STRIDES)


def depth(branch: BranchKind, widths: Sequence[int]) -> int:
    """Layers with weights on the longest path.

    The highest degree without normalisation; arguments and errors as of `degree`.
    """
    _, highest = degree(branch, widths, "none")
    return highest


def _check(branch, widths, normalisation):
    for name, value, kind in (
        ("branch", branch, BranchKind),
        ("normalisation", normalisation, Normalisation),
    ):
        if value not in get_args(kind):
            known = ", ".join(get_args(kind))
            raise ArgumentError(f"`{name}` must be one of {known}, got {value!r}")
    if branch == "resnet" and len(widths) != len(STRIDES):
        raise ArgumentError(
            f"`widths` of a resnet are those of {len(STRIDES)} stages, got "
            f"{len(widths)}"
        )
