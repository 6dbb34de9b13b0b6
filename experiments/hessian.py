"""The Hessian in blocks and the two factors of the gradient, along training (toys).

    python -m experiments.hessian                 # both tasks, M = 2 to 30

Trains many networks by gradient descent and takes the exact Hessian at several steps:
how much of it lies outside the branches' own blocks, against the same parameters
regrouped at random (observation 7); its eigenvalues against 2 / learning rate; how the
ratio goes with the index S; and how many distributive and collaborative factors vanish
(the conjecture of section 8). Expected with the defaults (seed 0, under a minute on 2
cores): at M = 30 the off-diagonal ratio falls from 3.6 to 1.25 (Toy 1) and 0.92 (Toy
2), against 1.40 and 1.14 for parameters regrouped at random.
"""

import dataclasses
import math
import time
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from bspec_jax import figures, runs, toys
from bspec_jax.analysis import gradients
from bspec_jax.analysis.hessian import dense_hessian, total_loss
from bspec_jax.analysis.hessian_measures import (
    block_measures,
    branch_spectra,
    mean_pair_ratio,
    spectrum,
)
from bspec_jax.analysis.observations import VERDICTS, evaluate_hessian
from bspec_jax.analysis.specialization import (
    active_branches,
    covariance,
    specialization_index,
)
from bspec_jax.analysis.statistics import mean_interval, rank_correlation, rate_interval
from bspec_jax.losses import squared_error
from bspec_jax.storage import files
from bspec_jax.toys import sweeps
from bspec_jax.trees import select_leaves
from experiments import hessian_checkpoint
from experiments.tables import number

NAME = "hessian"
EXAMPLE_BRANCHES = 32  # at most so many in the heat maps
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Relative to the factor's initial root mean square; eight in each power of ten.
THRESHOLDS = tuple(10.0 ** (i / 8) for i in range(-32, 9))
REPORTED = [THRESHOLDS.index(t) for t in gradients.THRESHOLDS]
VANISHING = THRESHOLDS.index(1e-2)
HESSIAN_ELEMENTS = 2**23  # entries of Hessians that are held at a time


@dataclasses.dataclass(frozen=True)
class Config(runs.RunConfig):
    """Flags of the Hessian experiment."""

    COUNTS: ClassVar = ("branches", "trials", "steps", "at_steps", "examples")

    tasks: tuple[Literal["toy1", "toy2"], ...] = ("toy1", "toy2")
    """Tasks to train on."""
    branches: tuple[int, ...] = (2, 5, 10, 20, 30)
    """Numbers of branches M."""
    trials: int = 1000
    """Networks for each task and M."""
    steps: int = 20_000
    """Most gradient steps of a network; it ends earlier when it has converged."""
    at_steps: tuple[int, ...] = (10, 30, 100, 300, 1000, 3000)
    """Steps at which the Hessian is taken, besides the first and the last."""
    learning_rate: float = 0.02
    """Step of gradient descent."""
    negative_slope: float = 0.01
    """Slope of the leaky ReLU below zero."""
    init: toys.InitDistribution = "normal"
    """Distribution of the initial w and b: N(0, s^2) or U(-s, s)."""
    init_scale: float = 1.0
    """The s of --init."""
    float64: bool = False
    """Take the Hessians in double precision."""
    checkpoint: Path | None = None
    """A run of the classifier, or one step in it, in place of the toys."""
    leaves: tuple[str, ...] | None = None
    """Paths or patterns of the parameters that the Hessian is taken of. Default: all of
    a toy's (w and b), the first layer of a --checkpoint."""
    examples: int | None = None
    """Of a --checkpoint: number of training examples that the loss is summed over."""

    def check(self) -> None:
        super().check()
        if self.examples is not None and self.checkpoint is None:
            raise runs.FlagError("--examples needs --checkpoint")
        if self.leaves is not None and self.checkpoint is None:
            try:
                select_leaves({"b": np.zeros(1), "w": np.zeros(1)}, self.leaves)
            except ValueError as error:
                raise runs.FlagError(f"--leaves: {error}") from None
        runs.check_flag(self, "tasks", toys.TASKS.__contains__, "a task")
        runs.check_flag(self, "negative_slope", math.isfinite, "finite")
        for name in ("learning_rate", "init_scale"):
            runs.check_flag(
                self, name, lambda v: 0 < v < math.inf, "positive and finite"
            )
        widest = max(self.branches)
        needed = len(self.tasks) * len(set(self.branches)) * self.trials
        runs.check_memory(
            sweeps.memory_estimate(needed, widest)
            + 4 * (2 * self.trials * widest**2 + 8 * HESSIAN_ELEMENTS),
            f"{needed:,} networks of up to {widest:,} branches",
            "use fewer --branches or --trials",
        )

    @property
    def stage_steps(self) -> list[int]:
        """Steps of the stages, from 0 to the last."""
        return sorted({0, self.steps} | {s for s in self.at_steps if s < self.steps})


