"""Hessians of toys along training: observation 7 and section 8."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bspec_jax import runs
from bspec_jax.analysis import observations
from bspec_jax.storage import files
from bspec_jax.toys import hessians, stages, sweeps
from bspec_jax.toys.measures import control_members, control_shape, sum_trained_alone
from experiments.hessian.config import Config


class TaskRecords(NamedTuple):
    """What is kept of a task's stages.

    stages: of `stages.record`.
    example: Hessian of one network at each stage, if it is small enough to be drawn.
    last: measures of the last stage so far, by M.
    """

    stages: list[dict[str, Any]]
    example: list[dict[str, Any]]
    last: dict[int, hessians.HessianMeasures]


def measure(config: Config, workdir: Path) -> dict[str, Any]:
    """What results.json holds: all measures at all stages, for each task and M."""
    branches = config.branches_list
    table, alone = tables(config)
    records = {task: TaskRecords([], [], {}) for task in config.tasks_list}
    for step, trials in train_stages(config, workdir, sweeps.concatenate(table, alone)):
        networks = trials.select(slice(table.trial.size))
        separate = trials.select(slice(table.trial.size, None))
        for task, of_task in records.items():
            measure_stage(config, step, networks.select(table.task == task), of_task)
    results, findings = {}, []
    for task, of_task in records.items():
        control = measure_control(config, separate.select(alone.task == task))
        outcome = stages.outcome(branches, of_task.stages, of_task.last, control)
        results[task] = outcome | {"stages": of_task.stages, "example": of_task.example}
        findings += observations.findings(
            "toy", config.setting(task, config.trials), outcome["observations"]
        )
    return {"tasks": results, "findings": findings}


def tables(config: Config) -> tuple[sweeps.Settings, sweeps.Settings]:
    """The networks of every M, and those of one branch that the control is a sum of."""

    def rows(num_branches, trials):
        return sweeps.settings(
            task=config.tasks_list,
            num_branches=num_branches,
            negative_slope=config.negative_slope,
            init_scale=config.init_scale,
            learning_rate=config.learning_rate,
            trial=range(trials),
        )

    alone = math.prod(control_shape(config.branches_list[-1]))
    return rows(config.branches_list, config.trials), rows(1, alone)


def measure_control(
    config: Config, alone: sweeps.Trials
) -> dict[int, hessians.HessianMeasures]:
    """The Hessians of sums of networks that were trained separately, by M."""
    members = control_members(config.branches_list[-1])
    measured = {}
    for m in config.branches_list:
        _, measures = hessians.measure(
            sum_trained_alone(alone, members[:m]),
            leaves=config.leaves,
            negative_slope=config.negative_slope,
            float64=config.float64,
        )
        measured[m] = measures.without_arrays_over_branches()
    return measured


def train_stages(
    config: Config, workdir: Path, table: sweeps.Settings
) -> Iterator[tuple[int, sweeps.Trials]]:
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
            # Networks that have converged or diverged stay as they are.
            with runs.progress_bar(table.trial.size, f"to step {step}") as advance:
                trials = sweeps.train(trials, steps=step - before, progress=advance)
            files.save_arrays(path, trials._asdict())
            metrics = {"step": step, "converged": int(trials.converged.sum())}
            files.append_metrics(workdir, metrics)
        before = step
        yield step, trials


def measure_stage(
    config: Config, step: int, trials: sweeps.Trials, records: TaskRecords
) -> None:
    """Measures a task's networks of every M and adds the stage to its records."""
    branches = config.branches_list
    measured = {}
    for m in branches:
        before = records.last.get(m)
        h, measures = hessians.measure(
            trials.select(trials.num_branches == m),
            leaves=config.leaves,
            initial=None if before is None else before.scales,
            negative_slope=config.negative_slope,
            float64=config.float64,
        )
        if m == config.shown_branches:
            records.example.append(
                {
                    "step": step,
                    "branches": m,
                    "offdiagonal_ratio": measures.offdiagonal_ratio[0],
                    "hessian": np.reshape(h, (h.shape[0] * h.shape[1], -1)),
                }
            )
        if m < branches[-1]:  # distributions are reported for the largest M only
            measures = measures.without_arrays_over_branches()
        measured[m] = measures
    records.stages.append(stages.record(step, measured, config.learning_rate))
    records.last.update(measured)
