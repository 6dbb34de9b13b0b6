"""Speed of training a group of the silence experiment, compared with PyTorch.

    pip install -e ".[bench]"
    python -m experiments.benchmarks.silence_sweep

One training step (SGD with momentum, an L2 penalty, cosine decay) of the main group of
`experiments.silence`, all seeds and settings of its perceptrons of 16 branches, from
the same initial parameters and on the same batches of random images. Six forms: this
project, which in each step also measures every branch; and PyTorch with all networks
stacked, with one product for the first layers of a seed, seed by seed with gradients by
hand, the same under `torch.compile`, and network by network, extrapolated from a few.
Each form runs in a process of its own, one after another, so that peak memory can be
measured. Takes 80 seconds on 2 cores.
"""

import dataclasses
import multiprocessing
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from math import prod
from typing import ClassVar, Literal, get_args

import jax
import numpy as np

from bspec_jax import runs
from bspec_jax.classifier import Pixels, sweeps
from bspec_jax.classifier.training import Training, TrainState
from bspec_jax.data import Split
from bspec_jax.storage.errors import UserError
from experiments.benchmarks.measuring import (
    BenchmarkConfig,
    median_seconds,
    require,
    run_forms,
    time_alone,
)
from experiments.silence import memory
from experiments.silence.config import Config as Silence
from experiments.silence.grid import Group, groups
from experiments.silence.train import build, recipe_of

NAME = "benchmarks.silence_sweep"
Form = Literal["here", "stacked", "einsum", "by_hand", "compiled", "loop"]
EXAMPLES, SIZE, CLASSES = 60_000, 14, 10  # as of Fashion-MNIST in `experiments.silence`
PIXELS = Pixels(np.float32([0.5]), np.float32([0.29]))  # of the random images
COMPARED = 5  # first steps, whose losses are


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Flags of the benchmark of a silence sweep."""

    COUNTS: ClassVar = ("branches", "seeds", "steps", "repeats", "loop_networks")

    form: Form | None = None
    """Single form to time. Default: all forms, each in a process of its own."""
    branches: int = 16
    """Number of branches M."""
    seeds: int = 5
    """Seeds of the group, each with all settings."""
    steps: int = 20
    """Steps of a timed run."""
    repeats: int = 5
    """Timed runs per form; the median counts."""
    loop_networks: int = 4
    """Networks that are trained one by one."""

    def check(self) -> None:
        super().check()
        networks = self.networks
        runs.check_flag(
            self, "loop_networks", lambda v: v <= networks, f"at most {networks:,}"
        )
        shape = (SIZE, SIZE, 1)
        needed = memory.estimate(self.silence, self.group, shape, CLASSES)
        if self.form in (None, "stacked"):  # whose branches have copies of the batch
            copies = networks * self.branches * self.silence.batch_size
            needed += memory.FLOAT * copies * prod(shape)
        runs.check_memory(
            needed,
            f"training {networks:,} networks of {self.branches:,} branches together",
            "use fewer --branches or --seeds",
        )

    def unused(self) -> dict[str, str]:
        modes = super().unused()
        if self.form not in (None, "loop"):
            modes["loop_networks"] = f"with --form {self.form}"
        return modes

    @property
    def silence(self) -> Silence:
        """The experiment that the group belongs to."""
        return Silence(branches=self.branches, repeats=self.seeds).resolved()

    @property
    def group(self) -> Group:
        return groups(self.silence)[0]

    @property
    def networks(self) -> int:
        return self.seeds * len(self.group.settings)

    @property
    def total_steps(self) -> int:
        """Of the training, whose first run is not timed."""
        return self.steps * (1 + self.repeats)

    @property
    def chosen(self) -> np.ndarray:
        """Numbers of the networks that a form trains, seed after seed."""
        count = self.loop_networks if self.form == "loop" else self.networks
        return np.linspace(0, self.networks - 1, count).astype(int)


def can_compile() -> bool:
    """Whether there is the C++ compiler that `torch.compile` calls."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def operations(config: Config) -> int:
    """Floating-point operations of the matrix products of a step of all networks.

    Forward, for the gradients of the weights, and of all signals but the images.
    """
    pairs = [*pairwise((SIZE**2, *config.group.widths, CLASSES))]
    weights = 3 * sum(map(prod, pairs)) - prod(pairs[0])
    branches = config.networks * config.branches
    return 2 * config.silence.batch_size * branches * weights


def examples_of(config: Config) -> tuple[Split, np.ndarray]:
    """Random images and labels, and the indices of batches `[steps, S, batch]`."""
    rng = np.random.default_rng(config.seed)
    images = rng.integers(0, 256, (EXAMPLES, SIZE, SIZE, 1), np.uint8)
    labels = rng.integers(0, CLASSES, EXAMPLES)
    shape = (config.steps, config.seeds, config.silence.batch_size)
    return Split(images, labels), rng.integers(0, EXAMPLES, shape)


