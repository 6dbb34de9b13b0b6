"""Many classifiers of one architecture, trained together in one batched computation.

Networks differ in their seed, which decides initial parameters and the order of the
data, and in their settings. They form a grid, seeds x settings: the networks of a seed
read the same batches, so that their first layers are one matrix product. A network of
the grid is the one that `training.fit` trains with that key and those hyperparameters,
to rounding.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from bspec_jax.batching import batches_of_one_shape
from bspec_jax.branching import BranchedNetwork
from bspec_jax.classifier.network import EVALUATION_BATCH, Pixels
from bspec_jax.classifier.recipe import Recipe, count_steps
from bspec_jax.classifier.training import (
    Training,
    TrainState,
    compiled,
    epoch_order,
    pure_training,
)
from bspec_jax.data import Split
from bspec_jax.data.augmentation import normalise
from bspec_jax.storage import resumable
from bspec_jax.trees import Tree

# The axes of a state: those of the grid in all but the step, which all networks share.
STACKED = TrainState(step=None, params=0, batch_stats=0, opt_state=0)


class Settings(NamedTuple):
    """What the networks of a seed differ in; columns `[K]`.

    init_scale: of all initial parameters, relative to the usual ones.
    """

    learning_rate: Float[np.ndarray, " K"]
    weight_decay: Float[np.ndarray, " K"]
    init_scale: Float[np.ndarray, " K"]


def sweep(
    network: BranchedNetwork, recipe: Recipe, pixels: Pixels, total_steps: int
) -> Training:
    """`training.training` of a grid of networks.

    init: `(keys [S], settings, images) -> TrainState`, leaves `[S, K, M, ...]`.
    step: `(state, settings, keys [S], images, labels, index [S, batch]) ->
        (state, log)`; the log's entries have the leading axes S and K. Donates `state`.
    """

    def functions(setting: Settings) -> Training:
        own = recipe._replace(
            learning_rate=setting.learning_rate, weight_decay=setting.weight_decay
        )
        return pure_training(network, own, pixels, total_steps)

    def init(keys, settings, images):
        def one(key, setting):
            state = functions(setting).init(key, images)
            scaled = jax.tree.map(lambda p: setting.init_scale * p, state.params)
            return state._replace(params=scaled)

        of_seed = jax.vmap(one, (None, 0), STACKED)
        return jax.vmap(of_seed, (0, None), STACKED)(keys, settings)

    def step(state, settings, keys, images, labels, index):
        def one(state, setting, key, index):
            return functions(setting).step(state, key, images, labels, index)

        of_seed = jax.vmap(one, (STACKED, 0, None, None), (STACKED, 0))
        of_grid = jax.vmap(of_seed, (STACKED, None, 0, 0), (STACKED, 0))
        return of_grid(state, settings, keys, index)

    return compiled(Training(init, step))


@jax.jit
def join(trees: Sequence[Tree]) -> Tree:
    """One tree of those of several seeds each, along their leading axis."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)


def joined(states: Sequence[TrainState]) -> TrainState:
    """The state of a grid, leaves `[S, K, M, ...]`, of the states of its parts."""
    return TrainState(states[0].step, *join([state[1:] for state in states]))


def parts_of(num_seeds: int) -> list[slice]:
    """The seeds that take a step in one call.

    On a CPU, one: the networks of all seeds would not fit into a cache, and XLA would
    allocate their buffers anew in each step. On an accelerator, all: a step is short,
    and the call would cost more.
    """
    size = 1 if jax.default_backend() == "cpu" else num_seeds
    return [slice(first, first + size) for first in range(0, num_seeds, size)]


def fit(
    network: BranchedNetwork,
    recipe: Recipe,
    pixels: Pixels,
    examples: Split,
    keys: Key[Array, " S"],
    settings: Settings,
    folder: Path,
    *,
    steps: int,
    log_every: int,
    checkpoint_every: int,
    on_log: Callable[[TrainState, int, dict[str, np.ndarray]], Any],
) -> TrainState:
    """Trains a grid of networks, from the newest checkpoint in `folder` if any.

    A network that diverges goes on with NaN; the others are not affected.

    Args:
      recipe: of all networks; its epochs, learning rate and decay are not used.
      keys: of the seeds.
      on_log: takes the state, the number of steps done, and the logs of the steps since
        the last call, stacked `[steps, S, K, ...]`.

    Returns:
      The state of the grid, leaves `[S, K, M, ...]`.

    Raises:
      ArgumentError: as `training.fit`.
      UserError: if a checkpoint is damaged.
    """
    count_steps(recipe, len(examples.labels))
    images, labels = (jnp.asarray(part) for part in examples)
    per_epoch = len(labels) // recipe.batch_size
    # As in `training.fit`.
    init_keys, order_keys, step_keys = jax.vmap(lambda key: jax.random.split(key, 3))(
        keys
    ).T
    functions = sweep(network, recipe, pixels, steps)
    settings = jax.tree.map(jnp.asarray, settings)
    parts = parts_of(len(keys))
    keys_of_parts = [step_keys[p] for p in parts]
    state = resumable.resume(
        folder,
        joined([functions.init(init_keys[p], settings, images[:1]) for p in parts]),
    )

    @lru_cache(1)
    def order(epoch) -> Int[np.ndarray, "K S batch"]:
        orders = [
            epoch_order(key, epoch, len(labels), recipe.batch_size)
            for key in order_keys
        ]
        return np.stack(orders, 1)

    def advance(states, step):
        epoch, batch = divmod(step, per_epoch)
        index = order(epoch)[batch]
        results = [
            functions.step(state, settings, key, images, labels, index[p])
            for state, key, p in zip(states, keys_of_parts, parts, strict=True)
        ]
        states, logs = zip(*results, strict=True)
        return states, join(logs)

    states = [
        TrainState(state.step + 0, *jax.tree.map(lambda leaf, p=p: leaf[p], state[1:]))
        for p in parts
    ]
    states = resumable.train_loop(
        advance,
        states,
        range(int(state.step), steps),
        log_every=(log_every,),
        save_every=checkpoint_every,
        on_log=lambda states, step, log: on_log(joined(states), step, log),
        save=lambda states: resumable.save(folder, joined(states)),
        name=folder.name,
        check=lambda *_: None,
    )
    return joined(states)


