"""What the branches of many trained toy networks do."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from bspec_jax.analysis.observations import OBSERVATIONS, average, quarter_index
from bspec_jax.analysis.specialization import Specialization, measure
from bspec_jax.analysis.statistics import rate_interval
from bspec_jax.toys.sweeps import MEASURE_ELEMENTS, Trials
from bspec_jax.toys.tasks import Scalar, toy_network


def trial_responses(trials: Trials) -> Float[np.ndarray, "T W N"]:
    """Responses of every trial; the rows of padding branches are zero."""
    with np.errstate(over="ignore", invalid="ignore"):  # of trials that diverged
        v = trials.w[:, None] * trials.x + trials.b[:, None]
        v = np.where(v >= 0, v, trials.negative_slope * v)
    return v.transpose(2, 0, 1)


def measure_trials(trials: Trials, **options) -> Specialization:
    """`specialization.measure` of every trial, fields `[T]` (NumPy).

    Every point is a region. Options are those of `measure`. The measures of a diverged
    trial are NaN.
    """
    responses, m = trial_responses(trials), trials.num_branches
    size = max(1, MEASURE_ELEMENTS // responses.shape[1] ** 2)
    padding = -m.size % size or size * (m.size == 0)  # one shape, one compilation
    responses = np.pad(responses, ((0, padding), (0, 0), (0, 0)))
    m = np.pad(m, (0, padding), constant_values=1)
    chunks = [
        jax.device_get(_measure_chunk(*part, **options))
        for part in zip(
            responses.reshape(-1, size, *responses.shape[1:]),
            m.reshape(-1, size),
            strict=True,
        )
    ]
    columns = zip(*chunks, strict=True)
    return Specialization(*(np.concatenate(c)[: trials.error.size] for c in columns))


@partial(jax.jit, static_argnames=("rule", "threshold", "centred"))
def _measure_chunk(responses, num_branches, **options):
    def measure_trial(v, m):
        return Specialization(*measure(v, num_branches=m, **options))

    return jax.vmap(measure_trial)(responses, num_branches)


def sum_trained_alone(alone: Trials, members: Int[np.ndarray, "M T"]) -> Trials:
    """The control of observations 1 to 5: networks trained separately and summed.

    Args:
      alone: trained networks of one branch each (M = 1), of one task.
      members: indices of the M networks in each sum.

    Raises:
      ValueError: if the members are no indices of networks, or these have more than a
        branch.
    """
    total = alone.error.size
    if not np.issubdtype(members.dtype, np.integer):
        raise ValueError(f"members must be indices, not {members.dtype}")
    if members.size and not 0 <= members.min() <= members.max() < total:
        raise ValueError(f"members must be in 0..{total - 1}")
    if (alone.num_branches != 1).any():
        raise ValueError("the members of a sum must have one branch each")
    num_branches, count = members.shape
    return alone.select(members[0])._replace(
        w=alone.w[0, members],
        b=alone.b[0, members],
        num_branches=np.full(count, num_branches, np.int32),
        error=alone.error[members].max(0),  # diverged if a member is
    )


def success_rates(trials: Trials, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Success rate with its 95 % interval, and the number of diverged trials.

    Diverged trials count as failures.

    Args:
      shape: of the table without its trial axis, and so of each result.
    """
    rate, interval = rate_interval(trials.converged.reshape(*shape, -1))
    diverged = trials.diverged.reshape(*shape, -1).sum(-1)
    return {"success_rate": rate, "success_interval": interval, "diverged": diverged}


def measure_means(trials: Trials, shape: tuple[int, ...]) -> dict[str, dict]:
    """Mean and 95 % interval of each measure, over the trials that did not diverge.

    A trial is left out where its measure is undefined: a mean over active branches if
    none is active, a correlation if there is no pair.

    Args:
      shape: of the table without its trial axis.

    Keys are the fields of `Specialization`; values are `{"mean": shape, "interval":
    [*shape, 2]}`.
    """
    measured = measure_trials(trials)
    table = Specialization(*(values.reshape(*shape, -1) for values in measured))
    return average(table, ~trials.diverged.reshape(*shape, -1))


def active_growth(
    branches: Sequence[int], mean_active: Float[np.ndarray, "M *grid"]
) -> dict[str, Any] | None:
    """Active branches at the largest M over those at a quarter of it (observation 6).

    Args:
      branches: the M, ascending.
      mean_active: mean number of active branches, for each of them.

    Returns the two M (`branches`), the `ratio` `[*grid]` (NaN where either mean is) and
    the `threshold` of observation 6; None if no M is near a quarter of the largest.
    """
    quarter = quarter_index(branches)
    if quarter is None:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = mean_active[-1] / mean_active[quarter]
    return {
        "branches": [branches[quarter], branches[-1]],
        "threshold": OBSERVATIONS[6].threshold,
        "ratio": ratio,
    }


class Curves(NamedTuple):
    """Piecewise linear functions of x: straight lines join the given points.

    responses: v_k(x).
    total: their sum f(x).
    """

    x: Float[np.ndarray, " K"]
    responses: Float[np.ndarray, "M K"]
    total: Float[np.ndarray, " K"]


def response_curves(
    w: Float[np.ndarray, " M"],
    b: Float[np.ndarray, " M"],
    negative_slope: Scalar,
    low: float,
    high: float,
) -> Curves:
    """The response of every branch and their sum on [low, high].

    The points are the ends and every x at which a branch bends, so that the lines
    between them are exact.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        bends = -b / w
    x = np.unique([low, *bends[(bends > low) & (bends < high)], high])
    network = toy_network(len(w), negative_slope=negative_slope)
    params = {"w": jnp.asarray(w), "b": jnp.asarray(b)}
    responses = np.asarray(network.responses(params, (), jnp.asarray(x, w.dtype))[0])
    return Curves(x, responses, responses.sum(0))
