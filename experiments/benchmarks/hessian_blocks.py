"""Speed of `hessian.blocks`: first layer of a convolutional network, M = 16.

    pip install -e ".[bench]"
    python -m experiments.benchmarks.hessian_blocks

All forms compute the exact Hessian of the classification loss (with its clamp) with
respect to the first convolution of all branches, 16 x 135 parameters, over 64 random
images of 32 px: this project's blocks; JAX column by column, either with one jitted
product for each of the 2160 columns or with the gradient linearised once; and
curvlinops on the same network in PyTorch, with grouped convolutions. Column-by-column
forms compute a sample of the columns, which is compared with the blocks, and their time
is extrapolated. Each form runs in a process of its own, one after another, so that peak
memory can be measured. Also measures the cost of one product in gradients. Takes about
3 minutes on 2 cores.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from bspec_jax import Objective, frozen_responses, runs
from bspec_jax.analysis import hessian
from bspec_jax.branching import from_functions, sum_of_branches
from bspec_jax.losses import classification_loss
from bspec_jax.trees import ravel_branches
from experiments.benchmarks.measuring import (
    BenchmarkConfig,
    median_seconds,
    require,
    run_forms,
    time_alone,
)

NAME = "benchmarks.hessian_blocks"
Form = Literal["blocks", "columns", "columns_linearised", "curvlinops", "products"]
WIDTHS, CLASSES, SIZE = (3, 5, 11, 22), 10, 32  # the first stages of the slim ResNet

PARAMETERS = 27 * WIDTHS[1]  # of a branch's first convolution
COPIES = 10  # of a layer's output, that the derivatives hold


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Flags of the benchmark of Hessian blocks."""

    COUNTS: ClassVar = ("branches", "examples", "columns", "repeats")

    form: Form | None = None
    """Single form to time. Default: all forms, each in a process of its own."""
    branches: int = 16
    """Number of branches M."""
    examples: int = 64
    """Number of images that the loss is summed over."""
    columns: int = 32
    """Number of columns that column-by-column forms compute."""
    repeats: int = 3
    """Timed runs per form; the median counts."""

    def check(self) -> None:
        super().check()
        total = self.branches * PARAMETERS
        runs.check_flag(
            self, "columns", lambda v: v <= total, f"at most {total:,}, the parameters"
        )
        activations = self.branches * self.examples * SIZE**2 * WIDTHS[1]
        runs.check_memory(
            3 * 4 * total**2 + COPIES * 4 * activations,
            f"the Hessian of {total:,} parameters over {self.examples:,} images",
            "use fewer --branches or --examples",
        )

    def unused(self) -> dict[str, str]:
        modes = super().unused()
        if self.form == "products":
            modes["columns"] = "with --form products"
        return modes


def problem(config: Config) -> tuple[dict, np.ndarray, np.ndarray]:
    """Parameters, leaves `[M, ...]`, images and labels, as NumPy arrays."""
    rng = np.random.default_rng(config.seed)
    m, n = config.branches, config.examples
    params = {
        f"conv{i}": rng.normal(size=(m, 3, 3, *WIDTHS[i : i + 2]))
        * np.sqrt(2 / (9 * WIDTHS[i]))
        for i in range(3)
    }
    # Small, so that some outputs are inside the clamp.
    params["dense"] = 0.3 * rng.normal(size=(m, WIDTHS[-1], CLASSES)) / WIDTHS[-1]
    images = rng.normal(size=(n, SIZE, SIZE, 3))
    params = {name: leaf.astype(np.float32) for name, leaf in params.items()}
    return params, images.astype(np.float32), rng.integers(CLASSES, size=n)


def conv(x, kernel, stride):
    """3 x 3, padding 1, as one matrix product, which vmap over kernels keeps fast."""
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


