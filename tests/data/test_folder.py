"""Folders of images as users have them: nothing is dropped in silence."""

import os
import shutil

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from bspec_jax.data import describe, folder, load, select
from bspec_jax.data.folder import read_images
from bspec_jax.storage.errors import ArgumentError, UserError


def paint(path, value, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, 0, 255 - value)).convert(mode).save(path)


def write_flat(root, count=10, classes=("ant", "bee")):
    for label, name in enumerate(classes):
        for i in range(count):
            paint(root / name / f"{i}.png", 100 * label + i)
    return root


def write_split(root, count=10):
    for split in ("train", "test"):
        write_flat(root / split, count)
    return root


def values(split):
    """The values that the images were painted with."""
    return split.images[:, 0, 0, 0].tolist()


def test_all_that_pillow_reads_is_read_and_the_rest_is_counted(tmp_path):
    write_split(tmp_path, 3)
    ant = tmp_path / "train" / "ant"
    for i, suffix in enumerate((".tif", ".GIF", ".jfif", ".TIFF", ".jp2")):
        paint(ant / f"x{i}{suffix}", 50, "P" if suffix == ".GIF" else "RGB")
    paint(ant / "older" / "a.png", 60)
    paint(ant / "older" / "deep" / "b.png", 60)
    paint(ant / ".hidden.png", 60)
    (ant / "notes.txt").write_text("no image")
    (ant / "picture.heic").write_bytes(b"heic")
    (ant / "other.HEIC").write_bytes(b"heic")
    (ant / "README").write_text("no image")
    (ant / "empty.png").touch()
    (ant / "gone.png").symlink_to(ant / "nowhere.png")
    (ant / "link.png").symlink_to(ant / "0.png")
    os.mkfifo(ant / "pipe.png")
    paint(tmp_path / "train" / "stray.png", 60)
    paint(tmp_path / "test" / "bee" / "3.png", 60)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "val" / "ant").mkdir(parents=True)
    shutil.copy(ant / "0.png", tmp_path / "val" / "ant")
    data = load("folder", tmp_path, validation_examples=1, train_examples=10)
    assert data.source.train.count == 3 + 5 + 1 + 3
    assert dict(data.source.left_out["ant"]) == {
        "in subfolders": 2,
        "hidden": 1,
        "of type .txt": 1,
        "of type .heic": 2,
        "without a suffix": 1,
        "empty": 1,
        "broken links or devices": 2,
    }
    assert dict(data.source.left_out["bee"]) == {}
    assert dict(data.source.left_out[""]) == {
        "outside the classes' folders": 1,
        "hidden": 1,
        "in val/": 1,
    }
    title, ant_line, bee_line, total = describe(data)
    assert title.split() == ["folder", "training", "validation", "test", "left", "out"]
    used = {name: [0, 0] for name in data.used()}
    for name, labels in data.used().items():
        used[name] = np.bincount(labels, minlength=2).tolist()
    columns = list(zip(*used.values(), strict=True))
    assert ant_line.split()[:4] == ["ant", *map(str, columns[0])]
    assert bee_line.split()[:4] == ["bee", *map(str, columns[1])]
    for part in ("2 in subfolders", "2 of type .heic", "1 empty", "1 hidden"):
        assert part in ant_line
    assert total.split()[:4] == ["all", "10", "1", "7"]
    assert "1 not drawn" in total
    assert "1 in val/, " in total
    assert total.split()[4] == str(10 + 3 + 1)


def test_a_selection_tells_what_it_could_not_read(tmp_path):
    write_split(tmp_path, 5)
    (tmp_path / "train" / "bee" / "1.png").write_bytes(b"no image")
    (tmp_path / "train" / "bee" / "1.txt").write_text("no image")
    selection = select("folder", tmp_path, (), 16, 4, 0)
    title, ant, bee, total = describe(selection)
    assert title.split() == ["folder", "training", "test", "left", "out"]
    assert ant.split(maxsplit=3) == ["ant", "5", "2", "3 (3 not drawn)"]
    assert bee.split(maxsplit=3) == [
        "bee", "4", "2", "5 (3 not drawn, 1 of type .txt, 1 unreadable)"
    ]  # fmt: skip
    assert total.split(maxsplit=3)[3].startswith("8 (6 not drawn")


def test_many_classes_are_summed_up(tmp_path):
    write_flat(tmp_path, 2, [f"class {i:02}" for i in range(41)])
    lines = describe(load("folder", tmp_path, validation_examples=0))
    assert lines[1:] == [f"all    {41:10} {0:10} {41:10}  0"]


