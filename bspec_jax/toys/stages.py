"""Hessians and factors of many toy networks along training, summarised per stage.

The records hold what `results.json` and its figures need: means over networks with 95 %
intervals for every M, and distributions for the largest M.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from bspec_jax.analysis.averages import summary
from bspec_jax.analysis.observations import evaluate_hessian
from bspec_jax.analysis.statistics import rank_correlation, rate_interval
from bspec_jax.analysis.vanishing import THRESHOLDS, VANISHED
from bspec_jax.toys.hessians import HessianMeasures

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SHARES = ("distributive", "gradient", "orthogonal", "collaborative")
# The measures that are averaged, with their least and greatest value.
BOUNDS = {
    "block_index": (-np.inf, 1),
    "step_effect": (0, np.inf),
    "offdiagonal_ratio": (0, np.inf),
    "mean_pair_ratio": (0, np.inf),
    "active_pair_ratio": (0, np.inf),
    "small_blocks": (0, 1),
    "vanishing_distributive": (-1, 1),
    "index": (0, 1),
    "largest_eigenvalue": (-np.inf, np.inf),
    "gradient_norm": (0, np.inf),
}
# Names of the shares of vanishing pairs at the threshold of the conjecture.
VANISHING = {
    "vanishing_share": "distributive",
    "vanishing_gradient": "gradient",
    "orthogonal": "orthogonal",
}

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
    block_index = largest.block_index
    ratio, index = largest.offdiagonal_ratio, largest.index
    counted = largest.defined & np.isfinite(ratio)
    rho, rho_interval = rank_correlation(ratio[counted], index[counted])
    measures = list(by_branches.values())
    shares = {
        name: means(measures, share, rows=THRESHOLDS.index(VANISHED))
        for name, share in VANISHING.items()
    }
    return {
        "step": step,
        "measures": {name: means(measures, name) for name in BOUNDS} | shares,
        "block_norms": _mean(largest, "block_norms"),
        "offdiagonal_ratio": _mean(largest, "offdiagonal_ratio"),
        "block_index_quantiles": _quantiles(block_index[np.isfinite(block_index)]),
        "spectra": _spectra(largest, 2 / learning_rate),
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
    control: Mapping[int, HessianMeasures],
) -> dict[str, Any]:
    """The end of training: observation 7, section 8, and where factors vanish.

    Args:
      branches: the M, ascending.
      records: of all stages, the first at initialisation.
      last: measures of the last stage by M, ascending.
      control: the same of sums of separately trained networks. With the squared error,
        whose d2L/df2 is 1, and branches without second derivatives, their Hessian is
        that of their Jacobians, whatever the sum is.
    """
    first_means, last_means = (records[i]["measures"] for i in (0, -1))
    control_means = {"block_index": means(list(control.values()), "block_index")}
    stage_means = {
        "converged": last_means,
        "initial": first_means,
        "control": control_means,
    }
    measures = list(last.values())
    return {
        "branches": branches,
        "trials": measures[0].defined.size,
        "diverged": [(~m.defined).sum() for m in measures],
        "control": control_means,
        "observations": evaluate_hessian(branches, stage_means),
        "equilibria": {
            "thresholds": THRESHOLDS,
            "converged": _equilibrium(measures, lambda m: m.converged),
            "stuck": _equilibrium(measures, lambda m: ~m.converged),
        },
    }


def means(
    measures: Sequence[HessianMeasures],
    name: str,
    chosen: Chosen = lambda m: m.defined,
    rows=...,
) -> dict[str, Any]:
    """`averages.summary` over networks of a measure, stacked over `measures`.

    Networks count if they did not diverge, are `chosen` and have a finite measure.

    Args:
      measures: one for each M.
      name: field of `HessianMeasures`.
      rows: index into the measure, before the axis of networks.
    """
    values = np.stack([getattr(m, name)[rows] for m in measures])
    counted = np.stack([m.defined & chosen(m) for m in measures])
    counted = counted.reshape(len(counted), *(1,) * (values.ndim - 2), -1)
    bounds = (0, 1) if name in SHARES else BOUNDS.get(name, (-np.inf, np.inf))
    return summary(values, counted & np.isfinite(values), bounds)


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
    shares = {name: means(measures, name, chosen) for name in SHARES}
    scalars = {
        name: means(measures, name, chosen)
        for name in ("vanishing_distributive", "gradient_norm")
    }
    return {"trials": counts, **shares, **scalars}
