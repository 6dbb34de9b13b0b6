"""Forward pass and training step of the class-transfer generator."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from flax.traverse_util import flatten_dict
from torch.nn import functional

from bspec_jax.generator import GeneratorSpec
from bspec_jax.generator.diffusion import blur
from bspec_jax.generator.stargan import EPSILON, LEAK, ROOT_HALF
from bspec_jax.generator.training import BETAS, Recipe

Parameters = dict[str, torch.Tensor]


def branch_parameters(tree: Mapping, branches: slice) -> Parameters:
    """Parameters of some branches by path; in convolutions they become groups."""
    joined = {}
    for path, leaf in flatten_dict(tree, sep="/").items():
        leaf = np.array(leaf)[branches]
        if leaf.ndim == 5:  # M H W I O to (M O) I H W
            leaf = leaf.transpose(0, 4, 3, 1, 2)
            leaf = leaf.reshape(-1, *leaf.shape[2:])
        elif "Dense" not in path and "classes" not in path:
            leaf = leaf.reshape(-1)
        joined[path] = torch.from_numpy(np.ascontiguousarray(leaf)).requires_grad_()
    return joined


def shared_parameters(tree: Mapping) -> Parameters:
    """Parameters of the discriminator or the diffusion, by path."""
    joined = {}
    for path, leaf in flatten_dict(tree, sep="/").items():
        leaf = np.array(leaf)
        if leaf.ndim == 4:
            leaf = leaf.transpose(3, 2, 0, 1)
        joined[path.removeprefix("params/")] = torch.from_numpy(
            np.ascontiguousarray(leaf)
        ).requires_grad_()
    return joined


def conv(params: Parameters, name: str, x, groups: int = 1, padding: str = "same"):
    bias = params.get(f"{name}/bias")
    return functional.conv2d(
        x, params[f"{name}/kernel"], bias, padding=padding, groups=groups
    )


def leaky(x):
    return functional.leaky_relu(x, LEAK)


def half(x):
    return functional.avg_pool2d(x, 2)


def double(x):
    return functional.interpolate(x, scale_factor=2, mode="nearest")


def generate(params: Parameters, x, labels, shared: bool):
    """The sum of the branches, `[N, C, H, W]`.

    Args:
      x: one image that all branches share, `[N, C, H, W]`, or one per branch,
        `[N, M C, H, W]`.
      shared: whether they share it.
    """
    groups, channels = params["classes/embedding"].shape[0], params["last/bias"].numel()
    style = params["classes/embedding"][:, labels]  # [M, N, STYLE]

    def norm(x, name):
        x = functional.instance_norm(x, eps=EPSILON)
        if f"{name}/scale" in params:
            scale, shift = params[f"{name}/scale"], params[f"{name}/bias"]
            return x * scale[:, None, None] + shift[:, None, None]
        weight, bias = params[f"{name}/Dense_0/kernel"], params[f"{name}/Dense_0/bias"]
        both = torch.einsum("mns,msc->nmc", style, weight) + bias
        scale, shift = (a.flatten(1)[..., None, None] for a in both.chunk(2, -1))
        return (1 + scale) * x + shift

    def block(x, name):
        kind = "AdaIN" if f"{name}/AdaIN_0/Dense_0/kernel" in params else "InstanceNorm"
        width_in = x.shape[1]
        width_out = params[f"{name}/Conv_1/kernel"].shape[0]
        resize = None
        if width_in != width_out:
            resize = double if kind == "AdaIN" else half
        y = leaky(norm(x, f"{name}/{kind}_0"))
        if resize is double:
            y = double(y)
        y = conv(params, f"{name}/Conv_0", y, groups)
        if resize is half:
            x, y = half(x), half(y)
        y = conv(params, f"{name}/Conv_1", leaky(norm(y, f"{name}/{kind}_1")), groups)
        if f"{name}/shortcut/kernel" in params:
            x = conv(params, f"{name}/shortcut", x, groups)
        return ((double(x) if resize is double else x) + y) * ROOT_HALF

    x = conv(params, "first", x, 1 if shared else groups)
    blocks = sum(name.endswith("/Conv_0/kernel") for name in params)
    for i in range(blocks):
        x = block(x, f"Block_{i}")
    x = conv(params, "last", leaky(norm(x, "norm")), groups)
    return x.unflatten(1, (groups, channels // groups)).sum(1)


def diffuse(params: Parameters, x, num_steps: int, step: float):
    """R, and the M components as channels, `[N, M C, H, W]`."""

    def velocity(u):
        for i in range(8):
            # For one pixel, "replicate" equals the "symmetric" mode of jnp.pad.
            u = functional.pad(u, (1, 1, 1, 1), "replicate")
            u = conv(params, f"Conv_{i}", u, padding="valid")
            u = leaky(u) if i < 7 else u
        return u

    u, p = x, []
    for _ in range(num_steps):
        p.append(velocity(u))
        u = u - step * p[-1]
    p.append(velocity(u))
    phi = [(k + 1) * step * (p[k] - p[k + 1]) for k in range(num_steps)]
    return u + num_steps * step * p[-1], torch.cat(phi, 1)


def discriminate(params: Parameters, x, labels):
    """The discriminator's logit of each image for its class."""
    x = conv(params, "Conv_0", x)
    blocks = sum(name.startswith("Block") and "Conv_0/k" in name for name in params)
    for i in range(blocks):
        y = half(conv(params, f"Block_{i}/Conv_0", leaky(x)))
        y = conv(params, f"Block_{i}/Conv_1", leaky(y))
        x = half(x)
        if f"Block_{i}/shortcut/kernel" in params:
            x = conv(params, f"Block_{i}/shortcut", x)
        x = (x + y) * ROOT_HALF
    x = leaky(conv(params, "Conv_1", leaky(x), padding="valid"))
    return conv(params, "Conv_2", x).flatten(1).gather(1, labels[:, None])


