"""The classifier that says which class a generated image is taken for.

It is an M-branch classifier of this project, trained on the same training images.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bspec_jax import checkpoints, classifier, run
from bspec_jax.classifier import Pixels
from bspec_jax.classifier_training import Recipe, Schedule, fit
from bspec_jax.data.images import Split
from bspec_jax.data.sources import channel_statistics
from bspec_jax.data.streaming import read_readable
from bspec_jax.errors import UserError
from bspec_jax.generator import MAIN, to_bytes, to_signed
from bspec_jax.models.resnet import WIDTHS
from experiments.class_transfer_data import Data, balanced

NAME = "recogniser"  # folder of its checkpoints
BRANCHES = 2
CHANNELS = "wide8"
EXAMPLES = 20_000  # of the training data, at most
SIZE = 64  # pixels, at most
RECIPE = Recipe(
    epochs=0, learning_rate=1e-3, batch_size=64, optimizer="adamw", crop_padding=2
)


class Recogniser(NamedTuple):
    """A classifier of the run's classes, trained on the same training images."""

    trained: classifier.Classifier

    def __call__(self, x: np.ndarray, features: bool = False) -> np.ndarray:
        """Responses or features of images in -1..1, `[M, N, C or D]`."""
        size = self.trained.description["image_shape"][0]
        images = np.asarray(to_bytes(_resized(jnp.asarray(x), size)))
        net, params, stats, pixels = self.trained[:4]
        return classifier.predict(net, params, stats, images, pixels, features=features)

    def recognise(self, x: np.ndarray) -> np.ndarray:
        """The class of each image, `[N]`."""
        return self(x).sum(0).argmax(-1)

    def features(self, x: np.ndarray) -> np.ndarray:
        """What the last layers of its branches read, side by side, `[N, D]`."""
        return np.concatenate(list(self(x, features=True)), -1)


@partial(jax.jit, static_argnums=1)
def _resized(x, size):
    if x.shape[1] == size:
        return x
    return jax.image.resize(x, (len(x), size, size, x.shape[-1]), "linear")


def load(folder: Path) -> Recogniser:
    """The classifier of a run, from its folder of checkpoints.

    Raises:
      UserError: if there is none, or it is damaged.
    """
    if not checkpoints.steps(folder / NAME):
        raise UserError(f"no classifier of the run, to recognise classes, in {folder}")
    return Recogniser(classifier.load(folder / NAME))


def beside(generator: Path) -> Recogniser:
    """The classifier that was trained with a generator, given as for `generator.load`.

    Raises:
      UserError: as `load`.
    """
    folder, _ = checkpoints.find(generator, MAIN)
    return load(folder.parent)


def finish(folder: Path, data: Data, epochs: int, seed: int) -> Recogniser:
    """Trains the classifier, or takes the one that was trained before."""
    own = folder / NAME
    done = max(checkpoints.steps(own), default=0)
    if done and done == checkpoints.description(own).get("steps"):
        return load(folder)
    train = examples(data, seed)
    recipe = RECIPE._replace(
        epochs=epochs, batch_size=min(RECIPE.batch_size, len(train.labels))
    )
    steps = epochs * (len(train.labels) // recipe.batch_size)
    pixels = Pixels(*(np.float32(a) for a in channel_statistics(train.images)))
    args = (WIDTHS[CHANNELS], BRANCHES)
    network = classifier.build(*args, len(data.class_names), last_scale=0.05)
    shape = train.images.shape[1:]
    about = classifier.describe(
        *args, data.class_names, shape, pixels, clamp="hard", steps=steps
    )
    checkpoints.describe(own, about)
    with run.progress_bar(steps, "classifier", "step", done) as advance:
        fit(
            network,
            recipe,
            pixels,
            train,
            jax.random.fold_in(jax.random.key(seed), 0),
            own,
            Schedule(),
            lambda state, step, epoch, log: advance(len(log["loss"])),
        )
    return load(folder)


def examples(data: Data, seed: int) -> Split:
    """The training images, some of them if they are many, and small."""
    chosen = balanced(data.train.labels(), EXAMPLES, seed)
    train, _ = read_readable(data.train, np.sort(chosen))
    size = min(train.images.shape[1], SIZE)
    if train.images.shape[1] == size:
        return train
    return Split(
        np.stack([_shrunk(image, size) for image in train.images]), train.labels
    )


def _shrunk(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(to_bytes(_resized(to_signed(jnp.asarray(image[None])), size)))[0]
