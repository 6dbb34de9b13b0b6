"""The paper's claims as measures with thresholds, and what decides them.

An observation holds in a setting if the 95 % interval of its measure over networks lies
beyond the threshold and beyond what it is compared with: the same networks before
training, and a control, which has separately trained branches. It does not hold if the
interval lies entirely on the wrong side of any of these. Otherwise it is undecided, and
always for a single network. It is not tested where the runs lack what the claim is
about. `docs/theory.md` says when measures and thresholds were fixed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

BOTH = ("initial", "control")


class Observation(NamedTuple):
    """A claim, which holds if its measure is below (`below`) or above the threshold.

    compared: the stages beyond which the measure must lie, too.
    least: the smallest M of which the claim says anything.
    """

    measure: str
    threshold: float
    below: bool
    claim: str
    compared: tuple[str, ...] = ()
    least: int = 1


OBSERVATIONS = {
    1: Observation(
        "entropy", 0.8, True, "branches have regions of specialization", BOTH
    ),
    2: Observation(
        "active_per_region", 0.25, True, "regions are rarely shared", BOTH, 8
    ),
    3: Observation(
        "silent_share", 0.5, False, "a branch is silent in most regions", BOTH
    ),
    4: Observation(
        "silent_fraction", 0.25, False, "some branches are silent everywhere", BOTH, 16
    ),
    5: Observation("correlation", 0.3, True, "responses of branches correlate little"),
    6: Observation("active_growth", 1.5, True, "active branches hardly grow with M"),
    7: Observation(
        "block_index", 0.9, False, "the Hessian is nearly block diagonal", BOTH
    ),
    "section8": Observation(
        "vanishing_distributive",
        0.5,
        False,
        "it is the distributive factor that vanishes",
    ),
}
VERDICTS = {True: "holds", False: "does not hold", None: "undecided"}
UNTESTED = "not tested in the paper's regime"
ONE = "one network"  # of which there is no verdict
NAMES = {"initial": "the start", "control": "the control"}
DECAY_BUDGET = 5  # the least that the paper's regime has


def verdict(record: Mapping[str, Any]) -> str:
    """The verdict of a record in words; `ONE` where there can be none."""
    if record["networks"] == 1:
        return ONE
    return UNTESTED if record["regime"] else VERDICTS[record["holds"]]


def missing_regime(
    decay_budget: float | None,
    layers: int,
    *,
    steps: int | None = None,
    accuracy: float | None = None,
) -> str | None:
    """What networks lack of the paper's regime, in words; None if nothing.

    Args:
      decay_budget: beta, by the exponential of which parameters without gradient
        shrink; None where it is undefined, as for Adam with L2.
      layers: with weights, of a branch. Those of a toy have one, and need no decay.
      steps, accuracy: of the training and on test data, to be named beside.
    """
    if layers < 2 or (decay_budget is not None and decay_budget >= DECAY_BUDGET):
        return None
    has = "undefined" if decay_budget is None else f"{decay_budget:.2g}"
    after = "" if steps is None else f", after {steps:,} steps"
    at = "" if accuracy is None else f", at accuracy {accuracy:.3f}"
    return f"a decay budget of at least {DECAY_BUDGET} (it is {has}{after}{at})"


def judge(
    number: int | str,
    interval: Sequence[float],
    compared: Mapping[str, Sequence[float]],
) -> tuple[bool | None, str | None]:
    """Whether an observation holds, and the reason if it does not, or is undecided.

    Args:
      interval: 95 % interval of the measure.
      compared: the intervals that it is compared with, by stage. An interval that is
        not finite, NaN where undefined or infinite for a single network, decides
        nothing.
    """
    _, threshold, below, *_ = OBSERVATIONS[number]
    if not np.isfinite(interval).all():
        undefined = np.isnan(interval).any()
        return None, "undefined" if undefined else "no interval: too few, or all equal"
    for stage, bounds in compared.items():
        if not np.isfinite(bounds).all():
            return None, f"no interval of {NAMES[stage]}"
    sign = 1 if below else -1  # from here on, smaller is better
    low, high = sorted(sign * bound for bound in interval)
    limit, undecided = sign * threshold, None
    if low > limit:
        return False, "on the wrong side of the threshold"
    if high > limit:
        undecided = "the interval contains the threshold"
    for stage, bounds in compared.items():
        best, worst = sorted(sign * bound for bound in bounds)
        if low > worst:
            return False, f"on the wrong side of {NAMES[stage]}"
        if high >= best:
            undecided = undecided or f"the interval overlaps that of {NAMES[stage]}"
    return (None, undecided) if undecided else (True, None)
