"""Speed of ways to convolve many branches on a CPU: why `bspec_jax.conv` is as it is.

    python -m experiments.benchmarks.conv_forms

Times the 3 x 3 convolution of each stage of the slim ResNet (5, 11, 22 and 43 channels
at 32, 16, 8 and 4 pixels) for M branches, forward and with both gradients: this
project, XLA's own convolution under vmap, and several alternatives. All forms compute
the same result, each in its own layout; converting to that layout is not timed. Then
times this project's form under XLA's options for kernel libraries, each in a process of
its own. Takes about 5 minutes on 2 cores.
"""

import dataclasses
import time
from collections.abc import Callable
from itertools import product
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bspec_jax import conv, runs
from experiments.benchmarks.measuring import (
    BenchmarkConfig,
    command_flags,
    median_seconds,
    process,
)

NAME = "benchmarks.conv_forms"
COPIES = 20  # of a layer's input, that the forms make
LAYERS = ((5, 32), (11, 16), (22, 8), (43, 4))  # channels and pixels
OPTIONS = (
    "--xla_cpu_use_onednn=true --xla_cpu_experimental_onednn_custom_call=true",
    "--xla_cpu_use_xnnpack=true",
    "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION",
    "--xla_cpu_multi_thread_eigen=false",
)


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Flags of the convolution benchmark."""

    COUNTS: ClassVar = ("branches", "batch_size", "repeats")

    branches: int = 16
    """Number of branches M."""
    batch_size: int = 128
    """Number of images."""
    repeats: int = 5
    """Timed runs per form; the median counts."""
    forms: tuple[str, ...] = ()
    """Forms to time. Default: all, and XLA's options."""

    def check(self) -> None:
        super().check()
        if self.forms:
            names = ", ".join(FORMS)
            runs.check_flag(self, "forms", FORMS.__contains__, f"one of {names}")
        numbers = max(channels * size**2 for channels, size in LAYERS)
        runs.check_memory(
            COPIES * 4 * numbers * self.branches * self.batch_size,
            f"{self.branches:,} branches on {self.batch_size:,} images",
            "use fewer --branches, or a smaller --batch-size",
        )


def plain(x, k):
    """One branch: x `[N, H, W, C]`, k `[3, 3, C, O]`."""
    return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=conv.LAYOUT)


def shifts(x, axes):
    """Yields the nine window offsets, each with the padded images shifted by it."""
    pads = [(1, 1) if axis in axes else (0, 0) for axis in range(x.ndim)]
    padded = jnp.pad(x, pads)
    sizes = [x.shape[axis] for axis in axes]
    for start in product(range(3), range(3)):
        part = padded
        for axis, low, size in zip(axes, start, sizes, strict=True):
            part = lax.slice_in_dim(part, low, low + size, axis=axis)
        yield start, part


def shifted_products(x, k):
    """Nine batched products of `[N H W, C]` with `[C, O]`."""
    return sum(
        jnp.einsum("mnhwc,mco->mnhwo", part, k[:, i, j])
        for (i, j), part in shifts(x, (2, 3))
    )


def patches(x, k):
    """One batched product of `[N H W, 9 C]` with `[9 C, O]` (im2col)."""
    m, n, h, w, _ = x.shape
    columns = jnp.concatenate([part for _, part in shifts(x, (2, 3))], -1)
    rows = columns.reshape(m, n * h * w, -1)
    return (rows @ k.reshape(m, -1, k.shape[-1])).reshape(m, n, h, w, -1)


def batch_last(x, k):
    """Shifted multiply-adds, which XLA fuses; x `[M, C, H, W, N]`."""
    parts = {
        (*start, c): part[:, c]
        for start, part in shifts(x, (2, 3))
        for c in range(x.shape[1])
    }
    factors = k[..., None, None, None]
    outputs = [
        sum(factors[:, i, j, c, o] * part for (i, j, c), part in parts.items())
        for o in range(k.shape[-1])
    ]
    return jnp.stack(outputs, 1)


def branches_last(x, k):
    """Shifted multiply-adds with branches and channels last; x `[N, H, W, M, C]`."""
    return sum(
        (part[..., None] * k[:, i, j]).sum(-2) for (i, j), part in shifts(x, (1, 2))
    )


def block_diagonal(x, k):
    """Pairs of branches as one convolution with a kernel that is half zero."""
    zero = jnp.zeros_like(k[0])
    outputs = []
    for i in range(0, len(x) - 1, 2):
        kernel = jnp.block([[k[i], zero], [zero, k[i + 1]]])
        both = plain(jnp.concatenate([x[i], x[i + 1]], -1), kernel)
        outputs += jnp.split(both, 2, -1)
    outputs += [plain(x[i], k[i]) for i in range(len(outputs), len(x))]
    return jnp.stack(outputs)


