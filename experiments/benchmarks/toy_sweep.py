"""Speed of the toy sweep: both tasks, M = 2..30, 1000 trials each, 58,000 trainings.

    pip install -e ".[bench]"
    python -m experiments.benchmarks.toy_sweep

In one run, on the same initial parameters: this project's `sweeps.train`; the same
gradient descent in PyTorch, batched by hand over the trials of each M, for all 20,000
steps and with this project's stopping rule; and one PyTorch module per trial with
autograd, extrapolated from a sample. Then the two commands of the toy experiment as
whole processes, with their peak memory. Takes about 15 minutes on 2 cores and writes
JSON beside what it prints.
"""

import dataclasses
import os
import sys
import time

import jax
import numpy as np

from bspec_jax import runs, toys
from bspec_jax.toys import sweeps
from experiments.benchmarks.measuring import median_seconds, process

try:
    import torch
except ImportError:
    sys.exit('this benchmark needs PyTorch: pip install -e ".[bench]"')

RATE, SLOPE, CHECK = 0.02, 0.01, 100


@dataclasses.dataclass(frozen=True)
class Config(runs.RunConfig):
    """Flags of the toy sweep's benchmark."""

    trials: int = 1000
    """Trials for each M and task."""
    steps: int = 20_000
    """Most steps of a trial."""
    repeats: int = 5
    """Runs of this project, of which the median counts."""
    peer_repeats: int = 3
    """Runs of each batched PyTorch form."""
    loop_trials: int = 10
    """Trials that the loop over modules really runs, for --loop-steps each."""
    loop_steps: int = 2000
    """Steps of those trials."""
    processes: bool = True
    """Leave out the experiment's two modes, timed as whole processes."""


def groups(trials: sweeps.Trials):
    """The trials of each M as PyTorch tensors: w, b `[M, T]` and x, y `[N, T]`.

    Trials last is PyTorch's fastest layout, too: three times as fast as trials first.
    """
    for m in np.unique(trials.num_branches).tolist():
        of_m = trials.select(trials.num_branches == m)
        columns = (of_m.w[:m], of_m.b[:m], of_m.x, of_m.y)
        yield tuple(torch.from_numpy(np.ascontiguousarray(c)) for c in columns)


def torch_residual(w, b, x, y):
    z = torch.addcmul(b, w, x[:, None])
    return z, torch.nn.functional.leaky_relu(z, SLOPE).sum(1) - y


def torch_step(w, b, x, y):
    """Eq. 5 by hand, as autograd would only be slower."""
    z, residual = torch_residual(w, b, x, y)
    g = torch.where(z >= 0, residual[:, None], (SLOPE * residual)[:, None])
    w.sub_((g * x[:, None]).sum(0), alpha=RATE)
    b.sub_(g.sum(0), alpha=RATE)


def torch_errors(w, b, x, y):
    return (torch_residual(w, b, x, y)[1] ** 2).sum(0)


@torch.no_grad()
def torch_all_steps(trials: sweeps.Trials, steps: int) -> list[float]:
    """Success rate of each M, after all steps of every trial."""
    rates = []
    for w, b, x, y in groups(trials):
        for _ in range(steps):
            torch_step(w, b, x, y)
        rates.append(float((torch_errors(w, b, x, y) < toys.TOLERANCE).float().mean()))
    return rates


