"""Fashion-MNIST from its IDX files.

Source: LeCun's description of MNIST's files. A file holds a big-endian magic number
(0, 0, type, number of axes), the length of each axis, and the data.
"""

import gzip
import math
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from bspec_jax.data import prepared
from bspec_jax.data.identity import hash_array
from bspec_jax.data.images import Part, Source, make_split
from bspec_jax.storage.errors import UserError

# Where the Debian package dataset-fashion-mnist installs the files.
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
UNSIGNED_BYTE = 8  # type code in the magic number


def find(name: str, data_dir: Path | None, image_size: int | None) -> Source:
    """Fashion-MNIST from a folder with its four files, each plain or gzipped.

    Without such files, the data set that TensorFlow Datasets prepared.

    Args:
      name: of the data set in TensorFlow Datasets.
      data_dir: folder of the files. Default: the Debian package's.
      image_size: side of the decoded images, in pixels. Default: as stored.

    Raises:
      UserError: if a file is missing or damaged.
    """
    folder = data_dir or DEBIAN_FOLDER
    if not any(_path(folder, file) for pair in FILES.values() for file in pair):
        if prepared.is_prepared(name, data_dir):
            return prepared.find(name, data_dir, image_size)
        raise UserError(
            f"no Fashion-MNIST in {folder}: run `apt-get install "
            "dataset-fashion-mnist`"
            + (" and omit `data_dir`" if data_dir else "")
            + f", or `{prepared.command(name, data_dir)}`"
        )
    parts, arrays = {}, {}
    for split, names in FILES.items():
        images, labels = _read(folder, *names)
        arrays |= zip(names, (images, labels), strict=True)
        parts[split] = Part(
            len(images),
            partial(_make_split, images, labels, image_size),
            partial(labels.astype, np.int32),
        )
    return Source(
        "fashion_mnist",
        parts["train"],
        parts["test"],
        CLASS_NAMES,
        lambda _: {name: hash_array(array) for name, array in arrays.items()},
    )


def _make_split(images, labels, image_size, indices):
    return make_split(images[indices][..., None], labels[indices], image_size)


def _read(folder, images_name, labels_name):
    images = read_idx(_existing(folder, images_name), 3)
    path = _existing(folder, labels_name)
    labels = read_idx(path, 1)
    if len(labels) != len(images):
        raise UserError(
            f"{path} is damaged: {len(labels)} labels for {len(images)} images"
        )
    if labels.max(initial=0) >= len(CLASS_NAMES):
        raise UserError(f"{path} is damaged: it has label {labels.max()}, not 0 to 9")
    return images, labels


def _path(folder: Path, name: str) -> Path | None:
    candidates = (folder / f"{name}.gz", folder / name)
    return next((path for path in candidates if path.is_file()), None)


def _existing(folder, name):
    if (path := _path(folder, name)) is None:
        raise UserError(
            f"{folder} lacks {name}.gz; `apt-get install --reinstall "
            f"dataset-fashion-mnist` installs all four files in {DEBIAN_FOLDER}"
        )
    return path


def read_idx(path: Path, axes: int) -> np.ndarray:
    """The array of bytes in an IDX file, with `axes` axes.

    Raises:
      UserError: if the file is damaged, or has another type or number of axes.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    expected = bytes((0, 0, UNSIGNED_BYTE, axes))
    header = len(expected) + 4 * axes
    if data[: len(expected)] != expected or len(data) < header:
        raise UserError(
            f"{path} is damaged: it starts with {data[:4].hex() or 'nothing'}, not "
            f"{expected.hex()} and {axes} axis lengths"
        )
    shape = tuple(map(int, np.frombuffer(data, ">u4", axes, len(expected))))
    if len(data) - header != math.prod(shape):
        raise UserError(
            f"{path} is damaged: it holds {len(data) - header} bytes of data, not the "
            f"{' x '.join(map(str, shape))} that its header announces"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
