import gzip

import numpy as np
import pytest
from helpers import by_image, write_idx
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from typechecks import without_type_checks

from bspec_jax.data import fashion_mnist, load, prepared, sources
from bspec_jax.data.folder import read_images
from bspec_jax.storage.errors import ArgumentError, UserError


def write_fashion(folder, suffix=".gz", train=30, test=7):
    """Images of 2 x 3 pixels, all different; returns them as they must be read."""
    rng = np.random.default_rng(0)
    written = {}
    for split, count in (("train", train), ("test", test)):
        images = rng.integers(0, 256, (count, 2, 3), np.uint8)
        labels = rng.integers(0, 10, count).astype(np.uint8)
        names = fashion_mnist.FILES[split]
        for name, array in zip(names, (images, labels), strict=True):
            write_idx(folder / f"{name}{suffix}", array)
        written[split] = images[..., None], labels.astype(np.int32)
    return written


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_read_as_written(tmp_path, suffix):
    written = write_fashion(tmp_path, suffix)
    data = load("fashion_mnist", tmp_path, validation_examples=0)
    assert data.name == "fashion_mnist"
    assert data.class_names[0] == "T-shirt/top"
    assert data.class_names[9] == "Ankle boot"
    assert data.train.images.shape == (30, 2, 3, 1)
    assert by_image(*data.train) == by_image(*written["train"])
    assert_array_equal(data.test.images, written["test"][0])
    assert_array_equal(data.test.labels, written["test"][1])
    assert data.validation.images.shape == (0, 2, 3, 1)
    assert data.validation.labels.shape == (0,)
    assert {part.images.dtype for part in (data.train, data.test)} == {np.dtype("u1")}
    assert {part.labels.dtype for part in (data.train, data.test)} == {np.dtype("i4")}


def test_damaged_idx_files(tmp_path):
    write_fashion(tmp_path)
    images = tmp_path / "train-images-idx3-ubyte.gz"
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    good, good_labels = images.read_bytes(), labels.read_bytes()
    plain = gzip.decompress(good)

    def refuses(path, data, message):
        path.write_bytes(data)
        with pytest.raises(UserError, match=message) as error:
            load("fashion_mnist", tmp_path, validation_examples=5)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
        images.write_bytes(good)
        labels.write_bytes(good_labels)

    refuses(images, gzip.compress(b"\0\0\x0d\x03" + plain[4:]), "starts with 00000d03")
    refuses(images, gzip.compress(plain[:-1]), "holds 179 bytes of data, not the 30 x")
    refuses(images, gzip.compress(plain + b"x"), "holds 181 bytes")
    refuses(
        images, gzip.compress(plain[:9]), "starts with 00000803, not 00000803 and 3"
    )
    refuses(images, gzip.compress(b""), "starts with nothing")
    refuses(images, good[:-20], "cannot read")
    refuses(images, good[:40] + b"xxxx" + good[44:], "cannot read")
    refuses(images, plain, "cannot read .*gzip")
    refuses(labels, good, "starts with 00000803")
    write_idx(labels, np.zeros(29, np.uint8))
    refuses(labels, labels.read_bytes(), "29 labels for 30 images")
    write_idx(labels, np.full(30, 10, np.uint8))
    refuses(labels, labels.read_bytes(), "has label 10")
    labels.unlink()
    with pytest.raises(UserError, match=r"lacks train-labels-idx1-ubyte.gz; `apt-get"):
        load("fashion_mnist", tmp_path)


def test_fashion_mnist_is_nowhere(tmp_path, monkeypatch):
    with pytest.raises(UserError) as error:
        load("fashion_mnist", tmp_path)
    for part in (
        str(tmp_path),
        "`apt-get install dataset-fashion-mnist` and omit `data_dir`",
        'pip install "bspec_jax[prepare]" && python -m bspec_jax.data.prepare '
        f"fashion_mnist --data-dir {tmp_path}`",
    ):
        assert part in str(error.value)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path)
    monkeypatch.setattr(prepared, "is_prepared", lambda name, data_dir: False)
    with pytest.raises(UserError, match=r"-mnist`, or `.*prepare fashion_mnist`$"):
        load("fashion_mnist")


@pytest.mark.skipif(
    not fashion_mnist.DEBIAN_FOLDER.is_dir(),
    reason="needs the Debian package dataset-fashion-mnist",
)
def test_the_real_fashion_mnist():
    data = load("fashion_mnist")
    assert data.train.images.shape == (55_000, 28, 28, 1)
    assert data.validation.images.shape == (5000, 28, 28, 1)
    assert_array_equal(np.bincount(data.test.labels), np.full(10, 1000))
    labels = np.concatenate([data.train.labels, data.validation.labels])
    assert_array_equal(np.bincount(labels), np.full(10, 6000))
    assert_array_equal(data.test.labels[:5], [9, 2, 1, 1, 6])
    assert_allclose(data.mean, 0.286, atol=5e-4)
    assert_allclose(data.std, 0.353, atol=5e-4)


