"""Training a class-transfer generator against a discriminator, resumable.

A step is a pure function of the state, the key and its images: everything random in
step t comes from `fold_in(key, t)` and the images are those that the data give for t,
so that a resumed training ends bit for bit as one that was never stopped (on a GPU with
`XLA_FLAGS=--xla_gpu_deterministic_ops=true`).
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from bspec_jax import checkpoints
from bspec_jax.branching import Tree
from bspec_jax.data.augmentation import random_flip, random_resized_crop
from bspec_jax.data.streaming import Batch
from bspec_jax.generator import ClassTransfer, to_signed
from bspec_jax.models.stargan import Discriminator
from bspec_jax.training import train_loop

BETAS = (0.0, 0.99)  # of Adam, as in StarGAN-v2


class Recipe(NamedTuple):
    """How a generator is trained; the defaults are StarGAN-v2's."""

    learning_rate: float = 1e-4  # of both players
    velocity_rate: float = 0.003  # of the diffusion's p, relative to it
    batch_size: int = 8
    accumulate: int = 1  # parts of a batch, whose gradients are averaged
    r1_weight: float = 1.0  # of |grad D|^2 / 2 on real images
    r1_every: int = 1  # steps from one penalty to the next, which weighs as many times
    average: float = 0.999  # how much of the generator's running average a step keeps
    reconstruction_weight: float = 0.0  # of |x - f(x, own class)|, not in the paper
    flip: bool = True  # mirror each image with probability 1/2
    crop: float = 0.5  # probability of a random crop, resized


class TrainState(NamedTuple):
    """All that training carries from step to step."""

    step: Int[Array, ""]
    generator: Tree
    discriminator: Tree
    average: Tree  # of the generator over the steps: what is used in the end
    generator_opt: Tree
    discriminator_opt: Tree


class Training(NamedTuple):
    """init: `(key, images, labels) -> TrainState`; one image is enough.

    step: `(state, key, images, labels, penalise) -> (state, log)` on bytes
        `[batch, H, W, C]`, with the gradient penalty if the static `penalise`. It gives
        up the memory of `state`. The log holds scalars: the losses of both,
        `real_accuracy` and `fake_accuracy` (shares that the discriminator judges
        rightly), `penalty` (`r1_every` |grad D|^2 in the steps that have it, else 0)
        and gradient norms.
    """

    init: Callable[..., TrainState]
    step: Callable[..., tuple[TrainState, dict]]


def training(model: ClassTransfer, judge: Discriminator, recipe: Recipe) -> Training:
    """The training of a generator and its discriminator by a recipe, jitted.

    Non-saturating losses on the logit of the class that an image has or is to have;
    that class is uniform, the image's own included. Both players move at once, by the
    same generated images: with the discriminator first, transfers were learnt later.

    Source: appendix E; Mescheder et al., arXiv 1801.04406 (R1); Karras et al., arXiv
    1912.04958 (a penalty in some steps only).
    """
    optimizer = optax.adam(recipe.learning_rate, *BETAS)
    gradients = _gradients(*_losses(model, judge, recipe), recipe.accumulate)

    def init(key, images, labels):
        keys = jax.random.split(key)
        x = to_signed(images)
        generator = model.init(keys[0], x, labels)
        discriminator = judge.init(keys[1], x)
        return TrainState(
            jnp.zeros((), int),
            generator,
            discriminator,
            jax.tree.map(jnp.copy, generator),
            optimizer.init(generator),
            optimizer.init(discriminator),
        )

    def drawn(key, images, labels):
        """Images as they are shown in this step, and the classes to aim at."""
        keys = jax.random.split(key, 3)
        x = to_signed(images)
        if recipe.flip:
            x = random_flip(keys[0], x)
        if recipe.crop:
            x = random_resized_crop(keys[1], x, recipe.crop)
        targets = jax.random.randint(keys[2], labels.shape, 0, judge.num_classes)
        return x, labels, targets

    def step(state, key, images, labels, penalise):
        batch = drawn(jax.random.fold_in(key, state.step), images, labels)
        to_generator, to_discriminator, log = gradients(state, batch, penalise)
        moves, generator_opt = optimizer.update(to_generator, state.generator_opt)
        # The diffusion repeats p many times, and carries R away at the branches' rate.
        moves["velocity"] = optax.tree.scale(recipe.velocity_rate, moves["velocity"])
        generator = optax.apply_updates(state.generator, moves)
        moves, discriminator_opt = optimizer.update(
            to_discriminator, state.discriminator_opt
        )
        discriminator = optax.apply_updates(state.discriminator, moves)
        # At first fewer steps are averaged, or the initial values would weigh too much.
        kept = jnp.minimum(recipe.average, (1 + state.step) / (10 + state.step))
        average = jax.tree.map(
            lambda old, new: kept * old + (1 - kept) * new, state.average, generator
        )
        log |= {
            "generator_gradient_norm": optax.tree.norm(to_generator),
            "discriminator_gradient_norm": optax.tree.norm(to_discriminator),
        }
        state = TrainState(
            state.step + 1,
            generator,
            discriminator,
            average,
            generator_opt,
            discriminator_opt,
        )
        return state, log

    once = {"xla_backend_optimization_level": 0}
    return Training(
        jax.jit(init, compiler_options=once),
        jax.jit(step, donate_argnums=0, static_argnums=4),
    )


