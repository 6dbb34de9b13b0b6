"""What a network without its silent branches saves at inference.

    python -m experiments.benchmarks.pruning --checkpoint RUN

Times the forward pass of the main network of a run of `classify`, and of `pruned`, the
same without its silent branches, in turn on the same images. Takes seconds.
"""

import dataclasses
import time
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bspec_jax import classifier, runs
from bspec_jax.classifier import Classifier
from bspec_jax.data.augmentation import normalise
from experiments.benchmarks.measuring import BenchmarkConfig, median_seconds
from experiments.classify.measure import PRUNED

NAME = "benchmarks.pruning"
NETWORKS = (classifier.MAIN, PRUNED)


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Flags of the pruning benchmark."""

    COUNTS: ClassVar = ("batch_size", "repeats")

    checkpoint: Path = Path("docs/runs/classify")
    """Folder of a run of classify."""
    batch_size: int = 256
    """Number of images."""
    repeats: int = 200
    """Timed passes of each network; the median counts."""


def main(config: Config) -> None:
    started = time.perf_counter()
    folder = config.checkpoint / "checkpoints"
    networks = {name: classifier.load(folder / name) for name in NETWORKS}
    workdir = runs.start(config, NAME)
    results = runs.save_results(workdir, config, measure(networks, config), started)
    print("network  branches  milliseconds")
    for name in NETWORKS:
        branches, seconds = results[name]["branches"], results[name]["seconds"]
        print(f"{name:7}  {branches:8}  {seconds * 1e3:.3f}")
    print(f"time {results['time']:.2f}, branches {results['branches']:.2f}")
    print(f"results in {workdir}")


def measure(networks: dict[str, Classifier], config: Config) -> dict:
    """Seconds of a forward pass of each network, and the ratios of pruned to main."""
    shape = (config.batch_size, *networks[classifier.MAIN].spec.image_shape)
    images = np.random.default_rng(config.seed).integers(0, 256, shape, np.uint8)
    passes = {name: forward(network, images) for name, network in networks.items()}
    rounds = 5  # in turn, so that both meet the same load of the machine
    seconds = {name: [] for name in passes}
    for _ in range(rounds):
        for name, run in passes.items():
            seconds[name].append(median_seconds(run, -(-config.repeats // rounds)))
    of = {
        name: {
            "branches": networks[name].spec.branches,
            "seconds": float(np.median(seconds[name])),
        }
        for name in passes
    }
    ratios = {
        name: of[PRUNED][key] / of[classifier.MAIN][key]
        for name, key in (("time", "seconds"), ("branches", "branches"))
    }
    return of | ratios


def forward(network: Classifier, images: np.ndarray):
    """A function that computes the sum of the branches and waits for it; compiled."""
    x = normalise(jnp.asarray(images), *network.spec.pixels)
    model = jax.device_put((network.params, network.batch_stats))

    @jax.jit
    def apply(model, x):
        return network.network.apply(*model, x, train=False)[0]

    def run():
        apply(model, x).block_until_ready()

    run()
    return run


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
