"""The pictures that a run's figures show: of held-out images, or of the user's own."""

import numpy as np

from bspec_jax import generator
from bspec_jax.components.pictures import Pictures
from bspec_jax.data import Selection, Split
from bspec_jax.data.folder import read_images
from bspec_jax.data.selection import balanced
from bspec_jax.generator import recogniser
from bspec_jax.generator.evaluation import PICTURES, make_pictures
from bspec_jax.generator.network import ClassTransfer
from bspec_jax.storage import files
from bspec_jax.trees import Tree
from experiments.class_transfer.config import Config

FILE = "decompositions.npz"


def save_held_out(
    config: Config, data: Selection, model: ClassTransfer, params: Tree
) -> None:
    """Saves the pictures of a few test images of each class, class by class."""
    num_classes = len(data.class_names)
    labels = data.test.labels
    chosen = balanced(labels, PICTURES * num_classes, config.seed)
    chosen = chosen[np.argsort(labels[chosen], kind="stable")]
    examples = Split(*(leaf[chosen] for leaf in data.test))
    pictures = make_pictures(model, params, examples, num_classes)
    files.save_arrays(config.workdir / FILE, files.shortened(pictures._asdict()))


def load_held_out(config: Config) -> Pictures:
    """The pictures that `save_held_out` saved.

    Raises:
      UserError: if they are missing or damaged.
    """
    arrays = files.load_arrays(config.workdir / FILE, dict.fromkeys(Pictures._fields))
    return Pictures(**files.widened(arrays))


def of_own_images(config: Config, classes: list[str]) -> Pictures:
    """The user's images as pictures, each of the class that it is recognised as.

    Raises:
      UserError: if an image cannot be read, or a network is missing or damaged.
    """
    trained = generator.load(config.workdir)
    size, _, channels = trained.spec.image_shape
    images, paths = read_images(config.images, size, channels)
    recognise = recogniser.load(config.workdir / "checkpoints").recognise
    labels = recognise(generator.to_signed(images)).astype(np.int32)
    for path, label in zip(paths, labels, strict=True):
        print(f"{path}: taken for {classes[label]}")
    examples = Split(images, labels)
    return make_pictures(trained.model, trained.params, examples, len(classes))
