"""The hyperparameters of a training, and what follows from them alone."""

import math
from typing import Literal, NamedTuple

import jax
import optax

from bspec_jax.losses import Clamp
from bspec_jax.storage.errors import ArgumentError
from bspec_jax.trees import Tree

RateSchedule = Literal["cosine", "constant"]

MOMENTUM = 0.9  # of SGD
MOST_STEPS = 2**31 - 1  # that an int32 counts


class Recipe(NamedTuple):
    """Hyperparameters of a training."""

    epochs: int
    learning_rate: float  # initial
    batch_size: int = 128
    schedule: RateSchedule = "cosine"  # which falls to 0, a little at each step
    optimizer: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = 5e-4  # an L2 penalty for sgd, decoupled for adamw
    decay_biases: bool = True  # and scales and shifts of a normalisation
    clamp: Clamp = "hard"
    crop_padding: int = 4  # pixels; largest offset of a random crop
    flip: bool = True  # mirror each image with probability 1/2
    separate: bool = False  # the control: each branch minimises its own loss


def optimizer(recipe: Recipe, total_steps: int) -> optax.GradientTransformation:
    """What turns gradients into steps; for leaves `[M, ...]`."""
    if recipe.schedule == "constant":
        rate = optax.constant_schedule(recipe.learning_rate)
    else:
        rate = optax.cosine_decay_schedule(recipe.learning_rate, total_steps)
    decayed = None if recipe.decay_biases else _kernels
    if recipe.optimizer == "adamw":
        return optax.adamw(rate, weight_decay=recipe.weight_decay, mask=decayed)
    decay = optax.add_decayed_weights(recipe.weight_decay, decayed)
    return optax.chain(decay, optax.sgd(rate, MOMENTUM))


def _kernels(params: Tree) -> Tree:
    """Which leaves multiply a signal: in each branch, those of two axes and more."""
    return jax.tree.map(lambda leaf: leaf.ndim > 2, params)


def decay_budget(recipe: Recipe, total_steps: int, done: int | None = None) -> float:
    """How far decay alone shrinks parameters: those without gradient, by exp(-beta).

    beta = lambda sum_t eta_t / (1 - momentum) for sgd, lambda sum_t eta_t for adamw; to
    first order in each step. With the rate eta_t = eta (1 + cos(pi t / T)) / 2 of T
    steps, the sum over all of them is eta (T + 1) / 2, and with a constant one eta T.

    Args:
      total_steps: T.
      done: of these, the steps taken so far; by default all.

    Source: docs/silence.md.
    """
    done = total_steps if done is None else done
    half_angle = math.pi / (2 * total_steps)
    # sum over s < t of cos(s a) = 1/2 + sin((t - 1/2) a) / (2 sin(a / 2))
    cosines = 0.5 + math.sin((2 * done - 1) * half_angle) / (2 * math.sin(half_angle))
    relative = done if recipe.schedule == "constant" else (done + cosines) / 2
    rates = recipe.learning_rate * relative
    lasting = 1 if recipe.optimizer == "adamw" else 1 / (1 - MOMENTUM)
    return recipe.weight_decay * rates * lasting


def count_steps(recipe: Recipe, num_examples: int) -> int:
    """The number of steps of a whole training.

    Raises:
      ArgumentError: if there is none, or more than an int32 counts.
    """
    if not 1 <= recipe.batch_size <= num_examples:
        raise ArgumentError(
            f"`batch_size` must be 1 to the {num_examples} training examples, got "
            f"{recipe.batch_size}"
        )
    total = num_examples // recipe.batch_size * recipe.epochs
    if not 1 <= total <= MOST_STEPS:
        raise ArgumentError(
            f"`epochs` {recipe.epochs} are {total:,} steps: 1 to {MOST_STEPS:,} can be "
            "taken"
        )
    return total


def kept_steps(total_steps: int) -> dict[str, int]:
    """The steps of a training whose checkpoints are kept: start, half-way and end."""
    return {"start": 0, "half": total_steps // 2, "end": total_steps}
