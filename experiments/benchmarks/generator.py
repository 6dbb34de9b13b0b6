"""Speed of the class-transfer generator: here and in PyTorch; memory of `paper256`.

    pip install -e ".[bench]"
    python -m experiments.benchmarks.generator

The forward pass and one full training step (both losses, the gradient penalty, Adam for
both players) of M = 9 branches from the same parameters and images: this project, and
PyTorch with grouped convolutions, grouped and channels last, and branch by branch.
Each form runs in a process of its own, one after another. Then the training step of
`paper256` at 8 images of 256 pixels is compiled, not run, for its memory and
operations.
Takes about 5 minutes on 2 cores.
"""

import dataclasses
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from bspec_jax import generator, runs
from bspec_jax.generator.stargan import PRESETS
from bspec_jax.generator.training import Recipe, Training, training
from experiments.benchmarks.measuring import (
    command_flags,
    main_of_forms,
    median_seconds,
    process,
)

if not find_spec("torch"):
    sys.exit('this benchmark needs PyTorch: pip install -e ".[bench]"')

NAME = "benchmark_generator"
Form = Literal["here", "grouped", "channels_last", "loop", "memory"]
TORCH = ("grouped", "channels_last", "loop")
Residual = Literal["gaussian", "diffusion"]
CLASSES = ("a", "b", "c")
RECIPE = Recipe(learning_rate=1e-4, r1_weight=1.0, flip=False, crop=0.0)


@dataclasses.dataclass(frozen=True)
class Config(runs.RunConfig):
    """Flags of the generator's benchmark."""

    COUNTS: ClassVar = ("branches", "batch_size", "repeats")

    form: Form | None = None
    """Form to time alone, or the memory alone. Default: all, each in a process."""
    residual: Residual = "gaussian"
    """Residual of a form that is timed alone; all forms run with both."""
    preset: Literal["paper256", "small64", "small32", "tiny"] = "small64"
    """Channels and size of the images."""
    branches: int = 9
    """Number of branches M."""
    batch_size: int = 16
    """Images of a step."""
    repeats: int = 5
    """Steps of each form, of which the median counts."""

    def check(self) -> None:
        super().check()


def describe(config: Config) -> dict:
    size = PRESETS[config.preset].size
    return generator.describe(
        config.preset,
        config.branches,
        CLASSES,
        (size, size, 3),
        config.residual,
        sigma=size / 16,
        diffusion_step=1.0,
        precision="float32",
    )


def training_of(config: Config) -> tuple[dict, Training]:
    about = describe(config)
    judge = generator.discriminator(about)
    return about, training(generator.build(about), judge, RECIPE)


def data(config: Config) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(config.seed)
    size = PRESETS[config.preset].size
    shape = (config.batch_size, size, size, 3)
    labels = rng.integers(0, len(CLASSES), config.batch_size).astype(np.int32)
    return rng.integers(0, 256, shape, np.uint8), labels


def targets_of(config: Config) -> np.ndarray:
    """The classes that the first step aims at, as `generator_training` draws them."""
    key = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 3)[2]
    return np.asarray(jax.random.randint(key, (config.batch_size,), 0, len(CLASSES)))


def initial(config: Config) -> dict:
    """The parameters that every form starts from, NumPy."""
    images, labels = data(config)
    state = training_of(config)[1].init(
        jax.random.key(config.seed), images[:1], labels[:1]
    )
    return jax.device_get(
        {"generator": state.generator, "discriminator": state.discriminator}
    )


