"""What the branches of many trained toy networks do."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from bspec_jax.analysis.averages import average, average_stages
from bspec_jax.analysis.observations import quarter_index
from bspec_jax.analysis.specialization import (
    ActivityRule,
    Specialization,
    input_regions,
    measure,
    null_correlation,
    region_energy,
    regional,
)
from bspec_jax.analysis.statistics import rate_interval
from bspec_jax.analysis.verdicts import OBSERVATIONS
from bspec_jax.toys.sweeps import MEASURE_ELEMENTS, Trials
from bspec_jax.toys.tasks import Scalar, toy_network

CONTROL_POOL = 3000  # networks trained alone, whose sums are the control


def trial_responses(trials: Trials) -> Float[np.ndarray, "T W N"]:
    """Responses of every trial; the rows of padding branches are zero."""
    with np.errstate(over="ignore", invalid="ignore"):  # of trials that diverged
        v = trials.w[:, None] * trials.x + trials.b[:, None]
        v = np.where(v >= 0, v, trials.negative_slope * v)
    return v.transpose(2, 0, 1)


def measure_trials(
    trials: Trials, *, rule: ActivityRule = "norm", threshold: float = 0.1
) -> Specialization:
    """`specialization.measure` of every trial, fields `[T]` (NumPy).

    A region is a distinct point. The measures of a diverged trial are NaN.
    """
    points, task = np.unique(trials.x.T, axis=0, return_inverse=True)
    shape = len(Specialization._fields), trials.error.size
    measured = np.empty(shape, trials.w.dtype)
    for i, x in enumerate(points):
        regions = input_regions(x)
        options = {"num_regions": int(regions.max()) + 1, "rule": rule}
        of_chunk = partial(_measure_chunk, regions, threshold=threshold, **options)
        rows = task.ravel() == i
        measured[:, rows] = _in_chunks(of_chunk, trials.select(rows))
    return Specialization(*measured)


@partial(jax.jit, static_argnames=("num_regions", "rule", "threshold"))
def _measure_chunk(regions, responses, num_branches, *, num_regions, rule, threshold):
    def measure_trial(v, m):
        energy = region_energy(regional(v, rule), regions, num_regions)
        options = {"rule": rule, "threshold": threshold}
        return Specialization(*measure(v, energy=energy, num_branches=m, **options))

    return jax.vmap(measure_trial)(responses, num_branches)


def null_correlations(
    trials: Trials, key: Key[Array, ""], *, rule: ActivityRule = "norm"
) -> Float[np.ndarray, " T"]:
    """`specialization.null_correlation` of every trial, each with a key of its own."""
    keys = jax.random.key_data(jax.random.split(key, trials.error.size))
    return _in_chunks(partial(_null_chunk, rule=rule), trials, np.asarray(keys))


@partial(jax.jit, static_argnames="rule")
def _null_chunk(responses, _, keys, *, rule):
    keys = jax.random.wrap_key_data(keys)
    return jax.vmap(partial(null_correlation, rule=rule))(responses, keys)


def _in_chunks(of_chunk: Callable[..., Any], trials: Trials, *columns) -> np.ndarray:
    """A function of the responses of trials, a few at a time, `[..., T]`.

    Args:
      of_chunk: takes responses, numbers of branches, and the columns, and gives arrays
        with one entry for each trial.
      columns: more arrays `[T, ...]`.
    """
    arrays = (trial_responses(trials), trials.num_branches, *columns)
    total = trials.error.size
    most = max(1, MEASURE_ELEMENTS // trials.w.shape[0] ** 2)
    size = min(most, 1 << (total - 1).bit_length())  # few shapes, few compilations
    chunks = []
    for start in range(0, total, size):
        index = np.arange(start, start + size) % total
        part = of_chunk(*(array[index] for array in arrays))
        chunks.append(np.asarray(jax.device_get(part)))
    return np.concatenate(chunks, -1)[..., :total]


def control_shape(most_branches: int) -> tuple[int, int]:
    """Networks in the control's largest sum, and the number of sums.

    Of `CONTROL_POOL` networks trained alone, or as many as ten sums take.
    """
    return most_branches, max(10, CONTROL_POOL // most_branches)


def control_members(most_branches: int) -> Int[np.ndarray, "M T"]:
    """The networks in each sum of the control; for a smaller M the first rows.

    Each network is in one sum only, so that the sums are independent.
    """
    shape = control_shape(most_branches)
    return np.arange(math.prod(shape)).reshape(shape)


def sum_trained_alone(alone: Trials, members: Int[np.ndarray, "M T"]) -> Trials:
    """The control of the observations: networks trained separately and summed.

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


def measure_means(
    trials: Trials, shape: tuple[int, ...], *, rule: ActivityRule = "norm"
) -> dict[str, dict]:
    """`averages.average` over the trials that did not diverge.

    Args:
      shape: of the table without its trial axis, and so of each mean.
    """
    return average(*_table(trials, shape, rule))


def measure_stages(
    initial: Trials,
    trained: Trials,
    control: Trials,
    shape: tuple[int, ...],
    *,
    rule: ActivityRule,
    null_key: Key[Array, ""] | None = None,
) -> dict[str, dict[str, dict]]:
    """`averages.average_stages` of toys, for `observations.evaluate`.

    Args:
      initial, trained: the same trials before and after training.
      control: of `sum_trained_alone`, for each row of the table.
      shape: of the tables without their trial axis.
      null_key: of the permutations behind the null correlation; None to leave it out.
    """
    after, counts = _table(trained, shape, rule)
    before, _ = _table(initial, shape, rule)
    sums, control_counts = _table(control, shape, rule)
    null = None
    if null_key is not None:
        null = null_correlations(trained, null_key, rule=rule).reshape(*shape, -1)
    return average_stages(after, before, sums, null, counts, control_counts)


def _table(trials, shape, rule):
    """The measures of all trials, and which did not diverge, `[*shape, T]`."""
    measured = measure_trials(trials, rule=rule)
    table = Specialization(*(values.reshape(*shape, -1) for values in measured))
    return table, ~trials.diverged.reshape(*shape, -1)


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