def jax_problem(config: Config) -> tuple[Objective, dict]:
    """The objective and the parameters."""
    params, x, y = jax.tree.map(jnp.asarray, problem(config))
    # The parameters come from `problem`, which PyTorch shares.
    network = sum_of_branches(from_functions(lambda key: {}, branch), config.branches)
    respond = frozen_responses(network, ())
    return Objective(respond, classification_loss, x, y), params


def sampled_columns(config: Config) -> np.ndarray:
    """Evenly spaced columns of the Hessian, numbered branch by branch."""
    total = config.branches * PARAMETERS
    return np.linspace(0, total - 1, config.columns).astype(int)


def time_blocks(config: Config) -> dict:
    objective, params = jax_problem(config)

    @jax.jit  # compiled once for all calls; `blocks` alone compiles in each
    def hessian_of(params):
        return hessian.blocks(objective, params, leaves=["conv0"]).full()

    def work():
        return jax.block_until_ready(hessian_of(params))

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
    objective, params = jax_problem(config)
    count = 10

    def product(p, v):
        return hessian.operator(objective, p)(v)

    def repeated(p, vectors):
        return jax.lax.map(hessian.operator(objective, p), vectors)

    many = jax.tree.map(lambda leaf: jnp.stack([leaf] * count), params)

    def seconds(function, *args):
        compiled = jax.jit(function)
        jax.block_until_ready(compiled(*args))
        return median_seconds(
            lambda: jax.block_until_ready(compiled(*args)), 3 * config.repeats
        )

    unit = seconds(jax.grad(objective.total), params)
    return {
        "gradient_seconds": unit,
        "single": seconds(product, params, params) / unit,
        "repeated": seconds(repeated, params, many) / unit / count,
    }


def time_columns(config: Config, linearised: bool) -> dict:
    """Column by column: one jitted product each, or all from one linearisation."""
    objective, params = jax_problem(config)
    objective, params = objective.of_leaves(params, ["conv0"])
    flat, unravel = ravel_branches(params)
    index = sampled_columns(config)

    def unit(column):
        return unravel(jnp.zeros(flat.size).at[column].set(1).reshape(flat.shape))

    def ravel(tree):
        return ravel_branches(tree)[0].ravel()

    @jax.jit
    def all_columns(objective, params, columns):
        operator = hessian.operator(objective, params)
        return jax.lax.map(lambda column: ravel(operator(unit(column))), columns)

    @jax.jit
    def single_column(objective, params, column):
        gradient = jax.grad(objective.total)
        return ravel(jax.jvp(gradient, (params,), (unit(column),))[1])

    def work():
        if linearised:
            return jax.block_until_ready(all_columns(objective, params, index))
        return np.stack([single_column(objective, params, column) for column in index])

    return extrapolated(config, work)


def extrapolated(config: Config, work: Callable[[], np.ndarray]) -> dict:
    """Time for all columns, from that of the columns that `work` returns, as rows."""
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
    from experiments.benchmarks.peers import hessian_blocks as peer

    index = sampled_columns(config)
    timed = extrapolated(config, peer.columns(*problem(config), index))
    return {**timed, "versions": peer.versions()}


TIME_FORM: dict[Form, Callable[[Config], dict]] = {
    "blocks": time_blocks,
    "columns": lambda config: time_columns(config, linearised=False),
    "columns_linearised": lambda config: time_columns(config, linearised=True),
    "curvlinops": time_curvlinops,
    "products": time_products,
}


def compare(config: Config) -> dict:
    """All forms, each in a process of its own."""
    forms = {}
    for form in TIME_FORM:
        alone = dataclasses.replace(config, form=form)
        forms[form] = time_alone(NAME, alone, f"{form:20}")
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
        f"a single product costs {cost['single']:.2f} gradients, each of several "
        f"from one linearisation {cost['repeated']:.2f}"
    )


def main(config: Config) -> None:
    if config.form in (None, "curvlinops"):
        require("torch", "curvlinops")
    run_forms(config, NAME, lambda c: TIME_FORM[c.form](c), compare, report)


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