def write_indices(folder, count=40):
    """A set whose image of index i holds the value i."""
    for names in fashion_mnist.FILES.values():
        values = np.arange(count, dtype=np.uint8)
        write_idx(folder / names[0], values.repeat(4).reshape(count, 2, 2))
        write_idx(folder / names[1], values % 10)


def load_indices(folder, count=40, **options):
    """Which examples of such a set the parts have."""
    write_indices(folder, count)
    data = load("fashion_mnist", folder, **options)
    for part in (data.train, data.validation):
        assert_array_equal(part.labels, part.images[:, 0, 0, 0] % 10)
    assert_array_equal(data.test.images[:, 0, 0, 0], np.arange(count))
    return data.train.images[:, 0, 0, 0], data.validation.images[:, 0, 0, 0]


def test_the_validation_split(tmp_path):
    train, validation = load_indices(tmp_path, validation_examples=15)
    assert len(validation) == 15
    assert sorted([*train, *validation]) == list(range(40))
    assert list(validation) != sorted(validation)
    again = load_indices(tmp_path, validation_examples=15)
    assert_array_equal(again[0], train)
    assert_array_equal(again[1], validation)
    other = load_indices(tmp_path, validation_examples=15, seed=1)
    assert set(other[1]) != set(validation)
    few = load_indices(tmp_path, validation_examples=15, train_examples=6)
    assert_array_equal(few[0], train[:6])
    assert_array_equal(few[1], validation)
    whole, none = load_indices(tmp_path, validation_examples=0)
    assert sorted(whole) == list(range(40))
    assert len(none) == 0


def test_some_of_the_test_data(tmp_path):
    write_indices(tmp_path)

    def test_part(count, seed=0):
        options = {"test_examples": count, "validation_examples": 15, "seed": seed}
        part = load("fashion_mnist", tmp_path, **options).test
        assert_array_equal(part.labels, part.images[:, 0, 0, 0] % 10)
        return part.images[:, 0, 0, 0].tolist()

    some = test_part(12)
    assert len(set(some)) == 12
    assert some != sorted(some)
    assert test_part(7) == some[:7]
    assert test_part(12, seed=1) != some
    with pytest.raises(
        ArgumentError, match="`test_examples` 41 is more than the 40 test"
    ):
        test_part(41)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_examples": 40}, "`validation_examples` 40 leaves none"),
        ({"validation_examples": -1}, "`validation_examples` must be at least 0"),
        (
            {"validation_examples": 10, "train_examples": 31},
            "`train_examples` 31 is more than the 30 images that "
            "`validation_examples` 10 leaves of 40",
        ),
        ({"train_examples": 0}, "`train_examples` must be at least 1, got 0"),
        ({"test_examples": 0}, "`test_examples` must be at least 1, got 0"),
        ({"image_size": 0}, "`image_size` must be at least 1, got 0"),
        ({"image_size": 7.5}, "`image_size` must be a whole number, got 7.5"),
        ({"train_examples": True}, "`train_examples` must be a whole number, got True"),
        ({"validation_examples": 2.5}, "`validation_examples` must be a whole number"),
        ({"seed": -1}, "`seed` must be at least 0, got -1"),
    ],
)
def test_examples_that_are_not_there(tmp_path, options, message):
    with without_type_checks(), pytest.raises(ArgumentError, match=message):
        load_indices(tmp_path, **options)


def test_mean_and_deviation_are_those_of_the_training_pixels(tmp_path):
    write_fashion(tmp_path)
    data = load("fashion_mnist", tmp_path, validation_examples=10, train_examples=12)
    pixels = data.train.images.astype(np.float64) / 255
    assert pixels.shape[0] == 12
    assert_allclose(data.mean, pixels.mean((0, 1, 2)), rtol=1e-13)
    assert_allclose(data.std, pixels.std((0, 1, 2)), rtol=1e-13)
    # More images than are counted at a time, and channels that differ.
    images = np.random.default_rng(0).integers(0, 256, (2500, 2, 3, 3), np.uint8)
    images[..., 1] //= 3
    images[..., 2] = 51
    mean, std = sources.channel_statistics(images)
    pixels = images / 255
    assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    assert_allclose(std[:2], pixels.std((0, 1, 2))[:2], rtol=1e-12)
    assert std[2] == 1  # of a constant channel


def write_folder(folder, splits=("train", "test"), shape=(8, 8, 3), count=3):
    """Returns the pixels of each part by class."""
    rng = np.random.default_rng(0)
    written = {split: {} for split in splits}
    for split in splits:
        for name in ("dog", "cat"):
            (folder / split / name).mkdir(parents=True)
            images = rng.integers(0, 256, (count, *shape), np.uint8)
            for i, image in enumerate(images):
                Image.fromarray(image).save(folder / split / name / f"{i}.png")
            written[split][name] = images
    return written


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_folder_is_read_as_written(tmp_path, test):
    written = write_folder(tmp_path, ("train", test))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    data = load("folder", tmp_path, validation_examples=0, image_size=8)
    assert data.class_names == ("cat", "dog")
    for part, split in ((data.train, "train"), (data.test, test)):
        images = np.concatenate([written[split]["cat"], written[split]["dog"]])
        assert by_image(*part) == by_image(images, [0, 0, 0, 1, 1, 1])
    assert_array_equal(data.test.labels, [0, 0, 0, 1, 1, 1])
    assert_array_equal(data.test.images[3:], written[test]["dog"])


