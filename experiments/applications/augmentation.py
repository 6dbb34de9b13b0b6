"""Augmentation: a classifier of few labels, with perturbed components and without."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bspec_jax import classifier, runs
from bspec_jax.analysis.statistics import mean_interval
from bspec_jax.classifier import training as classifier_training
from bspec_jax.classifier.network import Pixels
from bspec_jax.classifier.resnet import WIDTHS
from bspec_jax.classifier.training import Recipe, Training, TrainState, epoch_order
from bspec_jax.components.recombination import perturb_components, remainder
from bspec_jax.generator.network import Trained, to_bytes
from experiments.applications_data import Faces, load

CHANNELS = "paper"
SIZE = 32  # pixels of the classifier's images
PIXELS = Pixels(np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))
BATCH = 50
NONE, OTHERS = "none", "others"


def augmentation(config, trained: Trained, test: Faces) -> dict[int, dict]:
    """Accuracy on held-out faces of classifiers of a few labels, by their number."""
    return {
        labels: with_labels(config, trained, test, labels)
        for labels in config.labels_per_class
    }


def with_labels(config, trained: Trained, test: Faces, labels: int) -> dict[str, dict]:
    """What each way to augment gives with so many labels of each class.

    The ways are `none`, the components of each source, perturbed, and as a control
    `others`, perturbed responses to other faces of the class: as strong, and out of
    place. Trials differ in the labelled faces, the initial parameters and the order,
    which are the same for all ways, as are steps, flips and shifts.
    """
    ways = [NONE, *test.stacks, OTHERS]
    count = labels * len(test.classes)
    batch_size = min(BATCH, count)
    per_epoch = count // batch_size
    recipe = Recipe(
        epochs=max(config.steps // per_epoch, 1),
        learning_rate=3e-3,
        batch_size=batch_size,
        optimizer="adamw",
        crop_padding=2,
    )
    widths = WIDTHS[CHANNELS]
    network = classifier.build(widths, 1, len(test.classes))
    training = classifier_training.training(
        network, recipe, PIXELS, recipe.epochs * per_epoch
    )
    tested = np.asarray(_small(test.x))
    accuracies = {way: [] for way in ways}
    total = config.trials * len(ways)
    with runs.progress_bar(total, f"{labels} labels", "training") as advance:
        for trial in range(config.trials):
            seed = config.seed + trial
            some = load(trained, "train", count, seed)
            for way in ways:
                draw = drawn(some, way, config.scale)
                state = fit(training, recipe, draw, some.labels, jax.random.key(seed))
                v = classifier.predict(
                    network, state.params, state.batch_stats, tested, PIXELS
                )
                right = v.sum(0).argmax(-1) == test.labels
                accuracies[way].append(right.mean())
                advance(1)
    return {way: compared(of, accuracies[NONE]) for way, of in accuracies.items()}


def drawn(some: Faces, way: str, scale: float) -> Callable[[Array], Array]:
    """The faces of an epoch, small bytes, as a function of its key."""
    if way == NONE:
        plain = _small(some.x)
        return lambda key: plain
    components = some.stacks["responses" if way == OTHERS else way]
    if way == OTHERS:
        components = of_another(components, some.labels)
    residual = jnp.asarray(remainder(some.x, components))
    components = jnp.asarray(components)
    return lambda key: _perturbed(key, residual, components, scale)


def of_another(components: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each image the components of another one of its class."""
    order = np.empty(len(labels), int)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        order[of_class] = np.roll(of_class, 1)
    return components[:, order]


def fit(
    training: Training,
    recipe: Recipe,
    draw: Callable[[Array], Array],
    labels: np.ndarray,
    key: Array,
) -> TrainState:
    """Trains a classifier on faces that are drawn anew for each epoch."""
    init_key, draw_key, order_key, step_key = jax.random.split(key, 4)
    state = training.init(init_key, draw(draw_key)[:1])
    labels = jnp.asarray(labels)
    for epoch in range(recipe.epochs):
        images = draw(jax.random.fold_in(draw_key, epoch))
        order = epoch_order(order_key, epoch, len(labels), recipe.batch_size)
        for index in order:
            state, _ = training.step(state, step_key, images, labels, index)
    return state


def compared(values: list[float], base: list[float]) -> dict:
    """The accuracies of trials, and what they gain over the base, in pairs."""
    mean, interval = mean_interval(values)
    gain, gain_interval = mean_interval(np.subtract(values, base))
    return {
        "accuracies": values,
        "accuracy": mean,
        "interval": interval,
        "gain": gain,
        "gain_interval": gain_interval,
    }


@jax.jit
def _small(x):
    size = min(SIZE, x.shape[1])
    return to_bytes(jax.image.resize(x, (len(x), size, size, x.shape[-1]), "linear"))


@jax.jit
def _perturbed(key, residual, components, scale):
    return _small(perturb_components(key, residual, components, scale))
