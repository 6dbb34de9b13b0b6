"""The images that `experiments.segment` chooses components on, and segments."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

from bspec_jax import generator, runs
from bspec_jax.data import sources, streaming
from bspec_jax.data.decoding import decode
from bspec_jax.data.folder import read_images
from bspec_jax.data.images import Part, of_classes
from bspec_jax.data.selection import balanced, first_of_each
from bspec_jax.generator import GeneratorSpec, recogniser, to_signed
from bspec_jax.storage.errors import UserError, flag
from bspec_jax.storage.files import safe_names
from experiments.flags import unused_by_data
from experiments.segment.config import Config


class LabelledImages(NamedTuple):
    """Images to segment.

    names: file names of their masks, without suffix.
    x: `[N, H, W, C]` in -1..1.
    labels: `[N]`, indices of the generator's classes.
    masks: true masks `[N, H, W]` by part; None without a ground truth.
    """

    names: list[str]
    x: Float32[np.ndarray, "N H W C"]
    labels: Int[np.ndarray, " N"]
    masks: dict[str, Bool[np.ndarray, "N H W"]] | None = None

    def true_masks(self, part: str) -> Bool[np.ndarray, "N H W"] | None:
        """The true masks of a part; None without a ground truth."""
        return None if self.masks is None else self.masks[part]


def load_images(
    config: Config, spec: GeneratorSpec
) -> tuple[LabelledImages, LabelledImages]:
    """A few images to choose components on, and the images to segment.

    Raises:
      UserError: if an image cannot be read, there are none, or the generator's data
        have changed.
      ArgumentError: if the data set lacks one of the generator's classes.
      FlagError: for a flag that the data set does not read.
    """
    if config.images:
        own = read_own_images(config, spec)
        index = first_of_each(own.labels, config.choose_examples)
        names = [own.names[i] for i in index]
        return LabelledImages(names, own.x[index], own.labels[index]), own
    dataset = config.dataset or spec.dataset
    check_read(config, dataset)
    source = sources.find(
        dataset, config.data_dir, spec.image_shape[0], config.test_share
    )
    source = of_classes(source, spec.classes)
    if config.dataset is None:  # the generator's own
        runs.check_trained_on(config.checkpoint, generator.MAIN, source.identity)
    count = config.choose_examples * len(spec.classes)
    return (
        draw_images(source.train, source.class_names, count, config.seed),
        draw_images(source.test, source.class_names, config.test_examples, config.seed),
    )


def check_read(config: Config, dataset: str) -> None:
    """Raises FlagError for a flag that the data set does not read."""
    for name, mode in unused_by_data(dataset).items():
        if getattr(config, name) != getattr(type(config), name):
            raise runs.FlagError(f"{flag(name)} does not apply {mode}: leave it out")


def draw_images(
    part: Part, class_names: tuple[str, ...], count: int, seed: int
) -> LabelledImages:
    """About `count` random images of a part, equally many of each class, by class."""
    indices = balanced(part.labels(), count, seed)
    (images, labels), unreadable = streaming.read_readable(part, indices)
    for message in unreadable:
        print(f"skipped: {message}")
    order = np.argsort(labels, kind="stable")
    images, labels = images[order], labels[order]
    masks = None
    if part.ground_truth is not None:
        # Rendered images are always readable, so `order` refers to all of `indices`.
        masks = part.ground_truth(indices[order]).masks
    stems = safe_names(class_names)
    names = [f"{stems[label]}_{i:04d}" for i, label in enumerate(labels)]
    return LabelledImages(names, to_signed(images), labels, masks)


def read_own_images(config: Config, spec: GeneratorSpec) -> LabelledImages:
    """The images of --images, with the classes that the run's classifier recognises."""
    size, _, channels = spec.image_shape
    images, paths = read_images(config.images, size, channels)
    for path in paths:
        width, height = decode(path).size
        if (width, height) != (size, size):
            print(f"{path}: {width} x {height}, resized to {size} x {size}")
    x = to_signed(images)
    labels = recogniser.beside(config.checkpoint).recognise(x)
    for path, label in zip(paths, labels, strict=True):
        print(f"{path}: taken for {spec.classes[label]}")
    return LabelledImages(mask_names(paths), x, labels.astype(np.int32))


def mask_names(paths: list[Path]) -> list[str]:
    """Their names without suffix; with folder and suffix where two are the same.

    Raises:
      UserError: if two are still the same, so that one mask would overwrite another.
    """
    stems = Counter(path.stem for path in paths)
    names = [
        path.stem
        if stems[path.stem] == 1
        else f"{path.resolve().parent.name}_{path.name}"
        for path in paths
    ]
    for name, count in Counter(names).items():
        if count > 1:
            raise UserError(
                f"{count} images would have a mask called {name}: rename them"
            )
    return safe_names(names)
