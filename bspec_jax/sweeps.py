"""Sweeps: any number of toy networks trained at once, to the end.

A sweep is a table of trials. `settings` makes it, `init_trials` draws the parameters,
`train` fits them, `measure_trials` says what became of the branches; `outcome` and
`measure_means` average over trials. All keep the table's order.

Networks of several M are padded to one width with branches that are zero, stay zero and
count for nothing. Trials are the last axis, which is the one a CPU vectorises over.
Eq. 5 is written out instead of `jax.grad`, for speed alone: the two agree to rounding
(`toy.gradient_descent_step`).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from bspec_jax.observations import average
from bspec_jax.specialization import Specialization, measure
from bspec_jax.statistics import rate_interval
from bspec_jax.toy import (
    TASKS,
    TOLERANCE,
    InitDistribution,
    toy_network,
    trial_key,
)

TILE_ELEMENTS = 2**13  # branches x trials that are trained in one call on a CPU
MEASURE_ELEMENTS = 2**22  # covariance entries in one call of `measure_trials`


class Settings(NamedTuple):
    """A table of trials, one row each; every column is a NumPy array `[T]`."""

    task: np.ndarray  # name in TASKS
    num_branches: np.ndarray
    negative_slope: np.ndarray
    init_scale: np.ndarray
    learning_rate: np.ndarray
    trial: np.ndarray  # number of the trial: see `trial_key`


def settings(
    *, task, num_branches, negative_slope=0.01, init_scale=1.0, learning_rate, trial
) -> Settings:
    """All combinations of the given values; each is a value or a sequence of them.

    Rows are in the order of the arguments, the trial fastest: a column reshapes to
    `[task, num_branches, negative_slope, init_scale, learning_rate, trial]`.
    """
    values = (task, num_branches, negative_slope, init_scale, learning_rate, trial)
    grids = np.meshgrid(*map(np.atleast_1d, values), indexing="ij")
    return Settings(*(grid.ravel() for grid in grids))


def concatenate(*tables: Settings) -> Settings:
    """One table after another."""
    return Settings(*(np.concatenate(c) for c in zip(*tables, strict=True)))


class Trials(NamedTuple):
    """Networks of several sizes, padded to W branches; trials are the last axis.

    A padded branch is zero and stays zero. `train` returns the same tuple with other
    w, b, error and steps.
    """

    w: Float[np.ndarray, "W T"]
    b: Float[np.ndarray, "W T"]
    x: Float[np.ndarray, "N T"]
    y: Float[np.ndarray, "N T"]
    num_branches: Int[np.ndarray, " T"]
    learning_rate: Float[np.ndarray, " T"]
    negative_slope: Float[np.ndarray, " T"]
    error: Float[np.ndarray, " T"]  # sum_j (f(x_j) - y_j)^2
    steps: Int[np.ndarray, " T"]  # gradient steps taken

    def select(self, rows) -> "Trials":
        """The trials that a mask, a slice or an index array chooses."""
        return Trials(*(column[..., rows] for column in self))

    @property
    def converged(self):
        """Success in the sense of section 4.1, `[T]`."""
        return self.error < TOLERANCE

    @property
    def diverged(self):
        """No longer finite, `[T]`."""
        return ~np.isfinite(self.error)


def stack(parts: Sequence[Trials]) -> Trials:
    """One set of trials after another, padded to the widest."""
    width = _padded_width(max(part.w.shape[0] for part in parts))

    def widen(part):
        padding = ((0, width - part.w.shape[0]), (0, 0))
        return part._replace(w=np.pad(part.w, padding), b=np.pad(part.b, padding))

    columns = zip(*map(widen, parts), strict=True)
    return Trials(*(np.concatenate(column, -1) for column in columns))


def init_trials(
    key: Key[Array, ""],
    table: Settings,
    *,
    init: InitDistribution = "normal",
    dtype=np.float32,
) -> Trials:
    """Draws the initial parameters of every row of the table (NumPy, on the host).

    A row's branches are exactly those of `toy_network(M).init(trial_key(key, M, t))`.
    `dtype` is what `train` computes in; float64 needs `jax_enable_x64`.
    """
    width = _padded_width(int(table.num_branches.max()))
    w, b = _draw(key, table.num_branches, table.trial, table.init_scale, width, init)
    names, task = np.unique(table.task, return_inverse=True)
    x, y = np.array([TASKS[name] for name in names], dtype).transpose(1, 2, 0)
    trials = Trials(
        w=np.array(w, dtype),
        b=np.array(b, dtype),
        x=x[:, task],
        y=y[:, task],
        num_branches=table.num_branches.astype(np.int32),
        learning_rate=table.learning_rate.astype(dtype),
        negative_slope=table.negative_slope.astype(dtype),
        error=np.zeros(task.size, dtype),
        steps=np.zeros(task.size, np.int32),
    )
    return trials._replace(error=np.array(jax.jit(_squared_residual)(trials)))


@partial(jax.jit, static_argnames=("width", "init"))
def _draw(key, num_branches, trial, scale, width, init):
    network = toy_network(width, init=init)

    def one(num_branches, trial, scale):
        # The first M keys of a longer split are those of a split into M.
        params, _ = network.init(trial_key(key, num_branches, trial))
        kept = jnp.arange(width) < num_branches
        return tuple(jnp.where(kept, scale * params[name], 0) for name in ("w", "b"))

    return jax.vmap(one, out_axes=-1)(num_branches, trial, scale)


def train(
    trials: Trials,
    *,
    steps: int = 20_000,
    check_every: int = 100,
    progress: Callable[[int], None] = lambda finished: None,
) -> Trials:
    """Gradient descent on every trial, until it converges or `steps` are done.

    Every `check_every` steps the error is taken; a trial that is below `TOLERANCE`, or
    no longer finite, is left as it is from there on. Trials that still run are gathered
    into full tiles from time to time, so that finished ones stop costing.

    Args:
      trials: from `init_trials`.
      progress: is told the number of trials finished since it was last told.

    Returns the trials with their last parameters, error and number of steps.
    Source: eq. 2, 5 and 7. Cost: O(W N) per trial and step; one compilation for each
    power of two that M is padded to, shared by all tasks and hyperparameters.
    """
    trials = Trials(*(np.array(column) for column in trials))
    running = np.flatnonzero(_is_running(trials.error))
    progress(trials.error.size - running.size)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first, last in _rounds(steps, check_every):
            advance = partial(
                _advance_tile, trials, first=first, last=last, check_every=check_every
            )
            # list() waits for the tiles and raises what they raise
            list(pool.map(advance, _tiles(trials.num_branches, running)))
            left = running[_is_running(trials.error[running])]
            progress(running.size - left.size)
            running = left
            if not running.size:
                break
    progress(running.size)
    return trials


def _rounds(steps: int, check_every: int) -> Iterator[tuple[int, int]]:
    """Step ranges between two gatherings: a fifth of what is done, in whole checks."""
    first = 0
    while first < steps:
        last = first + check_every * max(1, first // (5 * check_every))
        yield first, min(last, steps)
        first = last


def _tiles(num_branches, running) -> Iterator[np.ndarray]:
    """Splits the indices `running` into tiles of about equal work and padded width."""
    sizes, size_of = np.unique(num_branches[running], return_inverse=True)
    width_of = np.array([_padded_width(m) for m in sizes.tolist()])[size_of]
    for width in np.unique(width_of)[::-1].tolist():
        members = running[width_of == width]
        size = _tile_size(width)
        yield from np.split(members, range(size, members.size, size))


def _advance_tile(trials: Trials, index, *, first, last, check_every) -> None:
    """Trains the trials at `index` and writes w, b, error and steps back in place."""
    width = _padded_width(int(trials.num_branches[index].max()))
    padding = (0, _tile_size(width) - index.size)

    def gather(column):
        rows = column[..., index]
        return np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [padding])

    narrow = trials._replace(w=trials.w[:width], b=trials.b[:width])
    tile = Trials(*map(gather, narrow))
    w, b, error, step = jax.device_get(_advance(tile, first, last, check_every))
    n = index.size
    trials.w[:width, index], trials.b[:width, index] = w[:, :n], b[:, :n]
    trials.error[index], trials.steps[index] = error[:n], step[:n]


@partial(jax.jit, static_argnames="check_every")
def _advance(tile: Trials, first, last, check_every):
    """Steps `first` to `last` of a tile; padding has error 0 and does not run."""
    width = tile.w.shape[0]
    is_branch = jnp.arange(width)[:, None] < tile.num_branches
    rate = jnp.where(is_branch, tile.learning_rate, 0)
    slope = tile.negative_slope

    def step(_, params):
        w, b = params
        # Eq. 5: dL/dw_k = sum_j D_collab_j * slope_kj * x_j, and without x_j for b.
        collaborative = _residual(w, b, tile)
        gradient_w = gradient_b = 0.0
        for x, d in zip(tile.x, collaborative, strict=True):
            g = jnp.where(w * x + b >= 0, d, slope * d)
            gradient_w, gradient_b = gradient_w + g * x, gradient_b + g
        return w - rate * gradient_w, b - rate * gradient_b

    def running(carry):
        _, _, error, _, now = carry
        return (now < last) & jnp.any(_is_running(error))

    def block(carry):
        w, b, error, steps, now = carry
        until = jnp.minimum(now + check_every, last)
        new_w, new_b = jax.lax.fori_loop(now, until, step, (w, b))
        new_error = (_residual(new_w, new_b, tile) ** 2).sum(0)
        keep = _is_running(error)
        w, b = jnp.where(keep, new_w, w), jnp.where(keep, new_b, b)
        error, steps = jnp.where(keep, new_error, error), jnp.where(keep, until, steps)
        return w, b, error, steps, until

    carry = (tile.w, tile.b, tile.error, tile.steps, jnp.int32(first))
    return jax.lax.while_loop(running, block, carry)[:4]


def _is_running(error):
    xp = jnp if isinstance(error, jax.Array) else np
    return (error >= TOLERANCE) & xp.isfinite(error)


def _residual(w, b, trials: Trials):
    """f(x_j) - y_j, `[N, T]`."""
    v = w[:, None] * trials.x + b[:, None]
    v = jnp.where(v >= 0, v, trials.negative_slope * v)
    # By halves, since XLA vectorises additions on a CPU, but not a fused reduction
    # over a leading axis.
    while v.shape[0] > 1:
        half = v.shape[0] // 2
        v = v[:half] + v[half:]
    return v[0] - trials.y


def _squared_residual(trials: Trials):
    return (_residual(trials.w, trials.b, trials) ** 2).sum(0)


def trial_responses(trials: Trials) -> Float[np.ndarray, "T W N"]:
    """Responses of every trial; rows beyond its own M are zero."""
    v = trials.w[:, None] * trials.x + trials.b[:, None]
    return np.where(v >= 0, v, trials.negative_slope * v).transpose(2, 0, 1)


def measure_trials(trials: Trials, **options) -> Specialization:
    """`specialization.measure` of every trial, fields `[T]` (NumPy).

    Every point is a region. Options are those of `measure`. A diverged trial's measures
    mean nothing.
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
    def one(v, m):
        return measure(v, num_branches=m, **options)

    return jax.vmap(one)(responses, num_branches)


