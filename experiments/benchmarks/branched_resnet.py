"""Speed of training the branched slim ResNet: this project, plain vmap, and PyTorch.

    pip install -e ".[bench]"
    python -m experiments.benchmarks.branched_resnet

One training step (SGD with momentum, the loss of section 6, 32 px, the paper's widths)
from the same initial parameters, in six forms: this project; XLA's own convolution
under vmap; XLA's own convolution in a Python loop over the branches; and PyTorch with
grouped convolutions, with grouped convolutions in channels-last layout, and branch by
branch. Every form and M runs in a process of its own, one after another, so that peak
memory can be measured. Plain vmap is so slow that it gets fewer images. Takes about 15
minutes on 2 cores.
"""

import dataclasses
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from bspec_jax import runs
from bspec_jax.adapters import from_linen
from bspec_jax.branching import BranchedNetwork, sum_of_branches
from bspec_jax.classifier import Pixels
from bspec_jax.classifier.branches import WIDTHS, ResNet
from bspec_jax.classifier.training import Recipe, Training, training
from bspec_jax.conv import conv_general_dilated
from experiments.benchmarks.measuring import (
    BenchmarkConfig,
    median_seconds,
    require,
    run_forms,
    time_alone,
)

NAME = "benchmarks.branched_resnet"
Form = Literal["here", "plain_vmap", "unrolled", "grouped", "channels_last", "loop"]
SLOW = 4  # branches from which plain vmap gets fewer images
PIXEL_BYTES = 1000  # per pixel of an image and branch, a little less than measured
JAX_FORMS = ("here", "plain_vmap", "unrolled")
OPTIONS = {"learning_rate": 1e-3, "weight_decay": 5e-4}
PIXELS = Pixels(np.float32([0.5] * 3), np.float32([0.25] * 3))


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Flags of the branched ResNet's benchmark."""

    COUNTS: ClassVar = (
        "branches",
        "batch_size",
        "slow_batch_size",
        "image_size",
        "repeats",
    )

    form: Form | None = None
    """Single form to time, with the first of --branches. Default: all forms, each in a
    process of its own."""
    branches: tuple[int, ...] = (1, 4, 16, 32)
    """Numbers of branches M."""
    batch_size: int = 128
    """Images per step."""
    slow_batch_size: int = 8
    """Images per step for plain vmap from M = 4 on."""
    image_size: int = 32
    """Side of the images, in pixels."""
    repeats: int = 5
    """Timed steps per form; the median counts."""

    def check(self) -> None:
        super().check()
        if self.form and self.branches not in (self.branches[:1], type(self).branches):
            raise runs.FlagError("--form times a single M: give one of --branches")
        runs.check_memory(
            PIXEL_BYTES * self.widest * self.batch_size * self.image_size**2,
            f"a step of {self.widest:,} branches on {self.batch_size:,} images of "
            f"{self.image_size:,} px",
            "use fewer --branches, or a smaller --batch-size or --image-size",
        )

    def unused(self) -> dict[str, str]:
        modes = super().unused()
        if self.form not in (None, "plain_vmap"):
            modes["slow_batch_size"] = f"with --form {self.form}"
        elif self.widest < SLOW:
            modes["slow_batch_size"] = f"below M = {SLOW}"
        return modes

    @property
    def widest(self) -> int:
        """The largest M that is timed."""
        return self.branches[0] if self.form else max(self.branches)


def time_form(config: Config) -> dict:
    """Images/s of one form with the first M, compilation time, and all losses."""
    rng = np.random.default_rng(config.seed)
    m, size = config.branches[0], config.image_size
    slow = config.form == "plain_vmap" and m >= SLOW
    batch = config.slow_batch_size if slow else config.batch_size
    images = rng.integers(0, 256, (config.batch_size, size, size, 3), np.uint8)[:batch]
    labels = rng.integers(0, 10, config.batch_size)[:batch]
    make = _jax_step if config.form in JAX_FORMS else _torch_step
    step = make(config, images, labels)
    losses = []
    first = median_seconds(lambda: losses.append(step()), 1)
    seconds = median_seconds(lambda: losses.append(step()), config.repeats)
    return {
        "branches": m,
        "batch_size": batch,
        "images_per_second": batch / seconds,
        "compilation_seconds": first - seconds,
        "losses": losses,
    }


def _jax_step(config: Config, images, labels) -> Callable[[], float]:
    train = training_of(config)
    state = train.init(jax.random.key(config.seed), jnp.asarray(images[:1]))
    data = jnp.asarray(images), jnp.asarray(labels), np.arange(len(images))

    def step():
        nonlocal state
        state, log = train.step(state, jax.random.key(0), *data)
        return float(log["loss"])

    return step


def _torch_step(config: Config, images, labels) -> Callable[[], float]:
    from experiments.benchmarks.peers import branched_resnet

    # Initialised in another process, so that JAX's memory does not count.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        params = pool.submit(initial_params, config).result()
    return branched_resnet.training_step(
        params, images, labels, PIXELS, OPTIONS, config.form
    )


def training_of(config: Config) -> Training:
    """The training of the first M, with XLA's own convolution for the other forms."""
    plain = config.form in ("plain_vmap", "unrolled")
    conv = jax.lax.conv_general_dilated if plain else conv_general_dilated
    module = ResNet(WIDTHS["paper"], last_scale=0.05, conv_general_dilated=conv)
    network = sum_of_branches(from_linen(module), config.branches[0])
    if config.form == "unrolled":
        single = sum_of_branches(from_linen(module), 1)
        network = network._replace(responses=partial(_looped, single, network))
    recipe = Recipe(1, crop_padding=0, flip=False, **OPTIONS)
    # So many steps that the learning rate is constant.
    return training(network, recipe, PIXELS, total_steps=10**6)


def _looped(single: BranchedNetwork, network: BranchedNetwork, params, state, x, **kw):
    """Responses by a Python loop over the branches."""
    branches = [
        single.responses(
            *jax.tree.map(lambda a, k=k: a[k : k + 1], (params, state)), x, **kw
        )
        for k in range(network.num_branches)
    ]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *branches)


def initial_params(config: Config) -> dict:
    """The initial parameters of every form, as NumPy arrays."""
    image = jnp.zeros((1, config.image_size, config.image_size, 3), jnp.uint8)
    state = training_of(config).init(jax.random.key(config.seed), image)
    return jax.device_get(state.params)


def compare(config: Config) -> dict:
    """All forms with every M, each in a process of its own."""
    rows = []
    for m in config.branches:
        forms = {}
        for form in get_args(Form):
            alone = dataclasses.replace(config, form=form, branches=(m,))
            forms[form] = time_alone(NAME, alone, f"M = {m:2} {form:15}")
        here = forms["here"]
        for item in forms.values():
            speed = item["images_per_second"]
            item["times_as_fast"] = speed / here["images_per_second"]
            # Losses compare only if the steps used the same images.
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
    if config.form not in JAX_FORMS:
        require("torch")
    run_forms(config, NAME, time_form, compare, report)


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
