"""Batches that are read while a network trains, in which every class is as frequent.

Batch t is a function of the seed and t alone: a training that goes on at step t asks
for the batches from t on, and there is no position in the data to save.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import grain
import numpy as np
from absl import flags
from jaxtyping import Int32, UInt8

from bspec_jax.data.images import Part, Split, UnreadableError
from bspec_jax.errors import UserError

IN_MEMORY = 2**30  # bytes up to which a part is read as a whole
READY = 4  # batches that are read ahead
AT_ONCE = 64  # examples that are read at once, where all can be


class Batch(NamedTuple):
    """Images, their classes, and which could not be read.

    images: `[B, H, W, C]`, in 0..255.
    labels: `[B]`.
    skipped: `[B]`, the index of an example that this one stands in for; -1 if none.
    """

    images: UInt8[np.ndarray, "B H W C"]
    labels: Int32[np.ndarray, "B"]
    skipped: Int32[np.ndarray, "B"]


def batches(
    part: Part, batch_size: int, seed: int, start: int = 0, workers: int = 0
) -> Iterator[Batch]:
    """Batches `start`, `start` + 1, ... without end.

    Classes take turns, and each is shuffled anew whenever it was seen as a whole. An
    example that cannot be read is replaced by the next of its class.

    Args:
      part: which examples; each class must have some.
      seed: of the order.
      workers: processes that read, for images that take long to decode; 0 reads in
        threads of this process.
    """
    labels = part.labels()
    members = [np.flatnonzero(labels == c) for c in range(labels.max() + 1)]
    classes = [
        grain.MapDataset.source(of_class).seed(seed + c).shuffle().repeat()
        for c, of_class in enumerate(members)
    ]
    # Nothing but functions of modules, which worker processes can be sent.
    order = (
        grain.MapDataset.mix(classes)
        .map(partial(_read_one, part, members))
        .batch(batch_size)
    )
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=READY)
    stream = order[start:].to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers look at absl's flags
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(stream)


def _read_one(part, members, index):
    """An example, or the next of its class that can be read."""
    label = next(c for c, of_class in enumerate(members) if index in of_class)
    first = int(np.searchsorted(members[label], index))
    skipped = -1
    for candidate in np.roll(members[label], -first):
        try:
            image, label = part.read(np.array([candidate]))
        except UnreadableError:
            skipped = index
            continue
        return Batch(image[0], label[0], np.int32(skipped))
    raise UserError(f"no image of class {label} can be read")


def read_readable(part: Part, indices: np.ndarray) -> tuple[Split, list[str]]:
    """The examples of these indices that can be read, and the others' complaints."""
    read, complaints = [], []
    for start in range(0, len(indices), AT_ONCE):
        some = indices[start : start + AT_ONCE]
        try:
            read.append(part.read(some))
        except UnreadableError:
            for index in some:
                try:
                    read.append(part.read(np.array([index])))
                except UnreadableError as error:
                    complaints.append(str(error))
    if not read:
        raise UserError(complaints[0] if complaints else "there is no image to read")
    images, labels = (np.concatenate(leaves) for leaves in zip(*read, strict=True))
    return Split(images, labels), complaints


def in_memory(part: Part, image_bytes: int) -> tuple[Part, list[str]]:
    """A part read as a whole if it is small, else as it is; and what was unreadable."""
    if part.count * image_bytes > IN_MEMORY:
        return part, []
    split, complaints = read_readable(part, np.arange(part.count))
    return from_split(split), complaints


def from_split(split: Split) -> Part:
    """Examples in memory, as a part."""

    def read(indices: np.ndarray) -> Split:
        return Split(*(leaf[indices] for leaf in split))

    return Part(len(split.labels), read, lambda: split.labels)


def complaint(part: Part, index: int) -> str:
    """Why an example cannot be read."""
    try:
        part.read(np.array([index]))
    except UnreadableError as error:
        return str(error)
    return ""
