"""The phase diagram: success and active branches over hyperparameters."""

from pathlib import Path
from typing import Any

from bspec_jax.toys import measures, sweeps
from experiments.toy.config import Config
from experiments.toy.sweep import outcome
from experiments.toy.training import train_table


def phase(config: Config, workdir: Path) -> dict[str, Any]:
    """What results.json holds of a phase diagram: learning rate x scale x slope."""
    axes, branches = config.phase_grid, config.branches_list
    table = sweeps.settings(
        task=config.tasks_list,
        num_branches=branches,
        weight_decay=config.weight_decay,
        trial=range(config.trials_count),
        **axes,
    )
    trained = train_table(config, workdir, table).trained
    shape = (len(branches), *map(len, axes.values()))
    results = {}
    for task in config.tasks_list:
        cells = outcome(branches, trained.select(table.task == task), shape)
        growth = measures.active_growth(branches, cells["mean_active"])
        results[task] = {"axes": axes, **cells, "active_growth": growth}
    return {"tasks": results, "findings": []}
