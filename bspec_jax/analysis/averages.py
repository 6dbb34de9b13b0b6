"""Means of the measures of many networks, with 95 % intervals over the networks."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from bspec_jax.analysis.specialization import Specialization
from bspec_jax.analysis.statistics import mean_interval

# Where a measure is defined; counts always are. NaN is not 0: a network whose responses
# are not finite counts, and makes the mean NaN.
DEFINED: dict[str, Callable[[Specialization], np.ndarray]] = {
    "entropy": lambda m: m.num_active != 0,
    "active_per_region": lambda m: m.num_active != 0,
    "silent_share": lambda m: m.num_active != 0,
    "silent_fraction": lambda m: m.num_active != 0,
    "correlation": lambda m: m.active_pairs != 0,
}
COUNTS = ("num_active", "num_silent", "active_pairs")  # all others are in 0..1


def average(
    measured: Specialization, counts: Bool[np.ndarray, "*M T"] | bool = True
) -> dict[str, dict]:
    """Mean of each measure over networks, the last axis, with its interval.

    Args:
      measured: NumPy arrays, `[..., T]`.
      counts: which networks count: leave out those that diverged, since a single NaN
        makes the mean NaN. A network is also left out where its measure is undefined:
        observations 1 to 4 if no branch is active, a correlation without a pair.

    Returns:
      For each field of `Specialization` a dict with its `mean`, `[...]`, its
      `interval`, `[..., 2]`, and the number of `networks` behind them, `[...]`. The
      intervals of shares stay in 0..1; see `statistics.mean_interval`.
    """
    return {
        name: summary(
            values,
            counts & _defined(name, measured),
            (0, np.inf if name in COUNTS else 1),
        )
        for name, values in measured._asdict().items()
    }


def average_stages(
    converged: Specialization,
    initial: Specialization,
    control: Specialization,
    null: Float[np.ndarray, "*M T"] | None = None,
    counts: Bool[np.ndarray, "*M T"] | bool = True,
    control_counts: Bool[np.ndarray, "*M S"] | bool = True,
) -> dict[str, dict[str, dict]]:
    """What `observations.evaluate` takes by one rule of activity.

    Args:
      converged, initial: measures of the same networks after and before training.
      control: of sums of separately trained networks; NaN if there are none.
      null: `specialization.null_correlation` after training.
      counts, control_counts: which networks, and which sums, count.

    Returns:
      `average` of the networks `converged` and `initial`, and of the `control`; of the
      correlation also the `change` from the start, whose interval is that of the
      changes of each network, and its `null`, if given.
    """
    name = "correlation"
    defined = counts & _defined(name, converged)
    changed = defined & _defined(name, initial)
    change = summary(converged.correlation - initial.correlation, changed, (-1, 1))
    stages = {
        "converged": average(converged, counts),
        "initial": average(initial, counts),
        "control": average(control, control_counts),
        "change": {name: change},
    }
    if null is not None:
        stages["null"] = {name: summary(null, defined, (0, 1))}
    return stages


def summary(values, counts, bounds=(-np.inf, np.inf)) -> dict[str, Any]:
    """`statistics.mean_interval`, and the number of networks that count."""
    mean, interval = mean_interval(values, counts, bounds)
    networks = np.broadcast_to(counts, np.shape(values)).sum(-1)
    return {"mean": mean, "interval": interval, "networks": networks}


def _defined(name: str, measured: Specialization):
    return DEFINED.get(name, lambda _: True)(measured)
