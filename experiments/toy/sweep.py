"""The sweep over M: Figures 2 to 4, and observations 1 to 6 with their control."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
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
            weight_decay=config.weight_decay,
            trial=range(trials),
        )

    parts = {
        "sweep": rows(tasks, branches, config.trials_count),
        "alone": rows(tasks, 1, math.prod(measures.control_shape(branches[-1]))),
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
    members = measures.control_members(branches[-1])
    sums = [measures.sum_trained_alone(alone, members[:m]) for m in branches]
    networks = (initial, trained, sweeps.stack(sums))
    keys = {"centred": jax.random.key(config.seed), "norm": None}
    by_rule = {
        rule: measures.measure_stages(*networks, shape, rule=rule, null_key=key)
        for rule, key in keys.items()
    }
    result = outcome(branches, trained, means=by_rule["norm"]["converged"])
    for rule in ("centred", "variance"):
        means = measures.measure_means(trained, shape, rule=rule)["num_active"]
        result[f"mean_active_{rule}"] = means["mean"]
    success = {
        "mean": result["success_rate"],
        "interval": result["success_interval"],
    }
    return result | {
        "measures": by_rule,
        "observations": observations.evaluate(branches, by_rule, success),
    }


def outcome(
    branches: list[int],
    trained: sweeps.Trials,
    shape: tuple[int, ...] | None = None,
    means: dict[str, dict] | None = None,
) -> dict[str, Any]:
    """Success, active and silent branches of a task, as arrays over M or `shape`.

    Branches are active by the paper's rule.

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
