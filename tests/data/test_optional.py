"""What of the data needs packages that the plain install lacks."""

import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT

from bspec_jax.data import load, prepare, streaming
from bspec_jax.data.images import Split
from bspec_jax.storage.errors import UserError

OPTIONAL = ("tensorflow", "tensorflow_datasets", "grain", "absl", "array_record")
WITHOUT = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from bspec_jax import data
from bspec_jax.data import celeb_a_hq, fashion_mnist, prepare, prepared, streaming
print(data.load("folder", sys.argv[1]).train.images.shape)
"""


def test_folders_need_no_optional_package(tmp_path):
    from PIL import Image

    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (4, 4), (9, i, 0)).save(tmp_path / name / f"{i}.png")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(4, 32, 32, 3)\n"


def test_a_missing_package_is_told_where_it_is_needed(tmp_path, monkeypatch):
    def tells(extra, use, *arguments):
        line = rf'is not installed: run `pip install "bspec_jax\[{extra}\]"`'
        with pytest.raises(UserError, match=line):
            use(*arguments)

    for name in OPTIONAL[1:]:
        monkeypatch.setitem(sys.modules, name, None)
    tells("tfds", load, "cifar10", tmp_path)
    tells("tfds", prepare.prepare, "cifar10", tmp_path)
    images, labels = np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int32)
    part = streaming.from_split(Split(images, labels))
    tells("generator", streaming.batches, part, 2, 0)


def test_fashion_mnist_without_tfds_is_told_where_to_get(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"no Fashion-MNIST in .*run `apt-get"):
        load("fashion_mnist", tmp_path)
