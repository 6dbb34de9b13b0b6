"""The toys of section 4.1: one-neuron branches fitted to four points by gradient descent.

Two ways to train them, with the same result:

- `record` follows one network through `sum_of_branches` and `jax.grad` and returns the
  responses along the way (Fig. 2);
- `train` runs any number of trials (tasks, M, seeds, learning rates, slopes mixed
  freely) to the end as one padded computation with eq. 5 written out, and stops
  spending time on a trial as soon as it has converged (Figs. 3 and 4).

A sweep is a table: `settings` makes it, `init_trials` draws the parameters, `train`
fits them, `measure_trials` says what became of the branches. All four keep its order.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from bspec_jax.branching import Branch, BranchedNetwork, from_functions, sum_of_branches
from bspec_jax.losses import squared_error
from bspec_jax.specialization import Specialization, measure

InitDistribution = Literal["normal", "uniform"]

TOLERANCE = 1e-4  # success: sum_j (f(x_j) - y_j)^2 below this (section 4.1)
TILE_ELEMENTS = 2**13  # branches x trials that are trained in one call on a CPU
DORMANT_STEPS = 200  # both branches silent for so long counts as a takeover (Fig. 2)
MEASURE_CHUNK = 4096  # trials measured in one call


class Task(NamedTuple):
    """Points x_j and targets y_j of a one-dimensional regression."""

    x: tuple[float, ...]
    y: tuple[float, ...]


# Section 4.1. Toy 1 stands for a classification with balanced classes 1 and 0.5.
TASKS = {
    "toy1": Task(x=(-1.0, 0.0, 0.0, 1.0), y=(1.0, 0.5, 0.5, 1.0)),
    "toy2": Task(x=(-1.0, 0.0, 1.0, 2.0), y=(1.0, 0.25, 0.5, 0.75)),
}


def toy_branch(
    negative_slope: float = 0.01,
    init: InitDistribution = "normal",
    init_scale: float = 1.0,
) -> Branch:
    """One neuron, v(x) = leaky_relu(w x + b); params are `{"w": [], "b": []}`.

    Args:
      negative_slope: of the leaky ReLU.
      init: w and b are drawn from N(0, init_scale^2) or U(-init_scale, init_scale).

    Source: eq. 4. The paper does not give the slope or the initialisation.
    """
    draw = {"normal": jax.random.normal, "uniform": _symmetric_uniform}[init]

    def init_params(key):
        w, b = init_scale * draw(key, (2,))
        return {"w": w, "b": b}

    def apply(params, x):
        return jax.nn.leaky_relu(params["w"] * x + params["b"], negative_slope)

    return from_functions(init_params, apply)


def toy_network(num_branches: int, **branch_options) -> BranchedNetwork:
    """The sum of M toy branches; options as in `toy_branch`. f maps `[N]` to `[N]`."""
    return sum_of_branches(toy_branch(**branch_options), num_branches)


def trial_key(key: Key[Array, ""], num_branches, trial) -> Key[Array, ""]:
    """The key from which a numbered trial at M branches starts.

    It depends on nothing else: a trial begins alike in every task and setting, and can
    be run again alone: `toy_network(M).init(trial_key(key, M, trial))`.
    """
    return jax.random.fold_in(jax.random.fold_in(key, num_branches), trial)


def gradient_descent_step(params, x, y, *, learning_rate, negative_slope=0.01):
    """One full-batch step theta - learning_rate * dL/dtheta of a toy network.

    Args:
      params: `{"w": [M], "b": [M]}`.
      x, y: the task's points and targets, `[N]`.
    Source: eq. 2 and 7.
    """
    network = toy_network(params["w"].shape[0], negative_slope=negative_slope)

    def loss(params):
        return squared_error(network.apply(params, (), x)[0], y)

    gradient = jax.grad(loss)(params)
    return jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient)


@partial(jax.jit, static_argnames=("steps", "every"))
def record(
    params,
    x: Float[Array, " N"],
    y: Float[Array, " N"],
    *,
    steps: int,
    every: int,
    learning_rate: float = 0.02,
    negative_slope: float = 0.01,
) -> Float[Array, "S M N"]:
    """Every branch's response at every point along training (Fig. 2).

    Returns the responses after 0, every, 2 every, ... steps: S = steps // every + 1.
    vmap over `params` to follow many networks at once.
    """
    network = toy_network(params["w"].shape[0], negative_slope=negative_slope)

    def advance(params, _):
        def step(_, params):
            return gradient_descent_step(
                params,
                x,
                y,
                learning_rate=learning_rate,
                negative_slope=negative_slope,
            )

        responses, _ = network.responses(params, (), x)
        return jax.lax.fori_loop(0, every, step, params), responses

    last, responses = jax.lax.scan(advance, params, length=steps // every)
    final, _ = network.responses(last, (), x)
    return jnp.concatenate([responses, final[None]])


class Dynamics(NamedTuple):
    """What kind of training each of T recorded runs was, `[T]`; see `classify`."""

    typical: np.ndarray
    takeover: np.ndarray
    shared: np.ndarray


def classify_dynamics(
    responses: Float[np.ndarray, "T S M N"], y: Float[np.ndarray, " N"], every: int
) -> Dynamics:
    """Finds the three kinds of training that the caption of Figure 2 describes.

    All of them succeed. Per point, let the larger and the smaller be the two largest
    |v_k(x_j)|; a point is dormant while the larger is below 10 % of |y_j|.

    - typical: at the end the smaller is below 10 % of the larger at every point, and no
      point was ever dormant for `DORMANT_STEPS` steps in all.
    - takeover: some point was dormant for that long, until a branch took it over.
    - shared: at the end the smaller is at least a quarter of the larger at some point,
      and it is not a takeover.

    Args:
      responses: from `record`, one for each trial, with M at least 2.
      y: targets.
      every: steps between two records.
    """
    size = np.sort(np.abs(responses), axis=2)
    larger, smaller = size[:, :, -1], size[:, :, -2]
    success = ((responses[:, -1].sum(1) - y) ** 2).sum(-1) < TOLERANCE
    dormant = (larger < 0.1 * np.abs(y)).sum(1) * every >= DORMANT_STEPS
    ratio = smaller[:, -1] / np.maximum(larger[:, -1], np.finfo(np.float32).tiny)
    takeover = success & dormant.any(1)
    return Dynamics(
        typical=success & ~takeover & (ratio < 0.1).all(1),
        takeover=takeover,
        shared=success & ~takeover & (ratio >= 0.25).any(1),
    )


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

    w: Float[Array, "W T"]
    b: Float[Array, "W T"]
    x: Float[Array, "N T"]
    y: Float[Array, "N T"]
    num_branches: Int[Array, " T"]
    learning_rate: Float[Array, " T"]
    negative_slope: Float[Array, " T"]
    error: Float[Array, " T"]  # sum_j (f(x_j) - y_j)^2
    steps: Int[Array, " T"]  # gradient steps taken

    def select(self, rows) -> "Trials":
        """The trials that a mask, a slice or an index array chooses."""
        return Trials(*(column[..., rows] for column in self))

    @property
    def converged(self):
        return self.error < TOLERANCE

    @property
    def diverged(self):
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
    widths = np.array([_padded_width(m) for m in range(num_branches.max() + 1)])
    width_of = widths[num_branches[running]]
    for width in np.unique(width_of)[::-1]:
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
    # Halving keeps the sum one vectorised loop: 2 to 10 times as fast on a CPU as
    # XLA's reduction over a leading axis.
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
    padding = -m.size % MEASURE_CHUNK  # one shape, one compilation
    responses = np.pad(responses, ((0, padding), (0, 0), (0, 0)))
    m = np.pad(m, (0, padding), constant_values=1)
    chunks = [
        jax.device_get(_measure_chunk(responses[part], m[part], **options))
        for start in range(0, m.size, MEASURE_CHUNK)
        for part in [slice(start, start + MEASURE_CHUNK)]
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


def memory_estimate(num_trials: int, num_branches: int) -> int:
    """Bytes that training so many trials of up to so many branches takes, roughly."""
    return 4 * num_trials * _padded_width(num_branches) * 12


def _padded_width(num_branches: int) -> int:
    return max(4, 1 << (int(num_branches) - 1).bit_length())


def _tile_size(width: int) -> int:
    """Trials in a tile: as many as stay in a core's cache, or all that fill a GPU."""
    elements = TILE_ELEMENTS * (1 if jax.default_backend() == "cpu" else 256)
    return max(1, elements // width)


def _symmetric_uniform(key, shape):
    return jax.random.uniform(key, shape, minval=-1, maxval=1)
