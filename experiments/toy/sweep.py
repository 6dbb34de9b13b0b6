"""The sweep over M: Figures 2 to 4, and observations 1 to 6 with their control."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bspec_jax.analysis import observations
from bspec_jax.toys import measures, sweeps
from experiments.toy import examples
from experiments.toy.config import Config
from experiments.toy.training import Networks, train_table


class SweepNetworks(NamedTuple):
    """All networks of the sweep, with the part and the task of each."""

    networks: Networks
    part: np.ndarray
    task: np.ndarray

    def select(self, part: str, task: str) -> Networks:
        """The networks of a part of the sweep, for one task."""
        rows = (self.part == part) & (self.task == task)
        return Networks(*(trials.select(rows) for trials in self.networks))


def sweep(config: Config, workdir: Path) -> dict[str, Any]:
    """What results.json holds of a sweep."""
    tasks = config.tasks_list
    all_networks = train(config, workdir)
    results, overlay = {}, {}
    for task in tasks:
        results[task] = observe(config, all_networks, task)
        if config.overlay_learning_rate:
            overlay[task] = outcome(
                config.branches_list, all_networks.select("overlay", task).trained
            )
    first, last = (all_networks.select("sweep", tasks[i]).trained for i in (0, -1))
    return {
        "tasks": results,
        "overlay": {"learning_rate": config.overlay_learning_rate, "tasks": overlay},
        "dynamics": examples.dynamics(config, tasks[0]),
        "covariances": examples.covariances(config, tasks[0], first),
        "responses": examples.responses(config, tasks[-1], last),
        "findings": [
            finding
            for task in tasks
            for finding in observations.findings(
                "toy",
                config.setting(task, config.trials_count),
                results[task]["observations"],
            )
        ],
    }


def train(config: Config, workdir: Path) -> SweepNetworks:
    """Trains every network of the sweep as one table."""
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
    }
    if config.overlay_learning_rate:
        parts["overlay"] = rows(
            tasks, branches, config.overlay_trials, config.overlay_learning_rate
        )
    table = sweeps.concatenate(*parts.values())
    part = np.repeat(list(parts), [part.trial.size for part in parts.values()])
    return SweepNetworks(train_table(config, workdir, table), part, table.task)


def observe(config: Config, all_networks: SweepNetworks, task: str) -> dict[str, Any]:
    """A task's rates and means over M, and its observations with their control."""
    branches, shape = config.branches_list, (len(config.branches_list),)
    initial, trained = all_networks.select("sweep", task)
    alone = all_networks.select("alone", task).trained
    # Each network is in one sum only, so that the sums are independent.
    members = np.arange(math.prod(config.control_shape)).reshape(config.control_shape)
    control = [measures.sum_trained_alone(alone, members[:m]) for m in branches]
    stages = {
        "converged": measures.measure_means(trained, shape),
        "initial": measures.measure_means(initial, shape),
        "control": measures.measure_means(sweeps.stack(control), shape),
    }
    result = outcome(branches, trained, means=stages["converged"])
    return result | {
        "measures": stages,
        "observations": observations.evaluate(
            branches, **stages, success_interval=result["success_interval"]
        ),
    }


def outcome(
    branches: list[int],
    trained: sweeps.Trials,
    shape: tuple[int, ...] | None = None,
    means: dict[str, dict] | None = None,
) -> dict[str, Any]:
    """Success, active and silent branches of a task, as arrays over M or `shape`.

    Args:
      shape: of the table without its trial axis. Default: that of `branches`.
      means: of `measures.measure_means`, if they are known.
    """
    shape = shape or (len(branches),)
    means = means or measures.measure_means(trained, shape)
    return {
        "branches": branches,
        "trials": trained.error.size // math.prod(shape),
        **measures.success_rates(trained, shape),
        "mean_active": means["num_active"]["mean"],
        "mean_active_interval": means["num_active"]["interval"],
        "mean_silent": means["num_silent"]["mean"],
        "specialization_index": means["index"]["mean"],
    }