class Measured(NamedTuple):
    """Measures of a grid of networks on labelled images, in evaluation mode.

    norms, centred_norms, variances: of each branch's responses; `centred_norms` after
        its mean output is removed. What the three rules of activity compare.
    accuracy: of the sum.
    accuracy_removed: of the sum of the branches that are active by the centred rule.
    accuracy_pruned: of that sum and the mean outputs of the silent branches, as of
        `pruning.prune`.
    """

    norms: Float[np.ndarray, "S K M"]
    centred_norms: Float[np.ndarray, "S K M"]
    variances: Float[np.ndarray, "S K M"]
    accuracy: Float[np.ndarray, "S K"]
    accuracy_removed: Float[np.ndarray, "S K"]
    accuracy_pruned: Float[np.ndarray, "S K"]


def measure(
    network: BranchedNetwork,
    params: Tree,
    batch_stats: Tree,
    examples: Split,
    pixels: Pixels,
) -> Measured:
    """Measures all networks; responses are computed four times and never kept.

    Once for the means that the second time subtracts, since a silent branch's constant
    output would drown the rest in rounding; then without the silent branches.
    """
    model = (network, params, batch_stats, examples, pixels)
    sums = _over_batches(_sums, *model)
    n = len(examples.labels)
    mean = sums["response"] / n
    squares = _over_batches(_centred_sums, *model, mean)
    centred = np.sqrt(squares)
    active = activity(centred)
    removed = _over_batches(_correct, *model, active, 0 * mean)
    pruned = _over_batches(_correct, *model, active, mean)
    spread = squares / n + ((mean - mean.mean(-1, keepdims=True)) ** 2).sum(-1)
    return Measured(
        norms=np.sqrt(sums["energy"]),
        centred_norms=centred,
        variances=spread / mean.shape[-1],
        accuracy=sums["correct"] / n,
        accuracy_removed=removed / n,
        accuracy_pruned=pruned / n,
    )


def activity(sizes: Float[np.ndarray, "*T M"]) -> Float[np.ndarray, "*T M"]:
    """1 where a branch's size is at least a tenth of the network's largest, else 0.

    NaN for a network with a size that is not finite.
    """
    active = (sizes >= 0.1 * sizes.max(-1, keepdims=True)) & (sizes > 0)
    finite = np.isfinite(sizes).all(-1, keepdims=True)
    return np.where(finite, active, np.nan)


def _over_batches(of_batch, network, params, batch_stats, examples, pixels, *extra):
    """The sum over batches of a function of the responses to one, in float64."""
    total = None
    size = min(EVALUATION_BATCH, len(examples.labels))
    for index, kept in batches_of_one_shape(len(examples.labels), size):
        counts = np.arange(size) < kept  # an incomplete last batch repeats examples
        batch = (examples.images[index], examples.labels[index], counts)
        part = _of_grid(of_batch, network, params, batch_stats, batch, pixels, extra)
        part = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), part)
        total = part if total is None else jax.tree.map(np.add, total, part)
    return total


@partial(jax.jit, static_argnums=(0, 1))
def _of_grid(of_batch, network, params, batch_stats, batch, pixels, extra):
    images, labels, counts = batch
    images = normalise(images, *pixels)

    def one(params, batch_stats, *extra):
        v, _ = network.responses(params, batch_stats, images, train=False)
        return of_batch(v, labels, counts, *extra)

    return jax.vmap(jax.vmap(one))(params, batch_stats, *extra)


def _sums(v, labels, counts):
    kept, every = v * counts[:, None], jnp.ones(len(v))
    return {
        "response": kept.sum(1),
        "energy": (kept**2).sum((1, 2)),
        "correct": _correct(v, labels, counts, every, 0 * v[:, 0]),
    }


def _centred_sums(v, labels, counts, mean):
    return (((v - mean[:, None]) * counts[:, None]) ** 2).sum((1, 2))


def _correct(v, labels, counts, active, constant):
    """Examples that are right if what is not active gives its constant `[M, C]`."""
    known = jnp.where(jnp.isnan(active), jnp.nan, 1.0)[:, None, None]
    v = known * jnp.where(active[:, None, None] == 1, v, constant[:, None])
    f = v.sum(0)
    right = (f.argmax(-1) == labels) & counts
    return right.sum() + 0 * f.sum()
