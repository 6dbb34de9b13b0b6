from itertools import islice

import numpy as np
import pytest
from PIL import Image

from bspec_jax.data import folder, streaming
from bspec_jax.data.images import (
    Part,
    Source,
    Split,
    UnreadableError,
    of_classes,
)
from bspec_jax.storage.errors import ArgumentError, UserError


def numbered(labels, broken=()):
    """Examples whose image is their own index."""
    labels = np.asarray(labels, np.int32)

    def read(indices):
        for index in indices:
            if index in broken:
                raise UnreadableError(f"cannot read {index}")
        images = np.asarray(indices, np.uint8).reshape(-1, 1, 1, 1)
        return Split(images, labels[indices])

    return Part(len(labels), read, lambda: labels)


def taken(part, count, **options):
    stream = streaming.batches(part, 4, **{"seed": 3} | options)
    return list(islice(stream, count))


LABELS = [0] * 3 + [1] * 12 + [2] * 5


def test_classes_are_balanced_and_each_is_seen_as_a_whole():
    found = taken(numbered(LABELS), 18)
    labels = np.concatenate([batch.labels for batch in found])
    images = np.concatenate([batch.images.ravel() for batch in found])
    assert np.bincount(labels).tolist() == [24, 24, 24]
    assert (labels == np.asarray(LABELS)[images]).all()
    of_one = images[labels == 1]
    for start in (0, 12):  # two rounds, in different orders
        assert sorted(of_one[start : start + 12]) == list(range(3, 15))
    assert of_one[:12].tolist() != of_one[12:].tolist()


def test_each_class_has_an_order_of_its_own():
    images = np.concatenate(
        [batch.images.ravel() for batch in taken(numbered([0] * 8 + [1] * 8), 4)]
    ).astype(int)
    assert images[images < 8].tolist() != (images[images >= 8] - 8).tolist()


def test_batch_t_is_the_same_from_wherever_one_starts():
    straight = taken(numbered(LABELS), 9)
    resumed = taken(numbered(LABELS), 4, start=5)
    for a, b in zip(straight[5:], resumed, strict=True):
        assert (a.images == b.images).all()
        assert (a.labels == b.labels).all()
    other = taken(numbered(LABELS), 9, seed=4)
    assert any(
        (a.images != b.images).any() for a, b in zip(straight, other, strict=True)
    )


def test_what_cannot_be_read_is_replaced_and_told():
    found = taken(numbered(LABELS, broken=(4, 5)), 18)
    straight = taken(numbered(LABELS), 18)
    images = np.concatenate([batch.images.ravel() for batch in found])
    expected = np.concatenate([batch.images.ravel() for batch in straight])
    skipped = np.concatenate([batch.skipped for batch in found])
    assert set(skipped) == {-1, 4, 5}
    assert (images[skipped == -1] == expected[skipped == -1]).all()
    assert set(expected[skipped == 4]) == {4}
    assert set(images[skipped >= 0]) == {6}  # the next of the class that is whole
    reason = streaming.reason_unreadable(numbered(LABELS, broken=(4,)), 4)
    assert reason == "cannot read 4"
    with pytest.raises(UserError, match="no image of class 0 can be read"):
        taken(numbered(LABELS, broken=(0, 1, 2)), 2)


@pytest.mark.parametrize(
    ("at_once", "reads"), [(64, [20] + 20 * [1]), (8, [8, *8 * [1], 8, 4])]
)
def test_reading_at_once_leaves_out_what_cannot_be_read(monkeypatch, at_once, reads):
    monkeypatch.setattr(streaming, "AT_ONCE", at_once)
    part, sizes = numbered(LABELS, broken=(4,)), []

    def counted(indices):
        sizes.append(len(indices))
        return part.read(indices)

    whole, messages = streaming.in_memory(part._replace(read=counted), 1)
    assert sizes == reads  # one by one only where something cannot be read
    assert messages == ["cannot read 4"]
    assert whole.count == len(LABELS) - 1
    assert whole.labels().tolist() == LABELS[:4] + LABELS[5:]
    assert whole.read(np.array([4])).images.item() == 5
    monkeypatch.setattr(streaming, "IN_MEMORY", 10)
    assert streaming.in_memory(part, 1) == (part, [])
    with pytest.raises(UserError, match="cannot read 4"):
        streaming.read_readable(part, np.array([4]))


def test_images_of_a_folder_come_from_worker_processes(tmp_path):
    for name, value in (("a", 30), ("b", 200)):
        for split in ("train", "test"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(2):
                picture = Image.new("RGB", (8, 8), (value, value, i))
                picture.save(tmp_path / split / name / f"{i}.png")
    (tmp_path / "train" / "b" / "0.png").write_bytes(b"no image")
    part = folder.find(tmp_path, 4).train
    here = taken(part, 3)
    there = taken(part, 3, workers=1)
    for a, b in zip(here, there, strict=True):
        assert (a.images == b.images).all()
        assert (a.skipped == b.skipped).all()
    assert {2} == set(np.concatenate([b.skipped for b in there])) - {-1}
    assert "b/0.png as an image" in streaming.reason_unreadable(part, 2)
    read, messages = streaming.read_readable(part, np.arange(4))
    assert (len(read.labels), len(messages)) == (3, 1)


def test_some_classes_are_chosen_by_name():
    source = Source("set", numbered(LABELS), numbered([2, 0, 1]), ("One", "two", "six"))
    chosen = of_classes(source, ["SIX", "one"])
    assert chosen.class_names == ("six", "One")
    assert chosen.train.labels().tolist() == [1] * 3 + [0] * 5
    read = chosen.train.read(np.array([3, 0]))
    assert read.images.ravel().tolist() == [15, 0]
    assert read.labels.tolist() == [0, 1]
    assert chosen.test.count == 2
    with pytest.raises(ArgumentError, match="set has no ten, it has One, two, six"):
        of_classes(source, ["ten", "one"])
    with pytest.raises(ArgumentError, match="names One twice"):
        of_classes(source, ["one", "One"])
