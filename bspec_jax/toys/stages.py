"""Hessians and factors of many toy networks along training, summarised per stage.

The records hold what `results.json` and its figures need: means over networks with 95 %
intervals for every M, and distributions for the largest M.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from bspec_jax.analysis import gradients
from bspec_jax.analysis.observations import evaluate_hessian
from bspec_jax.analysis.statistics import mean_interval, rank_correlation, rate_interval
from bspec_jax.toys.hessians import THRESHOLDS, HessianMeasures

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
REPORTED = [THRESHOLDS.index(t) for t in gradients.THRESHOLDS]
AVERAGED = (
    "offdiagonal_ratio",
    "control_ratio",
    "mean_pair_ratio",
    "active_pair_ratio",
    "ratio_to_control",
    "small_blocks",
    "vanishing_difference",
    "index",
    "largest_eigenvalue",
    "gradient_norm",
)

Chosen = Callable[[HessianMeasures], Bool[np.ndarray, " T"]]


def record(
    step: int, by_branches: Mapping[int, HessianMeasures], learning_rate: float
) -> dict[str, Any]:
    """One stage: means for every M, and distributions for the largest M.

    Args:
      step: gradient steps so far.
      by_branches: measures by M, ascending; those of the largest M with all fields.
      learning_rate: of the training, which is stable while every eigenvalue stays
        below 2 / learning_rate.
    """
    largest = by_branches[max(by_branches)]
    ratio, index = largest.offdiagonal_ratio, largest.index
    counted = largest.defined & np.isfinite(ratio)
    rho, rho_interval = rank_correlation(ratio[counted], index[counted])
    measures = list(by_branches.values())
    return {
        "step": step,
        "measures": {name: means(measures, name) for name in AVERAGED},
        "block_norms": _mean(largest, "block_norms"),
        "offdiagonal_ratio": _mean(largest, "offdiagonal_ratio"),
        "offdiagonal_ratio_quantiles": _quantiles(ratio[counted]),
        "spectra": _spectra(largest, 2 / learning_rate),
        "factors": {
            "thresholds": THRESHOLDS,
            "distributive": _mean(largest, "distributive"),
            "collaborative": _mean(largest, "collaborative"),
        },
        "index": {
            "ratios": ratio[counted],
            "indices": index[counted],
            "rank_correlation": rho,
            "rank_correlation_interval": rho_interval,
        },
    }


def outcome(
    branches: Sequence[int],
    records: Sequence[Mapping[str, Any]],
    last: Mapping[int, HessianMeasures],
) -> dict[str, Any]:
    """The end of training: observation 7, section 8, and where factors vanish.

    Args:
      branches: the M, ascending.
      records: of all stages, the first at initialisation.
      last: measures of the last stage by M, ascending.
    """
    first_means, last_means = (records[i]["measures"] for i in (0, -1))
    measures = list(last.values())
    return {
        "branches": branches,
        "trials": measures[0].defined.size,
        "diverged": [(~m.defined).sum() for m in measures],
        "observations": evaluate_hessian(branches, last_means, first_means),
        "equilibria": {
            "thresholds": gradients.THRESHOLDS,
            "converged": _equilibrium(measures, lambda m: m.converged),
            "stuck": _equilibrium(measures, lambda m: ~m.converged),
        },
    }


def means(
    measures: Sequence[HessianMeasures],
    name: str,
    chosen: Chosen = lambda m: m.defined,
    rows=...,
) -> dict[str, Float[np.ndarray, "..."]]:
    """Mean and 95 % interval over networks of a measure, stacked over `measures`.

    Networks count if they did not diverge, are `chosen` and have a finite measure.

    Args:
      measures: one for each M.
      name: field of `HessianMeasures`.
      rows: index into the measure, before the axis of networks.
    """
    values = np.stack([getattr(m, name)[rows] for m in measures])
    counted = np.stack([m.defined & chosen(m) for m in measures])
    counted = counted.reshape(len(counted), *(1,) * (values.ndim - 2), -1)
    mean, interval = mean_interval(values, counted & np.isfinite(values))
    return {"mean": mean, "interval": interval}


def _mean(measures: HessianMeasures, name: str):
    """Mean over the networks of one M that did not diverge; NaN without any."""
    return means([measures], name)["mean"][0]


def _spectra(measures: HessianMeasures, limit: float) -> dict[str, Any]:
    """Mean spectra, and the largest eigenvalue against the limit of stability."""
    largest, defined = measures.largest_eigenvalue, measures.defined
    above = np.where(np.isnan(largest), np.nan, largest > limit)
    above, above_interval = rate_interval(above, defined)
    return {
        "limit": limit,
        "largest_quantiles": _quantiles(largest[defined]),
        "above_limit": above,
        "above_limit_interval": above_interval,
        "whole": _mean(measures, "spectrum"),
        "branches": _mean(measures, "branch_spectra"),
    }


def _quantiles(values):
    if not values.size:
        return np.full(len(QUANTILES), np.nan)
    return np.quantile(values, QUANTILES)


def _equilibrium(measures: Sequence[HessianMeasures], chosen: Chosen) -> dict[str, Any]:
    """Shares of vanishing factors of the chosen networks, for each M."""
    counts = [int((m.defined & chosen(m)).sum()) for m in measures]
    shares = {
        name: means(measures, name, chosen, REPORTED)
        for name in ("distributive", "collaborative")
    }
    scalars = {
        name: means(measures, name, chosen)
        for name in ("vanishing_difference", "gradient_norm")
    }
    return {"trials": counts, **shares, **scalars}