def training_of(config: Config) -> Training:
    network = build(config.silence, config.group, CLASSES)
    recipe = recipe_of(config.silence)
    return sweeps.sweep(network, recipe, PIXELS, config.total_steps)


def keys_of(config: Config) -> list[jax.Array]:
    """Of the seeds that take a step in one call, as in `sweeps.fit`."""
    keys = jax.random.split(jax.random.key(config.seed), config.seeds)
    return [keys[part] for part in sweeps.parts_of(config.seeds)]


def initial_states(config: Config) -> list[TrainState]:
    """Those of `keys_of`."""
    init, images = training_of(config).init, np.zeros((1, SIZE, SIZE, 1), np.uint8)
    return [init(keys, config.group.columns(), images) for keys in keys_of(config)]


def initial_params(config: Config) -> dict:
    """The initial parameters of every form, as NumPy arrays `[S, K, M, ...]`."""
    return jax.device_get(sweeps.joined(initial_states(config)).params)


def _jax_step(config: Config, examples: Split) -> Callable[[np.ndarray], jax.Array]:
    train, states = training_of(config), initial_states(config)
    parts = [*zip(keys_of(config), sweeps.parts_of(config.seeds), strict=True)]
    settings, examples = jax.tree.map(
        jax.numpy.asarray, (config.group.columns(), examples)
    )

    def step(index):
        results = [
            train.step(state, settings, keys, *examples, index[part])
            for state, (keys, part) in zip(states, parts, strict=True)
        ]
        states[:], logs = zip(*results, strict=True)
        return sweeps.join(logs)["loss"]

    return step


def _torch_step(config: Config, examples: Split) -> Callable[[np.ndarray], np.ndarray]:
    from experiments.benchmarks.peers import silence_sweep as peer

    # Initialised in another process, so that JAX's memory does not count.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        params = pool.submit(initial_params, config).result()
    problem = (params, config.group.columns(), PIXELS, examples, config.total_steps)
    if config.form == "loop":
        return peer.network_by_network(*problem, config.chosen)
    return peer.training_step(*problem, config.form)


def time_form(config: Config) -> dict:
    """Seconds per step of all networks, of compilation, GFLOP/s, and first losses.

    losses: `[COMPARED, networks]`, of the networks that `config.chosen` names.
    """
    examples, index = examples_of(config)
    step = (_jax_step if config.form == "here" else _torch_step)(config, examples)
    losses = []

    def work():
        losses.append(jax.block_until_ready([step(batch) for batch in index]))

    first = median_seconds(work, 1)
    timed = median_seconds(work, config.repeats)
    share = len(config.chosen) / config.networks
    seconds = timed / config.steps / share
    return {
        "seconds": seconds,
        "compilation_seconds": first - timed,
        "gflop_per_second": operations(config) / seconds / 1e9,
        "losses": np.reshape(losses[0][:COMPARED], (-1, len(config.chosen))),
    }


def compare(config: Config) -> dict:
    """All forms, each in a process of its own."""
    forms, losses = {}, {}
    for form in get_args(Form):
        if form == "compiled" and not can_compile():
            print("without a C++ compiler, torch.compile is left out", flush=True)
            continue
        alone = dataclasses.replace(config, form=form)
        forms[form] = timed = time_alone(NAME, alone, f"{form:9}")
        losses[form] = np.array(timed.pop("losses"), float)
        ours = losses["here"][:, alone.chosen]
        timed["difference"] = float((abs(losses[form] / ours - 1)).max())
        timed["times_as_long"] = timed["seconds"] / forms["here"]["seconds"]
    return {
        "networks": config.networks,
        "gflop": operations(config) / 1e9,
        "forms": forms,
    }


def report(results: dict) -> None:
    print(
        f"{results['networks']} networks, {results['gflop']:.2f} GFLOP a step\n"
        "form       ms per step  times as long  GFLOP/s  compilation s  peak GiB"
        "  losses differ"
    )
    for form, item in results["forms"].items():
        print(
            f"{form:9} {1e3 * item['seconds']:12.1f} {item['times_as_long']:14.2f}"
            f" {item['gflop_per_second']:8.1f} {item['compilation_seconds']:14.1f}"
            f" {item['peak_gib']:9.2f}  {item['difference']:.1e}"
        )


def main(config: Config) -> None:
    if config.form != "here":
        require("torch")
    if config.form == "compiled" and not can_compile():
        raise UserError("--form compiled needs a C++ compiler, such as g++")
    run_forms(config, NAME, time_form, compare, report)


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
