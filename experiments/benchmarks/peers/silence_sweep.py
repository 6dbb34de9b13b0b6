"""Training of a grid of branched perceptrons, seeds x settings, in several forms.

The networks of a seed read the same batch. Kernels are `[B, out, in]` and signals `[B,
units, N]`, where B counts all branches of a part of the grid, settings x M for each of
its seeds: so all products read and write contiguous memory, and the first layer of a
seed is a single product.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import leaky_relu, one_hot

from bspec_jax.classifier import Pixels
from bspec_jax.classifier.branches.feedforward import NEGATIVE_SLOPE
from bspec_jax.classifier.recipe import MOMENTUM
from bspec_jax.classifier.sweeps import Settings
from bspec_jax.data import Split

Tensors = list[torch.Tensor]  # kernel and bias of each layer in turn
Step = Callable[[np.ndarray], np.ndarray]
SEED_BY_SEED = ("by_hand", "compiled")


class Part(NamedTuple):
    """Networks that are trained together; B = seeds x settings x M.

    grid: (seeds, settings, M).
    rate, decay: of each branch, `[B, 1, 1]`.
    """

    grid: tuple[int, int, int]
    parameters: Tensors
    traces: Tensors
    rate: torch.Tensor
    decay: torch.Tensor


def layers_of(params: Mapping) -> list[np.ndarray]:
    """Kernels `[S, K, M, out, in]` and biases `[S, K, M, out, 1]`, in turn."""
    names = ["stem", *[f"layer_{i}" for i in range(1, len(params) - 1)], "head"]
    arrays = []
    for name in names:
        arrays.append(np.swapaxes(params[name]["kernel"], -1, -2))
        arrays.append(params[name]["bias"][..., None])
    return arrays


def part_of(layers: list[np.ndarray], seeds: slice, settings: Settings) -> Part:
    """The networks of some seeds."""

    def joined(array):
        array = array[seeds].reshape(-1, *array.shape[3:])
        return torch.from_numpy(np.array(array, order="C"))

    def of_branches(column):
        column = np.broadcast_to(column[:, None], layers[0].shape[:3])
        return joined(column[..., None, None])

    parameters = [joined(layer) for layer in layers]
    traces = [torch.zeros_like(parameter) for parameter in parameters]
    rate, decay = map(of_branches, (settings.learning_rate, settings.weight_decay))
    grid = layers[0][seeds].shape[:3]
    return Part(grid, parameters, traces, rate, decay)


def targets(labels: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """P = softmax(2 onehot - 1), `[..., C, N]`, of labels `[..., N]`."""
    return torch.softmax(2 * one_hot(labels, f.shape[-2]).float() - 1, -1).mT


def losses(f: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Means over examples of `losses.classification_loss`, of `[..., C, N]`."""
    return -(p * f.clamp(-1, 1).log_softmax(-2)).sum(-2).mean(-1)


def stacked(parameters: Tensors, x: torch.Tensor) -> torch.Tensor:
    """Responses of all branches `[B, C, N]`, as one would write it first.

    Every branch has a copy of its batch.

    Args:
      x: `[seeds, N, pixels]`.
    """
    copies = len(parameters[0]) // len(x)
    h = x.mT[:, None].expand(-1, copies, -1, -1).flatten(0, 1)
    return _layers(parameters, h)


def einsum(parameters: Tensors, x: torch.Tensor) -> torch.Tensor:
    """As `stacked`, with one product for all first layers of a seed."""
    kernel, bias, *rest = parameters
    h = torch.einsum("sboi,sni->sbon", kernel.unflatten(0, (len(x), -1)), x)
    return _layers(rest, leaky_relu(h.flatten(0, 1) + bias, NEGATIVE_SLOPE))


def _layers(parameters: Tensors, h: torch.Tensor) -> torch.Tensor:
    *hidden, kernel, bias = parameters
    for k, b in zip(hidden[::2], hidden[1::2], strict=True):
        h = leaky_relu(torch.baddbmm(b, k, h), NEGATIVE_SLOPE)
    return torch.baddbmm(bias, kernel, h)


def by_autograd(forward, part: Part, x, labels) -> tuple[torch.Tensor, Tensors]:
    """Losses `[seeds, settings]`, and the gradients of their sum."""
    leaves = [parameter.detach().requires_grad_() for parameter in part.parameters]
    f = forward(leaves, x).unflatten(0, part.grid).sum(2)
    loss = losses(f, targets(labels[:, None], f))
    return loss.detach(), list(torch.autograd.grad(loss.sum(), leaves))


