"""Training a branched classifier: its steps, and the loop that can be resumed.

A step is a pure function of the state, the key and the data: step t takes its images
from the permutation of its epoch and draws its augmentation from `fold_in(key, t)`, so
that the position in the data is the step, and a resumed training ends bit for bit as
one that was never stopped (on a GPU with `XLA_FLAGS=--xla_gpu_deterministic_ops=true`).
"""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from bspec_jax import checkpoints
from bspec_jax.branching import BranchedNetwork, Tree
from bspec_jax.classifier import Pixels
from bspec_jax.data import Split
from bspec_jax.data.augmentation import augment, normalise
from bspec_jax.losses import Clamp, classification_loss
from bspec_jax.training import train_loop

MOMENTUM = 0.9  # of SGD


class Recipe(NamedTuple):
    """How a network is trained."""

    epochs: int
    learning_rate: float  # at the start; it falls to 0 as a cosine
    batch_size: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = 5e-4
    clamp: Clamp = "hard"
    crop_padding: int = 4  # pixels that a random crop may be off by
    flip: bool = True  # mirror each image with probability 1/2
    separate: bool = False  # each branch minimises a loss of its own, for the control


class TrainState(NamedTuple):
    """All that training carries from step to step."""

    step: Int[Array, ""]
    params: Tree  # [M, ...]
    batch_stats: Tree  # [M, ...], the network's state
    opt_state: Tree


class Training(NamedTuple):
    """init: `(key, images) -> TrainState`; one image is enough.

    step: `(state, key, images, labels, index) -> (state, log)` on the examples `index`
        `[batch]` of all those on the device. It gives up the memory of `state`. The log
        holds scalars, loss, accuracy (of the sum without the clamp), saturated (share
        of examples whose outputs are all outside the clamp) and gradient_norm, and
        energy `[M]`, the mean over examples of ||v_k(x)||^2.
    """

    init: Callable[..., TrainState]
    step: Callable[..., tuple[TrainState, dict]]


def training(
    network: BranchedNetwork, recipe: Recipe, pixels: Pixels, total_steps: int
) -> Training:
    """The training of a network by a recipe, jitted.

    The loss is the mean over the batch of `classification_loss` of the sum of the
    branches, or, if the recipe says `separate`, the sum over the branches of the same
    of each alone, whose gradients are those of M networks trained apart.

    A step is one call, since XLA runs convolutions inside a compiled loop at half the
    speed on a CPU, and elsewhere the next call is queued while a step computes.
    """
    optimizer = _optimizer(recipe, total_steps)

    def init(key, images):
        params, stats = network.init(key, normalise(images, *pixels))
        return TrainState(jnp.zeros((), int), params, stats, optimizer.init(params))

    def loss_of(f, labels):
        return classification_loss(f, labels, clamp=recipe.clamp).mean()

    def objective(params, stats, images, labels):
        v, stats = network.responses(params, stats, images, train=True)
        f = v.sum(0)
        if recipe.separate:
            loss = jax.vmap(loss_of, (0, None))(v, labels).sum()
        else:
            loss = loss_of(f, labels)
        return loss, (stats, v, f)

    def step(state, key, images, labels, index):
        images, labels = images[index], labels[index]
        images = augment(
            jax.random.fold_in(key, state.step),
            images,
            padding=recipe.crop_padding,
            flip=recipe.flip,
        )
        (loss, (stats, v, f)), gradient = jax.value_and_grad(objective, has_aux=True)(
            state.params, state.batch_stats, normalise(images, *pixels), labels
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        log = {
            "loss": loss / (network.num_branches if recipe.separate else 1),
            "accuracy": (f.argmax(-1) == labels).mean(),
            "saturated": (jnp.abs(f) >= 1).all(-1).mean(),
            "gradient_norm": optax.tree.norm(gradient),
            "energy": (v**2).sum((1, 2)) / labels.size,
        }
        return TrainState(state.step + 1, params, stats, opt_state), log

    once = {"xla_backend_optimization_level": 0}  # else it compiles for half a minute
    return Training(
        jax.jit(init, compiler_options=once), jax.jit(step, donate_argnums=0)
    )


def _optimizer(recipe: Recipe, total_steps: int) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(recipe.learning_rate, total_steps)
    if recipe.optimizer == "adamw":
        return optax.adamw(rate, weight_decay=recipe.weight_decay)
    decay = optax.add_decayed_weights(recipe.weight_decay)
    return optax.chain(decay, optax.sgd(rate, MOMENTUM))


def epoch_order(
    key: Array, epoch: int, num_examples: int, batch_size: int
) -> Int[np.ndarray, "K batch"]:
    """Which examples the steps of an epoch take; the last incomplete batch is left."""
    key = jax.random.fold_in(key, epoch)
    order = np.asarray(jax.random.permutation(key, num_examples))
    whole = num_examples // batch_size * batch_size
    return order[:whole].reshape(-1, batch_size)


class Schedule(NamedTuple):
    """When `fit` stops to log and to save, in steps."""

    log_every: int = 50
    checkpoint_every: int = 500  # within an epoch; each epoch's end has one, too


def fit(
    network: BranchedNetwork,
    recipe: Recipe,
    pixels: Pixels,
    examples: Split,
    key: Array,
    folder: Path,
    schedule: Schedule,
    on_log: Callable[[TrainState, int, float, dict[str, np.ndarray]], Any],
) -> TrainState:
    """Trains to the last step, from the last checkpoint in `folder` on if there is one.

    Args:
      key: of the initial parameters, the order of the data and the augmentation.
      folder: of the checkpoints; step 0 is saved there, too.
      on_log: told the state, the step it has come to, the epoch that is, and the log of
        the steps since the last call, stacked `[K, ...]`.

    Raises:
      UserError: if something that is logged is not finite, or a checkpoint is damaged.
    """
    images, labels = (jnp.asarray(part) for part in examples)
    per_epoch = len(labels) // recipe.batch_size
    total = per_epoch * recipe.epochs
    init_key, order_key, step_key = jax.random.split(key, 3)
    train = training(network, recipe, pixels, total)
    state = train.init(init_key, images[:1])
    if saved := checkpoints.steps(folder):
        state = restore(folder, saved[-1], state)
    else:
        save(folder, state)

    @lru_cache(1)
    def order(epoch):
        return epoch_order(order_key, epoch, len(labels), recipe.batch_size)

    def advance(state, step):
        epoch, batch = divmod(step, per_epoch)
        return train.step(state, step_key, images, labels, order(epoch)[batch])

    return train_loop(
        advance,
        state,
        range(int(state.step), total),
        log_every=schedule.log_every,
        save_every=(per_epoch, schedule.checkpoint_every),
        on_log=lambda state, step, log: on_log(state, step, step / per_epoch, log),
        save=partial(save, folder),
        name=folder.name,
    )


def model_of(state: TrainState) -> dict[str, Tree]:
    """What a checkpoint holds of the network itself."""
    return {"params": state.params, "batch_stats": state.batch_stats}


def save(folder: Path, state: TrainState) -> None:
    """Writes the checkpoint of the state's step."""
    training = {"opt_state": state.opt_state, "step": state.step}
    checkpoints.save(folder, int(state.step), model=model_of(state), training=training)


def restore(folder: Path, step: int, like: TrainState) -> TrainState:
    """Reads what `save` wrote.

    Raises:
      UserError: if it is missing, damaged or of another network.
    """
    training = {"opt_state": like.opt_state, "step": like.step}
    model, training = checkpoints.restore(
        folder, step, model=model_of(like), training=training
    )
    return TrainState(**model, **training)
