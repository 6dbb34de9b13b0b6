"""Toy 1 and Toy 2: Figures 2, 3 and 4, or a phase diagram of the claim behind them.

    python -m experiments.toy                  # the paper's sweep over M, two tasks
    python -m experiments.toy --mode phase     # learning rate x initial scale x slope

Expected with the defaults (seed 0): Toy 1 succeeds in .52, .88 and 1.00 of the trials
at M = 2, 4 and 10, Toy 2 in .60, .84 and .98; between 3 and 4 branches are active
however large M is.
"""

import dataclasses
import math
import time
from pathlib import Path
from typing import ClassVar, Literal

import jax
import numpy as np

from bspec_jax import figures, runs, toys
from bspec_jax.analysis.observations import evaluate, quarter_index
from bspec_jax.analysis.specialization import covariance
from bspec_jax.storage import files
from bspec_jax.toys import measures, sweeps
from experiments.tables import number, observation_lines

NAME = "toy"
CHUNK = 80_000  # trials between two checkpoints
CONTROL_POOL = 3000  # networks trained alone, for the sums that are the control
SEARCH_TRIALS = 1000  # runs at M = 2 among which Figure 2 looks for its three
RECORD_STEPS, RECORD_EVERY = 4000, 10
COVARIANCE_BRANCHES, COVARIANCE_TRIALS = 10, 10  # Figure 3 right
RESPONSE_BRANCHES, RESPONSE_TRIALS = 20, 200  # Figure 4 left and middle

PHASE_LEARNING_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1)
PHASE_AXES = {
    "negative_slope": "phase_negative_slopes",
    "init_scale": "phase_init_scales",
    "learning_rate": "phase_learning_rates",
}
POSITIVE = ("learning_rate", "init_scale", *list(PHASE_AXES.values())[1:])


