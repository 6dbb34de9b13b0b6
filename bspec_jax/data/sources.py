"""Sets of labelled images by name, split for training, validation and testing."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, UInt8

from bspec_jax.data import celeb_a_hq, faces, fashion_mnist, folder, prepared
from bspec_jax.data.images import Source, Split, check_one_shape
from bspec_jax.errors import FlagError, UserError, flag

# Per-channel mean and standard deviation that are customary for CIFAR-10. The mean is
# that of the pixels of its 50,000 training images; the deviation is the mean over
# images of each image's own, hence below the pixels' (.2470, .2435, .2616). Source:
# the training scripts of pytorch-cifar and most CIFAR-10 code after it.
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2023, 0.1994, 0.2010)


class Dataset(NamedTuple):
    """A set of images, split.

    name: of the set.
    train, validation, test: its parts; the validation may be empty.
    class_names: by label.
    mean, std: of each channel, of pixels in 0..1, `[C]`; for `augmentation.normalise`.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    mean: Float64[np.ndarray, "C"]
    std: Float64[np.ndarray, "C"]


def load(
    dataset: str,
    data_dir: Path | str | None = None,
    *,
    seed: int = 0,
    validation_examples: int = 5000,
    train_examples: int | None = None,
    test_examples: int | None = None,
    image_size: int | None = None,
) -> Dataset:
    """Reads a set of images.

    The validation examples are drawn from the training data by a permutation that
    `seed` alone determines, and the training examples are the next ones of it, so
    that fewer of them are a subset of more; as are fewer test examples.

    Args:
      dataset: "fashion_mnist" (IDX files, or TensorFlow Datasets), "folder" (images in
        `data_dir/train/<class>/` and `data_dir/test/<class>/`), "faces" (synthetic
        ones), or any other set of images and labels in TensorFlow Datasets, such as
        "cifar10".
      data_dir: where the files are. Default: where the Debian package puts them
        (Fashion-MNIST), or TensorFlow Datasets its own.
      seed: of the permutation.
      validation_examples: how many; 0 for none.
      train_examples: how many. Default: all the rest.
      test_examples: how many of the test data. Default: all, in their own order.
      image_size: side of the squares that images become (the central square of each,
        bicubic). Default: as they are, and 32 for a folder.

    Raises:
      UserError: if the set or some of its files are missing or damaged; the line says
        which command or flag would mend it.
      FlagError: if more examples are asked for than there are, or a number is negative.
    """
    _check_numbers(
        validation_examples,
        train_examples=train_examples,
        test_examples=test_examples,
        image_size=image_size,
    )
    source = find(dataset, data_dir, image_size)
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
    return Dataset(source.name, train, validation, test, source.class_names, mean, std)


def channel_statistics(
    images: UInt8[np.ndarray, "N H W C"],
) -> tuple[Float64[np.ndarray, "C"], Float64[np.ndarray, "C"]]:
    """Mean and standard deviation of each channel, of pixels in 0..1.

    Exact, from how often each of the 256 values occurs. A channel that is constant has
    deviation 1, so that one can divide by it.
    """
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    # In blocks, because bincount makes an int64 copy of what it counts.
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


def _check_numbers(validation_examples, **positive):
    if validation_examples < 0:
        raise FlagError(
            f"--validation-examples must be at least 0, got {validation_examples}"
        )
    for name, value in positive.items():
        if value is not None and value < 1:
            raise FlagError(f"{flag(name)} must be at least 1, got {value}")


def find(
    name: str, data_dir: Path | str | None = None, image_size: int | None = None
) -> Source:
    """A set of images, of which nothing is decoded yet; arguments as of `load`.

    Raises:
      UserError: if the set or some of its files are missing or damaged.
    """
    data_dir = Path(data_dir).expanduser() if data_dir else None
    if name == "faces":
        return faces.find(image_size)
    if name.split("/")[0] == "celeb_a_hq":
        return celeb_a_hq.find(name, data_dir, image_size)
    if name == "folder":
        return folder.find(data_dir, image_size)
    if name == "fashion_mnist":
        at = data_dir or fashion_mnist.DEBIAN_FOLDER
        if fashion_mnist.has_files(at):
            return fashion_mnist.find(at, image_size)
        if not prepared.is_prepared(name, data_dir):
            raise UserError(
                f"no Fashion-MNIST in {at}: run `apt-get install "
                "dataset-fashion-mnist`"
                + (" and leave out --data-dir" if data_dir else "")
                + f", or `{prepared.command(name, data_dir)}`"
            )
    return prepared.find(name, data_dir, image_size)


def _test_indices(count, seed, test_examples):
    if test_examples is None:
        return np.arange(count)
    if test_examples > count:
        raise FlagError(
            f"--test-examples {test_examples} is more than the {count} test images"
        )
    return np.random.default_rng(seed).permutation(count)[:test_examples]


def _permuted(count, seed, validation_examples, train_examples):
    """Indices of the training and of the validation examples."""
    rest = count - validation_examples
    if rest < 1:
        raise FlagError(
            f"--validation-examples {validation_examples} leaves none of the {count} "
            "training images to train on"
        )
    if train_examples is None:
        train_examples = rest
    if train_examples > rest:
        raise FlagError(
            f"--train-examples {train_examples} is more than the {rest} images that "
            f"--validation-examples {validation_examples} leaves of {count}"
        )
    order = np.random.default_rng(seed).permutation(count)
    stop = validation_examples + train_examples
    return order[validation_examples:stop], order[:validation_examples]
