"""The images that `experiments.segment` chooses components on, and segments."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from bspec_jax.data import sources, streaming
from bspec_jax.data.folder import read_images
from bspec_jax.data.images import of_classes
from bspec_jax.errors import UserError
from bspec_jax.generator import Trained, to_signed
from experiments import recogniser
from experiments.class_transfer_data import balanced, first_of_each, ground_truth


class Images(NamedTuple):
    """Some images, with what is known of them.

    names: of the files that their masks are written to.
    x: in -1..1.
    labels: their classes.
    masks: of each part, where there is a ground truth.
    """

    names: list[str]
    x: np.ndarray
    labels: np.ndarray
    masks: dict[str, np.ndarray] | None = None

    def of(self, index) -> "Images":
        """Some of them."""
        masks = self.masks and {part: mask[index] for part, mask in self.masks.items()}
        names = [self.names[i] for i in index]
        return Images(names, self.x[index], self.labels[index], masks)


def load(config, trained: Trained) -> tuple[Images, Images]:
    """A few images to choose components on, and the images to segment.

    Raises:
      UserError: if there are none, or one of the user's own cannot be read.
    """
    if config.images:
        own = _own(config, trained)
        return own.of(first_of_each(own.labels, config.choose_examples)), own
    classes = trained.description["classes"]
    size = trained.description["image_shape"][0]
    dataset = config.dataset or trained.description["dataset"]
    source = of_classes(sources.find(dataset, config.data_dir, size), classes)
    parts = (
        ("train", source.train, config.choose_examples * len(classes)),
        ("test", source.test, config.test_examples),
    )
    return tuple(
        _drawn(source.name, classes, split, part, count, config.seed)
        for split, part, count in parts
    )


def _drawn(dataset, classes, split, part, count, seed) -> Images:
    indices = balanced(part.labels(), count, seed)
    (images, labels), unreadable = streaming.read_readable(part, indices)
    for complaint in unreadable:
        print(f"skipped: {complaint}")
    order = np.argsort(labels, kind="stable")
    images, labels = images[order], labels[order]
    masks = None
    if dataset == "faces":
        size = images.shape[1]
        masks = ground_truth(classes, split, indices[order], size).masks
    names = [f"{classes[label]}_{i:04d}" for i, label in enumerate(labels)]
    return Images(names, to_signed(images), labels, masks)


def _own(config, trained: Trained) -> Images:
    size, _, channels = trained.description["image_shape"]
    images, paths = read_images(config.images, size, channels)
    for path in paths:
        with Image.open(path) as picture:
            if picture.size != (size, size):
                width, height = picture.size
                print(f"{path}: {width} x {height}, resized to {size} x {size}")
    x = to_signed(images)
    labels = recogniser.beside(config.checkpoint).recognise(x)
    classes = trained.description["classes"]
    for path, label in zip(paths, labels, strict=True):
        print(f"{path}: taken for {classes[label]}")
    return Images(_distinct(paths), x, labels.astype(np.int32))


def _distinct(paths: list[Path]) -> list[str]:
    """Names of the files, with their folder's where one comes twice.

    Raises:
      UserError: if two are still the same, whose masks would overwrite each other.
    """
    count = Counter(path.stem for path in paths)
    names = [
        path.stem
        if count[path.stem] == 1
        else f"{path.resolve().parent.name}_{path.name}"
        for path in paths
    ]
    for name, times in Counter(names).items():
        if times > 1:
            raise UserError(f"{times} images would be written as {name}: rename them")
    return names
