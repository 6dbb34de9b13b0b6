"""Sweeps: any number of toy networks, trained together until each has converged.

A sweep is a table of trials: `settings` makes the table, `init_trials` draws the
parameters, `train` fits them. `measures` and `hessians` then measure the branches. All
keep the table's order.

Networks of several M are padded to one width with branches that are zero, stay zero and
add nothing. Trials are the last axis, which CPUs vectorise over. Eq. 5 is written out
only because it is faster than `jax.grad`: the two agree to rounding
(`dynamics.gradient_descent_step`).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from bspec_jax.numerics import check_count
from bspec_jax.toys.tasks import (
    TASKS,
    TOLERANCE,
    InitDistribution,
    toy_network,
    trial_key,
)

TILE_ELEMENTS = 2**13  # branches x trials trained in one call on a CPU
MEASURE_ELEMENTS = 2**22  # covariance entries per call of `measures.measure_trials`


class Settings(NamedTuple):
    """A table of trials, one row each; every column is a NumPy array `[T]`."""

    task: np.ndarray  # name in TASKS
    num_branches: np.ndarray
    negative_slope: np.ndarray
    init_scale: np.ndarray
    learning_rate: np.ndarray
    weight_decay: np.ndarray  # lambda of the penalty lambda / 2 (w^2 + b^2)
    trial: np.ndarray  # number, see `trial_key`


def settings(
    *,
    task,
    num_branches,
    negative_slope=0.01,
    init_scale=1.0,
    learning_rate,
    weight_decay=0.0,
    trial,
) -> Settings:
    """All combinations of the arguments, each of which is a value or a sequence.

    Rows are in the order of the arguments, trials varying fastest: a column reshapes to
    `[task, num_branches, negative_slope, init_scale, learning_rate, weight_decay,
    trial]`.
    """
    first = (task, num_branches, negative_slope, init_scale)
    values = (*first, learning_rate, weight_decay, trial)
    grids = np.meshgrid(*map(np.atleast_1d, values), indexing="ij")
    return Settings(*(grid.ravel() for grid in grids))


def concatenate(*tables: Settings) -> Settings:
    """One table after another."""
    return Settings(*(np.concatenate(c) for c in zip(*tables, strict=True)))


class Trials(NamedTuple):
    """Networks of several sizes, padded to W branches; trials are the last axis.

    A padding branch is zero and stays zero. `train` changes w, b, error and steps only.
    """

    w: Float[np.ndarray, "W T"]
    b: Float[np.ndarray, "W T"]
    x: Float[np.ndarray, "N T"]
    y: Float[np.ndarray, "N T"]
    num_branches: Int[np.ndarray, " T"]
    learning_rate: Float[np.ndarray, " T"]
    weight_decay: Float[np.ndarray, " T"]
    negative_slope: Float[np.ndarray, " T"]
    error: Float[np.ndarray, " T"]  # sum_j (f(x_j) - y_j)^2
    steps: Int[np.ndarray, " T"]  # gradient steps taken

    def select(self, rows) -> "Trials":
        """The trials that a mask, a slice or an index array selects."""
        return Trials(*(column[..., rows] for column in self))

    @property
    def converged(self) -> Bool[np.ndarray, " T"]:
        """Success as defined in section 4.1."""
        return self.error < TOLERANCE

    @property
    def diverged(self) -> Bool[np.ndarray, " T"]:
        """Whether the error is no longer finite."""
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

    Row t holds exactly the branches of `toy_network(M).init(trial_key(key, M, t))`.

    Args:
      init: distribution of w and b; see `tasks.toy_branch`.
      dtype: that `train` computes in; float64 needs `jax_enable_x64`.

    Raises:
      ValueError: for a table without trials, tasks that do not exist, and numbers of
        branches or trials that are not whole numbers, of at least 1 or 0.
    """
    _check_table(table)
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
        weight_decay=table.weight_decay.astype(dtype),
        negative_slope=table.negative_slope.astype(dtype),
        error=np.zeros(task.size, dtype),
        steps=np.zeros(task.size, np.int32),
    )
    return trials._replace(error=np.array(jax.jit(_squared_residual)(trials)))


def _check_table(table: Settings):
    if not table.task.size:
        raise ValueError("the table of settings has no trial")
    unknown = set(table.task.tolist()) - set(TASKS)
    if unknown:
        raise ValueError(f"there is no task {unknown.pop()!r}: choose from {[*TASKS]}")
    for name, least in (("num_branches", 1), ("trial", 0)):
        numbers = getattr(table, name)
        if not np.issubdtype(numbers.dtype, np.integer) or numbers.min() < least:
            raise ValueError(f"{name} must be whole numbers of at least {least}")


@partial(jax.jit, static_argnames=("width", "init"))
def _draw(key, num_branches, trial, scale, width, init):
    network = toy_network(width, init=init)

    def draw_trial(num_branches, trial, scale):
        # The first M keys of a longer split are those of a split into M.
        params, _ = network.init(trial_key(key, num_branches, trial))
        kept = jnp.arange(width) < num_branches
        scale = jnp.asarray(scale, params["w"].dtype)
        return tuple(jnp.where(kept, scale * params[name], 0) for name in ("w", "b"))

    return jax.vmap(draw_trial, out_axes=-1)(num_branches, trial, scale)


