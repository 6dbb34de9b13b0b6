"""Speed of the class-transfer generator, compared with PyTorch; memory of `paper256`.

    pip install -e ".[bench]"
    python -m experiments.benchmarks.generator

Times the forward pass and one full training step (both losses, the gradient penalty,
Adam for both networks) of M = 9 branches from the same parameters and images: this
project; and PyTorch with grouped convolutions, with grouped convolutions in
channels-last layout, and branch by branch. Each form runs in a process of its own, one
after another. Then compiles, without running it, the training step of `paper256` with 8
images of 256 pixels, for its memory and operations. Takes about 5 minutes on 2 cores.
"""

import dataclasses
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from bspec_jax import generator, runs
from bspec_jax.generator import GeneratorSpec
from bspec_jax.generator.stargan import PRESETS
from bspec_jax.generator.training import Recipe, Training, training
from experiments.benchmarks.measuring import (
    BenchmarkConfig,
    command_flags,
    median_seconds,
    process,
    require,
    run_forms,
    time_alone,
)

NAME = "benchmarks.generator"
Form = Literal["here", "grouped", "channels_last", "loop", "memory"]
TORCH_FORMS = ("grouped", "channels_last", "loop")
Residual = Literal["gaussian", "diffusion"]
PIXEL_BYTES = 3000  # per pixel of an image and branch, a little less than measured
CLASSES = ("a", "b", "c")
RECIPE = Recipe(learning_rate=1e-4, r1_weight=1.0, flip=False, crop=0.0)
# The forward pass, and a training step that returns both losses.
Computations = tuple[Callable[[], np.ndarray], Callable[[], tuple[float, float]]]


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Flags of the generator's benchmark."""

    COUNTS: ClassVar = ("branches", "batch_size", "repeats")

    form: Form | None = None
    """Single form to time, or "memory". Default: all, each in a process of its own."""
    residual: Residual = "gaussian"
    """Residual of a single form; without --form, both residuals are timed."""
    preset: Literal["paper256", "small64", "small32", "tiny"] = "small64"
    """Channels, and size of the images."""
    branches: int = 9
    """Number of branches M."""
    batch_size: int = 16
    """Images per step."""
    repeats: int = 5
    """Timed steps per form; the median counts."""

    def check(self) -> None:
        super().check()
        if self.form != "memory":  # which is compiled, and not run
            size = PRESETS[self.preset].size
            runs.check_memory(
                PIXEL_BYTES * self.branches * self.batch_size * size**2,
                f"a step of {self.branches:,} branches on {self.batch_size:,} images "
                f"of {size} px",
                "use fewer --branches, or a smaller --batch-size or --preset",
            )

    def unused(self) -> dict[str, str]:
        modes = super().unused()
        if self.form is None:
            modes["residual"] = "without --form, which times both"
        if self.form == "memory":
            modes |= dict.fromkeys(("seed", "repeats"), "with --form memory")
        return modes


def spec_of(config: Config) -> GeneratorSpec:
    size = PRESETS[config.preset].size
    return GeneratorSpec(
        preset=config.preset,
        branches=config.branches,
        classes=CLASSES,
        image_shape=(size, size, 3),
        residual=config.residual,
        sigma=size / 16,
        diffusion_step=1.0,
        precision="float32",
    )


def training_of(config: Config) -> Training:
    spec = spec_of(config)
    return training(generator.build(spec), generator.discriminator(spec), RECIPE)


