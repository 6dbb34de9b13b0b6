import json
import os

import numpy as np
import pytest
from helpers import write_idx
from PIL import Image

from bspec_jax.data import check_same, fashion_mnist, identity, load, select
from bspec_jax.storage.errors import UserError


def write_folder(root, counts):
    """Images that all differ, `counts` by class, in both splits."""
    value = 0
    for split in ("train", "test"):
        for name, count in counts.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                value += 1
                picture = Image.new("RGB", (4, 4), (value, 255 - value, 0))
                picture.save(root / split / name / f"{i}.png")
    return root


@pytest.fixture
def images(tmp_path):
    return write_folder(tmp_path / "images", {"ant": 6, "bee": 4, "cat": 3})


def identity_of(folder, **options):
    data = load("folder", folder, **{"validation_examples": 2} | options)
    return json.loads(json.dumps(data.identity))


def test_an_identity_is_of_the_stored_data_alone(images, tmp_path):
    before = identity_of(images)
    assert before["dataset"] == "folder"
    assert before["classes"] == ["ant", "bee", "cat"]
    assert before["train"] == before["test"] == [6, 4, 3]
    assert len(set(before["contents"].values())) == len(before["contents"]) == 6
    other = identity_of(images, validation_examples=3, seed=4, image_size=8)
    assert other == before
    copy = write_folder(tmp_path / "elsewhere", {"ant": 6, "bee": 4, "cat": 3})
    assert identity_of(copy) == before
    check_same(before, identity_of(copy), images)


def rename_class(root):
    for split in ("train", "test"):
        (root / split / "ant").rename(root / split / "zant")


def remove_class(root):
    for split in ("train", "test"):
        for path in (root / split / "bee").iterdir():
            path.unlink()
        (root / split / "bee").rmdir()


def remove_image(root):
    (root / "train" / "bee" / "2.png").unlink()


def rename_image(root):
    (root / "test" / "cat" / "2.png").rename(root / "test" / "cat" / "x.png")


def repaint_image(root):
    Image.new("RGB", (4, 4), (9, 9, 9)).save(root / "train" / "ant" / "1.png")


def swap_images(root):
    a, b = root / "train" / "ant" / "1.png", root / "train" / "bee" / "1.png"
    pictures = a.read_bytes(), b.read_bytes()
    b.write_bytes(pictures[0])
    a.write_bytes(pictures[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_class, "class ant is gone, and zant is new"),
        (remove_class, "class bee is gone"),
        (remove_image, "class bee had 4 training images, and now has 3"),
        (rename_image, "test/cat has other images, or other names"),
        (repaint_image, "train/ant has other images, or other names"),
        (swap_images, "train/ant has other images, or other names"),
    ],
)
def test_changed_data_are_refused(images, change, message):
    before = identity_of(images)
    change(images)
    with pytest.raises(UserError, match=rf"the data of RUN have changed: {message}"):
        check_same(before, identity_of(images), "RUN")


def test_other_data_or_contents_that_nobody_hashed(images):
    now = identity_of(images)
    with pytest.raises(UserError, match="the data set was faces, and is now folder"):
        check_same(now | {"dataset": "faces"}, now, "RUN")
    with pytest.raises(UserError, match="the classes were bee, ant, cat, and are now"):
        check_same(now | {"classes": ["bee", "ant", "cat"]}, now, "RUN")
    with pytest.raises(UserError, match=r"class ant is new\. Restore"):
        check_same(now | {"classes": ["bee", "cat"]}, now, "RUN")
    check_same({key: now[key] for key in now if key != "contents"}, now, "RUN")
    for damaged in ({}, now | {"train": [6]}, now | {"classes": None}):
        with pytest.raises(UserError, match="record of the data of RUN is damaged"):
            check_same(damaged, now, "RUN")


def test_a_selection_is_identified_by_its_classes_alone(images):
    def of_two():
        return select("folder", images, ("cat", "ant"), 8, 4, 0).identity

    before = of_two()
    assert before["classes"] == ["cat", "ant"]
    assert before["train"] == [3, 6]
    assert sorted(before["contents"]) == [
        f"{split}/{name}" for split in ("test", "train") for name in ("ant", "cat")
    ]
    remove_image(images)  # of another class
    assert of_two() == before
    repaint_image(images)
    assert of_two() != before


def test_a_file_is_read_once_while_it_is_the_same(images, monkeypatch):
    data, reads = load("folder", images, validation_examples=0), []
    digest = identity.hashlib.file_digest

    def counted(*arguments):
        reads.append(1)
        return digest(*arguments)

    monkeypatch.setattr(identity.hashlib, "file_digest", counted)
    assert data.identity == data.identity
    assert len(reads) == 26
    path = images / "train" / "ant" / "0.png"
    os.utime(path, ns=(1, 1))
    assert data.identity
    assert len(reads) == 27


def test_large_data_are_announced(images, monkeypatch, capsys):
    identity_of(images)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(identity, "ANNOUNCED", 100)
    identity_of(images)
    assert capsys.readouterr().err.startswith("reading 0.0 GiB once, to recognise")
    remove_image(images)
    data = load("folder", images, validation_examples=0)
    remove_class(images)
    with pytest.raises(UserError, match=r"cannot read \S*bee/0.png: No such file"):
        _ = data.identity


def test_idx_files_are_the_same_compressed_or_not(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for names in fashion_mnist.FILES.values():
        arrays[names[0]] = rng.integers(0, 256, (9, 2, 2), np.uint8)
        arrays[names[1]] = rng.integers(0, 10, 9).astype(np.uint8)
    found = []
    for suffix in ("", ".gz"):
        folder = tmp_path / f"idx{suffix}"
        folder.mkdir()
        for name, array in arrays.items():
            write_idx(folder / f"{name}{suffix}", array)
        found.append(load("fashion_mnist", folder, validation_examples=0).identity)
    assert found[0] == found[1]
    assert sorted(found[0]["contents"]) == sorted(arrays)
    pixels = arrays["t10k-images-idx3-ubyte"]
    pixels[8, 1, 1] += 1
    write_idx(tmp_path / "idx" / "t10k-images-idx3-ubyte", pixels)
    now = load("fashion_mnist", tmp_path / "idx", validation_examples=0).identity
    with pytest.raises(UserError, match="t10k-images-idx3-ubyte has other images"):
        check_same(found[0], now, "RUN")