def main(config: Config) -> None:
    started = time.perf_counter()
    if config.figures_only:
        runs.redraw(config.workdir, NAME, partial(draw, config.workdir))
        return
    if config.checkpoint is not None:
        case = hessian_checkpoint.prepare(config.checkpoint, config.leaves)
    workdir = runs.start(config, NAME)
    with jax.default_matmul_precision("highest"):  # else ten bits on some GPUs
        if config.checkpoint is None:
            results, table = toys(config, workdir), summary
        else:
            table = hessian_checkpoint.summary
            results = hessian_checkpoint.measure(workdir, case, config.examples)
    runs.conclude(workdir, config, results, started, partial(draw, workdir), table)


def draw(workdir: Path, results: dict) -> dict:
    """The figures of finished results, by file name."""
    if results["config"]["checkpoint"]:
        return hessian_checkpoint.draw(workdir, results)
    tasks = results["tasks"]
    heat_maps = {
        f"hessian_{task}": figures.hessian_heat_maps(
            figures.TASK_TITLES[task], data["example"]
        )
        for task, data in tasks.items()
    }
    return heat_maps | {
        "hessian_ratio": figures.hessian_ratio(tasks),
        "hessian_eigenvalues": figures.hessian_eigenvalues(tasks),
        "hessian_index": figures.hessian_index(tasks),
        "section8_factors": figures.gradient_factors(tasks),
    }


def train_stages(config: Config, workdir: Path, table: sweeps.Settings):
    """Yields the step and the networks of each stage; stages on disk are reused."""
    folder = workdir / runs.UNFINISHED
    folder.mkdir(exist_ok=True)
    trials = sweeps.init_trials(jax.random.key(config.seed), table, init=config.init)
    before = 0
    for step in config.stage_steps:
        path = folder / f"step_{step:09d}.npz"
        if path.exists():
            trials = sweeps.Trials(**files.load_arrays(path, trials._asdict()))
        elif step:
            # What has converged stays as it is; so does what has diverged.
            with runs.progress_bar(table.trial.size, f"to step {step}") as advance:
                trials = sweeps.train(trials, steps=step - before, progress=advance)
            files.save_arrays(path, trials._asdict())
            done = {"step": step, "converged": int(trials.converged.sum())}
            files.append_metrics(workdir, done)
        before = step
        yield step, trials


def toys(config: Config, workdir: Path) -> dict:
    """Every measure at every stage, for each task and M."""
    tasks, branches = sorted(set(config.tasks)), sorted(set(config.branches))
    table = sweeps.settings(
        task=tasks,
        num_branches=branches,
        negative_slope=config.negative_slope,
        init_scale=config.init_scale,
        learning_rate=config.learning_rate,
        trial=range(config.trials),
    )
    example = max((m for m in branches if m <= EXAMPLE_BRANCHES), default=branches[0])
    scales, last = {}, {}
    results = {task: {"stages": [], "example": []} for task in tasks}
    for step, trials in train_stages(config, workdir, table):
        for task in tasks:
            measured = {}
            for m in branches:
                part = trials.select((table.task == task) & (table.num_branches == m))
                first = scales.get((task, m))
                h, measured[m] = measure_toys(config, part, m, first)
                scales.setdefault((task, m), measured[m]["scales"])
                if m == example:
                    ratio = measured[m]["offdiagonal_ratio"][0]
                    results[task]["example"].append(
                        {
                            "step": step,
                            "branches": m,
                            "offdiagonal_ratio": ratio,
                            "hessian": h.reshape(h.shape[0] * h.shape[1], -1),
                        }
                    )
                if m < branches[-1]:  # the largest arrays are told for one M alone
                    for name in ("block_norms", "spectrum", "branch_spectra"):
                        del measured[m][name]
            results[task]["stages"].append(stage_record(config, step, measured))
            last[task] = measured
    return {
        "tasks": {task: outcome(branches, results[task], last[task]) for task in tasks}
    }


