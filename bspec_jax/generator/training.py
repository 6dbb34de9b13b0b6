"""Training of a class-transfer generator against a discriminator, resumable.

Step t is a pure function of the state, the key and its batch: its random numbers come
from `fold_in(key, t)`, and batch t is a function of the seed and t. So a resumed
training ends bit for bit like one that was never stopped (on a GPU with
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

from bspec_jax.data.augmentation import random_flip, random_resized_crop
from bspec_jax.data.streaming import Batch
from bspec_jax.generator.network import (
    ClassTransfer,
    GeneratorSpec,
    build,
    discriminator,
    to_signed,
)
from bspec_jax.generator.stargan import Discriminator
from bspec_jax.storage import resumable
from bspec_jax.trees import Tree

BETAS = (0.0, 0.99)  # of Adam, as in StarGAN-v2


class Recipe(NamedTuple):
    """How a generator is trained; the defaults are StarGAN-v2's."""

    learning_rate: float = 1e-4  # of generator and discriminator
    velocity_rate: float = 0.003  # of the diffusion's p, relative to learning_rate
    batch_size: int = 8
    accumulate: int = 1  # parts of a batch whose gradients are averaged
    r1_weight: float = 1.0  # of |grad D|^2 / 2 on real images
    r1_every: int = 1  # steps between penalties; each weighs this many times
    average: float = 0.999  # decay per step of the generator's running average
    reconstruction_weight: float = 0.0  # of |x - f(x, own class)|; not in the paper
    flip: bool = True  # mirror each image with probability 1/2
    crop: float = 0.5  # probability of a random resized crop


class TrainState(NamedTuple):
    """The state of training; see `resumable.TrainingState`."""

    step: Int[Array, ""]
    generator: Tree
    discriminator: Tree
    average: Tree  # of the generator over steps: the network that is used
    generator_opt: Tree
    discriminator_opt: Tree

    def parts(self) -> tuple[Tree, Tree]:
        """The averaged generator, and what only training needs."""
        training = self._asdict()
        return training.pop("average"), training

    @classmethod
    def from_parts(cls, model: Tree, training: Tree) -> "TrainState":
        """The inverse of `parts`."""
        return cls(average=model, **training)


class Training(NamedTuple):
    """The training of a generator, as two jitted functions.

    init: `(key, images, labels) -> TrainState`; one image is enough.
    step: `(state, key, images, labels, penalise) -> (state, log)` on bytes
        `[batch, H, W, C]`, with the gradient penalty if the static `penalise`. It
        donates `state`. The log holds scalars: both losses, `real_accuracy` and
        `fake_accuracy` (shares that the discriminator judges correctly), `penalty`
        (`r1_every` |grad D|^2 in the steps that have it, else 0), gradient norms, and
        `largest_parameter` (after the step, in size).
    """

    init: Callable[..., TrainState]
    step: Callable[..., tuple[TrainState, dict]]


def training(model: ClassTransfer, module: Discriminator, recipe: Recipe) -> Training:
    """The training of a generator against the discriminator `module` by a recipe.

    Non-saturating losses on the logit of an image's class, or of its target class,
    which is uniform and may be its own. Both networks are updated simultaneously, from
    the same generated images: with the discriminator first, transfers were learnt
    later.

    Source: appendix E; Mescheder et al., arXiv 1801.04406 (R1); Karras et al., arXiv
    1912.04958 (a penalty in some steps only).
    """
    optimizer = optax.adam(recipe.learning_rate, *BETAS)
    gradients = _gradients(*_losses(model, module, recipe), recipe.accumulate)

    def step(state, key, images, labels, penalise):
        key = jax.random.fold_in(key, state.step)
        batch = _draw(key, images, labels, recipe, module.num_classes)
        to_generator, to_discriminator, log = gradients(state, batch, penalise)
        updates, generator_opt = optimizer.update(to_generator, state.generator_opt)
        # p is applied M + 1 times: at the branches' rate, R drifts off.
        velocity = optax.tree.scale(recipe.velocity_rate, updates["velocity"])
        generator = optax.apply_updates(
            state.generator, {**updates, "velocity": velocity}
        )
        updates, discriminator_opt = optimizer.update(
            to_discriminator, state.discriminator_opt
        )
        state = TrainState(
            state.step + 1,
            generator,
            optax.apply_updates(state.discriminator, updates),
            _running_average(state, generator, recipe.average),
            generator_opt,
            discriminator_opt,
        )
        networks = (state.generator, state.discriminator, state.average)
        return state, log | {
            "largest_parameter": optax.tree.norm(networks, jnp.inf),
            "generator_gradient_norm": optax.tree.norm(to_generator),
            "discriminator_gradient_norm": optax.tree.norm(to_discriminator),
        }

    # `init` runs once; optimised, it would take longer to compile than to run.
    once = {"xla_backend_optimization_level": 0}
    return Training(
        jax.jit(partial(_initial, model, module, optimizer), compiler_options=once),
        jax.jit(step, donate_argnums=0, static_argnums=4),
    )


