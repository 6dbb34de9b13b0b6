"""The images of a class-transfer run: which classes, what to train and measure on."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bspec_jax.data import faces, sources, streaming
from bspec_jax.data.images import Part, Split, of_classes
from bspec_jax.storage.errors import FlagError, UserError


class Data(NamedTuple):
    """The images of a run.

    train: of which batches are drawn.
    test: those that are measured on, `test_indices` of the set's.
    unreadable: complaints about files that were left out.
    """

    name: str
    class_names: tuple[str, ...]
    train: Part
    test: Split
    test_indices: np.ndarray
    unreadable: list[str]


def balanced(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of about `count` examples, as many of each class, drawn at random.

    They are ordered so that the classes take turns; a class that has fewer ends sooner.
    """
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    each = -(-count // len(classes))
    drawn = [rng.permutation(np.flatnonzero(labels == c))[:each] for c in classes]
    place = np.concatenate([np.arange(len(of_class)) for of_class in drawn])
    return np.concatenate(drawn)[np.argsort(place, kind="stable")]


def first_of_each(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of the first `count` examples of each class, class after class."""
    return np.concatenate(
        [np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]
    )


def load(
    dataset: str,
    data_dir: Path | None,
    classes: tuple[str, ...],
    size: int,
    test_examples: int,
    seed: int,
) -> Data:
    """The chosen classes, held-out images of each of them, and what is unreadable.

    Raises:
      UserError: if the set cannot be read, or a class has no image.
      FlagError: if there is a single class, or none of a name.
    """
    source = sources.find(dataset, data_dir, size)
    source = of_classes(source, classes or source.class_names)
    if len(source.class_names) < 2:
        raise FlagError(f"{dataset} has a single class: choose another --dataset")
    for part, name in ((source.train, "training"), (source.test, "test")):
        present = set(part.labels().tolist())
        for label, of in enumerate(source.class_names):
            if label not in present:
                raise UserError(
                    f"{source.name} has no {name} image of class {of}: add some, or "
                    "leave it out of --classes"
                )
    held_out = balanced(source.test.labels(), test_examples, seed)
    test, unreadable = streaming.read_readable(source.test, held_out)
    train, more = streaming.in_memory(source.train, test.images[0].size)
    return Data(
        source.name, source.class_names, train, test, held_out, [*unreadable, *more]
    )


def ground_truth(
    class_names: Sequence[str],
    split: str,
    indices: np.ndarray,
    size: int,
    without: Collection[str] = (),
) -> faces.Face:
    """The layers and masks of some of the faces.

    Args:
      indices: among the faces of these classes in the split.
      without: parts that are left out.
    """
    known = [faces.CLASSES.index(name) for name in class_names]
    kept = np.flatnonzero(np.isin(faces.labels(split), known))
    return faces.ground_truth(split, kept[indices], size, without)


def labels_of_faces(class_names: Sequence[str], split: str) -> np.ndarray:
    """The classes of all faces of these classes in a split, numbered in their order."""
    source = of_classes(faces.find(None), class_names)
    return {"train": source.train, "test": source.test}[split].labels()
