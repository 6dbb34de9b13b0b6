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

FORETELLING = (0.0, 0.025, 0.05, 0.1, 0.2)  # shares of the steps


def measure(config: Config, dataset: data.Dataset) -> dict[str, Any]:
    """All that results.json holds."""
    loaded = cells.load(config, len(dataset.test.labels))
    of_main = [cell for cell in loaded if is_main_but_depth(config, cell)]
    main = next(cell for cell in of_main if cell.group.depth == config.depth)
    of_two = predictions.of_degree_two(config, loaded)
    limit = predictions.lambda_star(config, dataset) if of_two else np.inf
    return {
        "classes": dataset.class_names,
        "cells": [describe(config, cell) for cell in loaded],
        "example": example(main),
        "foretelling": [foretelling(cell) for cell in of_main],
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


def is_main_but_depth(config: Config, cell: Cell) -> bool:
    """Whether all of its settings, but for the depth, are the main ones."""
    group = cell.group
    return (
        group.branches == config.branches
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
            "train_accuracy": cell.records["train_accuracy"].mean(1),
        },
        "falls": falls(cell),
    }


def falls(cell: Cell) -> dict[str, Any]:
    """When the silent branches of all seeds fell for good, and who came back.

    decay_budget, train_accuracy: at the last record at which such a branch was active.
    revived: number of branches that end active and were silent before, but for those
        that were silent from the start.
    """
    active = cell.activity(cell.records["centred_norms"]) == 1  # [R, S, M]
    silent = cell.is_silent()
    last = len(active) - 1 - active[::-1].argmax(0)
    seed, branch = np.nonzero(silent & active.any(0))
    at = last[seed, branch]
    was_active = np.logical_or.accumulate(active)
    revived = ~silent & (was_active & ~active).any(0)
    return {
        "decay_budget": cell.budget[at],
        "train_accuracy": cell.records["train_accuracy"][at, seed],
        "revived": revived.sum(),
    }


def foretelling(cell: Cell) -> dict[str, Any]:
    """How early a branch's survival shows, and in what: AUCs, `[times]`, over seeds.

    norms: of the responses, with constants. growth: the data's pull over decay's, up to
    a factor that all branches share.
    """
    records = cell.records
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = records["growth"] / records["squared_norm"]
    scores = {
        "norms": records["norms"],
        "parameter_norms": records["squared_norm"],
        "growth": growth,
    }
    times = [cell.after(share) for share in FORETELLING]
    auc = {
        name: np.array([cell.foretold_by(score[at]) for at in times])
        for name, score in scores.items()
    }
    return {
        "degree": cell.group.degree,
        "share_of_steps": FORETELLING,
        "auc": {name: summary(v, ~np.isnan(v), (0, 1)) for name, v in auc.items()},
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
