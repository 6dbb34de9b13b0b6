"""Class-balanced batches, decoded while a network trains.

Batch t is a function of the seed and t alone: a training resumed at step t asks for the
batches from t on, and has no position in the data to save.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from bspec_jax.data.images import Part, Split, UnreadableError, check_bytes
from bspec_jax.storage.errors import UserError
from bspec_jax.storage.optional import needs

IN_MEMORY = 2**30  # bytes up to which a part is decoded as a whole
PREFETCH = 4  # batches decoded ahead
AT_ONCE = 64  # examples decoded at once


class Batch(NamedTuple):
    """Images, their classes, and the unreadable examples that they replace.

    images: `[B, H, W, C]`, in 0..255.
    labels: `[B]`.
    skipped: `[B]`, index of the unreadable example that an image replaces; else -1.
    """

    images: UInt8[np.ndarray, "B H W C"]
    labels: Int32[np.ndarray, "B"]
    skipped: Int32[np.ndarray, "B"]


def batches(
    part: Part, batch_size: int, seed: int, start: int = 0, workers: int = 0
) -> Iterator[Batch]:
    """Batches `start`, `start` + 1, ... without end.

    Classes take turns, and each is reshuffled after every pass over its examples. An
    unreadable example is replaced by the next readable one of its class.

    Args:
      part: the examples; every class has at least one.
      batch_size: images per batch.
      seed: of the order.
      start: the first batch.
      workers: processes that decode, for images that are slow to decode; 0 decodes in
        threads of this process.

    Raises:
      UserError: if Grain is not installed; while iterating, if no example of a class
        can be read.
    """
    grain = needs("grain", extra="generator")
    labels = part.labels()
    members = [np.flatnonzero(labels == c) for c in range(labels.max() + 1)]
    classes = [
        grain.MapDataset.source(indices).seed(seed + c).shuffle().repeat()
        for c, indices in enumerate(members)
    ]
    # Worker processes receive the function pickled, hence no closure.
    order = (
        grain.MapDataset.mix(classes)
        .map(partial(_read_one, part, members))
        .batch(batch_size)
    )
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=PREFETCH)
    stream = order[start:].to_iter_dataset(options)
    if workers:
        flags = needs("absl.flags", extra="generator")
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's flags
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(stream)


def _read_one(part, members, index):
    """An example, or the next readable one of its class."""
    label = next(c for c, indices in enumerate(members) if index in indices)
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
    """The readable examples of these indices, and messages about the others.

    Raises:
      UserError: if no example can be read.
    """
    splits, messages = [], []
    for start in range(0, len(indices), AT_ONCE):
        some = indices[start : start + AT_ONCE]
        try:
            splits.append(part.read(some))
        except UnreadableError:
            # One of them is unreadable: find out which.
            for index in some:
                try:
                    splits.append(part.read(np.array([index])))
                except UnreadableError as error:
                    messages.append(str(error))
    if not splits:
        raise UserError(messages[0] if messages else "there is no image to read")
    images, labels = (np.concatenate(leaves) for leaves in zip(*splits, strict=True))
    return Split(images, labels), messages


def in_memory(part: Part, image_bytes: int) -> tuple[Part, list[str]]:
    """Decodes a small part as a whole; a large one stays as it is.

    Args:
      image_bytes: size of an image.

    Returns the part, and messages about the unreadable examples that it leaves out.

    Raises:
      UserError: if no example can be read.
    """
    if part.count * image_bytes > IN_MEMORY:
        return part, []
    split, messages = read_readable(part, np.arange(part.count))
    return from_split(split), messages


def from_split(split: Split) -> Part:
    """Examples in memory as a part."""
    check_bytes(split.images)

    def read(indices: np.ndarray) -> Split:
        return Split(*(leaf[indices] for leaf in split))

    return Part(len(split.labels), read, lambda: split.labels)


def reason_unreadable(part: Part, index: int) -> str:
    """The message about an unreadable example; empty if it can be read."""
    try:
        part.read(np.array([index]))
    except UnreadableError as error:
        return str(error)
    return ""
