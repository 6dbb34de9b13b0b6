"""CelebA-HQ from TensorFlow Datasets, with classes from a CSV file.

TensorFlow Datasets has the images only. The user provides `celeb_a_hq_labels.csv` in
the data folder, with one line `FILE,CLASS` per image, such as `00001.png,female`.
"""

import csv
from functools import partial
from pathlib import Path

import numpy as np

from bspec_jax.data.identity import hash_groups
from bspec_jax.data.images import Part, Source, make_split
from bspec_jax.data.prepared import (
    builder,
    check_prepared,
    hashes,
    pixels,
    quiet,
    read_examples,
    undecoded,
)
from bspec_jax.storage.errors import UserError

DEFAULT = "celeb_a_hq/256"
LABELS = "celeb_a_hq_labels.csv"
TEST_EVERY = 15  # images, sorted by file name: 2,000 test images of 30,000


def find(name: str, data_dir: Path | None, image_size: int | None) -> Source:
    """The images listed in the label file; every fifteenth is a test image.

    Args:
      name: "celeb_a_hq/SIZE"; "celeb_a_hq" means 256 pixels.
      data_dir: folder of the data. Default: that of TensorFlow Datasets.
      image_size: side of the decoded images, in pixels. Default: as stored.

    Raises:
      UserError: if the data set is not prepared or damaged, or the label file is
        missing, malformed, or lists no image of the data set.
    """
    tfds_builder = builder(DEFAULT if "/" not in name else name, data_dir)
    with quiet():
        check_prepared(name, tfds_builder, data_dir)
    path = Path(data_dir or tfds_builder.data_dir) / LABELS
    classes = _read_labels(path)
    with quiet():
        source = undecoded(tfds_builder, "train")
    files = _file_names(tfds_builder, source)
    listed = sorted((file, i) for i, file in enumerate(files) if file in classes)
    if not listed:
        example = files[0] if files else "none"
        raise UserError(f"{path} names no image of {name}, such as {example}")
    names = tuple(sorted(set(classes.values())))
    indices = np.array([i for _, i in listed])
    labels = np.array([names.index(classes[file]) for file, _ in listed], np.int32)
    held_out = np.arange(len(listed)) % TEST_EVERY == TEST_EVERY - 1

    def part(mask):
        read = partial(
            _read, tfds_builder, source, indices[mask], labels[mask], image_size
        )
        return Part(int(mask.sum()), read, partial(np.copy, labels[mask]))

    unlisted = len(files) - len(listed)
    return Source(
        tfds_builder.name,
        part(~held_out),
        part(held_out),
        names,
        partial(_contents, tfds_builder, path),
        {"": {f"not in {LABELS}": unlisted}} if unlisted else {},
    )


def _contents(tfds_builder, labels, class_names):
    return hashes(tfds_builder) | hash_groups({LABELS: [labels]})


def _read_labels(path: Path) -> dict[str, str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if line]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file: {error}") from None
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        raise UserError(
            f"TensorFlow Datasets has no classes for CelebA-HQ: write {path} with a "
            "line FILE,CLASS for each image, such as 00001.png,female"
        ) from None
    for number, line in enumerate(lines, 1):
        if len(line) != 2 or not all(map(str.strip, line)):
            raise UserError(f"{path}, line {number}: must be FILE,CLASS")
    return {Path(file.strip()).name: label.strip() for file, label in lines}


def _file_names(tfds_builder, source) -> list[str]:
    examples = read_examples(tfds_builder, source, range(len(source)))
    names = (example["image/filename"] for example in examples)
    texts = (n.decode() if isinstance(n, bytes) else str(n) for n in names)
    return [Path(name).name for name in texts]


def _read(tfds_builder, source, positions, labels, image_size, indices: np.ndarray):
    examples = read_examples(tfds_builder, source, positions[indices])
    images = [
        pixels(example["image"], 3, image_size, str(example["image/filename"]))
        for example in examples
    ]
    return make_split(images, labels[indices], image_size)
