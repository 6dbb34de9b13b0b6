"""CelebA-HQ as TensorFlow Datasets prepares it, which has images but no classes.

The classes come from a file of the user's own, `celeb_a_hq_labels.csv` in the folder of
the data, with a line `FILE,CLASS` for each image, such as `00001.png,female`.
"""

import csv
from functools import partial
from pathlib import Path

import numpy as np

from bspec_jax.data.images import Part, Source, make_split
from bspec_jax.data.prepared import builder, check_prepared, damaged, quiet
from bspec_jax.errors import UserError

DEFAULT = "celeb_a_hq/256"
LABELS = "celeb_a_hq_labels.csv"
TEST_EVERY = 15  # of the images in the order of their names: 2,000 of 30,000


def find(name: str, data_dir: Path | None, image_size: int | None) -> Source:
    """The images that the file names, every fifteenth for testing.

    Args:
      name: "celeb_a_hq/SIZE"; "celeb_a_hq" is that of 256 pixels.

    Raises:
      UserError: if the set is not prepared, or damaged, or the file is missing, has
        other lines, or names no image of the set.
    """
    made = builder(DEFAULT if "/" not in name else name, data_dir)
    with quiet():
        check_prepared(name, made, data_dir)
    path = Path(data_dir or made.data_dir) / LABELS
    classes = _read_labels(path)
    files = _file_names(made)
    found = sorted((file, i) for i, file in enumerate(files) if file in classes)
    if not found:
        example = files[0] if files else "none"
        raise UserError(f"{path} names no image of {name}, such as {example}")
    names = tuple(sorted(set(classes.values())))
    indices = np.array([i for _, i in found])
    labels = np.array([names.index(classes[file]) for file, _ in found], np.int32)
    with quiet():
        source = made.as_data_source("train")
    held_out = np.arange(len(found)) % TEST_EVERY == TEST_EVERY - 1
    train, test = (
        Part(
            int(part.sum()),
            partial(_read, made, source, indices[part], labels[part], image_size),
            partial(np.copy, labels[part]),
        )
        for part in (~held_out, held_out)
    )
    return Source(made.name, train, test, names)


def _read_labels(path: Path) -> dict[str, str]:
    try:
        with path.open(newline="") as file:
            lines = [line for line in csv.reader(file) if line]
    except OSError:
        raise UserError(
            f"TensorFlow Datasets has no classes of CelebA-HQ: write {path} with a "
            "line FILE,CLASS for each image, such as 00001.png,female"
        ) from None
    for number, line in enumerate(lines, 1):
        if len(line) != 2 or not all(map(str.strip, line)):
            raise UserError(f"{path}, line {number}: must be FILE,CLASS")
    return {Path(file.strip()).name: of.strip() for file, of in lines}


def _file_names(made) -> list[str]:
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    with quiet():
        source = made.as_data_source("train", decoders=decoders)
        names = [source[i]["image/filename"] for i in range(len(source))]
    texts = (n.decode() if isinstance(n, bytes) else str(n) for n in names)
    return [Path(name).name for name in texts]


def _read(made, source, positions, labels, image_size, indices: np.ndarray):
    try:
        with quiet():
            images = [source[int(positions[i])]["image"] for i in indices]
    except (OSError, RuntimeError, ValueError) as error:
        raise damaged(made, error) from None
    return make_split(images, labels[indices], image_size)
