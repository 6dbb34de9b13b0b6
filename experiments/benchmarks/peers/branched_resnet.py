"""One training step of the branched slim ResNet."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch.nn import functional

from bspec_jax.classifier.branches import BLOCKS, STRIDES

EPSILON = 1e-5  # of BatchNorm, as in Flax


def grouped(params: Mapping, branches: slice) -> dict[str, torch.Tensor]:
    """Parameters of some branches by path, with the branches as groups of channels."""
    joined = {}

    def walk(tree, path):
        for name, leaf in tree.items():
            here = f"{path}/{name}" if path else name
            if isinstance(leaf, Mapping):
                walk(leaf, here)
                continue
            leaf = np.array(leaf)[branches]
            if leaf.ndim == 5:  # M H W I O to (M O) I H W
                leaf = leaf.transpose(0, 4, 3, 1, 2)
            if "head" not in here:
                leaf = leaf.reshape(-1, *leaf.shape[2:])
            tensor = torch.from_numpy(np.ascontiguousarray(leaf))
            joined[here] = tensor.requires_grad_()

    walk(params, "")
    return joined


def output(params: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The sum of the branches, `[N, C]`, in training mode.

    Args:
      x: `[N, channels, H, W]`.
    """
    groups = params["head/bias"].shape[0]

    def conv(x, name, stride=1, shared=False):
        kernel = params[f"{name}/kernel"]
        return functional.conv2d(
            x,
            kernel,
            stride=stride,
            padding=kernel.shape[-1] // 2,
            groups=1 if shared else groups,
        )

    def norm(x, name):
        scale, bias = params[f"{name}/scale"], params[f"{name}/bias"]
        return functional.batch_norm(
            x, None, None, scale, bias, training=True, eps=EPSILON
        )

    x = norm(conv(x, "stem", shared=True), "stem_norm").relu()
    for stage, first in enumerate(STRIDES):
        for block in range(BLOCKS):
            name = f"Block_{stage * BLOCKS + block}"
            stride = first if block == 0 else 1
            y = norm(conv(x, f"{name}/Conv_0", stride), f"{name}/BatchNorm_0").relu()
            y = norm(conv(y, f"{name}/Conv_1"), f"{name}/BatchNorm_1")
            if f"{name}/shortcut/kernel" in params:
                shortcut = conv(x, f"{name}/shortcut", stride)
                x = norm(shortcut, f"{name}/shortcut_norm")
            x = (x + y).relu()
    x = x.mean((2, 3)).reshape(len(x), groups, -1)
    v = torch.einsum("nmw,mwc->nmc", x, params["head/kernel"])
    return (v + params["head/bias"]).sum(1)


def mean_loss(f: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean of `losses.classification_loss`."""
    onehot = functional.one_hot(labels, f.shape[-1]).float()
    p = torch.softmax(2 * onehot - 1, -1)
    return -(p * torch.log_softmax(f.clamp(-1, 1), -1)).sum(-1).mean()


def training_step(
    params: Mapping, images, labels, pixels, options: Mapping, form: str
) -> Callable[[], float]:
    """A function that takes one step on the batch and returns its loss.

    Args:
      params: of the JAX network, leaves `[M, ...]`.
      images: bytes, `[N, H, W, channels]`.
      labels: `[N]`.
      pixels: mean and standard deviation of each channel.
      options: `learning_rate` and `weight_decay`.
      form: "grouped", "channels_last" (also grouped) or "loop" (branch by branch).
    """
    count = len(params["head"]["bias"])
    parts = [slice(k, k + 1) for k in range(count)] if form == "loop" else [slice(None)]
    networks = [grouped(params, part) for part in parts]
    layout = torch.channels_last if form == "channels_last" else torch.contiguous_format
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    mean, std = (torch.from_numpy(a)[:, None, None] for a in pixels)
    labels = torch.from_numpy(labels).long()
    leaves = [leaf for network in networks for leaf in network.values()]
    for leaf in leaves:
        if leaf.ndim == 4:
            leaf.data = leaf.data.to(memory_format=layout)
    optimizer = torch.optim.SGD(
        leaves,
        lr=options["learning_rate"],
        momentum=0.9,
        weight_decay=options["weight_decay"],
    )

    def step():
        batch = ((x.float() / 255 - mean) / std).contiguous(memory_format=layout)
        optimizer.zero_grad()
        loss = mean_loss(sum(output(network, batch) for network in networks), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