@dataclasses.dataclass(frozen=True)
class Config(runs.RunConfig):
    """Flags of the toy experiment."""

    COUNTS: ClassVar = ("trials", "overlay_trials", "steps", "branches")

    mode: Literal["sweep", "phase"] = "sweep"
    """sweep: success and active branches against M, and the paper's figures. phase:
    both over a grid of learning rate, initial scale and slope."""
    tasks: tuple[Literal["toy1", "toy2"], ...] = ("toy1", "toy2")
    """Tasks to train on."""
    branches: tuple[int, ...] | None = None
    """Numbers of branches M. Default: 2 to 30; for phase 8 and 32."""
    trials: int | None = None
    """Trials for each M and each point of the phase grid. Default: 1000; phase 200."""
    steps: int = 20_000
    """Most gradient steps of a trial; it ends earlier when it has converged."""
    learning_rate: float = 0.02
    """Step of gradient descent in a sweep."""
    overlay_learning_rate: float = 0.005
    """A second, smaller step, drawn over the first in Figure 4 right; 0 for none."""
    overlay_trials: int = 200
    """Trials for each M with the second step."""
    negative_slope: float = 0.01
    """Slope of the leaky ReLU below zero in a sweep."""
    init: toys.InitDistribution = "normal"
    """Distribution of the initial w and b: N(0, s^2) or U(-s, s)."""
    init_scale: float = 1.0
    """The s of --init in a sweep."""
    phase_learning_rates: tuple[float, ...] = PHASE_LEARNING_RATES
    """Learning rates of the phase grid."""
    phase_init_scales: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0)
    """Initial scales of the phase grid."""
    phase_negative_slopes: tuple[float, ...] = (0.0, 0.01, 0.1, 0.3)
    """Slopes of the phase grid."""

    def check(self) -> None:
        super().check()
        runs.check_flag(self, "tasks", toys.TASKS.__contains__, "a task")
        for name in ("negative_slope", "phase_negative_slopes"):
            runs.check_flag(self, name, math.isfinite, "finite")
        for name in POSITIVE:
            runs.check_flag(
                self, name, lambda v: 0 < v < math.inf, "positive and finite"
            )
        runs.check_flag(
            self, "overlay_learning_rate", lambda v: 0 <= v < math.inf, "finite, >= 0"
        )
        widest = max(self.branches_list)
        runs.check_memory(
            sweeps.memory_estimate(self.num_trials, widest),
            f"{self.num_trials:,} trials of up to {widest:,} branches",
            "use fewer --branches or --trials",
        )

    @property
    def branches_list(self) -> list[int]:
        default = range(2, 31) if self.mode == "sweep" else (8, 32)
        return sorted(set(self.branches or default))

    @property
    def tasks_list(self) -> list[str]:
        return sorted(set(self.tasks))

    @property
    def trials_count(self) -> int:
        return self.trials or (1000 if self.mode == "sweep" else 200)

    @property
    def control_shape(self) -> tuple[int, int]:
        """The largest M, and how many sums of so many networks the control has."""
        largest = max(self.branches_list)
        return largest, max(10, CONTROL_POOL // largest)

    @property
    def num_trials(self) -> int:
        """All trials of the run, those of the overlay and the control included."""
        each = len(self.tasks_list) * len(self.branches_list)
        if self.mode == "phase":
            cells = math.prod(len(getattr(self, n)) for n in PHASE_AXES.values())
            return each * cells * self.trials_count
        overlay = self.overlay_trials if self.overlay_learning_rate else 0
        control = len(self.tasks_list) * math.prod(self.control_shape)
        examples = COVARIANCE_TRIALS + RESPONSE_TRIALS
        return each * (self.trials_count + overlay) + control + examples


def main(config: Config) -> None:
    started = time.perf_counter()
    if config.figures_only:
        runs.redraw(config.workdir, NAME, draw)
        return
    workdir = runs.start(config, NAME)
    make = sweep if config.mode == "sweep" else phase
    runs.conclude(workdir, config, make(config, workdir), started, draw, summary)


def draw(results: dict) -> dict:
    """The figures of finished results, by file name."""
    if results["config"]["mode"] == "phase":
        return {
            f"phase_{task}": figures.toy_phase(task, data)
            for task, data in results["tasks"].items()
        }
    drawn = {
        f"fig02_{kind}": figures.toy_dynamics(example, kind)
        for kind, example in results["dynamics"]["examples"].items()
    }
    if results["responses"]["examples"]:  # none if no trial converged
        drawn["fig04_responses"] = figures.toy_responses(results["responses"])
    return drawn | {
        "fig03_success": figures.toy_success(results["tasks"]),
        "fig03_covariance": figures.toy_covariances(results["covariances"]),
        "fig04_active": figures.toy_active(
            results["tasks"], results["overlay"], results["config"]["learning_rate"]
        ),
    }


def train_table(
    config: Config, workdir: Path, table: sweeps.Settings
) -> tuple[sweeps.Trials, sweeps.Trials]:
    """Initial and trained parameters of every row; chunks already on disk are reused.

    Each chunk is a pure function of the flags, so a resumed run ends as one that was
    never stopped.
    """
    folder = workdir / runs.UNFINISHED
    folder.mkdir(exist_ok=True)
    initial = sweeps.init_trials(jax.random.key(config.seed), table, init=config.init)
    total = table.trial.size
    parts = []
    with runs.progress_bar(total, "trials") as advance:
        for start in range(0, total, CHUNK):
            chunk = initial.select(slice(start, start + CHUNK))
            path = folder / f"trials_{start:09d}.npz"
            if path.exists():
                trained = sweeps.Trials(**files.load_arrays(path, chunk._asdict()))
                advance(trained.error.size)
            else:
                trained = sweeps.train(chunk, steps=config.steps, progress=advance)
                files.save_arrays(path, trained._asdict())
                done = {"trials": start + trained.error.size, "of": total}
                done["converged"] = int(trained.converged.sum())
                files.append_metrics(workdir, done)
            parts.append(trained)
    return initial, sweeps.stack(parts)


def sweep(config: Config, workdir: Path) -> dict:
    """Everything that Figures 2 to 4 show, and observations 1 to 6 with controls."""
    tasks, branches = config.tasks_list, config.branches_list

    def rows(task, num_branches, trials, learning_rate=config.learning_rate):
        return sweeps.settings(
            task=task,
            num_branches=num_branches,
            negative_slope=config.negative_slope,
            init_scale=config.init_scale,
            learning_rate=learning_rate,
            trial=range(trials),
        )

    parts = {
        "sweep": rows(tasks, branches, config.trials_count),
        "alone": rows(tasks, 1, math.prod(config.control_shape)),
        "covariances": rows(tasks[0], COVARIANCE_BRANCHES, COVARIANCE_TRIALS),
        "responses": rows(tasks[-1], RESPONSE_BRANCHES, RESPONSE_TRIALS),
    }
    if config.overlay_learning_rate:
        parts["overlay"] = rows(
            tasks, branches, config.overlay_trials, config.overlay_learning_rate
        )
    table = sweeps.concatenate(*parts.values())
    part_of = np.repeat(list(parts), [part.trial.size for part in parts.values()])
    initial, trained = train_table(config, workdir, table)

    def part(name, task, trials=trained):
        return trials.select((part_of == name) & (table.task == task))

    # No network is in two sums, so that these are independent.
    members = np.arange(math.prod(config.control_shape)).reshape(config.control_shape)
    shape = (len(branches),)
    results, overlay = {}, {}
    for task in tasks:
        alone = part("alone", task)
        control = [measures.sum_trained_alone(alone, members[:m]) for m in branches]
        stages = {
            "converged": measures.measure_means(part("sweep", task), shape),
            "initial": measures.measure_means(part("sweep", task, initial), shape),
            "control": measures.measure_means(sweeps.stack(control), shape),
        }
        results[task] = outcome(branches, part("sweep", task), stages["converged"])
        results[task]["measures"] = stages
        results[task]["observations"] = evaluate(
            branches, **stages, success_interval=results[task]["success_interval"]
        )
        if config.overlay_learning_rate:
            smaller = part("overlay", task)
            means = measures.measure_means(smaller, shape)
            overlay[task] = outcome(branches, smaller, means)
    return {
        "tasks": results,
        "overlay": {"learning_rate": config.overlay_learning_rate, "tasks": overlay},
        "dynamics": dynamics(config, tasks[0]),
        "covariances": covariances(tasks[0], part("covariances", tasks[0])),
        "responses": responses(tasks[-1], part("responses", tasks[-1])),
    }


def phase(config: Config, workdir: Path) -> dict:
    """Success and active branches over learning rate x initial scale x slope."""
    axes = {name: list(getattr(config, flag)) for name, flag in PHASE_AXES.items()}
    tasks, branches = config.tasks_list, config.branches_list
    trial = range(config.trials_count)
    table = sweeps.settings(task=tasks, num_branches=branches, trial=trial, **axes)
    _, trained = train_table(config, workdir, table)
    shape = (len(branches), *map(len, axes.values()))
    results = {}
    for task in tasks:
        of_task = trained.select(table.task == task)
        means = measures.measure_means(of_task, shape)
        results[task] = {"axes": axes} | outcome(branches, of_task, means, shape)
    return {"tasks": results}


def outcome(branches, trained: sweeps.Trials, means: dict, shape=None) -> dict:
    """What results.json holds for each task: arrays over M, or over `shape`."""
    shape = shape or (len(branches),)
    return {
        "branches": branches,
        "trials": trained.error.size // math.prod(shape),
        **measures.success_rates(trained, shape),
        "mean_active": means["num_active"]["mean"],
        "mean_active_interval": means["num_active"]["interval"],
        "mean_silent": means["num_silent"]["mean"],
        "specialization_index": means["index"]["mean"],
    }


def dynamics(config: Config, task: str) -> dict:
    """Figure 2: the first typical run and the first of each rare kind, at M = 2."""
    x, y = (np.array(values) for values in toys.TASKS[task])
    network = toys.toy_network(2, init=config.init, init_scale=config.init_scale)
    key = jax.random.key(config.seed)
    options = {
        "learning_rate": config.learning_rate,
        "negative_slope": config.negative_slope,
        "steps": RECORD_STEPS,
        "every": RECORD_EVERY,
    }

    def follow(trial):
        params, _ = network.init(toys.trial_key(key, 2, trial))
        return toys.record(params, x, y, **options)

    recorded = np.array(jax.vmap(follow)(np.arange(SEARCH_TRIALS)))
    kinds = toys.classify_dynamics(recorded, y, RECORD_EVERY)
    examples = {}
    for kind, of_kind in kinds._asdict().items():
        if not of_kind.any():
            continue
        trial = int(of_kind.argmax())
        error = ((recorded[trial].sum(1) - y) ** 2).sum(-1)
        shown = min(error.size, int(1.5 * np.argmax(error < toys.TOLERANCE)) + 10)
        name = kind if kind == "typical" else f"rare_{kind}"
        examples[name] = {
            "task": task,
            "trial": trial,
            "share": of_kind.mean(),
            "steps": np.arange(shown) * RECORD_EVERY,
            "x": x,
            "y": y,
            "responses": recorded[trial, :shown],
        }
    return {"searched": SEARCH_TRIALS, "examples": examples}


def covariances(task: str, trained: sweeps.Trials) -> dict:
    """Figure 3 right: F F^T of the first ten trials at M = 10."""
    v = measures.trial_responses(trained)[:, :COVARIANCE_BRANCHES]
    return {
        "task": task,
        "branches": COVARIANCE_BRANCHES,
        "converged": trained.converged,
        "matrices": jax.vmap(covariance)(v),
    }


def responses(task: str, trained: sweeps.Trials) -> dict:
    """Figure 4 left and middle: two converged trials at M = 20.

    The first with 3 active branches, as in the paper, and the first with another count.
    """
    active = measures.measure_trials(trained).num_active
    three = np.flatnonzero(trained.converged & (active == 3))[:1]
    other = np.flatnonzero(trained.converged & (active != 3))[:1]
    x, y = toys.TASKS[task]
    examples = []
    for trial in [*three, *other]:
        one = trained.select([trial])
        examples.append(
            {
                "trial": trial,
                "num_active": active[trial],
                "w": one.w[:RESPONSE_BRANCHES, 0],
                "b": one.b[:RESPONSE_BRANCHES, 0],
                "negative_slope": one.negative_slope[0],
                "responses": measures.trial_responses(one)[0, :RESPONSE_BRANCHES],
            }
        )
    return {"task": task, "x": x, "y": y, "examples": examples}


def summary(results: dict) -> str:
    """The table that ends a run."""
    table = _phase_lines if results["config"]["mode"] == "phase" else _sweep_lines
    return "\n".join(
        line for task, data in results["tasks"].items() for line in table(task, data)
    )


def _phase_lines(task: str, data: dict) -> list[str]:
    """How many cells of the grid learn reliably, and in how many of them 6 holds."""
    success = np.array(data["success_rate"], float)[-1]
    active = np.array(data["mean_active"], float)
    quarter = quarter_index(data["branches"])
    lines = [f"{task}, {data['trials']} trials a cell, M = {data['branches']}"]
    for i, slope in enumerate(data["axes"]["negative_slope"]):
        learns = success[i] >= 0.95
        line = f"  slope {slope:<5g} success >= 0.95 in {learns.sum()} of "
        line += f"{learns.size} cells"
        if quarter is not None:
            with np.errstate(invalid="ignore", divide="ignore"):
                constant = learns & (active[-1][i] / active[quarter][i] <= 1.5)
            line += f"; in {constant.sum()} of these observation 6 holds"
        lines.append(line)
    return [*lines, f"  {np.sum(data['diverged'])} trials diverged"]


def _sweep_lines(task: str, data: dict) -> list[str]:
    lines = [
        f"{task}, {data['trials']} trials for each M",
        "   M  success  (95 % interval)  active  silent  index S  diverged",
    ]
    for i, m in enumerate(data["branches"]):
        low, high = data["success_interval"][i]
        lines.append(
            f"{m:4}  {data['success_rate'][i]:7.3f}  ({low:.3f}, {high:.3f})   "
            f"{number(data['mean_active'][i]):>6}  "
            f"{number(data['mean_silent'][i]):>6}  "
            f"{number(data['specialization_index'][i], 3):>7}  "
            f"{data['diverged'][i]:8}"
        )
    lines += ["", *observation_lines(data["observations"], ("value", "control"))]
    return [*lines, ""]


if __name__ == "__main__":
    runs.command_line(Config, main, NAME, __doc__)
