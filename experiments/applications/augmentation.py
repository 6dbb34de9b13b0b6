"""Augmentation: classifiers of few labels, with and without perturbed components.

Kinds of augmentation: `none`; each source of components, perturbed; and as a control
`others`, perturbed responses to another image of the class, which are as strong but out
of place.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from bspec_jax import classifier, runs
from bspec_jax.analysis.statistics import mean_interval
from bspec_jax.branching import BranchedNetwork
from bspec_jax.classifier import ClassifierSpec
from bspec_jax.classifier import training as classifier_training
from bspec_jax.classifier.branches import WIDTHS
from bspec_jax.classifier.training import Recipe, Training, TrainState, epoch_order
from bspec_jax.components.recombination import perturb_components, remainder
from bspec_jax.data.images import Part
from bspec_jax.generator import Trained, to_bytes
from experiments.applications.config import Config
from experiments.applications.data import Examples, draw_examples

CHANNELS = "paper"  # of `branches.WIDTHS`
SIZE = 32  # most pixels each way of the classifier's images
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25
BATCH = 50
NONE, OTHERS = "none", "others"

Components = Float[np.ndarray, "M N H W C"]
# Images of an epoch, as bytes of the classifier's size, from the epoch's key.
EpochImages = Callable[[Key[Array, ""]], UInt8[Array, "N H W C"]]


class SmallClassifier(NamedTuple):
    """A classifier, and its training on few images."""

    spec: ClassifierSpec
    network: BranchedNetwork
    recipe: Recipe
    training: Training


def augmentation_scores(
    config: Config, trained: Trained, train_part: Part, test: Examples
) -> dict[int, dict]:
    """`kind_scores` by the number of labels per class."""
    return {
        labels: kind_scores(config, trained, train_part, test, labels)
        for labels in config.labels_per_class
    }


def kind_scores(
    config: Config,
    trained: Trained,
    train_part: Part,
    test: Examples,
    labels_per_class: int,
) -> dict[str, dict]:
    """Test accuracy with each kind of augmentation.

    Trials differ in labelled images, initial parameters and order; all kinds share
    these, as well as the number of steps, flips and shifts.
    """
    kinds = [NONE, *test.stacks, OTHERS]
    count = labels_per_class * len(trained.spec.classes)
    tested = np.asarray(to_small_bytes(test.x))
    small = small_classifier(
        trained.spec.classes, tested.shape[1:], count, config.steps
    )
    accuracies = {kind: [] for kind in kinds}
    total = config.trials * len(kinds)
    with runs.progress_bar(total, f"{labels_per_class} labels", "training") as advance:
        for trial in range(config.trials):
            seed = config.seed + trial
            labelled = draw_examples(trained, train_part, count, seed)
            for kind in kinds:
                images = epoch_images(labelled, kind, config.scale)
                state = fit(small, images, labelled.labels, jax.random.key(seed))
                predicted = predict(small, state, tested)
                accuracies[kind].append((predicted == test.labels).mean())
                advance(1)
    return {
        kind: accuracy_scores(values, accuracies[NONE])
        for kind, values in accuracies.items()
    }


def small_classifier(
    classes: tuple[str, ...], image_shape: tuple[int, ...], count: int, steps: int
) -> SmallClassifier:
    """A classifier of one branch, trained on `count` images for about `steps` steps."""
    batch_size = min(BATCH, count)
    per_epoch = count // batch_size
    recipe = Recipe(
        epochs=max(steps // per_epoch, 1),
        learning_rate=3e-3,
        batch_size=batch_size,
        optimizer="adamw",
        crop_padding=2,
    )
    channels = image_shape[-1]
    spec = ClassifierSpec(
        widths=WIDTHS[CHANNELS],
        branches=1,
        classes=classes,
        image_shape=image_shape,
        mean=(PIXEL_MEAN,) * channels,
        std=(PIXEL_STD,) * channels,
    )
    network = classifier.build(spec)
    training = classifier_training.training(
        network, recipe, spec.pixels, recipe.epochs * per_epoch
    )
    return SmallClassifier(spec, network, recipe, training)


def epoch_images(examples: Examples, kind: str, scale: float) -> EpochImages:
    """The images of an epoch by a kind of augmentation.

    Args:
      scale: standard deviation of the gains.
    """
    if kind == NONE:
        plain = to_small_bytes(examples.x)
        return lambda key: plain
    components = components_of_kind(examples.stacks, examples.labels, kind)
    residual = jnp.asarray(remainder(examples.x, components))
    components = jnp.asarray(components)
    return lambda key: _perturbed(key, residual, components, scale)


def components_of_kind(
    stacks: dict[str, Components], labels: Int[np.ndarray, " N"], kind: str
) -> Components:
    """The components that a kind of augmentation perturbs."""
    if kind == OTHERS:
        return of_other_images(stacks["responses"], labels)
    return stacks[kind]


def of_other_images(
    components: Components, labels: Int[np.ndarray, " N"]
) -> Components:
    """For each image the components of another image of its class."""
    order = np.empty(len(labels), int)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        order[of_class] = np.roll(of_class, 1)
    return components[:, order]


def fit(
    small: SmallClassifier,
    images: EpochImages,
    labels: Int[np.ndarray, " N"],
    key: Key[Array, ""],
) -> TrainState:
    """Trains the classifier on images that are augmented anew in each epoch."""
    recipe, training = small.recipe, small.training
    init_key, images_key, order_key, step_key = jax.random.split(key, 4)
    state = training.init(init_key, images(images_key)[:1])
    labels = jnp.asarray(labels)
    for epoch in range(recipe.epochs):
        augmented = images(jax.random.fold_in(images_key, epoch))
        order = epoch_order(order_key, epoch, len(labels), recipe.batch_size)
        for index in order:
            state, _ = training.step(state, step_key, augmented, labels, index)
    return state


def predict(
    small: SmallClassifier, state: TrainState, images: UInt8[np.ndarray, "N H W C"]
) -> Int[np.ndarray, " N"]:
    """The class of each image."""
    v = classifier.predict(
        small.network, state.params, state.batch_stats, images, small.spec.pixels
    )
    return v.sum(0).argmax(-1)


def accuracy_scores(values: list[float], baseline: list[float]) -> dict:
    """Accuracies of trials, and their gain over the baseline of the same trials."""
    mean, interval = mean_interval(values)
    gain, gain_interval = mean_interval(np.subtract(values, baseline))
    return {
        "accuracies": values,
        "accuracy": mean,
        "interval": interval,
        "gain": gain,
        "gain_interval": gain_interval,
    }


@jax.jit
def to_small_bytes(x: Float[Array, "N H W C"]) -> UInt8[Array, "N h w C"]:
    """Images in -1..1 as the classifier reads them."""
    size = min(SIZE, x.shape[1])
    return to_bytes(jax.image.resize(x, (len(x), size, size, x.shape[-1]), "linear"))


@jax.jit
def _perturbed(key, residual, components, scale):
    return to_small_bytes(perturb_components(key, residual, components, scale))
