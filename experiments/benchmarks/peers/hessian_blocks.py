"""Columns of the Hessian by curvlinops, and the network that they are of."""

from collections.abc import Callable
from importlib.metadata import version as version_of

import curvlinops
import numpy as np
import torch


class Network(torch.nn.Module):
    """The sum of branches: the first layer is dense, the others are grouped."""

    def __init__(self, params):
        super().__init__()
        self.num_branches = params["dense"].shape[0]
        self.kernels = torch.nn.ParameterList()
        for i in range(3):
            kernel = params[f"conv{i}"].transpose(0, 4, 3, 1, 2)  # M O I H W
            kernel = torch.from_numpy(kernel.reshape(-1, *kernel.shape[2:]).copy())
            self.kernels.append(torch.nn.Parameter(kernel))
        self.dense = torch.nn.Parameter(torch.from_numpy(params["dense"]))

    def forward(self, x):
        for i, stride in enumerate((1, 2, 2)):
            groups = 1 if i == 0 else self.num_branches
            x = torch.nn.functional.conv2d(
                x, self.kernels[i], stride=stride, padding=1, groups=groups
            ).relu()
        x = x.mean((2, 3)).reshape(len(x), self.num_branches, -1)
        return torch.einsum("nmw,mwc->nc", x, self.dense)


class Loss(torch.nn.Module):
    """`losses.classification_loss`, summed over examples."""

    reduction = "sum"

    def forward(self, f, y):
        onehot = torch.nn.functional.one_hot(y, f.shape[-1]).float()
        p = torch.softmax(2 * onehot - 1, -1)
        return -(p * torch.log_softmax(f.clamp(-1, 1), -1)).sum()


def columns(params: dict, x, y, index) -> Callable[[], np.ndarray]:
    """A function that computes some columns of the Hessian, returned as rows.

    Args:
      params: of the JAX network, leaves `[M, ...]`.
      x: images, `[N, H, W, channels]`.
      y: labels, `[N]`.
      index: the columns, numbered as in the JAX network.
    """
    network = Network(params)
    data = [(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(y))]
    operator = curvlinops.HessianLinearOperator(
        network, Loss(), [network.kernels[0]], data, check_deterministic=False
    )
    # PyTorch orders the parameters M O I H W, this project M H W I O.
    shape = params["conv0"].shape
    number = np.arange(np.prod(shape)).reshape(shape).transpose(0, 4, 3, 1, 2).ravel()
    place = np.argsort(number)
    units = torch.eye(number.size)[:, place[index]]

    def work():
        # One at a time: batches of columns were no faster.
        return np.stack([(operator @ unit).numpy()[place] for unit in units.T])

    return work


def versions() -> dict:
    return {
        "torch": torch.__version__,
        "curvlinops": version_of("curvlinops-for-pytorch"),
    }
