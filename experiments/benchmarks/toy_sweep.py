"""Speed of the toy sweep: both tasks, M = 2..30, 1000 trials each, 58,000 trainings.

    pip install -e ".[bench]"
    python -m experiments.benchmarks.toy_sweep

Times, in one run and from the same initial parameters: this project's `sweeps.train`;
the same gradient descent in PyTorch, batched by hand over the trials of each M, for all
20,000 steps and with this project's stopping rule; and one PyTorch module per trial
with autograd, extrapolated from a sample. Then times the two modes of the toy
experiment as whole processes, with their peak memory. Takes about 16 minutes on 2
cores.
"""

import dataclasses
import os
import time
from typing import ClassVar

import jax
import numpy as np

from bspec_jax import runs
from bspec_jax.toys import sweeps
from experiments.benchmarks.measuring import (
    BenchmarkConfig,
    median_seconds,
    process,
    require,
)

NAME = "benchmarks.toy_sweep"
TASKS, BRANCHES = ("toy1", "toy2"), range(2, 31)
RATE, SLOPE = 0.02, 0.01


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Flags of the toy sweep's benchmark."""

    COUNTS: ClassVar = (
        "trials",
        "steps",
        "repeats",
        "peer_repeats",
        "loop_trials",
        "loop_steps",
    )

    trials: int = 1000
    """Number of trials for each M and task."""
    steps: int = 20_000
    """Maximum number of steps of a trial."""
    repeats: int = 5
    """Timed runs of this project; the median counts."""
    peer_repeats: int = 3
    """Timed runs of each batched PyTorch form; the median counts."""
    loop_trials: int = 10
    """Number of trials that the loop over modules trains."""
    loop_steps: int = 2000
    """Number of steps of each of those trials."""
    processes: bool = True
    """Skip the two modes of the toy experiment as whole processes."""

    def check(self) -> None:
        super().check()
        networks = len(TASKS) * len(BRANCHES) * self.trials
        runs.check_flag(
            self, "loop_trials", lambda v: v <= networks, f"at most {networks:,}"
        )
        runs.check_flag(self, "steps", lambda v: v < 2**31, "below 2^31")
        runs.check_memory(
            sweeps.memory_estimate(networks, max(BRANCHES)),
            f"{networks:,} networks of up to {max(BRANCHES)} branches",
            "use fewer --trials",
        )


def main(config: Config) -> None:
    require("torch")
    started = time.perf_counter()
    workdir = runs.start(config, NAME)
    table = sweeps.settings(
        task=TASKS,
        num_branches=BRANCHES,
        learning_rate=RATE,
        negative_slope=SLOPE,
        trial=range(config.trials),
    )
    trials = sweeps.init_trials(jax.random.key(config.seed), table)
    results = time_forms(config, trials)
    if config.processes:
        results["processes"] = {
            "sweep": process("experiments.toy")[0],
            "phase": process("experiments.toy", "--mode", "phase")[0],
        }
    runs.save_results(workdir, config, results, started)
    report(results)
    print(f"results in {workdir}")


def time_forms(config: Config, trials: sweeps.Trials) -> dict:
    """Seconds and success rates of this project and of the PyTorch forms."""
    from experiments.benchmarks.peers import toy_sweep as peer

    steps = config.steps

    def ours():
        return sweeps.train(trials, steps=steps)

    first = median_seconds(ours, 1)
    seconds = {"bspec_jax": median_seconds(ours, config.repeats)}
    trained = ours()
    print(f"bspec_jax                 {seconds['bspec_jax']:10.2f} s", flush=True)
    success = {"bspec_jax": float(trained.converged.mean())}
    for name, train in (
        ("torch_all_steps", peer.all_steps),
        ("torch_stopping", peer.stopping),
    ):
        rates = []

        def work(train=train, rates=rates):
            rates[:] = train(trials, steps, RATE, SLOPE)

        seconds[name] = median_seconds(work, config.peer_repeats)
        success[name] = float(np.mean(rates))
        print(f"{name:25} {seconds[name]:10.2f} s", flush=True)
    sample = config.loop_trials, config.loop_steps
    loop = median_seconds(lambda: peer.module_loop(trials, *sample, RATE, SLOPE), 1)
    share = config.loop_trials * config.loop_steps / (trials.error.size * steps)
    seconds["torch_module_loop"] = loop / share
    print(f"{'torch_module_loop':25} {seconds['torch_module_loop']:10.0f} s, from a")
    print(f"  sample of {config.loop_trials} trials of {config.loop_steps} steps")
    return {
        "trainings": trials.error.size,
        "seconds": seconds,
        "ratios": {name: s / seconds["bspec_jax"] for name, s in seconds.items()},
        "success_rate": success,
        "compilation_seconds": first - seconds["bspec_jax"],
        "compiled_share": compiled_share(trials, steps),
        "loop_sample": {"trials": config.loop_trials, "steps": config.loop_steps},
        "torch": peer.version(),
        "torch_threads": peer.num_threads(),
        "steps_taken_share": float(trained.steps.mean() / steps),
    }


def compiled_share(trials: sweeps.Trials, steps: int) -> float:
    """Share of the workers' time that `train` spends inside compiled code."""
    advance, inside = sweeps._advance, []

    def timed(*args):
        started = time.perf_counter()
        result = jax.block_until_ready(advance(*args))
        inside.append(time.perf_counter() - started)
        return result

    sweeps._advance = timed
    try:
        wall = median_seconds(lambda: sweeps.train(trials, steps=steps), 1)
    finally:
        sweeps._advance = advance
    return sum(inside) / (wall * os.cpu_count())


def report(results: dict) -> None:
    print("times as long as bspec_jax:")
    for name, ratio in results["ratios"].items():
        print(f"  {name:22} {ratio:10.1f}")
    print(f"plus compilation, {results['compilation_seconds']:.2f} s")
    share = 100 * results["compiled_share"]
    print(f"{share:.0f} % of the workers' time is spent in compiled code")
    for name, item in results.get("processes", {}).items():
        print(
            f"whole {name} process: {item['seconds']:.1f} s, "
            f"peak {item['peak_gib']:.2f} GiB"
        )


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