@torch.no_grad()
def torch_stopping(trials: sweeps.Trials, steps: int) -> list[float]:
    """The same, but a trial that has converged at a check is dropped."""
    rates = []
    for batch in groups(trials):
        total = batch[0].shape[1]
        for _ in range(steps // CHECK):
            for _ in range(CHECK):
                torch_step(*batch)
            left = torch_errors(*batch) >= toys.TOLERANCE
            if not left.all():
                batch = tuple(column[:, left] for column in batch)
            if not left.any():
                break
        rates.append(1 - batch[0].shape[1] / total)
    return rates


class TorchTrial(torch.nn.Module):
    """What one would write first: one network, autograd and SGD."""

    def __init__(self, w, b):
        super().__init__()
        self.w, self.b = torch.nn.Parameter(w), torch.nn.Parameter(b)

    def forward(self, x):
        z = self.w[:, None] * x + self.b[:, None]
        return torch.nn.functional.leaky_relu(z, SLOPE).sum(0)


def torch_loop(trials: sweeps.Trials, count: int, steps: int) -> None:
    """`count` trials, evenly spaced over the table, one after another."""
    for t in np.linspace(0, trials.error.size - 1, count).astype(int):
        m = trials.num_branches[t]
        w, b, x, y = (
            torch.from_numpy(a.copy())
            for a in (trials.w[:m, t], trials.b[:m, t], trials.x[:, t], trials.y[:, t])
        )
        model = TorchTrial(w, b)
        optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
        for _ in range(steps):
            optimiser.zero_grad()
            loss = 0.5 * ((model(x) - y) ** 2).sum()
            loss.backward()
            optimiser.step()


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
    print(f"compilation {results['compilation_seconds']:.2f} s, apart")
    print(f"{100 * results['compiled_share']:.0f} % of the workers' time is compiled")
    for name, item in results.get("processes", {}).items():
        print(
            f"whole {name} process: {item['seconds']:.1f} s, "
            f"peak {item['peak_gib']:.2f} GiB"
        )


def main(config: Config) -> None:
    started = time.perf_counter()
    workdir = runs.start(config, "benchmark_toy_sweep")
    table = sweeps.settings(
        task=["toy1", "toy2"],
        num_branches=range(2, 31),
        learning_rate=RATE,
        negative_slope=SLOPE,
        trial=range(config.trials),
    )
    trials = sweeps.init_trials(jax.random.key(config.seed), table)
    steps = config.steps

    def ours():
        return sweeps.train(trials, steps=steps)

    first = median_seconds(ours, 1)
    seconds = {"bspec_jax": median_seconds(ours, config.repeats)}
    trained = ours()
    print(f"bspec_jax                 {seconds['bspec_jax']:10.2f} s", flush=True)
    success = {"bspec_jax": float(trained.converged.mean())}
    for name, peer in (
        ("torch_all_steps", torch_all_steps),
        ("torch_stopping", torch_stopping),
    ):
        rates = []

        def work(peer=peer, rates=rates):
            rates[:] = peer(trials, steps)

        seconds[name] = median_seconds(work, config.peer_repeats)
        success[name] = float(np.mean(rates))
        print(f"{name:25} {seconds[name]:10.2f} s", flush=True)
    sample = median_seconds(
        lambda: torch_loop(trials, config.loop_trials, config.loop_steps), 1
    )
    share = config.loop_trials * config.loop_steps / (trials.error.size * steps)
    seconds["torch_module_loop"] = sample / share
    print(f"{'torch_module_loop':25} {seconds['torch_module_loop']:10.0f} s, from a")
    print(f"  sample of {config.loop_trials} trials of {config.loop_steps} steps")
    results = {
        "trainings": trials.error.size,
        "seconds": seconds,
        "ratios": {name: s / seconds["bspec_jax"] for name, s in seconds.items()},
        "success_rate": success,
        "compilation_seconds": first - seconds["bspec_jax"],
        "compiled_share": compiled_share(trials, steps),
        "loop_sample": {"trials": config.loop_trials, "steps": config.loop_steps},
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "steps_taken_share": float(trained.steps.mean() / steps),
    }
    if config.processes:
        results["processes"] = {
            "sweep": process("experiments.toy")[0],
            "phase": process("experiments.toy", "--mode", "phase")[0],
        }
    runs.save_results(workdir, config, results, started)
    report(results)
    print(f"results in {workdir}")


if __name__ == "__main__":
    runs.command_line(Config, main, "benchmarks.toy_sweep", __doc__)