def sum_trained_alone(alone: Trials, members: Int[np.ndarray, "M T"]) -> Trials:
    """The control of observations 1 to 5: networks trained separately and summed.

    Args:
      alone: trained networks of one branch each (M = 1), of one task.
      members: which M of them make each sum.
    """
    num_branches, count = members.shape
    return alone.select(members[0])._replace(
        w=alone.w[0, members],
        b=alone.b[0, members],
        num_branches=np.full(count, num_branches, np.int32),
        error=alone.error[members].max(0),  # diverged if a member is
    )


def success_rates(trials: Trials, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Success rate with its 95 % interval, and diverged trials (which count as failed).

    `shape` is that of the table without the trial axis; so is each result's.
    """
    rate, interval = rate_interval(trials.converged.reshape(*shape, -1))
    diverged = trials.diverged.reshape(*shape, -1).sum(-1)
    return {"success_rate": rate, "success_interval": interval, "diverged": diverged}


def measure_means(trials: Trials, shape: tuple[int, ...]) -> dict[str, dict]:
    """Mean and 95 % interval of each measure, over the trials that did not diverge.

    A trial is left out where its measure is undefined: a mean over active branches if
    none is active, a correlation if there is no pair. Keys are the fields of
    `Specialization`, values `{"mean": shape, "interval": [*shape, 2]}`.
    """
    measured = measure_trials(trials)
    table = Specialization(*(values.reshape(*shape, -1) for values in measured))
    return average(table, ~trials.diverged.reshape(*shape, -1))


def memory_estimate(num_trials: int, num_branches: int) -> int:
    """Bytes that training so many trials of up to so many branches takes, roughly."""
    width = _padded_width(num_branches)
    return 4 * (12 * num_trials * width + 3 * max(MEASURE_ELEMENTS, width**2))


def _padded_width(num_branches: int) -> int:
    return max(4, 1 << (num_branches - 1).bit_length())


def _tile_size(width: int) -> int:
    """Trials in a tile: as many as stay in a core's cache, or all that fill a GPU."""
    elements = TILE_ELEMENTS * (1 if jax.default_backend() == "cpu" else 256)
    return max(1, elements // width)