def measure_toys(config: Config, trials: sweeps.Trials, num_branches: int, scales):
    """The first network's Hessian, and the measures of each.

    These are a dict of NumPy arrays whose last axis is trials.

    Args:
      scales: initial root mean squares of the two factors and initial norm of the
        gradient, `[3, T]`; None at step 0.
    """
    dtype = np.float64 if config.float64 else np.float32
    arrays = [np.asarray(column, dtype) for column in columns(trials, num_branches)]
    if scales is not None:
        arrays.append(np.asarray(scales.T, dtype))
    total = trials.error.size
    size = min(total, max(1, HESSIAN_ELEMENTS // (2 * num_branches) ** 2))
    options = {"negative_slope": config.negative_slope, "leaves": config.leaves}
    batches = []
    with jax.enable_x64(config.float64):
        for start in range(0, total, size):
            index = np.arange(start, start + size) % total  # one shape
            batch = tuple(array[index] for array in arrays)
            h, measured = jax.device_get(measure_batch(batch, **options))
            measured["spectrum"] = spectrum(h)
            measured["largest_eigenvalue"] = measured["spectrum"][:, -1]
            order = measured.pop("order")[..., None]
            own = branch_spectra(h)
            measured["branch_spectra"] = np.take_along_axis(own, order, 1)
            batches.append(measured)
            if start == 0:
                first = h[0]
    measured = {
        name: np.moveaxis(np.concatenate([b[name] for b in batches])[:total], 0, -1)
        for name in batches[0]
    }
    defined = ~trials.diverged
    return first, measured | {"defined": defined, "converged": trials.converged}


def columns(trials: sweeps.Trials, num_branches: int) -> list[np.ndarray]:
    """w, b `[T, M]` and x, y `[T, N]` of networks of one M."""
    narrow = (trials.w[:num_branches], trials.b[:num_branches], trials.x, trials.y)
    return [np.ascontiguousarray(column.T) for column in narrow]


@partial(jax.jit, static_argnames=("negative_slope", "leaves"))
def measure_batch(networks, *, negative_slope, leaves):
    """`measure_one` of many networks."""
    return jax.vmap(partial(measure_one, negative_slope, leaves))(*networks)


def measure_one(negative_slope, leaves, w, b, x, y, scales=None):
    """The Hessian of one network at one stage, and what is measured of it."""
    num_branches = w.size
    network = toys.toy_network(num_branches, negative_slope=negative_slope)
    respond = gradients.frozen_responses(network, ())
    params = {"w": w, "b": b}
    v, _ = network.responses(params, (), x)
    h = dense_hessian(respond, squared_error, params, x, y, leaves=leaves)
    measured = block_measures(h)
    norms = measured.pop("block_norms")
    order = jnp.argsort(-jnp.diagonal(norms))
    active = active_branches(v)
    both = active[:, None] & active
    collaborative = gradients.collaborative_factor(
        lambda f: squared_error(f, y), v.sum(0)
    )
    gradient = jax.grad(total_loss, argnums=2)
    gradient = gradient(respond, squared_error, params, x, y)
    gradient_norm = jnp.hypot(*map(jnp.linalg.norm, gradient.values()))
    if scales is None:
        distributive = gradients.distributive_scale(respond, params, x)
        scale = gradients.collaborative_scale(collaborative)
        scales = jnp.stack([distributive, scale, gradient_norm])
    distributive = gradients.distributive_shares(
        respond, params, x, scales[0], thresholds=THRESHOLDS
    )
    collaborative = gradients.collaborative_shares(
        collaborative, scales[1], thresholds=THRESHOLDS
    )
    return h, {
        **measured,
        "active_pair_ratio": mean_pair_ratio(jnp.where(both, norms, 0)),
        "block_norms": norms[order][:, order],
        "order": order,
        "index": specialization_index(covariance(v)),
        "distributive": distributive,
        "collaborative": collaborative,
        "vanishing_difference": (distributive - collaborative)[VANISHING],
        "gradient_norm": gradient_norm / scales[2],
        "scales": scales,
    }


AVERAGED = (
    "offdiagonal_ratio",
    "mean_pair_ratio",
    "active_pair_ratio",  # the same between active branches only
    "control_ratio",
    "ratio_to_control",
    "small_blocks",
    "vanishing_difference",
    "index",
    "largest_eigenvalue",
    "gradient_norm",
)


def outcome(branches: list[int], found: dict, last: dict) -> dict:
    """What results.json holds for a task; single numbers are those of the largest M."""
    first_stage, last_stage = (found["stages"][i]["measures"] for i in (0, -1))
    return {
        "branches": branches,
        "trials": next(iter(last.values()))["defined"].size,
        "diverged": [(~data["defined"]).sum() for data in last.values()],
        "observations": evaluate_hessian(branches, last_stage, first_stage),
        "equilibria": {
            "thresholds": gradients.THRESHOLDS,
            "converged": equilibrium(last.values(), lambda data: data["converged"]),
            "stuck": equilibrium(last.values(), lambda data: ~data["converged"]),
        },
        **found,
    }


def means(runs, name: str, chosen=lambda data: True, rows=...) -> dict:
    """Mean and interval over the trials that count, stacked over the runs (one each M).

    Those count that did not diverge, are `chosen` and have the measure defined.
    """
    values = np.stack([data[name][rows] for data in runs])
    where = [data["defined"] & chosen(data) for data in runs]
    where = np.stack(where).reshape(len(where), *(1,) * (values.ndim - 2), -1)
    mean, interval = mean_interval(values, where & np.isfinite(values))
    return {"mean": mean, "interval": interval}


def stage_record(config: Config, step: int, measured: dict) -> dict:
    """Distributions over the networks of the largest M, and means for every M."""
    data = measured[max(measured)]
    limit = 2 / config.learning_rate
    defined, largest = data["defined"], data["largest_eigenvalue"]
    above, above_interval = rate_interval(largest > limit, defined)
    ratio, index = data["offdiagonal_ratio"], data["index"]
    both = defined & np.isfinite(ratio)
    rho, rho_interval = rank_correlation(ratio[both], index[both])
    return {
        "step": step,
        "measures": {name: means(measured.values(), name) for name in AVERAGED},
        "block_norms": over_trials(data, "block_norms"),
        "offdiagonal_ratio": over_trials(data, "offdiagonal_ratio"),
        "offdiagonal_ratio_quantiles": quantiles(ratio[both]),
        "spectra": {
            "limit": limit,
            "largest_quantiles": quantiles(largest[defined]),
            "above_limit": above,
            "above_limit_interval": above_interval,
            "whole": over_trials(data, "spectrum"),
            "branches": over_trials(data, "branch_spectra"),
        },
        "factors": {
            "thresholds": THRESHOLDS,
            "distributive": over_trials(data, "distributive"),
            "collaborative": over_trials(data, "collaborative"),
        },
        "index": {
            "ratios": ratio[both],
            "indices": index[both],
            "rank_correlation": rho,
            "rank_correlation_interval": rho_interval,
        },
    }


def over_trials(data: dict, name: str):
    """Mean over the trials of one M that did not diverge; NaN if none is left."""
    return means([data], name)["mean"][0]


def quantiles(values):
    if not values.size:
        return np.full(len(QUANTILES), np.nan)
    return np.quantile(values, QUANTILES)


def equilibrium(runs, chosen) -> dict:
    """Shares of vanishing factors at the last step, for the chosen trials of each M."""
    counts = [int((data["defined"] & chosen(data)).sum()) for data in runs]
    shares = {
        name: means(runs, name, chosen, REPORTED)
        for name in ("distributive", "collaborative")
    }
    single = {
        name: means(runs, name, chosen)
        for name in ("vanishing_difference", "gradient_norm")
    }
    return {"trials": counts, **shares, **single}


def summary(results: dict) -> str:
    """The table that ends a run."""
    lines = []
    for task, data in results["tasks"].items():
        lines += [
            f"{task}, {data['trials']} networks for each M",
            "   M  off-diagonal ratio: start    end  control   largest eigenvalue",
        ]
        first, last = (data["stages"][i]["measures"] for i in (0, -1))
        limit = data["stages"][-1]["spectra"]["limit"]
        for i, m in enumerate(data["branches"]):
            start, end, control, eigenvalue = (
                number(measures[name]["mean"][i])
                for measures, name in (
                    (first, "offdiagonal_ratio"),
                    (last, "offdiagonal_ratio"),
                    (last, "control_ratio"),
                    (last, "largest_eigenvalue"),
                )
            )
            lines.append(
                f"{m:4}                      {start:>6} {end:>6}   {control:>6}"
                f"        {eigenvalue:>6}, limit {limit:g}"
            )
        for key, item in data["observations"].items():
            value = number(item["value"])
            low, high = map(number, item["interval"])
            lines.append(
                f"{key} {item['claim']}: {item['measure']} {value} "
                f"({low}, {high}), limit {item['threshold']}: {VERDICTS[item['holds']]}"
            )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