@torch.no_grad()
def by_hand(part: Part, x, labels) -> tuple[torch.Tensor, Tensors]:
    """As `by_autograd`, of a single seed; by formulas, which is faster."""
    (x,), kernels, biases = x, part.parameters[::2], part.parameters[1::2]
    # The first layers of all branches, one below the other.
    z = torch.addmm(biases[0].view(-1, 1), kernels[0].view(-1, x.shape[1]), x.T)
    outputs, inputs = [z.view(*biases[0].shape[:2], -1)], []
    for kernel, bias in zip(kernels[1:], biases[1:], strict=True):
        inputs.append(leaky_relu(outputs[-1], NEGATIVE_SLOPE))
        outputs.append(torch.baddbmm(bias, kernel, inputs[-1]))
    f = outputs[-1].unflatten(0, part.grid).sum(2)
    p = targets(labels[:, None], f)
    error = (f.clamp(-1, 1).softmax(-2) - p) * (f.abs() < 1) / len(x)
    delta = error[:, :, None].expand(-1, -1, part.grid[2], -1, -1).flatten(0, 2)
    gradients = []
    for i in reversed(range(1, len(kernels))):
        gradients += [delta.sum(2, keepdim=True), delta @ inputs[i - 1].mT]
        delta = torch.ops.aten.leaky_relu_backward(
            kernels[i].mT @ delta, outputs[i - 1], NEGATIVE_SLOPE, False
        )
    first = (delta.flatten(0, 1) @ x).view_as(kernels[0])
    gradients += [delta.sum(2, keepdim=True), first]
    return losses(f, p), gradients[::-1]


@torch.no_grad()
def update(part: Part, gradients: Tensors, rate: torch.Tensor) -> None:
    """SGD with momentum and an L2 penalty; `rate` is that of this step."""
    for parameter, trace, gradient in zip(
        part.parameters, part.traces, gradients, strict=True
    ):
        trace.mul_(MOMENTUM).add_(gradient).addcmul_(parameter, part.decay)
        parameter.addcmul_(trace, rate, value=-1)


def training_step(
    params: Mapping,
    settings: Settings,
    pixels: Pixels,
    examples: Split,
    total_steps: int,
    form: str,
) -> Step:
    """A function that takes one step of all networks, and returns losses `[S, K]`.

    It takes the indices of the seeds' batches, `[S, batch]`.

    Args:
      params: of the JAX networks, leaves `[S, K, M, ...]`.
      total_steps: of the cosine decay of the learning rate.
      form: "stacked" or "einsum" (all networks at once, with autograd), "by_hand" (seed
        by seed, gradients by hand), or "compiled" (the same under `torch.compile`).
    """
    layers, batch_of = layers_of(params), _batches(pixels, examples)
    slices = [slice(None)]
    if form in SEED_BY_SEED:
        slices = [slice(seed, seed + 1) for seed in range(len(layers[0]))]
    parts = [part_of(layers, seeds, settings) for seeds in slices]
    forwards = {"stacked": stacked, "einsum": einsum}
    gradients_of = partial(by_autograd, forwards[form]) if form in forwards else by_hand
    done = 0

    def advance(part, x, labels, rate):
        loss, gradients = gradients_of(part, x, labels)
        update(part, gradients, rate)
        return loss

    if form == "compiled":
        advance = torch.compile(advance)

    def step(index):
        nonlocal done
        cosine = cosine_decay(done, total_steps)
        done += 1
        return torch.cat(
            [
                advance(part, *batch_of(index[seeds]), cosine * part.rate)
                for part, seeds in zip(parts, slices, strict=True)
            ]
        ).numpy()

    return step


class Network(torch.nn.Module):
    """One network of M branches, as one would write it first."""

    def __init__(self, layers: list[np.ndarray]):
        super().__init__()
        self.layers = torch.nn.ParameterList(
            torch.from_numpy(np.array(layer, order="C")) for layer in layers
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *hidden, kernel, bias = self.layers
        h = x.T
        for k, b in zip(hidden[::2], hidden[1::2], strict=True):
            h = leaky_relu(k @ h + b, NEGATIVE_SLOPE)
        return (kernel @ h + bias).sum(0)


def network_by_network(
    params: Mapping,
    settings: Settings,
    pixels: Pixels,
    examples: Split,
    total_steps: int,
    chosen: np.ndarray,
) -> Step:
    """As `training_step`, of some networks one after another; losses `[len(chosen)]`.

    Args:
      chosen: numbers of the networks, those of a seed together.
    """
    layers, batch_of = layers_of(params), _batches(pixels, examples)
    places = [np.unravel_index(number, layers[0].shape[:2]) for number in chosen]
    trained = []
    for place in places:
        network = Network([layer[place] for layer in layers])
        optimizer = torch.optim.SGD(
            network.parameters(),
            lr=float(settings.learning_rate[place[1]]),
            momentum=MOMENTUM,
            weight_decay=float(settings.weight_decay[place[1]]),
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, partial(cosine_decay, total_steps=total_steps)
        )
        trained.append((place[0], network, optimizer, schedule))

    def step(index):
        results = []
        for seed, network, optimizer, schedule in trained:
            x, labels = batch_of(index[seed])
            optimizer.zero_grad()
            f = network(x)
            loss = losses(f, targets(labels, f))
            loss.backward()
            optimizer.step()
            schedule.step()
            results.append(loss.item())
        return np.array(results)

    return step


def cosine_decay(step: int, total_steps: int) -> float:
    """The share of the learning rate that `optax.cosine_decay_schedule` leaves."""
    return (1 + math.cos(math.pi * min(step / total_steps, 1))) / 2


def _batches(pixels: Pixels, examples: Split) -> Callable:
    """A function from indices `[..., N]` to pixels `[..., N, pixels]` and labels."""
    images, labels = map(torch.from_numpy, examples)
    mean, std = map(torch.from_numpy, pixels)

    def batch_of(index):
        index = torch.from_numpy(index)
        x = (images[index].float() / 255 - mean) / std
        return x.flatten(index.ndim), labels[index]

    return batch_of