def _initial(model, module, optimizer, key, images, labels) -> TrainState:
    keys = jax.random.split(key)
    x = to_signed(images)
    generator = model.init(keys[0], x, labels)
    discriminator = module.init(keys[1], x)
    return TrainState(
        jnp.zeros((), int),
        generator,
        discriminator,
        jax.tree.map(jnp.copy, generator),
        optimizer.init(generator),
        optimizer.init(discriminator),
    )


def _draw(key, images, labels, recipe, num_classes):
    """Augmented images in -1..1, their classes and their target classes."""
    keys = jax.random.split(key, 3)
    x = to_signed(images)
    if recipe.flip:
        x = random_flip(keys[0], x)
    if recipe.crop:
        x = random_resized_crop(keys[1], x, recipe.crop)
    return x, labels, jax.random.randint(keys[2], labels.shape, 0, num_classes)


def _running_average(state, generator, decay):
    """The average over steps, with `generator` as its newest member."""
    # A shorter average at first, or the initial values would weigh too much.
    decay = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    return jax.tree.map(
        lambda old, new: decay * old + (1 - decay) * new, state.average, generator
    )


def _losses(model: ClassTransfer, module: Discriminator, recipe: Recipe):
    """The losses of generator and discriminator, each with its log.

    Their `part` of a batch is images in -1..1, their classes and their target classes.
    """

    def logit(discriminator, x, labels):
        return jnp.take_along_axis(module.apply(discriminator, x), labels[:, None], 1)

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
            error = jnp.abs(model.apply(generator, x, labels) - x).mean()
            loss = loss + recipe.reconstruction_weight * error
        return loss, {"generator_loss": loss}

    return of_generator, of_discriminator


def _gradients(generator_loss, discriminator_loss, accumulate: int):
    """`(state, batch, penalise) -> (gradients of generator, of discriminator, log)`."""

    def of_part(state, part, penalise):
        # XLA shares what both gradients compute.
        to_generator, log = jax.grad(generator_loss, has_aux=True)(
            state.generator, state.discriminator, part
        )
        to_discriminator, more = jax.grad(discriminator_loss, has_aux=True)(
            state.discriminator, state.generator, part, penalise
        )
        return to_generator, to_discriminator, log | more

    def of_batch(state, batch, penalise):
        """The mean over parts of a batch, computed one by one."""
        if accumulate == 1:
            return of_part(state, batch, penalise)
        parts = jax.tree.map(lambda a: a.reshape(accumulate, -1, *a.shape[1:]), batch)
        of_parts = jax.lax.map(lambda part: of_part(state, part, penalise), parts)
        return jax.tree.map(lambda leaf: leaf.mean(0), of_parts)

    return of_batch


class Schedule(NamedTuple):
    """When `fit` logs and saves, in steps."""

    iterations: int
    log_every: int = 50
    checkpoint_every: int = 500


def fit(
    spec: GeneratorSpec,
    recipe: Recipe,
    batches: Callable[[int], Iterator[Batch]],
    key: Array,
    folder: Path,
    schedule: Schedule,
    on_log: Callable[[TrainState, int, dict[str, np.ndarray]], Any],
    on_batch: Callable[[Batch], Any],
    *,
    sequential: bool = False,
) -> TrainState:
    """Trains to the last step, from the newest checkpoint in `folder` if there is one.

    Args:
      batches: takes a step, and yields its batch and all later ones; see
        `data.streaming.batches`.
      key: of the initial parameters and everything random in the steps.
      folder: of the checkpoints; step 0 is saved, too.
      on_log: takes the state, the number of steps done, and the log of the steps since
        the last call, stacked `[K, ...]`.
      on_batch: takes each batch.
      sequential: as for `network.build`.

    Raises:
      UserError: if a logged number is not finite, or a checkpoint is damaged.
    """
    init_key, step_key = jax.random.split(key)
    model = build(spec, sequential=sequential)
    train = training(model, discriminator(spec), recipe)
    image, label = jnp.zeros((1, *spec.image_shape), jnp.uint8), jnp.zeros(1, int)
    state = resumable.resume(folder, train.init(init_key, image, label))
    steps = range(int(state.step), schedule.iterations)
    stream = batches(steps.start)

    def advance(state, step):
        batch = next(stream)
        on_batch(batch)
        penalise = bool(recipe.r1_weight) and step % recipe.r1_every == 0
        return train.step(state, step_key, batch.images, batch.labels, penalise)

    return resumable.train_loop(
        advance,
        state,
        steps,
        log_every=(schedule.log_every,),
        save_every=schedule.checkpoint_every,
        on_log=on_log,
        save=partial(resumable.save, folder),
        name=folder.name,
    )
