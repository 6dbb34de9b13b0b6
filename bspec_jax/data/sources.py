"""Data sets of labelled images by name, split for training, validation and testing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Int32, UInt8

from bspec_jax.data import celeb_a_hq, faces, fashion_mnist, folder, prepared
from bspec_jax.data.images import Source, Split, check_bytes, check_one_shape
from bspec_jax.data.names import expanded, position
from bspec_jax.numerics import check_count
from bspec_jax.storage.errors import ArgumentError

# Customary per-channel statistics of CIFAR-10. The mean is that of the pixels of its
# 50,000 training images; the deviation is the mean over images of each image's own,
# hence below the pixels' (.2470, .2435, .2616). Source: the training scripts of
# pytorch-cifar and most CIFAR-10 code after it.
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2023, 0.1994, 0.2010)


MOST_VALIDATION = 5000  # validation examples by default


class Dataset(NamedTuple):
    """A data set of images, split.

    train, validation, test: the splits; validation may be empty.
    class_names: by label.
    mean, std: of each channel, for pixels in 0..1, `[C]`; see `augmentation.normalise`.
    source: the data set as stored, of which these are examples.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    mean: Float64[np.ndarray, "C"]
    std: Float64[np.ndarray, "C"]
    source: Source

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies the data as stored; see `Source.identity`."""
        return self.source.identity

    def used(self) -> dict[str, Int32[np.ndarray, " N"]]:
        """The labels of the examples in use, by what they are used for."""
        return {
            "training": self.train.labels,
            "validation": self.validation.labels,
            "test": self.test.labels,
        }

    def unreadable_of_class(self) -> Int[np.ndarray, "C"]:
        """The number of unreadable examples of each class: none, as `load` refuses."""
        return np.zeros(len(self.class_names), int)


def load(
    dataset: str,
    data_dir: Path | str | None = None,
    *,
    seed: int = 0,
    validation_examples: int | None = None,
    train_examples: int | None = None,
    test_examples: int | None = None,
    image_size: int | None = None,
    test_share: float = folder.TEST_SHARE,
) -> Dataset:
    """Reads a data set of images.

    A permutation that `seed` alone determines splits the validation examples off the
    training data; the training examples are the next ones in it, so that fewer of them
    are a subset of more. The same goes for fewer test examples.

    Args:
      dataset: "fashion_mnist" (IDX files, or TensorFlow Datasets), "folder" (images in
        `data_dir/train/<class>/` and `data_dir/test/<class>/`, or in
        `data_dir/<class>/`), "faces" (synthetic), or any other image classification set
        of TensorFlow Datasets, such as "cifar10".
      data_dir: where the files are. Default: the Debian package's folder
        (Fashion-MNIST), or that of TensorFlow Datasets.
      seed: of the permutation.
      validation_examples: number of validation examples; 0 for none. Default: a tenth
        of the training images, at most 5,000, or what `train_examples` leaves.
      train_examples: number of training examples. Default: all the rest.
      test_examples: number of test examples. Default: all, in their own order.
      image_size: side of the squares that images become (the central square of each,
        bicubic). Default: as stored, and 32 for a folder.
      test_share: share of the images of each class that are test images, for a folder
        that is not split; see `folder.find`.

    Raises:
      UserError: if files are missing or damaged; the message says how to fix that.
      ArgumentError: for more examples than there are, and what is no whole number of
        them.
    """
    return read(
        find(dataset, data_dir, image_size, test_share),
        seed=seed,
        validation_examples=validation_examples,
        train_examples=train_examples,
        test_examples=test_examples,
    )


def read(
    source: Source,
    *,
    seed: int = 0,
    validation_examples: int | None = None,
    train_examples: int | None = None,
    test_examples: int | None = None,
) -> Dataset:
    """Reads what `find` found; arguments and errors as of `load`."""
    check_numbers(
        seed=seed,
        validation_examples=validation_examples,
        train_examples=train_examples,
        test_examples=test_examples,
    )
    chosen, held_out = _permuted(
        source.train.count, seed, validation_examples, train_examples
    )
    train = source.train.read(chosen)
    validation = Split(train.images[:0], train.labels[:0])
    if held_out.size:
        validation = source.train.read(held_out)
    test = source.test.read(_test_indices(source.test.count, seed, test_examples))
    check_one_shape({part.images.shape[1:] for part in (train, validation, test)})
    mean, std = channel_statistics(train.images)
    if source.name == "cifar10":
        mean, std = np.array(CIFAR10_MEAN), np.array(CIFAR10_STD)
    return Dataset(
        source.name, train, validation, test, source.class_names, mean, std, source
    )


def channel_statistics(
    images: UInt8[np.ndarray, "N H W C"],
) -> tuple[Float64[np.ndarray, "C"], Float64[np.ndarray, "C"]]:
    """Mean and standard deviation of each channel, for pixels in 0..1.

    Exact, from counts of the 256 values. A constant channel has deviation 1, so that
    one can divide by it.

    Raises:
      ArgumentError: if the images are not bytes.
    """
    check_bytes(images)
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    # In blocks: bincount makes an int64 copy of its input.
    for start in range(0, len(images), 1024):
        block = images[start : start + 1024]
        for channel in range(channels):
            values = block[..., channel].ravel()
            counts[channel] += np.bincount(values, minlength=256)
    shares = counts / counts.sum(1, keepdims=True)
    levels = np.arange(256) / 255
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(1)
    constant = (counts > 0).sum(1) == 1
    return mean, np.where(constant, 1.0, np.sqrt(variance))


def check_numbers(**numbers: Any) -> None:
    """Raises ArgumentError unless all are whole numbers, at least 1 or 0, or None."""
    for name, value in numbers.items():
        least = 0 if name in ("seed", "validation_examples") else 1
        try:
            if value is not None:
                check_count(f"`{name}`", value, least)
        except ValueError as error:
            raise ArgumentError(str(error)) from None


def find(
    dataset: str,
    data_dir: Path | str | None = None,
    image_size: int | None = None,
    test_share: float = folder.TEST_SHARE,
) -> Source:
    """A data set whose images are decoded on demand; arguments as of `load`.

    Raises:
      UserError: if files are missing or damaged.
      ArgumentError: if `image_size` is not a whole number of at least 1, or
        `test_share` not between 0 and 1.
    """
    check_numbers(image_size=image_size)
    if not 0 < test_share < 1:
        raise ArgumentError(
            f"`test_share` must be above 0 and below 1, got {test_share}"
        )
    data_dir = expanded(data_dir) if data_dir else None
    family, *rest = dataset.split("/")
    families = tuple(READERS)
    if (known := position(family, families)) is None:
        return prepared.find(dataset, data_dir, image_size)
    name = "/".join([families[known], *rest])
    return READERS[families[known]](name, data_dir, image_size, test_share)


# By name, or by its beginning up to a "/": `(name, data_dir, image_size, test_share) ->
# Source`. Every other data set is one of TensorFlow Datasets.
READERS: dict[str, Callable[[str, Path | None, int | None, float], Source]] = {
    "faces": lambda name, data_dir, size, share: faces.find(size),
    "folder": lambda name, data_dir, size, share: folder.find(data_dir, size, share),
    "fashion_mnist": lambda name, data_dir, size, share: fashion_mnist.find(
        name, data_dir, size
    ),
    "celeb_a_hq": lambda name, data_dir, size, share: celeb_a_hq.find(
        name, data_dir, size
    ),
}


def _test_indices(count, seed, test_examples):
    if test_examples is None:
        return np.arange(count)
    if test_examples > count:
        raise ArgumentError(
            f"`test_examples` {test_examples} is more than the {count} test images"
        )
    return np.random.default_rng(seed).permutation(count)[:test_examples]


def _permuted(count, seed, validation_examples, train_examples):
    """Indices of the training and of the validation examples."""
    if validation_examples is None:
        left = max(count - (train_examples or 1), 0)
        validation_examples = min(count // 10, MOST_VALIDATION, left)
    rest = count - validation_examples
    if rest < 1:
        raise ArgumentError(
            f"`validation_examples` {validation_examples} leaves none of the {count} "
            "training images to train on"
        )
    if train_examples is None:
        train_examples = rest
    if train_examples > rest:
        raise ArgumentError(
            f"`train_examples` {train_examples} is more than the {rest} images that "
            f"`validation_examples` {validation_examples} leaves of {count}"
        )
    order = np.random.default_rng(seed).permutation(count)
    stop = validation_examples + train_examples
    return order[validation_examples:stop], order[:validation_examples]
