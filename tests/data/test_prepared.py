import importlib.util
import io
import shutil
import subprocess
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT, by_image
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from bspec_jax.data import celeb_a_hq, load, prepare, prepared, sources
from bspec_jax.storage.errors import UserError

PREPARE = """
import sys
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from bspec_jax.data import prepare

# The archive that the test wrote is the expected one.
infos = tfds.builder("cifar10").url_infos
(url,) = infos
infos[url] = checksums.compute_url_info(Path(sys.argv[-1]) / infos[url].filename)
tfds.disable_progress_bar()
prepare.main()
"""


def write_cifar10(folder):
    """CIFAR-10's binary archive: a byte of label and 3072 of an image [C, H, W]."""
    rng = np.random.default_rng(0)
    written = {"train": [], "test": []}
    folder.mkdir()
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:

        def add(name, data):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

        names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
        for name in names:
            images = rng.integers(0, 256, (4, 3, 32, 32), np.uint8)
            labels = rng.integers(0, 10, 4).astype(np.uint8)
            records = np.concatenate([labels[:, None], images.reshape(4, -1)], 1)
            add(name, records.tobytes())
            part = written["test" if name == "test_batch.bin" else "train"]
            part += zip(images.transpose(0, 2, 3, 1), labels, strict=True)
        add("batches.meta.txt", "\n".join(f"class {i}" for i in range(10)).encode())
    return {
        split: by_image(*zip(*pairs, strict=True)) for split, pairs in written.items()
    }


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """CIFAR-10 of 24 images, by the real builder; its folder and what it holds."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("to prepare a set needs the extra `prepare`")
    folder = tmp_path_factory.mktemp("cifar10")
    written = write_cifar10(folder / "archives")
    flags = ["--data-dir", folder, "--archive-dir", folder / "archives"]
    # In a process of its own: no other test is to depend on TensorFlow.
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, "cifar10", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"cifar10 is ready in {folder}" in done.stdout
    return folder, written


def test_a_prepared_set_is_read_as_written_and_without_tensorflow(cifar10):
    folder, written = cifar10
    data = load("cifar10", folder, validation_examples=0)
    assert data.name == "cifar10"
    assert data.class_names == tuple(f"class {i}" for i in range(10))
    assert data.train.images.shape == (20, 32, 32, 3)
    assert data.test.images.shape == (4, 32, 32, 3)
    assert by_image(*data.train) == written["train"]
    assert by_image(*data.test) == written["test"]
    assert_array_equal(data.mean, [0.4914, 0.4822, 0.4465])
    assert_array_equal(data.std, [0.2023, 0.1994, 0.2010])
    some = load("cifar10", folder, validation_examples=8, train_examples=7)
    held_out, rest = by_image(*some.validation), by_image(*some.train)
    assert (len(held_out), len(rest)) == (8, 7)
    assert held_out.keys().isdisjoint(rest)
    assert (held_out | rest).items() <= written["train"].items()
    source = sources.find("cifar10", folder)
    contents = source.identity["contents"]
    assert len(contents) == 3
    assert contents["version"] == "3.0.2"
    assert all("array_record" in name for name in contents.keys() - {"version"})
    for part in source[1:3]:
        labels = part.labels()  # without decoding images
        assert_array_equal(labels, part.read(np.arange(part.count)).labels)
    assert "tensorflow" not in sys.modules


def test_damaged_archives_and_sets(cifar10, capsys, monkeypatch, tmp_path):
    folder, _ = cifar10
    flags = ["--data-dir", str(tmp_path), "--archive-dir", str(folder / "archives")]
    monkeypatch.setattr(sys, "argv", ["prepare", "cifar10", *flags])
    with pytest.raises(SystemExit) as stop:
        prepare.main()
    assert stop.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("python -m bspec_jax.data.prepare: cannot prepare cifar10")
    assert "has wrong checksum" in last
    shutil.copytree(folder / "cifar10", tmp_path / "cifar10", dirs_exist_ok=True)
    (record,) = tmp_path.rglob("cifar10-test.array_record*")
    record.write_bytes(record.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"is damaged .*delete it and run `python -m"):
        load("cifar10", tmp_path, validation_examples=0)
    assert "tensorflow" not in sys.modules


def test_sets_that_are_not_there(tmp_path):
    with pytest.raises(UserError) as error:
        load("cifar100", tmp_path)
    assert str(error.value) == (
        f"cifar100 is not prepared in {tmp_path}/cifar100/3.0.2: run `pip install "
        '"bspec_jax[prepare]" && python -m bspec_jax.data.prepare cifar100 --data-dir '
        f"{tmp_path}`"
    )
    with pytest.raises(UserError) as error:
        load("cifra10", tmp_path)
    assert "there are cifar10, fashion_mnist, folder, and those" in str(error.value)
    assert "did you mean cifar10 or" in str(error.value)
    with pytest.raises(UserError, match="glue is not an image classification data"):
        load("glue", tmp_path)
    with pytest.raises(UserError, match=r"cannot construct cifar10/fine: Failed"):
        load("cifar10/fine", tmp_path)


def test_what_cannot_be_prepared(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no folder .*nowhere: check --archive-dir"):
        prepare.prepare("cifar10", tmp_path, tmp_path / "nowhere")
    with pytest.raises(UserError, match="no data set is called cifra10"):
        prepare.prepare("cifra10", tmp_path)
    with pytest.raises(UserError, match="glue is not an image classification data"):
        prepare.prepare("glue", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs TensorFlow: run `pip install \"bspec"):
        prepare.prepare("cifar10", tmp_path)


def encoded(pixels, form="PNG"):
    """The bytes of an image file."""
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    picture.save(file, form, quality=100)
    return file.getvalue()


class FakeSplit(list):
    """Examples (height or image file, label)."""

    num_examples = property(len)


def fake_builder(splits, shape=(None, None, 3), as_data_source=None):
    """A prepared set of tfds; `splits` are lists of (height or image file, label)."""

    def images(split, decoders):
        assert list(decoders) == ["image"]  # which are not decoded by tfds
        return [
            {"image": image_file(image), "label": label}
            for image, label in splits[split]
        ]

    def image_file(image):
        if isinstance(image, bytes):
            return image
        return encoded(np.full((image, 4, 3), image, np.uint8))

    features = {
        "image": SimpleNamespace(shape=shape, np_dtype=np.uint8),
        "label": SimpleNamespace(shape=(), names=["a", "b"]),
    }
    splits = {name: FakeSplit(examples) for name, examples in splits.items()}
    info = SimpleNamespace(
        features=features, splits=splits, file_format=SimpleNamespace(value="tfrecord")
    )
    return SimpleNamespace(
        name="fake",
        info=info,
        data_dir="DIR/fake",
        is_prepared=lambda: True,
        as_data_source=as_data_source or images,
    )


def load_fake(monkeypatch, builder, **options):
    monkeypatch.setattr(prepared, "builder", lambda name, data_dir: builder)
    return load("fake", validation_examples=0, **options)


def test_other_prepared_sets(monkeypatch):
    train = [(4, 0), (6, 1)]
    data = load_fake(
        monkeypatch, fake_builder({"train": train, "validation": train}), image_size=4
    )
    assert data.class_names == ("a", "b")
    assert_array_equal(data.test.labels, [0, 1])
    assert_array_equal(data.test.images[:, 0, 0, 0], [4, 6])
    assert data.test.images.shape == (2, 4, 4, 3)
    assert_allclose(data.mean, 5 / 255)
    both = fake_builder({"train": train, "validation": train, "test": [(4, 1)]})
    data = load_fake(monkeypatch, both, image_size=4)
    assert_array_equal(data.test.labels, [1])
    assert data.source.left_out == {"": {"in split validation": 2}}

    def refuses(message, *args, **kwargs):
        with pytest.raises(UserError, match=message):
            load_fake(monkeypatch, fake_builder(*args, **kwargs))

    refuses(r"differ in shape \(4x4x3, 6x4x3\): set `image_size`", {**both.info.splits})
    refuses("differ in shape", {"train": train[:1], "test": train[1:]})
    refuses("no split validation", {"train": train})
    refuses("no split train", {"test": train})
    refuses(
        "test of fake has examples without", {"train": train[:1], "test": [(4, -1)]}
    )
    refuses(
        "not an image classification",
        {"train": train, "test": train},
        shape=(None, 4, 4, 3),
    )
    refuses("a split without images", {"train": train[:1], "test": []})

    def fails(split, decoders):
        raise NotImplementedError

    splits = {"train": train, "test": train}
    refuses("holds tfrecord .*another folder", splits, as_data_source=fails)


def test_images_are_decoded_like_those_of_files(monkeypatch):
    """Whatever the mix of ways in which they are stored; shapes say RGB or grey."""
    blocks = np.array([[200, 40, 0], [0, 0, 255], [0, 0, 0], [255, 255, 255]], np.uint8)
    blocks = blocks.reshape(2, 2, 3).repeat(8, 0).repeat(8, 1)
    picture = Image.fromarray(blocks)
    stored = [
        encoded(picture),
        encoded(picture.convert("CMYK"), "JPEG"),
        encoded(picture.convert("RGBA")),
        encoded(picture.quantize(4)),
    ]
    train = [(image, 0) for image in stored]
    splits = {"train": train, "test": [(encoded(picture.convert("L")), 1)]}
    data = load_fake(monkeypatch, fake_builder(splits))
    assert data.train.images.shape == (4, 16, 16, 3)
    assert np.abs(data.train.images.astype(int) - blocks).max() <= 4
    assert_array_equal(data.test.images[0, ..., 0], picture.convert("L"))
    deep = encoded(np.arange(16, dtype=np.uint16).reshape(4, 4) * 4096)
    splits = {"train": [(deep, 0)], "test": [(deep, 1)]}
    data = load_fake(monkeypatch, fake_builder(splits, (None, None, 1)))
    assert_array_equal(data.test.images[0, ..., 0].ravel(), np.arange(16) * 16)
    broken = {"train": train, "test": [(stored[0][:60], 1)]}
    with pytest.raises(UserError, match="example 0 of split test of fake as an image"):
        load_fake(monkeypatch, fake_builder(broken))


class PreparedFaces:
    """What `celeb_a_hq` uses of a builder: images without classes."""

    name, data_dir = "celeb_a_hq/8", "DATA"

    def __init__(self, files, prepared=True):
        self.files, self.prepared = files, prepared

    def is_prepared(self):
        return self.prepared

    def as_data_source(self, split, decoders):
        assert split == "train"
        assert list(decoders) == ["image"]
        return [
            {
                "image": encoded(np.full((8, 8, 3), i, np.uint8)),
                "image/filename": f"data8x8/{name}".encode(),
            }
            for i, name in enumerate(self.files)
        ]


def test_celeb_a_hq_takes_its_classes_from_a_file(monkeypatch, tmp_path):
    files = [f"{i:05}.png" for i in reversed(range(40))]
    monkeypatch.setattr(celeb_a_hq, "builder", lambda *_: PreparedFaces(files))
    path = tmp_path / celeb_a_hq.LABELS

    def find():
        return sources.find("celeb_a_hq/8", tmp_path)

    with pytest.raises(UserError, match=r"write .*labels.csv with a line FILE,CLASS"):
        find()
    path.write_text("00001.png\n")
    with pytest.raises(UserError, match=r"labels.csv, line 1: must be FILE,CLASS"):
        find()
    path.write_text("x.png,male\n")
    with pytest.raises(UserError, match=r"names no image of celeb_a_hq/8, such as 000"):
        find()
    lines = [f"{name},{'male' if int(name[:5]) % 3 else 'female'}" for name in files]
    path.write_text("\n".join(lines[:-2]))  # without 00000 and 00001
    source = find()
    assert source.class_names == ("female", "male")
    assert (source.train.count, source.test.count) == (36, 2)
    # In the order of the names from 00002 on, every fifteenth for testing.
    test = source.test.read(np.array([1, 0]))
    assert test.images[:, 0, 0, 0].tolist() == [39 - 31, 39 - 16]
    assert test.labels.tolist() == [int(31 % 3 > 0), int(16 % 3 > 0)]
    assert source.train.labels()[:3].tolist() == [1, 0, 1]  # 2, 3, 4
    unprepared = PreparedFaces(files, prepared=False)
    monkeypatch.setattr(celeb_a_hq, "builder", lambda *_: unprepared)
    with pytest.raises(UserError, match="celeb_a_hq/8 is not prepared in DATA: run"):
        find()
