"""Speed of the Hessian's blocks: first layer of a convolutional network, M = 16.

    pip install -e ".[bench]"
    python -m experiments.benchmarks.hessian_blocks

All forms compute the exact Hessian of the classification loss (with its clamp) with
respect to the first convolution of all branches, 16 x 135 parameters, over 64 random
images of 32 px: this project's blocks; column by column in JAX, as a product for each
of the 2160 columns and with the gradient linearised once; and curvlinops on the same
network in PyTorch, with grouped convolutions. The forms that go column by column are
extrapolated from evenly spaced columns, and those columns are compared. Each form runs
in a process of its own, one after another, for its peak memory. It also counts the
cost of one product in gradients. Takes about 3 minutes on 2 cores.
"""

import dataclasses
import sys
from importlib.util import find_spec
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from bspec_jax import runs
from bspec_jax.analysis import gradients, hessian
from bspec_jax.branching import from_functions, sum_of_branches
from bspec_jax.losses import classification_loss
from bspec_jax.trees import ravel_branches
from experiments.benchmarks.measuring import (
    command_flags,
    main_of_forms,
    median_seconds,
    process,
)

if not find_spec("curvlinops"):
    sys.exit('this benchmark needs PyTorch and curvlinops: pip install -e ".[bench]"')

NAME = "benchmark_hessian_blocks"
Form = Literal["blocks", "columns", "columns_linearised", "curvlinops", "products"]
WIDTHS, CLASSES, SIZE = (3, 5, 11, 22), 10, 32  # the first stages of the slim ResNet


@dataclasses.dataclass(frozen=True)
class Config(runs.RunConfig):
    """Flags of the Hessian blocks' benchmark."""

    COUNTS: ClassVar = ("branches", "examples", "columns", "repeats")

    form: Form | None = None
    """Form to time alone. Default: all, each in a process of its own."""
    branches: int = 16
    """Number of branches M."""
    examples: int = 64
    """Images that the loss is summed over."""
    columns: int = 32
    """Columns that the forms which go column by column really compute."""
    repeats: int = 3
    """Runs of each form, of which the median counts."""

    def check(self) -> None:
        super().check()


def problem(config: Config):
    """Parameters (NumPy, leaves `[M, ...]`), images and labels."""
    rng = np.random.default_rng(config.seed)
    m, n = config.branches, config.examples
    params = {
        f"conv{i}": rng.normal(size=(m, 3, 3, *WIDTHS[i : i + 2]))
        * np.sqrt(2 / (9 * WIDTHS[i]))
        for i in range(3)
    }
    # Small, so that part of the outputs is inside the clamp.
    params["dense"] = 0.3 * rng.normal(size=(m, WIDTHS[-1], CLASSES)) / WIDTHS[-1]
    images = rng.normal(size=(n, SIZE, SIZE, 3))
    params = {name: leaf.astype(np.float32) for name, leaf in params.items()}
    return params, images.astype(np.float32), rng.integers(CLASSES, size=n)


def conv(x, kernel, stride):
    """3 x 3, padding 1, as one product: it stays a product when kernels are batched."""
    _, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    window = range(3)
    parts = [
        x[:, i : i + h : stride, j : j + w : stride] for i in window for j in window
    ]
    return jnp.concatenate(parts, -1) @ kernel.reshape(9 * c, -1)


def branch(params, x):
    for i, stride in enumerate((1, 2, 2)):
        x = jax.nn.relu(conv(x, params[f"conv{i}"], stride))
    return x.mean((1, 2)) @ params["dense"]


def jax_case(config: Config):
    """The arguments of the Hessian functions."""
    params, x, y = jax.tree.map(jnp.asarray, problem(config))
    network = sum_of_branches(from_functions(None, branch), config.branches)
    respond = gradients.frozen_responses(network, ())
    return respond, classification_loss, params, x, y


def sampled_columns(config: Config) -> np.ndarray:
    """Evenly spaced columns of the Hessian, counted branch by branch."""
    total = config.branches * 27 * WIDTHS[1]
    return np.linspace(0, total - 1, min(config.columns, total)).astype(int)


def time_blocks(config: Config) -> dict:
    case = jax_case(config)

    def work():
        blocks = hessian.hessian_blocks(*case, leaves=["conv0"])
        return jax.block_until_ready(blocks.full())

    first = median_seconds(work, 1)
    seconds = median_seconds(work, config.repeats)
    full = np.asarray(work())
    size = full.shape[0] * full.shape[1]
    return {
        "seconds": seconds,
        "compilation_seconds": first - seconds,
        "columns": full.reshape(size, size)[:, sampled_columns(config)].T,
    }


