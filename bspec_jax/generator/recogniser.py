"""The classifier that recognises the class of a generated image.

An M-branch classifier of this library, trained on the generator's training images.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from bspec_jax import classifier
from bspec_jax.classifier import Classifier, ClassifierSpec
from bspec_jax.classifier.branches import WIDTHS
from bspec_jax.classifier.training import Recipe, Schedule, fit
from bspec_jax.data import Selection, Split
from bspec_jax.data.selection import balanced
from bspec_jax.data.sources import channel_statistics
from bspec_jax.data.streaming import read_readable
from bspec_jax.generator.checks import check_signed
from bspec_jax.generator.network import MAIN, to_bytes, to_signed
from bspec_jax.storage import checkpoints
from bspec_jax.storage.errors import UserError
from bspec_jax.storage.resumable import Progress, no_progress

NAME = "recogniser"  # folder of its checkpoints
BRANCHES = 2
CHANNELS = "wide8"
MAX_EXAMPLES = 20_000  # to train on
MAX_SIZE = 64  # side of the images that it reads, in pixels
LAST_SCALE = 0.05
RECIPE = Recipe(
    epochs=0, learning_rate=1e-3, batch_size=64, optimizer="adamw", crop_padding=2
)


class Recogniser(NamedTuple):
    """A classifier of images in -1..1 of any size."""

    trained: Classifier

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, by label."""
        return self.trained.spec.classes

    def recognise(self, x: Float[np.ndarray, "N H W C"]) -> Int[np.ndarray, " N"]:
        """The class of each image; -1 for one that is not finite.

        Raises (as `features`):
          ArgumentError: unless x is images in -1..1.
        """
        v = self.trained.responses(self._to_input(x))
        return np.where(_is_finite(x), v.sum(0).argmax(-1), -1)

    def features(self, x: Float[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N D"]:
        """The inputs of the branches' last layers, side by side; NaN as `recognise`."""
        stacked = self.trained.responses(self._to_input(x), features=True)
        features = np.concatenate(list(stacked), -1)
        return np.where(_is_finite(x)[:, None], features, np.nan)

    def _to_input(self, x):
        check_signed(x)
        size = self.trained.spec.image_shape[0]
        return np.asarray(to_bytes(_resized(jnp.asarray(x), size)))


def _is_finite(x):
    """Whether all pixels of each image are, `[N]`."""
    return np.isfinite(x).all((1, 2, 3))


@partial(jax.jit, static_argnums=1)
def _resized(x, size):
    if x.shape[1] == size:
        return x
    return jax.image.resize(x, (len(x), size, size, x.shape[-1]), "linear")


def load(folder: Path) -> Recogniser:
    """The recogniser of a run, from the run's folder of checkpoints.

    Raises:
      UserError: if it is missing or damaged.
    """
    if not checkpoints.steps(folder / NAME):
        raise UserError(f"no classifier to recognise classes in {folder}")
    return Recogniser(classifier.load(folder / NAME))


def beside(generator: Path) -> Recogniser:
    """The recogniser trained with a generator, which is given as for `network.load`.

    Raises:
      UserError: as `load`.
    """
    folder, _ = checkpoints.find(generator, MAIN)
    return load(folder.parent)


def finish(
    folder: Path,
    data: Selection,
    epochs: int,
    seed: int,
    progress: Progress = no_progress,
) -> Recogniser:
    """Trains the recogniser, resumes its training, or loads the finished one.

    Args:
      folder: of the run's checkpoints.
      epochs: passes over the training examples.
      seed: of the choice of examples and of the training.
      progress: makes a progress bar from the total and the initial number of steps.

    Raises:
      UserError: if no training image can be read, a loss is not finite, or a checkpoint
        is damaged.
    """
    own = folder / NAME
    done = checkpoints.last_step(own)
    if done and done == checkpoints.read_spec(own, ClassifierSpec).steps:
        return load(folder)
    train = _examples(data, seed)
    recipe = RECIPE._replace(
        epochs=epochs, batch_size=min(RECIPE.batch_size, len(train.labels))
    )
    steps = epochs * (len(train.labels) // recipe.batch_size)
    mean, std = channel_statistics(train.images)
    spec = ClassifierSpec(
        widths=WIDTHS[CHANNELS],
        branches=BRANCHES,
        classes=data.class_names,
        image_shape=train.images.shape[1:],
        mean=tuple(np.float32(mean).tolist()),
        std=tuple(np.float32(std).tolist()),
        steps=steps,
    )
    checkpoints.write_spec(own, spec)
    with progress(steps, done) as advance:
        fit(
            classifier.build(spec, LAST_SCALE),
            recipe,
            spec.pixels,
            train,
            jax.random.fold_in(jax.random.key(seed), 0),
            own,
            Schedule(),
            lambda state, step, epoch, log: advance(len(log["loss"])),
        )
    return load(folder)


def _examples(data: Selection, seed: int) -> Split:
    """Training images of the recogniser: a balanced subset, shrunk where large."""
    chosen = balanced(data.train.labels(), MAX_EXAMPLES, seed)
    train, _ = read_readable(data.train, np.sort(chosen))
    size = min(train.images.shape[1], MAX_SIZE)
    if train.images.shape[1] == size:
        return train
    return Split(
        np.stack([_shrunk(image, size) for image in train.images]), train.labels
    )


def _shrunk(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(to_bytes(_resized(to_signed(jnp.asarray(image[None])), size)))[0]