def test_a_folder_that_is_not_split_is_split_by_names(tmp_path):
    write_flat(tmp_path)
    options = {"validation_examples": 0, "image_size": 4}
    data = load("folder", tmp_path, **options)
    assert (len(data.train.labels), len(data.test.labels)) == (16, 4)
    assert_array_equal(data.test.labels, [0, 0, 1, 1])
    everything = {*range(10), *range(100, 110)}
    assert {*values(data.train), *values(data.test)} == everything
    assert values(load("folder", tmp_path, seed=5, **options).test) == values(data.test)
    half = load("folder", tmp_path, test_share=0.5, **options)
    assert len(half.test.labels) == 10
    assert set(values(data.test)) < set(values(half.test))
    # One more image changes the part of at most one other.
    paint(tmp_path / "ant" / "more.png", 77)
    for i in range(3):
        paint(tmp_path / "bee" / f"more{i}.png", 180 + i)
    more = set(values(load("folder", tmp_path, **options).test))
    kept = set(values(data.test))
    assert len({v for v in kept if v < 100} - more) <= 1
    assert len({v for v in kept if v >= 100} - more) <= 3
    assert values(select("folder", tmp_path, (), 4, 99, 0, 0.5).test) != []
    for share in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ArgumentError, match="`test_share` must be above 0 and bel"):
            load("folder", tmp_path, test_share=share)


def test_tiny_folders_and_a_class_called_train(tmp_path):
    write_flat(tmp_path / "a", 2, ("train", "test", "val"))
    data = load("folder", tmp_path / "a")
    assert data.class_names == ("test", "train", "val")
    assert [len(part.labels) for part in data[1:4]] == [3, 0, 3]
    write_flat(tmp_path / "b", 2)
    (tmp_path / "b" / "bee" / "0.png").unlink()
    with pytest.raises(UserError, match="b/bee holds a single image, and each class"):
        load("folder", tmp_path / "b")
    (tmp_path / "b" / "bee" / "1.png").rename(tmp_path / "b" / "bee" / "1.heic")
    with pytest.raises(UserError, match=r"bee holds no image \(but 1 of type .heic\)"):
        load("folder", tmp_path / "b")
    write_flat(tmp_path / "c", 2, ("only",))
    with pytest.raises(UserError, match="c holds a single class, only; at least two"):
        load("folder", tmp_path / "c")
    write_flat(tmp_path / "d", 2, ("good", "bytes\udcff"))
    with pytest.raises(UserError, match=r"bytes\\udcff has a name that is no text"):
        load("folder", tmp_path / "d")


def test_odd_names_and_paths(tmp_path, monkeypatch):
    names = ("a b", "Kätzchen", "$x_1$", "train", "猫", "two\nlines", "👩\u200d🔬")
    root = write_flat(tmp_path / "a folder, of mine", 2, names)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    data = load("folder", "~/a folder, of mine")
    assert set(data.class_names) == set(names)
    images, paths = read_images(["~" / root.relative_to(tmp_path) / "a b"], 4, 3)
    assert images[:, 0, 0, 0].tolist() == [0, 1]
    assert [path.name for path in paths] == ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("count", "train_examples", "validation"),
    [(50, None, 10), (4, None, 0), (50, 95, 5), (50, 100, 0)],
)
def test_a_tenth_validates_by_default(tmp_path, count, train_examples, validation):
    write_split(tmp_path, count)
    data = load("folder", tmp_path, train_examples=train_examples, image_size=4)
    assert len(data.validation.labels) == validation
    assert len(data.train.labels) == (train_examples or 2 * count - validation)


def test_a_folder_is_grey_if_it_looks_so(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {}
    for way in ("L", "RGB", "LA", "P", "RGBA", "I;16", "1"):
        for split in ("train", "test"):
            for name in ("ant", "bee"):
                levels = 255 * rng.integers(0, 2, (4, 4), np.uint8)
                picture = Image.fromarray(levels)
                if way == "I;16":
                    picture = Image.fromarray(levels.astype(np.uint16) * 257)
                path = tmp_path / way / split / name / "0.png"
                path.parent.mkdir(parents=True)
                (picture if way == "I;16" else picture.convert(way)).save(path)
        data = load("folder", tmp_path / way, image_size=4)
        shapes[way] = data.test.images.shape
        assert_array_equal(data.test.images[1, ..., 0], levels, way)
    assert set(shapes.values()) == {(2, 4, 4, 1)}
    paint(tmp_path / "RGB" / "test" / "bee" / "1.png", 100)
    assert load("folder", tmp_path / "RGB").test.images.shape == (3, 32, 32, 3)


def test_what_cannot_be_opened_is_not_called_damaged(tmp_path, monkeypatch):
    write_split(tmp_path, 2)
    source = folder.find(tmp_path, 4)
    (tmp_path / "train" / "bee" / "1.png").unlink()
    with pytest.raises(UserError, match=r"bee/1.png: No such file or directory$"):
        source.train.read(np.arange(4))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file: `data_dir` must hold"):
        load("folder", tmp_path / "file")

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError, match=r"cannot read \S*train\S*: Permission denied$"):
        load("folder", tmp_path)


def test_own_images_tell_what_is_left_out_of_a_folder(tmp_path):
    write_flat(tmp_path, 2)
    (tmp_path / "ant" / "a.heic").touch()
    told = []
    images, _ = read_images([tmp_path / "ant"], 4, 3, told.append)
    assert len(images) == 2
    assert told == [f"{tmp_path / 'ant'}: left out 1 of type .heic"]
    with pytest.raises(UserError, match=r"no_such.png: No such file or dir"):
        read_images([tmp_path / "no_such.png"], 4, 3)
