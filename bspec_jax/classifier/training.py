"""Training of a branched classifier, resumable at any step.

Step t is a pure function of the state, the key and the data: the epoch's permutation
gives its images, and `fold_in(key, t)` its augmentation. The step number is thus the
position in the data, and a resumed training ends bit for bit like an uninterrupted one
(on a GPU with `XLA_FLAGS=--xla_gpu_deterministic_ops=true`).
"""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from bspec_jax.analysis.silence import growth
from bspec_jax.branching import BranchedNetwork
from bspec_jax.classifier.checks import check_images, check_labels
from bspec_jax.classifier.network import Pixels
from bspec_jax.classifier.recipe import Recipe, count_steps, kept_steps
from bspec_jax.classifier.recipe import optimizer as make_optimizer
from bspec_jax.data import Split
from bspec_jax.data.augmentation import augment, normalise
from bspec_jax.losses import classification_loss
from bspec_jax.storage import resumable
from bspec_jax.trees import Tree


class TrainState(NamedTuple):
    """What training carries from step to step; see `resumable.TrainingState`."""

    step: Int[Array, ""]
    params: Tree  # [M, ...]
    batch_stats: Tree  # [M, ...], running statistics of BatchNorm
    opt_state: Tree

    def parts(self) -> tuple[Tree, Tree]:
        """The trees of the network and of what only training needs."""
        model = {"params": self.params, "batch_stats": self.batch_stats}
        return model, {"opt_state": self.opt_state, "step": self.step}

    @classmethod
    def from_parts(cls, model: Tree, training: Tree) -> "TrainState":
        """The inverse of `parts`."""
        return cls(**model, **training)


class Training(NamedTuple):
    """The two jitted functions of a training.

    init: `(key, images) -> TrainState`; one image is enough.
    step: `(state, key, images, labels, index) -> (state, log)`, where `index` `[batch]`
        picks the batch among all examples, which stay on the device. Donates `state`.
        The log holds the scalars loss, accuracy (of the unclamped sum), saturated
        (share of examples with every output outside the clamp), gradient_norm and
        largest_parameter (after the step, in size), and of each branch `[M]` energy,
        the mean over examples of ||v_k(x)||^2, centred_energy, the same without the
        branch's mean output over the batch, growth, which `analysis.silence` explains,
        and parameter_norm (after the step).
    """

    init: Callable[..., TrainState]
    step: Callable[..., tuple[TrainState, dict]]


def training(
    network: BranchedNetwork, recipe: Recipe, pixels: Pixels, total_steps: int
) -> Training:
    """The functions that train a network by a recipe.

    The loss is the batch mean of `classification_loss` of the summed branches. With
    `recipe.separate` it is the sum over branches of each branch's own loss, whose
    gradients are those of M separately trained networks.

    A call takes one step: on a CPU, XLA runs convolutions inside a compiled loop at
    half the speed; elsewhere the next call is queued while a step computes.
    """
    return compiled(pure_training(network, recipe, pixels, total_steps))


def compiled(functions: Training) -> Training:
    """Both functions jitted; `step` donates its state."""
    # It runs once, and compiling it with optimisations would take half a minute.
    unoptimised = {"xla_backend_optimization_level": 0}
    return Training(
        jax.jit(functions.init, compiler_options=unoptimised),
        jax.jit(functions.step, donate_argnums=0),
    )


def pure_training(
    network: BranchedNetwork, recipe: Recipe, pixels: Pixels, total_steps: int
) -> Training:
    """`training`, for use inside another transformation.

    The recipe's learning rate and weight decay may be traced.
    """
    optimizer = make_optimizer(recipe, total_steps)

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
        centred = v - v.mean(1, keepdims=True)
        log = {
            "loss": loss / (network.num_branches if recipe.separate else 1),
            "accuracy": (f.argmax(-1) == labels).mean(),
            "saturated": (jnp.abs(f) >= 1).all(-1).mean(),
            "gradient_norm": optax.tree.norm(gradient),
            "largest_parameter": optax.tree.norm((params, stats), jnp.inf),
            "energy": (v**2).sum((1, 2)) / labels.size,
            "centred_energy": (centred**2).sum((1, 2)) / labels.size,
            "growth": growth(state.params, gradient),
            "parameter_norm": jax.vmap(optax.tree.norm)(params),
        }
        return TrainState(state.step + 1, params, stats, opt_state), log

    return Training(init, step)


def epoch_order(
    key: Array, epoch: int, num_examples: int, batch_size: int
) -> Int[np.ndarray, "K batch"]:
    """Indices of the examples of each step; drops an incomplete last batch."""
    key = jax.random.fold_in(key, epoch)
    order = np.asarray(jax.random.permutation(key, num_examples))
    whole = num_examples // batch_size * batch_size
    return order[:whole].reshape(-1, batch_size)


class Schedule(NamedTuple):
    """Steps between two logs and between two checkpoints of `fit`."""

    log_every: int = 50  # the end of each epoch is logged in any case
    checkpoint_every: int = 500


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
    """Trains to the last step, from the newest checkpoint in `folder` if any.

    Args:
      key: for the initial parameters, the order of the data and the augmentation.
      folder: for the checkpoints; those of `recipe.kept_steps` stay there.
      on_log: takes the state, the number of steps done, the same in epochs, and the
        logs of the steps since the last call, stacked `[K, ...]`.

    Raises:
      ArgumentError: for examples that are not labelled bytes, and a number of steps
        below 1 or beyond 2^31 - 1.
      UserError: if a logged number is not finite, or a checkpoint is damaged.
    """
    check_images(examples.images, (None, None, len(pixels.mean)))
    total = count_steps(recipe, len(examples.labels))
    images, labels = (jnp.asarray(part) for part in examples)
    per_epoch = len(labels) // recipe.batch_size
    init_key, order_key, step_key = jax.random.split(key, 3)
    train = training(network, recipe, pixels, total)
    initial = train.init(init_key, images[:1])
    check_labels(examples.labels, len(images), _num_classes(network, initial, images))
    state = resumable.resume(folder, initial)

    @lru_cache(1)
    def order(epoch):
        return epoch_order(order_key, epoch, len(labels), recipe.batch_size)

    def advance(state, step):
        epoch, batch = divmod(step, per_epoch)
        return train.step(state, step_key, images, labels, order(epoch)[batch])

    kept = tuple(kept_steps(total).values())
    for end in kept:
        state = resumable.train_loop(
            advance,
            state,
            range(int(state.step), end),
            log_every=(schedule.log_every, per_epoch),
            save_every=schedule.checkpoint_every,
            on_log=lambda state, step, log: on_log(state, step, step / per_epoch, log),
            save=partial(resumable.save, folder, keep=kept),
            name=folder.name,
        )
    return state


def _num_classes(network, state, images):
    x = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32)
    responses = partial(network.responses, train=True)
    v, _ = jax.eval_shape(responses, state.params, state.batch_stats, x)
    return v.shape[-1]
