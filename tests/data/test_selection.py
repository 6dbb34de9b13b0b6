import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from bspec_jax.data import faces, select
from bspec_jax.data.selection import balanced, first_of_each
from bspec_jax.storage.errors import ArgumentError, UserError


def write_folder(root, classes, count=2):
    for split in ("train", "test"):
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                picture = Image.new("RGB", (16, 16), (80 * label, i, 0))
                picture.save(root / split / name / f"{i}.png")


def test_a_class_without_images_stops_at_the_start(tmp_path):
    write_folder(tmp_path, ("dark", "light"))
    for split in ("train", "test"):
        (tmp_path / split / "none").mkdir()
    with pytest.raises(UserError, match="train/none holds no image"):
        select("folder", tmp_path, (), 16, 12, 0)


def test_a_class_without_test_images_or_alone_is_refused(tmp_path):
    write_folder(tmp_path, ("dark", "light"))
    (tmp_path / "train" / "more").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "train" / "more" / "0.png")
    with pytest.raises(UserError, match=r"no test image of class more.*`classes`"):
        select("folder", tmp_path, (), 16, 12, 0)
    with pytest.raises(ArgumentError, match="single class: choose another `dataset`"):
        select("folder", tmp_path, ("dark",), 16, 12, 0)


def test_a_selection_holds_the_chosen_classes_and_names_what_it_skips(tmp_path):
    write_folder(tmp_path, ("dark", "grey", "light"), count=3)
    (tmp_path / "train" / "dark" / "1.png").write_bytes(b"damaged")
    selection = select("folder", tmp_path, ("light", "dark"), 16, 4, 0)
    assert selection.class_names == ("light", "dark")
    assert selection.train.labels().tolist() == [1, 1, 0, 0, 0]
    assert selection.test.labels.tolist() == [0, 1] * 2
    again = selection.test_part.read(selection.test_indices)
    assert_array_equal(again.images, selection.test.images)
    assert len(selection.unreadable) == 1
    assert "dark/1.png" in selection.unreadable[0]
    assert selection.ground_truth() is None


@pytest.mark.slow
def test_the_ground_truth_is_that_of_the_test_images():
    selection = select("faces", None, ("tiger", "cat"), 16, 4, 3)
    truth = selection.ground_truth()
    images = np.round(255 * truth.image).astype(np.uint8)
    assert_array_equal(images, selection.test.images)
    # The test images of these classes, numbered as in the whole set.
    kept = np.flatnonzero(np.isin(faces.labels("test"), (0, 2)))
    expected = faces.ground_truth("test", kept[selection.test_indices], 16)
    assert_array_equal(truth.height, expected.height)
    blind = selection.ground_truth(without=("eyes",))
    assert truth.masks["eyes"].any()
    assert not blind.masks["eyes"].any()


def test_balanced_examples_take_turns():
    labels = np.array([0] * 2 + [1] * 10 + [2] * 10)
    chosen = balanced(labels, 12, seed=0)
    assert len(set(chosen.tolist())) == len(chosen)
    assert labels[chosen].tolist() == [0, 1, 2, 0, 1, 2, 1, 2, 1, 2]
    assert balanced(labels, 12, seed=1).tolist() != chosen.tolist()


def test_the_first_of_each_class_come_class_by_class():
    labels = np.array([1, 0, 1, 1, 0, 2])
    assert first_of_each(labels, 2).tolist() == [1, 4, 0, 2, 5]