def computations(
    params: Mapping,
    spec: GeneratorSpec,
    recipe: Recipe,
    images,
    labels,
    targets,
    form: str,
) -> tuple[Callable[[], np.ndarray], Callable[[], tuple[float, float]]]:
    """The forward pass, and a training step that returns both losses.

    Args:
      params: of the JAX networks, by `generator` and `discriminator`.
      images: `[N, H, W, C]` in -1..1.
      labels, targets: classes and target classes of the images, `[N]`.
      form: of the branches, "grouped", "channels_last" (also grouped) or "loop".
    """
    m, learnt = spec.branches, spec.residual == "diffusion"
    layout = torch.channels_last if form == "channels_last" else torch.contiguous_format
    parts = [slice(k, k + 1) for k in range(m)] if form == "loop" else [slice(None)]
    stacked = params["generator"]["branches"]
    branches = [branch_parameters(stacked, part) for part in parts]
    velocity = shared_parameters(params["generator"]["velocity"])
    discriminator = shared_parameters(params["discriminator"])
    channels = images.shape[-1]
    x = torch.from_numpy(np.array(images).transpose(0, 3, 1, 2)).contiguous(
        memory_format=layout
    )
    residual = None
    if not learnt:
        blurred = np.array(blur(images, spec.sigma))
        residual = torch.from_numpy(blurred.transpose(0, 3, 1, 2).copy())
    labels, targets = (torch.from_numpy(np.array(a)).long() for a in (labels, targets))
    everything = [*branches, velocity, discriminator]
    for leaf in (leaf for tree in everything for leaf in tree.values()):
        if leaf.ndim == 4:
            leaf.data = leaf.data.to(memory_format=layout)
    optimizers = [
        torch.optim.Adam(leaves, lr=recipe.learning_rate, betas=BETAS)
        for leaves in (
            [leaf for tree in (*branches, velocity) for leaf in tree.values()],
            list(discriminator.values()),
        )
    ]

    def forward():
        if not learnt:
            return residual + sum(generate(b, x, targets, True) for b in branches)
        r, phi = diffuse(velocity, x, m, spec.diffusion_step)
        inputs = phi.split(channels, 1) if form == "loop" else [phi]
        pairs = zip(branches, inputs, strict=True)
        return r + sum(generate(b, part, targets, False) for b, part in pairs)

    def step():
        fake = forward()
        real = x.detach().requires_grad_()
        logit = discriminate(discriminator, real, labels)
        (slope,) = torch.autograd.grad(logit.sum(), real, create_graph=True)
        penalty = (slope**2).sum((1, 2, 3)).mean()
        to_real = functional.softplus(-logit).mean() + recipe.r1_weight / 2 * penalty
        fake_logit = discriminate(discriminator, fake.detach(), targets)
        discriminator_loss = to_real + functional.softplus(fake_logit).mean()
        frozen = {name: leaf.detach() for name, leaf in discriminator.items()}
        fake_logit = discriminate(frozen, fake, targets)
        generator_loss = functional.softplus(-fake_logit).mean()
        losses = generator_loss, discriminator_loss
        for optimizer, loss in zip(optimizers, losses, strict=True):
            optimizer.zero_grad()
            loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return generator_loss.item(), discriminator_loss.item()

    def forward_only():
        with torch.no_grad():
            return forward().numpy().transpose(0, 2, 3, 1)

    return forward_only, step
