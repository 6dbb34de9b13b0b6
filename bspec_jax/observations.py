"""The observations of section 4 as measures with thresholds, and their verdicts.

The thresholds were fixed before any run. An observation holds in a setting when the
95 % interval of its measure lies beyond the threshold and beyond the control: networks
trained separately and summed, for the covariances; parameters regrouped at random,
for the Hessian.
"""

import math
from typing import NamedTuple


class Observation(NamedTuple):
    """What is measured; it holds below (`below`) or above the threshold."""

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
}


def holds(
    number: int,
    interval: tuple[float, float],
    control_interval: tuple[float, float] | None = None,
) -> bool | None:
    """Whether an observation holds, from the 95 % intervals of measure and control.

    None where the measure or the control is undefined (NaN).
    """
    _, threshold, below, _ = OBSERVATIONS[number]
    bounds = [*interval, *(() if control_interval is None else control_interval)]
    if any(math.isnan(bound) for bound in bounds):
        return None
    low, high = interval
    if below:
        beyond = control_interval is None or high < control_interval[0]
        return bool(high <= threshold and beyond)
    beyond = control_interval is None or low > control_interval[1]
    return bool(low >= threshold and beyond)