def _losses(model: ClassTransfer, judge: Discriminator, recipe: Recipe):
    """Those of the generator and the discriminator, each with what is logged.

    `part` is images in -1..1, their classes and the classes to aim at.
    """

    def logit(discriminator, x, labels):
        return jnp.take_along_axis(judge.apply(discriminator, x), labels[:, None], 1)

    def on_real(discriminator, x, labels, penalise):
        """Logits of real images, and the penalty."""
        if not penalise:
            return logit(discriminator, x, labels), 0.0

        def total(x):
            real = logit(discriminator, x, labels)
            return real.sum(), real

        slope, real = jax.grad(total, has_aux=True)(x)
        return real, recipe.r1_every * (slope**2).sum((1, 2, 3)).mean()

    def of_discriminator(discriminator, generator, part, penalise):
        x, labels, targets = part
        real, penalty = on_real(discriminator, x, labels, penalise)
        fake = logit(discriminator, model.apply(generator, x, targets), targets)
        loss = jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean()
        loss = loss + recipe.r1_weight / 2 * penalty
        return loss, {
            "discriminator_loss": loss,
            "real_accuracy": (real > 0).mean(),
            "fake_accuracy": (fake < 0).mean(),
            "penalty": penalty,
        }

    def of_generator(generator, discriminator, part):
        x, labels, targets = part
        fake = logit(discriminator, model.apply(generator, x, targets), targets)
        loss = jax.nn.softplus(-fake).mean()
        if recipe.reconstruction_weight:
            off = jnp.abs(model.apply(generator, x, labels) - x).mean()
            loss = loss + recipe.reconstruction_weight * off
        return loss, {"generator_loss": loss}

    return of_generator, of_discriminator


def _gradients(generator_loss, discriminator_loss, accumulate: int):
    """Of both players, and the log: `(state, batch, penalise) -> (g, d, log)`."""

    def of_part(state, part, penalise):
        # XLA computes once what the two have in common.
        to_generator, log = jax.grad(generator_loss, has_aux=True)(
            state.generator, state.discriminator, part
        )
        to_discriminator, more = jax.grad(discriminator_loss, has_aux=True)(
            state.discriminator, state.generator, part, penalise
        )
        return to_generator, to_discriminator, log | more

    def of_batch(state, batch, penalise):
        """The mean over parts of a batch, one after another."""
        if accumulate == 1:
            return of_part(state, batch, penalise)
        parts = jax.tree.map(lambda a: a.reshape(accumulate, -1, *a.shape[1:]), batch)
        found = jax.lax.map(lambda part: of_part(state, part, penalise), parts)
        return jax.tree.map(lambda leaf: leaf.mean(0), found)

    return of_batch


class Schedule(NamedTuple):
    """When `fit` logs and saves, in steps."""

    iterations: int
    log_every: int = 50
    checkpoint_every: int = 500


def fit(
    train: Training,
    recipe: Recipe,
    batches: Callable[[int], Iterator[Batch]],
    state: TrainState,
    key: Array,
    folder: Path,
    schedule: Schedule,
    on_log: Callable[[TrainState, int, dict[str, np.ndarray]], Any],
    on_batch: Callable[[Batch], Any],
) -> TrainState:
    """Trains from `state` to the last step, with checkpoints in `folder`.

    Args:
      batches: those from a step on; see `data.streaming`.
      key: of everything random in the steps.
      on_log, on_batch: told the state, the number of steps done and the log of the
        steps since the last call, stacked `[K, ...]`; and each batch.

    Raises:
      UserError: if something that is logged is not finite.
    """
    steps = range(int(state.step), schedule.iterations)
    stream = batches(steps.start)

    def advance(state, step):
        batch = next(stream)
        on_batch(batch)
        penalise = bool(recipe.r1_weight) and step % recipe.r1_every == 0
        return train.step(state, key, batch.images, batch.labels, penalise)

    return train_loop(
        advance,
        state,
        steps,
        log_every=schedule.log_every,
        save_every=(schedule.checkpoint_every,),
        on_log=on_log,
        save=partial(save, folder),
        name=folder.name,
    )


def save(folder: Path, state: TrainState) -> None:
    """Writes the checkpoint of the state's step."""
    average, training = _parts(state)
    checkpoints.save(folder, int(state.step), model=average, training=training)


def restore(folder: Path, step: int, like: TrainState) -> TrainState:
    """Reads what `save` wrote.

    Raises:
      UserError: if it is missing, damaged or of another network.
    """
    average, training = _parts(like)
    average, training = checkpoints.restore(
        folder, step, model=average, training=training
    )
    return TrainState(average=average, **training)


def _parts(state):
    """What the finished generator is, and what only its training needs."""
    training = state._asdict()
    return training.pop("average"), training
