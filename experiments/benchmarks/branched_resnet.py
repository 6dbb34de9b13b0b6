"""Speed of training the branched slim ResNet: here, by plain vmap, and in PyTorch.

    pip install -e ".[bench]"
    python -m experiments.benchmarks.branched_resnet

One training step (SGD with momentum, the loss of section 6, 32 px, the paper's widths)
from the same initial parameters, in six forms: this project; the same with XLA's own
convolution under vmap; with that, and a Python loop over the branches in place of vmap;
and PyTorch with grouped convolutions, grouped and channels last, and branch by branch.
Each form and M runs in a process of its own, for its peak memory, one after another.
Plain vmap is given fewer images, being so slow. Takes about 15 minutes on 2 cores.
"""

import dataclasses
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from bspec_jax import runs
from bspec_jax.adapters import from_linen
from bspec_jax.branching import BranchedNetwork, sum_of_branches
from bspec_jax.classifier.network import Pixels
from bspec_jax.classifier.resnet import WIDTHS, ResNet
from bspec_jax.classifier.training import Recipe, Training, training
from bspec_jax.conv import conv_general_dilated
from experiments.benchmarks.measuring import (
    command_flags,
    main_of_forms,
    median_seconds,
    process,
)

if not find_spec("torch"):
    sys.exit('this benchmark needs PyTorch: pip install -e ".[bench]"')

NAME = "benchmark_branched_resnet"
Form = Literal["here", "plain_vmap", "unrolled", "grouped", "channels_last", "loop"]
TORCH = ("grouped", "channels_last", "loop")
OPTIONS = {"learning_rate": 1e-3, "weight_decay": 5e-4}
PIXELS = Pixels(np.float32([0.5] * 3), np.float32([0.25] * 3))


@dataclasses.dataclass(frozen=True)
class Config(runs.RunConfig):
    """Flags of the branched ResNet's benchmark."""

    COUNTS: ClassVar = ("branches", "batch_size", "slow_batch_size", "repeats")

    form: Form | None = None
    """Form to time alone, at the first of --branches. Default: all, each in a process
    of its own."""
    branches: tuple[int, ...] = (1, 4, 16, 32)
    """Numbers of branches M."""
    batch_size: int = 128
    """Images of a step."""
    slow_batch_size: int = 8
    """The same for plain vmap from M = 4 on."""
    image_size: int = 32
    """Pixels, each way."""
    repeats: int = 5
    """Steps of each form, of which the median counts."""

    def check(self) -> None:
        super().check()


def time_form(config: Config) -> dict:
    """One form at the first M: images/s, compilation and the first losses."""
    rng = np.random.default_rng(config.seed)
    m, size = config.branches[0], config.image_size
    slow = config.form == "plain_vmap" and m >= 4
    batch = config.slow_batch_size if slow else config.batch_size
    images = rng.integers(0, 256, (config.batch_size, size, size, 3), np.uint8)[:batch]
    labels = rng.integers(0, 10, config.batch_size)[:batch]
    if config.form in TORCH:
        from experiments.benchmarks import branched_resnet_torch

        # Initialised in a process of its own, whose memory does not count.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            params = pool.submit(initial_params, config).result()
        work = branched_resnet_torch.step(
            params, images, labels, PIXELS, OPTIONS, config.form
        )
    else:
        train = training_of(config)
        state = train.init(jax.random.key(config.seed), jnp.asarray(images[:1]))
        data = jnp.asarray(images), jnp.asarray(labels), np.arange(batch)

        def work():
            nonlocal state
            state, log = train.step(state, jax.random.key(0), *data)
            return float(log["loss"])

    losses = []
    first = median_seconds(lambda: losses.append(work()), 1)
    seconds = median_seconds(lambda: losses.append(work()), config.repeats)
    return {
        "branches": m,
        "batch_size": batch,
        "images_per_second": batch / seconds,
        "compilation_seconds": first - seconds,
        "losses": losses,
    }


def training_of(config: Config) -> Training:
    """The training of the first M, with XLA's own convolution for the other forms."""
    plain = config.form in ("plain_vmap", "unrolled")
    conv = jax.lax.conv_general_dilated if plain else conv_general_dilated
    module = ResNet(WIDTHS["paper"], last_scale=0.05, conv_general_dilated=conv)
    network = sum_of_branches(from_linen(module), config.branches[0])
    if config.form == "unrolled":
        single = sum_of_branches(from_linen(module), 1)
        network = network._replace(responses=partial(looped, single, network))
    recipe = Recipe(1, crop_padding=0, flip=False, **OPTIONS)
    return training(network, recipe, PIXELS, total_steps=10**6)  # a constant rate


def looped(single: BranchedNetwork, network: BranchedNetwork, params, state, x, **kw):
    """Responses by a Python loop over the branches."""
    branches = [
        single.responses(
            *jax.tree.map(lambda a, k=k: a[k : k + 1], (params, state)), x, **kw
        )
        for k in range(network.num_branches)
    ]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *branches)


def initial_params(config: Config) -> dict:
    """The parameters that every form starts from, NumPy."""
    image = jnp.zeros((1, config.image_size, config.image_size, 3), jnp.uint8)
    state = training_of(config).init(jax.random.key(config.seed), image)
    return jax.device_get(state.params)


def compare(config: Config) -> dict:
    """All forms at each M, each in a process of its own, one after another."""
    names = ("seed", "batch_size", "slow_batch_size", "image_size", "repeats")
    words = command_flags(config, names)
    module = "experiments.benchmarks.branched_resnet"
    rows = []
    for m in config.branches:
        forms = {}
        for form in get_args(Form):
            usage, results = process(
                module, "--form", form, "--branches", str(m), *words
            )
            forms[form] = {**results[form], "peak_gib": usage["peak_gib"]}
            print(f"M = {m:2} {form:15} {usage['seconds']:6.0f} s in all", flush=True)
        here = forms["here"]
        for item in forms.values():
            speed = item["images_per_second"]
            item["times_as_fast"] = speed / here["images_per_second"]
            # Of the losses of all steps, from the same images and parameters.
            item["difference"] = None
            if item["batch_size"] == here["batch_size"]:
                item["difference"] = max(
                    abs(a - b)
                    for a, b in zip(item["losses"], here["losses"], strict=True)
                )
        rows.append({"branches": m, "forms": forms})
    return {"rows": rows}


def report(results: dict) -> None:
    print(
        " M  form           images/s  relative  compilation s  peak GiB  losses differ"
    )
    for row in results["rows"]:
        for form, item in row["forms"].items():
            gap = item["difference"]
            print(
                f"{row['branches']:2}  {form:13} {item['images_per_second']:9.1f}"
                f" {item['times_as_fast']:9.3f} {item['compilation_seconds']:14.1f}"
                f" {item['peak_gib']:9.2f}  {'-' if gap is None else f'{gap:.1e}'}"
            )


def main(config: Config) -> None:
    main_of_forms(config, NAME, time_form, compare, report)


if __name__ == "__main__":
    runs.command_line(Config, main, "benchmarks.branched_resnet", __doc__)
