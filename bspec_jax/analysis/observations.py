"""The observations of section 4 as measures with thresholds, and their verdicts.

The thresholds were fixed before any run. An observation holds in a setting if the 95 %
interval of its measure lies beyond both the threshold and the control. The control is a
sum of separately trained networks for the responses, and randomly regrouped parameters
for the Hessian. The observation does not hold if the interval lies entirely on the
wrong side of either. Otherwise, for example with too few networks, it is undecided.

A *record* (from `evaluate`) states one observation's value, interval, control and
verdict; a *finding* (from `findings`) adds the level and the setting, as in
`results.json`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bspec_jax.analysis.specialization import Specialization
from bspec_jax.analysis.statistics import mean_interval, rate_interval


class Observation(NamedTuple):
    """A claim, which holds if its measure is below (`below`) or above the threshold."""

    measure: str
    threshold: float
    below: bool
    claim: str


OBSERVATIONS = {
    1: Observation("entropy", 0.8, True, "branches have regions of specialization"),
    2: Observation("active_per_region", 0.25, True, "regions are rarely shared"),
    3: Observation("silent_share", 0.5, False, "a branch is silent in most regions"),
    4: Observation("any_silent", 0.95, False, "some branches are silent everywhere"),
    5: Observation("correlation", 0.3, True, "responses of branches correlate little"),
    6: Observation("active_growth", 1.5, True, "active branches hardly grow with M"),
    7: Observation(
        "ratio_to_control", 0.5, True, "the Hessian is nearly block diagonal"
    ),
    "section8": Observation(
        "vanishing_difference",
        0.0,
        False,
        "it is the distributive factor that vanishes",
    ),
}
VERDICTS = {True: "holds", False: "does not hold", None: "undecided"}


def holds(
    number: int | str,
    interval: tuple[float, float],
    control_interval: tuple[float, float] | None = None,
) -> bool | None:
    """Whether an observation holds, from the 95 % intervals of measure and control.

    None (undecided) if the interval contains the threshold, overlaps the control's, or
    is not finite: NaN where undefined, infinite for a single network.
    """
    _, threshold, below, _ = OBSERVATIONS[number]
    bounds = [*interval, *(() if control_interval is None else control_interval)]
    if not all(math.isfinite(bound) for bound in bounds):
        return None
    sign = 1 if below else -1  # from here on, smaller is better
    limit = sign * threshold
    low, high, *control = (sign * bound for bound in bounds)
    low, high = sorted((low, high))
    if high <= limit and (not control or high < min(control)):
        return True
    if low > limit or (control and low > max(control)):
        return False
    return None


# Where a measure is defined; measures that are not listed always are. NaN is not 0: a
# network whose responses are not finite counts, and makes the mean NaN.
DEFINED: dict[str, Callable[[Specialization], np.ndarray]] = {
    "entropy": lambda m: m.num_active != 0,
    "silent_share_of_active": lambda m: m.num_active != 0,
    "correlation": lambda m: m.active_pairs != 0,
}
RATES = {"any_silent"}  # measures that are 0 or 1


def average(measured: Specialization, counts=True) -> dict[str, dict]:
    """Mean and 95 % interval of each measure over networks, the last axis.

    Args:
      measured: NumPy arrays, `[..., T]`.
      counts: which networks count, `[..., T]`: leave out those that diverged, since
        a single NaN makes the mean NaN. A network is also left out where its measure is
        undefined: a mean over active branches if none is active, a correlation without
        a pair.

    Returns:
      For each field of `Specialization` a dict with its `mean`, `[...]`, and
      `interval`, `[..., 2]`.
    """
    means = {}
    for name, values in measured._asdict().items():
        defined = counts & DEFINED.get(name, lambda _: True)(measured)
        kind = rate_interval if name in RATES else mean_interval
        mean, interval = kind(values, defined)
        means[name] = {"mean": mean, "interval": interval}
    return means


def evaluate(
    branches: Sequence[int],
    converged: Mapping[str, dict],
    initial: Mapping[str, dict],
    control: Mapping[str, dict],
    success_interval,
) -> dict[int, dict]:
    """Records of observations 1 to 6 at the largest M, by number.

    Args:
      branches: the values of M, ascending.
      converged: for each measure, its mean and 95 % interval over seeds after training,
        `{"mean": [len(branches)], "interval": [len(branches), 2]}`.
      initial: the same at initialisation.
      control: the same for sums of separately trained networks.
      success_interval: 95 % interval of the success rate or accuracy for each M.

    `holds` is None where there is no verdict: if the measure or its control is NaN, for
    a single network, for observation 2 if M < 8, and for observation 6 if `branches`
    has no value near a quarter of the largest (see `quarter_index`). With a single M
    there is no growth and no record of observation 6.
    """
    records = {}
    for number in range(1, 6):
        name = OBSERVATIONS[number].measure
        interval = tuple(converged[name]["interval"][-1])
        control_interval = tuple(control[name]["interval"][-1])
        value, control_value = converged[name]["mean"][-1], control[name]["mean"][-1]
        defined = not (math.isnan(value) or math.isnan(control_value))
        defined = defined and (number != 2 or branches[-1] >= 8)
        records[number] = _record(
            number,
            branches=branches[-1],
            value=value,
            interval=interval,
            initial=initial[name]["mean"][-1],
            control=control_value,
            control_interval=control_interval,
            holds=holds(number, interval, control_interval) if defined else None,
        )
    if len(branches) == 1:
        return records
    stages = (converged["num_active"], initial["num_active"], control["num_active"])
    return records | {6: _active_growth(branches, *stages, success_interval)}


def evaluate_hessian(
    branches: Sequence[int],
    converged: Mapping[str, dict],
    initial: Mapping[str, dict],
) -> dict[int | str, dict]:
    """Records of observation 7 and of the conjecture of section 8, at the largest M.

    Args:
      branches: the values of M, ascending.
      converged: mean and interval over seeds after training, as in `evaluate`, of
        "offdiagonal_ratio", "control_ratio", "ratio_to_control" and
        "vanishing_difference": the share of (parameter, example) pairs whose
        distributive factor is below 1e-2 of its initial root mean square, minus the
        share of examples whose collaborative factor is.
      initial: the same at initialisation.

    Observation 7 also requires the off-diagonal ratio to be below its value at
    initialisation. Its measure, a ratio to the control, already contains the control.
    """

    def record(number, control=None, control_interval=None):
        measure = converged[OBSERVATIONS[number].measure]
        interval = tuple(measure["interval"][-1])
        return _record(
            number,
            branches=branches[-1],
            value=measure["mean"][-1],
            interval=interval,
            initial=initial[OBSERVATIONS[number].measure]["mean"][-1],
            control=control,
            control_interval=control_interval,
            holds=holds(number, interval),
        )

    ratio, control = "offdiagonal_ratio", converged["control_ratio"]
    block_diagonal = record(7, control["mean"][-1], tuple(control["interval"][-1]))
    if block_diagonal["holds"]:
        end, start = converged[ratio]["interval"][-1], initial[ratio]["interval"][-1]
        defined = all(math.isfinite(bound) for bound in (*end, *start))
        block_diagonal["holds"] = bool(end[1] < start[0]) if defined else None
    vanishing = record("section8")
    if vanishing["holds"]:  # strictly above the threshold, unlike the other measures
        vanishing["holds"] = bool(vanishing["interval"][0] > 0)
    return {7: block_diagonal, "section8": vanishing}


def _record(number: int | str, **measured) -> dict:
    measure, threshold, _, claim = OBSERVATIONS[number]
    return {"claim": claim, "measure": measure, "threshold": threshold, **measured}


def quarter_index(branches: Sequence[int]) -> int | None:
    """Index of the M nearest a quarter of the last; None unless last / M is in 3..6."""
    ratios = branches[-1] / np.asarray(branches)
    nearest = int(np.abs(np.log(ratios / 4)).argmin())
    return nearest if 3 <= ratios[nearest] <= 6 else None


def _active_growth(branches, converged, initial, control, success_interval) -> dict:
    """Observation 6: active branches at the largest M over those at a quarter of it.

    The interval is that of a ratio of independent means (delta method on the
    logarithm). The verdict ignores the control: nearly all of its branches are active,
    so that its growth is that of M.
    """
    quarter = quarter_index(branches)
    defined = quarter is not None
    quarter = quarter or 0
    mean = np.asarray(converged["mean"], float)
    low, high = np.asarray(converged["interval"], float).T

    def growth(mean):
        return mean[-1] / mean[quarter] if mean[quarter] else math.nan

    with np.errstate(divide="ignore", invalid="ignore"):
        relative = (high - low) / 2 / mean
        half = np.hypot(relative[-1], relative[quarter])
        interval = tuple(growth(mean) * np.exp([-half, half]))
    finite = math.isfinite(growth(mean))
    verdict = holds(6, interval) if defined and finite else None
    if verdict:
        ends = success_interval[-1][1], success_interval[quarter][0]
        verdict = bool(ends[0] >= ends[1]) if np.isfinite(ends).all() else None
    return _record(
        6,
        branches=[branches[quarter], branches[-1]],
        value=growth(mean),
        interval=interval,
        initial=growth(initial["mean"]),
        control=growth(control["mean"]),
        control_interval=None,
        holds=verdict,
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
