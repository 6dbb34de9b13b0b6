"""The images of an experiment: chosen classes, and a balanced held-out set."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from bspec_jax.data import sources, streaming
from bspec_jax.data.folder import TEST_SHARE
from bspec_jax.data.images import Part, Source, Split, of_classes
from bspec_jax.storage.errors import ArgumentError, UserError


class Selection(NamedTuple):
    """Images to train on, and held-out images to measure on.

    name: of the data set.
    train: decoded on demand, or in memory if it is small.
    test: a balanced part of the test data.
    test_indices: of `test`, among the test data of these classes.
    test_part: the test data of these classes, decoded on demand.
    unreadable: messages about skipped files.
    source: the data of these classes as stored.
    """

    name: str
    class_names: tuple[str, ...]
    train: Part
    test: Split
    test_indices: np.ndarray
    test_part: Part
    unreadable: list[str]
    source: Source | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies the data of these classes; see `Source.identity`."""
        return self.source.identity

    def used(self) -> dict[str, Int[np.ndarray, " N"]]:
        """The labels of the examples in use, by what they are used for."""
        return {"training": self.train.labels(), "test": self.test.labels}

    def unreadable_of_class(self) -> Int[np.ndarray, "C"]:
        """The number of examples of each class that were found unreadable so far."""
        count, source = self.source.count, self.source
        chosen = source.test.labels()[self.test_indices]
        return sum(
            count(wanted) - count(used)
            for wanted, used in (
                (source.train.labels(), self.train.labels()),
                (chosen, self.test.labels),
            )
        )

    def ground_truth(self, without: Collection[str] = ()) -> Any | None:
        """What the test images were rendered from; None for pictures of the world."""
        truth = self.test_part.ground_truth
        return truth and truth(self.test_indices, without)


def balanced(
    labels: Int[np.ndarray, " N"], count: int, seed: int
) -> Int[np.ndarray, " K"]:
    """Indices of about `count` random examples, equally many of each class.

    Classes take turns in their order; a class with fewer examples ends sooner.
    """
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    each = -(-count // len(classes))
    drawn = [rng.permutation(np.flatnonzero(labels == c))[:each] for c in classes]
    place = np.concatenate([np.arange(len(of_class)) for of_class in drawn])
    return np.concatenate(drawn)[np.argsort(place, kind="stable")]


def first_of_each(labels: Int[np.ndarray, " N"], count: int) -> Int[np.ndarray, " K"]:
    """Indices of the first `count` examples of each class, class by class."""
    return np.concatenate(
        [np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]
    )


def select(
    dataset: str,
    data_dir: Path | None,
    classes: tuple[str, ...],
    image_size: int,
    test_examples: int,
    seed: int,
    test_share: float = TEST_SHARE,
) -> Selection:
    """The chosen classes of a data set, with about `test_examples` held-out images.

    Args:
      dataset, data_dir, image_size, test_share: as of `sources.load`.
      classes: by name; all without any.
      seed: of the choice of held-out images.

    Raises:
      UserError: if the data set cannot be read, or a class has no image.
      ArgumentError: if there is a single class, or a class does not exist, and for
        numbers that are no whole numbers of at least 1 (0 for `seed`).
    """
    sources.check_numbers(seed=seed, test_examples=test_examples)
    source = sources.find(dataset, data_dir, image_size, test_share)
    source = of_classes(source, classes or source.class_names)
    if len(source.class_names) < 2:
        raise ArgumentError(f"{dataset} has a single class: choose another `dataset`")
    for part, name in ((source.train, "training"), (source.test, "test")):
        present = set(part.labels().tolist())
        for label, of in enumerate(source.class_names):
            if label not in present:
                raise UserError(
                    f"{source.name} has no {name} image of class {of}: add some, or "
                    "leave it out of `classes`"
                )
    held_out = balanced(source.test.labels(), test_examples, seed)
    test, unreadable = streaming.read_readable(source.test, held_out)
    train, more = streaming.in_memory(source.train, test.images[0].size)
    return Selection(
        source.name,
        source.class_names,
        train,
        test,
        held_out,
        source.test,
        [*unreadable, *more],
        source,
    )
