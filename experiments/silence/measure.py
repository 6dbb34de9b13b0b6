"""What results.json holds: cells, curves along training, and the predictions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bspec_jax import data
from bspec_jax.analysis.averages import summary
from bspec_jax.analysis.statistics import mean_interval
from bspec_jax.classifier.sweeps import activity
from experiments.silence import cells, predictions
from experiments.silence.cells import Cell
from experiments.silence.config import Config


def measure(config: Config, dataset: data.Dataset) -> dict[str, Any]:
    """All that results.json holds."""
    loaded = cells.load(config, len(dataset.test.labels))
    main = next(cell for cell in loaded if is_main(config, cell))
    of_two = predictions.of_degree_two(config, loaded)
    limit = predictions.lambda_star(config, dataset) if of_two else np.inf
    return {
        "classes": dataset.class_names,
        "cells": [describe(config, cell) for cell in loaded],
        "example": example(main),
        "predictions": predictions.evaluate(config, loaded, limit),
        "threshold": threshold(of_two, limit),
    }


def threshold(of_two: Sequence[Cell], limit: float) -> dict[str, Any] | None:
    """What is left of networks of degree 2, by decay; None if none is beyond lambda*.

    The root mean square response of the largest branch, and the active share.
    """
    if not any(cell.weight_decay > limit for cell in of_two):
        return None
    of_two = sorted(of_two, key=lambda cell: cell.weight_decay)
    largest = np.array([cell.sizes.max(-1) for cell in of_two])
    shares = np.array([1 - cell.silent_share for cell in of_two])
    return {
        "lambda_star": limit,
        "decays": [cell.weight_decay for cell in of_two],
        "largest": summary(largest, True),
        "active_share": summary(shares, True, (0, 1)),
    }


def is_main(config: Config, cell: Cell) -> bool:
    """Whether all of its settings are the main ones."""
    group = cell.group
    return (
        group.branches == config.branches
        and group.depth == config.depth
        and group.normalisation == config.normalisation
        and cell.weight_decay == config.weight_decay
        and cell.learning_rate == config.learning_rate
        and cell.init_scale == config.init_scale
    )


def describe(config: Config, cell: Cell) -> dict[str, Any]:
    """A cell of results.json: its setting, and lists over seeds."""
    group, trained = cell.group, cell.trained
    share = cell.activity(cell.records["centred_norms"]).mean(-1)  # [R, S]
    mean, interval = mean_interval(share)
    return {
        "branch": group.branch,
        "widths": group.widths,
        "depth": group.depth,
        "normalisation": group.normalisation,
        "degree": group.degree,
        "branches": group.branches,
        "init_scale": cell.init_scale,
        "decay": cell.weight_decay,
        "learning_rate": cell.learning_rate,
        "steps": config.steps,
        "decay_budget": cell.budget[-1],
        "accuracy": trained.accuracy,
        "accuracy_removed": trained.accuracy_removed,
        "accuracy_pruned": trained.accuracy_pruned,
        "train_accuracy": cell.records["train_accuracy"][-1],
        "active": activity(trained.norms).sum(-1),
        "active_centred": cell.active,
        "active_variance": activity(trained.variances).sum(-1),
        "along_training": {
            "decay_budget": cell.budget,
            "active_share": mean.clip(0, 1),
            "active_share_interval": interval.clip(0, 1),
        },
    }


def example(cell: Cell) -> dict[str, Any]:
    """The branches of one network along its training."""
    return {
        "degree": cell.group.degree,
        "decay_budget": cell.budget,
        "norms": cell.records["norms"][:, 0].T,
        "centred_norms": cell.records["centred_norms"][:, 0].T,
        "layer_norms": np.moveaxis(cell.records["layer_norms"][:, 0], 0, -1),
        "is_silent": cell.is_silent()[0],
    }