def random_batch(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Images in bytes, and their classes."""
    rng = np.random.default_rng(config.seed)
    size = PRESETS[config.preset].size
    shape = (config.batch_size, size, size, 3)
    labels = rng.integers(0, len(CLASSES), config.batch_size).astype(np.int32)
    return rng.integers(0, 256, shape, np.uint8), labels


def target_classes(config: Config) -> np.ndarray:
    """The target classes of the first step, as `generator.training` draws them."""
    key = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 3)[2]
    return np.asarray(jax.random.randint(key, (config.batch_size,), 0, len(CLASSES)))


def initial_params(config: Config) -> dict:
    """The initial parameters of every form, as NumPy arrays."""
    images, labels = random_batch(config)
    state = training_of(config).init(
        jax.random.key(config.seed), images[:1], labels[:1]
    )
    return jax.device_get(
        {"generator": state.generator, "discriminator": state.discriminator}
    )


def _jax_computations(config: Config) -> Computations:
    images, labels = random_batch(config)
    targets = target_classes(config)
    train = training_of(config)
    state = train.init(jax.random.key(config.seed), images[:1], labels[:1])
    x = generator.to_signed(jnp.asarray(images))
    params = jax.tree.map(jnp.copy, state.generator)  # the steps donate the state
    apply = jax.jit(generator.build(spec_of(config)).apply)

    def forward():
        return np.asarray(apply(params, x, targets))

    def step():
        nonlocal state
        state, log = train.step(state, jax.random.key(0), images, labels, True)
        return float(log["generator_loss"]), float(log["discriminator_loss"])

    return forward, step


def _torch_computations(config: Config) -> Computations:
    from experiments.benchmarks.peers import generator as peer

    images, labels = random_batch(config)
    # Initialised in another process, so that JAX's memory does not count.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        params = pool.submit(initial_params, config).result()
    return peer.computations(
        params,
        spec_of(config),
        RECIPE,
        np.asarray(generator.to_signed(jnp.asarray(images))),
        labels,
        target_classes(config),
        config.form,
    )


def time_form(config: Config) -> dict:
    """Images/s forward and in training, compilation, first losses, part of an image."""
    here = config.form == "here"
    forward, step = (_jax_computations if here else _torch_computations)(config)
    results = {}
    for name, work in (("forward", forward), ("training", step)):
        outputs = []

        def keep(work=work, outputs=outputs):
            outputs.append(work())

        first = median_seconds(keep, 1)
        seconds = median_seconds(work, config.repeats)
        results[f"{name}_per_second"] = config.batch_size / seconds
        results[f"{name}_compilation"] = first - seconds
        output = outputs[0]
        results[name] = output[0, :4, :4, 0] if name == "forward" else output
    return results


def measure_memory(config: Config) -> dict:
    """Memory and operations of the compiled training step, which is not run."""
    train = training_of(config)
    images, labels = random_batch(config)
    key = jax.random.key(0)
    state = jax.eval_shape(train.init, key, images[:1], labels[:1])
    compiled = train.step.lower(state, key, images, labels, True).compile()
    size = compiled.memory_analysis()
    held = size.argument_size_in_bytes + size.temp_size_in_bytes
    return {
        "gib": (held + size.output_size_in_bytes - size.alias_size_in_bytes) / 2**30,
        "tflop": compiled.cost_analysis()["flops"] / 1e12,
    }


def run_form(config: Config) -> dict:
    return measure_memory(config) if config.form == "memory" else time_form(config)


def compare(config: Config) -> dict:
    """All forms with both residuals, each in a process of its own."""
    rows = {}
    for residual in get_args(Residual):
        forms = {}
        for form in ("here", *TORCH_FORMS):
            alone = dataclasses.replace(config, form=form, residual=residual)
            forms[form] = time_alone(NAME, alone, f"{residual} {form:13}")
        here = forms["here"]
        for item in forms.values():
            for name in ("forward", "training"):
                item[f"{name}_times_as_fast"] = (
                    item[f"{name}_per_second"] / here[f"{name}_per_second"]
                )
                gap = np.abs(np.subtract(item[name], here[name])).max()
                item[f"{name}_difference"] = gap / np.abs(here[name]).max()
        rows[residual] = forms
    paper256 = {}
    for residual in get_args(Residual):
        large = Config(
            form="memory", preset="paper256", batch_size=8, residual=residual
        )
        _, results = process(f"experiments.{NAME}", *command_flags(large))
        paper256[residual] = results["memory"]
    return {"rows": rows, "paper256": paper256}


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
            f"{item['tflop']:.2f} TFLOP per step"
        )


def main(config: Config) -> None:
    if config.form not in ("here", "memory"):
        require("torch")
    run_forms(config, NAME, run_form, compare, report)


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