def time_form(config: Config) -> dict:
    """Images/s forward and in training, compilation, first losses and an image."""
    images, labels = data(config)
    targets = targets_of(config)
    if config.form == "here":
        about, train = training_of(config)
        model = generator.build(about)
        state = train.init(jax.random.key(config.seed), images[:1], labels[:1])
        x = generator.to_signed(jnp.asarray(images))
        params = jax.tree.map(jnp.copy, state.generator)
        apply = jax.jit(model.apply)

        def forward():
            return np.asarray(apply(params, x, targets))

        def step():
            nonlocal state
            state, log = train.step(state, jax.random.key(0), images, labels, True)
            return float(log["generator_loss"]), float(log["discriminator_loss"])

    else:
        from experiments.benchmarks import generator_torch

        # Initialised in a process of its own, whose memory does not count.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            params = pool.submit(initial, config).result()
        x = np.asarray(generator.to_signed(jnp.asarray(images)))
        run_forward, step = generator_torch.work(
            params, describe(config), RECIPE, x, labels, targets, config.form
        )

        def forward():
            return run_forward().numpy().transpose(0, 2, 3, 1)

    found, seconds = {}, {}
    for name, do in (("forward", forward), ("training", step)):
        kept = []
        first = median_seconds(lambda do=do, kept=kept: kept.append(do()), 1)
        seconds[name] = median_seconds(do, config.repeats)
        found[f"{name}_per_second"] = config.batch_size / seconds[name]
        found[f"{name}_compilation"] = first - seconds[name]
        found[name] = kept[0][0, :4, :4, 0] if name == "forward" else kept[0]
    return found


def memory(config: Config) -> dict:
    """Bytes and operations of the compiled training step, which is not run."""
    _, train = training_of(config)
    images, labels = data(config)
    key = jax.random.key(0)
    state = jax.eval_shape(train.init, key, images[:1], labels[:1])
    compiled = train.step.lower(state, key, images, labels, True).compile()
    size = compiled.memory_analysis()
    held = size.argument_size_in_bytes + size.temp_size_in_bytes
    return {
        "gib": (held + size.output_size_in_bytes - size.alias_size_in_bytes) / 2**30,
        "tflop": compiled.cost_analysis()["flops"] / 1e12,
    }


def compare(config: Config) -> dict:
    """All forms with both residuals, each in a process, one after another."""
    module = "experiments.benchmarks.generator"
    words = command_flags(
        config, ("seed", "preset", "branches", "batch_size", "repeats")
    )
    rows = {}
    for residual in get_args(Residual):
        forms = {}
        for form in ("here", *TORCH):
            usage, results = process(
                module, "--form", form, "--residual", residual, *words
            )
            forms[form] = {**results[form], "peak_gib": usage["peak_gib"]}
            print(f"{residual} {form:13} {usage['seconds']:6.0f} s in all", flush=True)
        here = forms["here"]
        for item in forms.values():
            for name in ("forward", "training"):
                item[f"{name}_times_as_fast"] = (
                    item[f"{name}_per_second"] / here[f"{name}_per_second"]
                )
                gap = np.abs(np.subtract(item[name], here[name])).max()
                item[f"{name}_difference"] = gap / np.abs(here[name]).max()
        rows[residual] = forms
    big = {}
    for residual in get_args(Residual):
        flags = ("--preset", "paper256", "--batch-size", "8", "--residual", residual)
        _, results = process(module, "--form", "memory", *flags)
        big[residual] = results["memory"]
    return {"rows": rows, "paper256": big}


def report(results: dict) -> None:
    print(
        "residual   form           forward/s  relative  training/s  relative  compile s"
        "  peak GiB  differ"
    )
    for residual, forms in results["rows"].items():
        for form, item in forms.items():
            gap = max(item["forward_difference"], item["training_difference"])
            print(
                f"{residual:10} {form:13} {item['forward_per_second']:10.1f}"
                f" {item['forward_times_as_fast']:9.2f}"
                f" {item['training_per_second']:11.2f}"
                f" {item['training_times_as_fast']:9.2f}"
                f" {item['training_compilation']:10.1f} {item['peak_gib']:9.2f}"
                f"  {gap:.0e}"
            )
    for residual, item in results["paper256"].items():
        print(
            f"paper256, 8 images, {residual}: {item['gib']:.1f} GiB, "
            f"{item['tflop']:.2f} TFLOP a step"
        )


def find(config: Config) -> dict:
    return memory(config) if config.form == "memory" else time_form(config)


def main(config: Config) -> None:
    main_of_forms(config, NAME, find, compare, report)


if __name__ == "__main__":
    runs.command_line(Config, main, "benchmarks.generator", __doc__)