def time_products(config: Config) -> dict:
    """Cost of a Hessian-vector product in gradients, for all parameters."""
    respond, loss, params, x, y = jax_case(config)
    count = 10

    def gradient(p):
        return jax.grad(hessian.total_loss, argnums=2)(respond, loss, p, x, y)

    def product(p, v):
        return hessian.hessian_operator(respond, loss, p, x, y)(v)

    def repeated(p, vectors):
        operator = hessian.hessian_operator(respond, loss, p, x, y)
        return jax.lax.map(operator, vectors)

    many = jax.tree.map(lambda leaf: jnp.stack([leaf] * count), params)

    def seconds(function, *args):
        compiled = jax.jit(function)
        jax.block_until_ready(compiled(*args))
        return median_seconds(
            lambda: jax.block_until_ready(compiled(*args)), 3 * config.repeats
        )

    unit = seconds(gradient, params)
    return {
        "gradient_seconds": unit,
        "single": seconds(product, params, params) / unit,
        "repeated": seconds(repeated, params, many) / unit / count,
    }


def time_columns(config: Config, linearised: bool) -> dict:
    """Column by column: one jitted product each, or all from one linearisation."""
    respond, loss, params, x, y = jax_case(config)
    respond, chosen = hessian.choose_leaves(respond, params, ["conv0"])
    flat, unravel = ravel_branches(chosen)
    index = sampled_columns(config)

    def unit(column):
        return unravel(jnp.zeros(flat.size).at[column].set(1).reshape(flat.shape))

    def ravel(tree):
        return ravel_branches(tree)[0].ravel()

    @jax.jit
    def all_columns(chosen, x, columns):
        operator = hessian.hessian_operator(respond, loss, chosen, x, y)
        return jax.lax.map(lambda column: ravel(operator(unit(column))), columns)

    @jax.jit
    def one_column(chosen, x, column):
        def gradient(c):
            return jax.grad(hessian.total_loss, argnums=2)(respond, loss, c, x, y)

        return ravel(jax.jvp(gradient, (chosen,), (unit(column),))[1])

    def work():
        if linearised:
            return jax.block_until_ready(all_columns(chosen, x, index))
        return np.stack([one_column(chosen, x, column) for column in index])

    return extrapolated(config, work)


def extrapolated(config: Config, work) -> dict:
    first = median_seconds(work, 1)
    sample = median_seconds(work, config.repeats)
    columns = work()
    total = columns.shape[1]
    return {
        "seconds": sample * total / len(columns),
        "compilation_seconds": first - sample,
        "columns": np.asarray(columns),
    }


def time_curvlinops(config: Config) -> dict:
    from experiments.benchmarks.hessian_torch import columns, version

    index = sampled_columns(config)
    timed = extrapolated(config, columns(*problem(config), index))
    return {**timed, "versions": version()}


TIMED = {
    "blocks": time_blocks,
    "columns": lambda config: time_columns(config, linearised=False),
    "columns_linearised": lambda config: time_columns(config, linearised=True),
    "curvlinops": time_curvlinops,
    "products": time_products,
}


def compare(config: Config) -> dict:
    """All forms, each in a process of its own, one after another."""
    words = command_flags(config, config.settings().keys() - {"form"})
    forms = {}
    for form in TIMED:
        module = "experiments.benchmarks.hessian_blocks"
        usage, results = process(module, "--form", form, *words)
        forms[form] = {**results[form], "peak_gib": usage["peak_gib"]}
        print(f"{form:20} {usage['seconds']:6.0f} s in all", flush=True)
    products = forms.pop("products")
    expected = np.array(forms["blocks"]["columns"])
    for item in forms.values():
        gap = np.abs(np.array(item.pop("columns")) - expected).max()
        item["difference"] = gap / np.abs(expected).max()
        item["times_as_long"] = item["seconds"] / forms["blocks"]["seconds"]
    return {"forms": forms, "product_in_gradients": products}


def report(results: dict) -> None:
    print("form                    seconds  times as long  peak GiB  differs by")
    for form, item in results["forms"].items():
        print(
            f"{form:20} {item['seconds']:10.1f} {item['times_as_long']:14.1f}"
            f" {item['peak_gib']:9.2f}  {item['difference']:.1e} of the largest entry"
        )
    cost = results["product_in_gradients"]
    print(
        f"a product costs {cost['single']:.2f} gradients, each of repeated ones "
        f"{cost['repeated']:.2f}"
    )


def main(config: Config) -> None:
    main_of_forms(config, NAME, lambda c: TIMED[c.form](c), compare, report)


if __name__ == "__main__":
    runs.command_line(Config, main, "benchmarks.hessian_blocks", __doc__)