def train(
    trials: Trials,
    *,
    steps: int = 20_000,
    check_every: int = 100,
    progress: Callable[[int], None] = lambda finished: None,
) -> Trials:
    """Gradient descent on every trial, until it converges or has taken `steps` steps.

    The error, without the decay's penalty, is checked every `check_every` steps; a
    trial whose error is below `TOLERANCE` or no longer finite stops there. Running
    trials are repacked into full tiles from time to time, so that stopped ones cost
    nothing.

    Args:
      trials: from `init_trials` or an earlier `train`; not modified.
      steps: maximum number of gradient steps.
      check_every: steps between two checks.
      progress: takes the number of trials finished since its last call.

    Returns the trials with their last parameters, error and number of steps.

    Raises:
      ValueError: for a negative number of steps, and checks less than a step apart.
    Source: eq. 2, 5 and 7. Cost: O(W N) per trial and step; one compilation for each
    power of two that M is padded to, shared by all tasks and hyperparameters.
    """
    check_count("steps", steps, 0)
    check_count("check_every", check_every)
    trials = Trials(*(np.array(column) for column in trials))
    running = np.flatnonzero(_is_running(trials.error))
    progress(trials.error.size - running.size)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first, last in _rounds(steps, check_every):
            advance = partial(
                _advance_tile, trials, first=first, last=last, check_every=check_every
            )
            # list() waits for every tile and re-raises its exception.
            list(pool.map(advance, _tiles(trials.num_branches, running)))
            left = running[_is_running(trials.error[running])]
            progress(running.size - left.size)
            running = left
            if not running.size:
                break
    progress(running.size)
    return trials


def _rounds(steps: int, check_every: int) -> Iterator[tuple[int, int]]:
    """Step ranges between two repackings: a fifth of the steps so far, whole checks."""
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
    is_branch = jnp.arange(width)[:, None] < tile.num_branches[None, :]
    rate = jnp.where(is_branch, tile.learning_rate[None, :], 0)
    kept = 1 - rate * tile.weight_decay[None, :]  # 1 in padding
    slope = tile.negative_slope[None, :]

    def step(_, params):
        w, b = params
        # Eq. 5: dL/dw_k = sum_j D_collab_j * slope_kj * x_j, and without x_j for b.
        collaborative = _residual(w, b, tile)
        gradient_w = gradient_b = 0.0
        for x, d in zip(tile.x[:, None], collaborative[:, None], strict=True):
            g = jnp.where(w * x + b >= 0, d, slope * d)
            gradient_w, gradient_b = gradient_w + g * x, gradient_b + g
        return kept * w - rate * gradient_w, kept * b - rate * gradient_b

    def running(carry):
        _, _, error, _, now = carry
        return (now < last) & jnp.any(_is_running(error))

    def block(carry):
        w, b, error, steps, now = carry
        until = jnp.minimum(now + check_every, last)
        new_w, new_b = jax.lax.fori_loop(now, until, step, (w, b))
        new_error = (_residual(new_w, new_b, tile) ** 2).sum(0)
        keep = _is_running(error)
        w, b = (
            jnp.where(keep[None, :], new, old) for new, old in ((new_w, w), (new_b, b))
        )
        error, steps = jnp.where(keep, new_error, error), jnp.where(keep, until, steps)
        return w, b, error, steps, until

    carry = (tile.w, tile.b, tile.error, tile.steps, jnp.int32(first))
    return jax.lax.while_loop(running, block, carry)[:4]


def _is_running(error):
    xp = jnp if isinstance(error, jax.Array) else np
    return (error >= TOLERANCE) & xp.isfinite(error)


def _residual(w, b, trials: Trials):
    """f(x_j) - y_j, `[N, T]`."""
    v = w[:, None] * trials.x[None] + b[:, None]
    v = jnp.where(v >= 0, v, trials.negative_slope[None, None, :] * v)
    # By halves, since XLA vectorises additions on a CPU, but not a fused reduction
    # over a leading axis.
    while v.shape[0] > 1:
        half = v.shape[0] // 2
        v = v[:half] + v[half:]
    return v[0] - trials.y


def _squared_residual(trials: Trials):
    return (_residual(trials.w, trials.b, trials) ** 2).sum(0)


def memory_estimate(num_trials: int, num_branches: int) -> int:
    """Rough number of bytes to train `num_trials` trials of up to `num_branches`."""
    width = _padded_width(num_branches)
    return 4 * (12 * num_trials * width + 3 * max(MEASURE_ELEMENTS, width**2))


def _padded_width(num_branches: int) -> int:
    return max(4, 1 << (num_branches - 1).bit_length())


def _tile_size(width: int) -> int:
    """Trials per tile: as many as fit in a core's cache, or enough to fill a GPU."""
    elements = TILE_ELEMENTS * (1 if jax.default_backend() == "cpu" else 256)
    return max(1, elements // width)
