"""Records of the observations of section 4, from measures of many networks.

A *record* (from `evaluate`) states one observation's value, interval, what it is
compared with, and its verdict by `verdicts`; a *finding* (from `findings`) adds the
level and the setting, as in `results.json`. Verdicts rest on the centred responses;
those on the responses as they are, the paper's measure, stand beside them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bspec_jax.analysis.averages import summary
from bspec_jax.analysis.statistics import FEW, rate_difference
from bspec_jax.analysis.verdicts import BOTH, OBSERVATIONS, judge

SAME_SUCCESS = 0.005  # observation 6 compares networks that differ by no more
CHANGE = OBSERVATIONS["section8"].measure  # of a share, since the start
# Shown with the conjecture of section 8: shares of all (parameter, example) pairs.
BESIDE = ("vanishing_share", "vanishing_gradient", "orthogonal")


def evaluate(
    branches: Sequence[int],
    measures: Mapping[str, Mapping[str, Mapping]],
    success: Mapping[str, Any] | None = None,
    *,
    regime: str | None = None,
) -> dict[int, dict]:
    """Records of observations 1 to 6 at the largest M, by number.

    Args:
      branches: the values of M, ascending.
      measures: of the "centred" responses and by the paper's "norm" rule, each of
        `averages.average_stages` with the axis `[len(branches)]`; the first with the
        null correlation.
      success: "mean", `[len(branches)]`, and "interval", `[len(branches), 2]`, of the
        success rate or the accuracy. If networks of several M share a seed, "values",
        `[len(branches), seeds]`, in place of the interval.
      regime: what the runs lack of the paper's regime (`missing_regime`): nothing is
        decided then.

    A record has the number of `networks`, `value` and `interval`; those of the start
    and the control; `holds`, True, False or None, and the `reason` unless it is True;
    `regime`; what stands `beside` it, by name; and as `uncentred` the paper's measure
    with its verdict, and whether that `agrees`. With a single M there is no growth and
    no record of observation 6.
    """
    numbers = range(1, 6 if len(branches) == 1 else 7)
    records = {}
    for number in numbers:
        centred, norm = (
            _growth(branches, measures[rule], success, regime)
            if number == 6
            else _record(number, branches, measures[rule], regime)
            for rule in ("centred", "norm")
        )
        uncentred = {key: norm[key] for key in ("value", "interval", "holds")}
        uncentred["agrees"] = norm["holds"] is centred["holds"]
        records[number] = centred | {"uncentred": uncentred}
    for stage in ("change", "null"):
        records[5]["beside"][stage] = _last(measures["centred"][stage]["correlation"])
    return records


def evaluate_hessian(
    branches: Sequence[int],
    stages: Mapping[str, Mapping[str, Mapping]],
    *,
    regime: str | None = None,
) -> dict[int | str, dict]:
    """Records of observation 7 and of the conjecture of section 8.

    Observation 7 is taken at the largest M. Networks that fit their data have no
    collaborative factor left, so that the conjecture is taken at the largest M at which
    it is defined for enough networks: `FEW`, or as many as there are at any M.

    Args:
      branches: the values of M, ascending.
      stages: "converged", "initial" and "control", each with the mean, the interval and
        the number of networks, as in `evaluate`, of "block_index"
        (`hessian_measures.block_index`). After training also of "step_effect", of the
        shares `BESIDE`, and of "vanishing_distributive", the share of vanishing
        distributive factors minus that at the start; see `vanishing.vanishing_shares`.
      regime: as in `evaluate`.
    """
    converged = stages["converged"]
    block_diagonal = _record(7, branches, stages, regime)
    block_diagonal["beside"]["step_effect"] = _last(converged["step_effect"])
    networks = np.asarray(converged[CHANGE]["networks"])
    at = int(np.flatnonzero(networks >= min(FEW, networks.max()))[-1])
    vanishing = _record("section8", branches, _beyond_start(stages), regime, at)
    for name in BESIDE:
        vanishing["beside"][name] = _last(converged[name], at)
    return {7: block_diagonal, "section8": vanishing}


def _beyond_start(stages) -> dict:
    """The stages with the vanishing factors relative to those left at the start.

    (s - s_0) / (1 - s_0), with the mean s_0 over networks in the denominator: that of a
    single one may be close to 1.
    """
    share, change = (
        {key: np.asarray(of[key], float) for key in ("mean", "interval")}
        for of in map(stages["converged"].get, ("vanishing_share", CHANGE))
    )
    left = 1 - (share["mean"] - change["mean"])
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = {
            "mean": change["mean"] / left,
            "interval": change["interval"] / left[:, None],
        }
    converged = stages["converged"]
    converged = {**converged, CHANGE: {**converged[CHANGE], **relative}}
    return {**stages, "converged": converged}


def _record(number, branches, stages, regime, at=-1) -> dict:
    claim = OBSERVATIONS[number]
    means = {stage: stages[stage].get(claim.measure) for stage in ("converged", *BOTH)}
    found = {stage: _last(of_stage, at) for stage, of_stage in means.items()}
    interval = found["converged"]["interval"]
    compared = {stage: found[stage]["interval"] for stage in claim.compared}
    holds, reason = judge(number, interval, compared)
    if branches[at] < claim.least:
        holds, reason = None, f"it says nothing of M below {claim.least}"
    return {
        "claim": claim.claim,
        "measure": claim.measure,
        "threshold": claim.threshold,
        "branches": branches[at],
        **found["converged"],
        "initial": found["initial"]["value"],
        "initial_interval": found["initial"]["interval"],
        "control": found["control"]["value"],
        "control_interval": found["control"]["interval"],
        **_decided(found["converged"]["networks"], holds, reason, regime),
    }


def _decided(networks, holds, reason, regime) -> dict:
    """The end of a record: no verdict of one network, nor outside the regime."""
    if networks < 2:
        holds, reason = None, "one network" if networks else "no network"
    if regime:
        holds, reason = None, None
    return {"holds": holds, "reason": reason, "regime": regime, "beside": {}}


def _last(means: Mapping[str, Any] | None, at: int = -1) -> dict:
    """Value, interval and number of networks at one M; undefined for None."""
    if means is None:
        return {"value": math.nan, "interval": (math.nan,) * 2, "networks": 0}
    return {
        "value": means["mean"][at],
        "interval": tuple(means["interval"][at]),
        "networks": means["networks"][at],
    }


def quarter_index(branches: Sequence[int]) -> int | None:
    """Index of the M nearest a quarter of the last; None unless last / M is in 3..6."""
    ratios = branches[-1] / np.asarray(branches)
    nearest = int(np.abs(np.log(ratios / 4)).argmin())
    return nearest if 3 <= ratios[nearest] <= 6 else None


def _growth(branches, stages, success, regime) -> dict:
    """Observation 6: active branches at the largest M over those at a quarter of it.

    The control, of which nearly all branches are active, grows with M: it is shown
    only.
    """
    quarter = quarter_index(branches)
    at = quarter or 0
    active = {stage: stages[stage]["num_active"] for stage in ("converged", *BOTH)}
    (value, interval), (initial, _), (control, _) = (
        _ratio_of_means(means, at) for means in active.values()
    )
    holds, reason = judge(6, interval, {})
    difference = _success_difference(success, at)
    if not_compared := _not_compared(quarter, difference):
        holds, reason = None, not_compared
    networks = min(active["converged"]["networks"][i] for i in (at, -1))
    claim = OBSERVATIONS[6]
    record = {
        "claim": claim.claim,
        "measure": claim.measure,
        "threshold": claim.threshold,
        "branches": [branches[at], branches[-1]],
        "value": value,
        "interval": interval,
        "networks": networks,
        "initial": initial,
        "control": control,
        **_decided(networks, holds, reason, regime),
    }
    record["beside"]["success_difference"] = difference
    return record


def _ratio_of_means(means, at) -> tuple[float, tuple[float, float]]:
    """Of the last mean and another one, with its interval.

    That of independent means, by the delta method on the logarithm.
    """
    mean = np.asarray(means["mean"], float)
    half = np.asarray(means["interval"], float)[:, 1] - mean
    with np.errstate(divide="ignore", invalid="ignore"):
        value = mean[-1] / mean[at] if mean[at] else math.nan
        half = np.hypot(*(half / mean)[[at, -1]])
    if np.isinf(half):
        return value, (-math.inf, math.inf)
    return value, tuple(value * np.exp([-half, half]))


def _success_difference(success, at) -> dict:
    """The success at the largest M minus that at another one, with its interval."""
    if success is None:
        return _last(None)
    if "values" in success:
        values = np.asarray(success["values"], float)
        return _last(summary((values[-1] - values[at])[None], True, (-1, 1)))
    two = (np.asarray(success[key])[[at, -1]] for key in ("mean", "interval"))
    value, interval = rate_difference(*two)
    return {"value": value, "interval": tuple(interval)}


def _not_compared(quarter, difference) -> str | None:
    """Why the numbers of active branches at two M must not be compared."""
    if quarter is None:
        return "no M near a quarter of the largest"
    low, high = difference["interval"]
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval of the difference in success"
    if low >= -SAME_SUCCESS and high <= SAME_SUCCESS:
        return None
    return (
        f"success differs by {100 * difference['value']:.1f} points "
        f"({100 * low:.1f} to {100 * high:.1f}), not surely by at most "
        f"{100 * SAME_SUCCESS:g}"
    )


def findings(
    level: str, setting: str, records: Mapping[int | str, Mapping]
) -> list[dict]:
    """Records of one setting as a flat list, for the key `findings` of `results.json`.

    Args:
      level: "toy", "classifier" or "generator".
      setting: data, recipe and number of networks, in words.
      records: from `evaluate` or `evaluate_hessian`.
    """
    return [
        {"observation": number, "level": level, "setting": setting, **record}
        for number, record in records.items()
    ]
