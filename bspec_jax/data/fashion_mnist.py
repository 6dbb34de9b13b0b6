"""Fashion-MNIST from its IDX files.

Source: the format as in LeCun's description of MNIST's files: a big-endian magic number
(0, 0, type, number of axes), the length of each axis, then the data.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from bspec_jax.data.images import Part, Source, make_split
from bspec_jax.errors import UserError

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of dataset-fashion-mnist
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
UNSIGNED_BYTE = 8  # the type in the magic number


def has_files(folder: Path) -> bool:
    """Whether any of the four files is there, as it is or gzipped."""
    return any(_path(folder, name) for pair in FILES.values() for name in pair)


def find(folder: Path, image_size: int | None) -> Source:
    """The set in a folder that has the four files, each as it is or gzipped.

    Raises:
      UserError: if a file is missing or damaged.
    """
    parts = {split: _part(folder, *names, image_size) for split, names in FILES.items()}
    return Source("fashion_mnist", parts["train"], parts["test"], CLASS_NAMES)


def _part(folder, images_name, labels_name, image_size):
    images = read_idx(_existing(folder, images_name), 3)
    path = _existing(folder, labels_name)
    labels = read_idx(path, 1)
    if len(labels) != len(images):
        raise UserError(
            f"{path} is damaged: {len(labels)} labels for {len(images)} images"
        )
    if labels.max(initial=0) >= len(CLASS_NAMES):
        raise UserError(f"{path} is damaged: it has label {labels.max()}, not 0 to 9")
    return Part(
        len(images),
        lambda indices: make_split(
            images[indices][..., None], labels[indices], image_size
        ),
        lambda: labels.astype(np.int32),
    )


def _path(folder: Path, name: str) -> Path | None:
    candidates = (folder / f"{name}.gz", folder / name)
    return next((path for path in candidates if path.is_file()), None)


def _existing(folder, name):
    if (path := _path(folder, name)) is None:
        raise UserError(
            f"{folder} lacks {name}.gz; `apt-get install --reinstall "
            f"dataset-fashion-mnist` puts all four files into {DEBIAN_FOLDER}"
        )
    return path


def read_idx(path: Path, axes: int) -> np.ndarray:
    """The bytes in an IDX file, in an array of that many axes.

    Raises:
      UserError: if the file is damaged, or of another type or number of axes.
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
            f"{expected.hex()} and {axes} lengths"
        )
    shape = tuple(map(int, np.frombuffer(data, ">u4", axes, len(expected))))
    if len(data) - header != math.prod(shape):
        raise UserError(
            f"{path} is damaged: it holds {len(data) - header} bytes of data, not the "
            f"{' x '.join(map(str, shape))} that it announces"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