BRANCHES_FIRST = (0, 1, 2, 3, 4)
# Each form, and the transposition of [M, N, H, W, C] to its layout.
FORMS: dict[str, tuple[Callable, tuple[int, ...]]] = {
    "here": (jax.vmap(conv.conv), BRANCHES_FIRST),
    "vmap": (jax.vmap(plain), BRANCHES_FIRST),
    "shifted_products": (shifted_products, BRANCHES_FIRST),
    "patches": (patches, BRANCHES_FIRST),
    "batch_last": (batch_last, (0, 4, 2, 3, 1)),
    "branches_last": (branches_last, (1, 2, 3, 0, 4)),
    "block_diagonal": (block_diagonal, BRANCHES_FIRST),
}


def time_layer(config: Config, form: str, channels: int, size: int) -> dict:
    """GFLOP/s of the forward pass, and of both gradients."""
    f, axes = FORMS[form]
    m, n = config.branches, config.batch_size
    first, second, third = jax.random.split(jax.random.key(config.seed), 3)
    x = jax.random.normal(first, (m, n, size, size, channels))
    k = jax.random.normal(second, (m, 3, 3, channels, channels))
    weights = jax.random.normal(third, x.shape)
    x_in, weights_in = (jnp.transpose(a, axes) for a in (x, weights))
    forward = jax.jit(f)
    gradients = jax.jit(lambda x, k, ct: jax.vjp(f, x, k)[1](ct))
    y, forward_seconds = timed(config, forward, x_in, k)
    (dx, dk), gradient_seconds = timed(config, gradients, x_in, k, weights_in)
    back = np.argsort(axes)
    y, dx = (jnp.transpose(a, back) for a in (y, dx))
    expected = reference(x, k, weights)
    flops = 2 * 9 * x.size * channels
    return {
        "channels": channels,
        "size": size,
        "forward": flops / forward_seconds / 1e9,
        "gradients": 2 * flops / gradient_seconds / 1e9,
        "difference": max(map(relative_error, (y, dx, dk), expected)),
    }


def timed(config: Config, f: Callable, *args):
    """The result of `f`, and its median seconds; slow functions run only once."""
    wait = jax.block_until_ready
    out = wait(f(*args))
    once = median_seconds(lambda: wait(f(*args)), 1)
    if once > 2:
        return out, once
    return out, median_seconds(lambda: wait(f(*args)), config.repeats)


@jax.jit
def reference(x, k, ct):
    """Output and both gradients, branch by branch."""
    branches = []
    for x_k, k_k, ct_k in zip(x, k, ct, strict=True):
        y, pullback = jax.vjp(plain, x_k, k_k)
        branches.append((y, *pullback(ct_k)))
    return [jnp.stack(parts) for parts in zip(*branches, strict=True)]


def relative_error(a, expected) -> float:
    """Largest difference, relative to the largest expected value."""
    return float(jnp.abs(a - expected).max() / jnp.abs(expected).max())


def compare(config: Config) -> dict:
    """All forms, then this project's with each of XLA's options."""
    results = {}
    for form in dict.fromkeys(config.forms or FORMS):
        # The program of batch_last grows with the square of the channels.
        layers = LAYERS[:2] if form == "batch_last" else LAYERS
        results[form] = [time_layer(config, form, *layer) for layer in layers]
        print_row(form, results[form])
    if not config.forms:
        flags = command_flags(dataclasses.replace(config, forms=("here",)))
        for option in OPTIONS:
            _, run_results = process(f"experiments.{NAME}", *flags, XLA_FLAGS=option)
            results[option] = run_results["forms"]["here"]
            print_row(option, results[option])
    return {"forms": results}


def print_row(form: str, layers: list[dict]) -> None:
    numbers = [f"{layer['forward']:5.1f} {layer['gradients']:5.1f}" for layer in layers]
    numbers += ["          -"] * (len(LAYERS) - len(layers))
    differ = max(layer["difference"] for layer in layers)
    print(f"{form[-28:]:28}  {'  '.join(numbers)}   {differ:.0e}", flush=True)


def main(config: Config) -> None:
    started = time.perf_counter()
    workdir = runs.start(config, NAME)
    heading = "  ".join(f"{f'{c} channels':>11}" for c, _ in LAYERS)
    print(f"GFLOP/s, forward and both gradients\n{'form':28}  {heading}   error")
    runs.save_results(workdir, config, compare(config), started)
    print(f"results in {workdir}")


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