def test_a_folder_of_grey_images_and_one_that_is_mixed(tmp_path):
    written = write_folder(tmp_path, shape=(8, 8))
    options = {"validation_examples": 0, "image_size": 8}
    data = load("folder", tmp_path, **options)
    assert_array_equal(data.test.images[:3, ..., 0], written["test"]["cat"])
    assert data.mean.shape == (1,)
    colours = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(colours).save(tmp_path / "train" / "cat" / "colours.png")
    data = load("folder", tmp_path, **options)
    grey = written["test"]["cat"][..., None]
    assert_array_equal(data.test.images[:3], grey.repeat(3, axis=-1))
    assert colours.tobytes() in by_image(*data.train)


def test_other_sizes_are_cropped_and_resized(tmp_path):
    written = write_folder(tmp_path, shape=(8, 14, 3))
    data = load("folder", tmp_path, validation_examples=0, image_size=8)
    assert_array_equal(data.test.images[:3], written["test"]["cat"][:, :, 3:11])
    data = load("folder", tmp_path, validation_examples=0)
    assert data.train.images.shape == (6, 32, 32, 3)
    larger = Image.fromarray(written["test"]["cat"][0][:, 3:11])
    expected = larger.resize((32, 32), Image.Resampling.BICUBIC)
    assert_array_equal(data.test.images[0], expected)
    write_fashion(tmp_path)
    data = load("fashion_mnist", tmp_path, validation_examples=0, image_size=5)
    assert data.train.images.shape == (30, 5, 5, 1)


def test_every_kind_of_image_file(tmp_path):
    write_folder(tmp_path)
    for name in ("a.JPG", "b.jpeg", "c.bmp", "d.webp"):
        picture = Image.new("RGB", (8, 8), (200, 100, 50))
        picture.save(tmp_path / "test" / "dog" / name)
    data = load("folder", tmp_path, validation_examples=0, image_size=8)
    assert len(data.test.images) == 10
    # Sorted: 0.png, 1.png, 2.png, a.JPG and so on.
    assert_allclose(data.test.images[6:].mean((0, 1, 2)), [200, 100, 50], atol=3)


def test_folders_that_are_not_as_they_must_be(tmp_path):
    def refuses(message, data_dir=tmp_path):
        with pytest.raises(UserError, match=message) as error:
            load("folder", data_dir, validation_examples=0)
        assert "\n" not in str(error.value)

    refuses("needs a path: `data_dir` must hold train/<class>", None)
    refuses(r"no folder \S*nowhere: `data_dir` must hold", tmp_path / "nowhere")
    refuses("~unknown_user/x: no such home folder", "~unknown_user/x")
    refuses("holds no class folder: `data_dir` must hold")
    (tmp_path / "train" / "cat").mkdir(parents=True)
    refuses(r"no folder \S*/test")
    (tmp_path / "test").mkdir()
    refuses("train holds a single class")
    (tmp_path / "train" / "eel").mkdir()
    refuses("test holds no class folder")
    (tmp_path / "test" / "dog").mkdir()
    refuses("test/dog is a class that .*train lacks")
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "cat")
    refuses("train/cat holds no image")
    for folder in ("train/cat", "train/eel", "test/cat"):
        Image.new("RGB", (4, 4)).save(tmp_path / folder / "0.png")
    data = load("folder", tmp_path, validation_examples=0)
    assert sorted(data.train.labels) == [0, 1]
    assert_array_equal(data.test.labels, [0])
    broken = tmp_path / "test" / "cat" / "1.png"
    broken.write_bytes(b"no png")
    refuses("cannot read .*test/cat/1.png as an image")
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    Image.fromarray(noise).save(broken)
    broken.write_bytes(broken.read_bytes()[:3000])
    refuses("cannot read .*test/cat/1.png as an image")


def test_labels_are_told_without_reading_images(tmp_path):
    (tmp_path / "idx").mkdir()
    write_fashion(tmp_path / "idx")
    write_folder(tmp_path / "folder")
    found = (
        sources.find("fashion_mnist", tmp_path / "idx"),
        sources.find("folder", tmp_path / "folder", 8),
        sources.find("faces", None, 16),
    )
    for source in found:
        for part in (source.train, source.test):
            some = np.arange(min(part.count, 30))
            assert_array_equal(part.labels()[some], part.read(some).labels)
            assert len(part.labels()) == part.count


def test_own_images_are_read_as_squares(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    for name in ("b.png", "a.png", "notes.txt"):
        Image.fromarray(pixels).save(tmp_path / name, "png")
    images, paths = read_images([tmp_path, tmp_path / "b.png"], 8, 3)
    assert [path.name for path in paths] == ["a.png", "b.png", "b.png"]
    assert_array_equal(images, np.stack([pixels[:, 2:10]] * 3))
    grey, _ = read_images([tmp_path / "b.png"], 8, 1)
    assert grey.shape == (1, 8, 8, 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no image"):
        read_images([tmp_path / "empty"], 8, 3)
