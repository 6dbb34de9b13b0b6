import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import ROOT
from numpy.testing import assert_allclose

from bspec_jax.data import faces, sources
from bspec_jax.data.faces import source as face_source
from bspec_jax.storage.errors import ArgumentError

pytestmark = pytest.mark.slow  # compiles for minutes


@pytest.fixture(scope="module")
def truth():
    return faces.ground_truth("test", np.arange(9), 64)


def test_the_image_is_made_of_its_layers(truth):
    made = np.clip(truth.albedo * truth.diffuse + truth.specular, 0, 1)
    assert_allclose(truth.image, made, atol=1e-6)
    assert_allclose(np.linalg.norm(truth.normals, axis=-1), 1, rtol=1e-5)
    assert (truth.normals[..., 2] > 0).all()  # towards the viewer
    # The normals are those of the height.
    down, right = np.gradient(truth.height[4], 2 / 64)
    slope = -truth.normals[4, ..., :2] / truth.normals[4, ..., 2:]
    assert_allclose(slope, np.stack([right, down], -1), atol=1e-3)


def test_masks_are_apart_and_where_they_should_be(truth):
    total = sum(mask.astype(int) for mask in truth.masks.values())
    assert set(truth.masks) == set(faces.PARTS)
    assert total.max() == 1
    y, x = np.indices((64, 64))
    for n, label in enumerate(np.arange(9) % 3):
        masks = {name: mask[n] for name, mask in truth.masks.items()}
        has_whiskers = faces.CLASSES[label] != "dog"
        assert masks["whiskers"].any() == has_whiskers
        for name in ("eyes", "nose", "ears", "fur"):
            assert 5 < masks[name].sum() < 2500, name
        assert y[masks["eyes"]].mean() < y[masks["nose"]].mean()
        sides = np.unique(x[masks["eyes"]] > x[masks["nose"]].mean())
        assert len(sides) == 2  # one on each side of the nose
        assert masks["fur"].sum() > masks["eyes"].sum()
    # Eyes are wet: the strongest specular light is there or on the nose.
    wet = truth.masks["eyes"] | truth.masks["nose"]
    strongest = truth.specular[..., 0].reshape(9, -1).argmax(1)
    assert wet.reshape(9, -1)[np.arange(9), strongest].mean() > 0.6


def test_a_face_is_the_same_at_any_size():
    key, label = faces.example_key("train", 5), 2
    small, large = (faces.render(key, label, size) for size in (32, 128))
    shrunk = np.asarray(large.image).reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert np.abs(shrunk - small.image).mean() < 0.03
    for part in ("eyes", "ears", "fur"):
        share = [float(face.masks[part].mean()) for face in (small, large)]
        assert_allclose(*share, rtol=0.2)


def test_the_set_is_deterministic_and_its_splits_differ():
    source = faces.find(16)
    assert source.class_names == faces.CLASSES
    assert source.train.count == 6000
    assert source.test.count == 900
    chosen = np.array([7, 2, 70])
    split = source.train.read(chosen)
    assert split.images.shape == (3, 16, 16, 3)
    assert split.labels.tolist() == source.train.labels()[chosen].tolist() == [1, 2, 1]
    again = faces.find(16).train.read(chosen[::-1])
    assert (split.images == again.images[::-1]).all()
    assert (source.test.read(chosen).images != split.images).any()
    loaded = sources.load("faces", image_size=16, train_examples=4, test_examples=2)
    assert loaded.train.images.shape == (4, 16, 16, 3)


def test_faces_vary_with_the_key():
    keys = jax.random.split(jax.random.key(3), 6)
    images = jax.vmap(lambda key: faces.render(key, 0, 16).image)(keys)
    spread = np.abs(np.diff(np.asarray(images), axis=0)).mean((1, 2, 3))
    assert (spread > 0.02).all()


def test_a_part_can_be_left_out(truth):
    bald = faces.ground_truth("test", np.arange(9), 64, without=["whiskers"])
    assert not bald.masks["whiskers"].any()
    changed = np.abs(bald.image - truth.image).max(-1) > 1e-6
    cats_and_tigers = np.arange(9) % 3 != 1
    assert changed.any((1, 2)).tolist() == cats_and_tigers.tolist()
    # Nothing but the whiskers, whose edges cover less than the mask's share of a pixel.
    assert changed[truth.masks["whiskers"]].mean() > 0.99
    assert 1 < changed.sum() / truth.masks["whiskers"].sum() < 3
    assert_allclose(bald.normals, truth.normals)
    blind = faces.ground_truth("test", np.arange(9), 64, without=["eyes"])
    assert (blind.masks["fur"] >= truth.masks["fur"]).all()
    assert blind.masks["fur"][truth.masks["eyes"]].mean() > 0.7  # else ears, whiskers
    far = ~truth.masks["eyes"] & (np.abs(blind.image - truth.image).max(-1) > 0.1)
    assert far.mean() < 0.02


ALL_SETTINGS = {
    "JAX_ENABLE_X64": "1",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_RANDOM_SEED_OFFSET": "7",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
    "JAX_DEBUG_NANS": "1",
    "JAX_DISABLE_JIT": "1",
    "JAX_TRANSFER_GUARD": "disallow",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}
HASHES = """
import hashlib
import numpy as np
from bspec_jax.data import faces
for part in faces.find(16)[1:3]:
    images = part.read(np.arange(5) * 100).images
    print(hashlib.blake2b(images.tobytes(), digest_size=8).hexdigest())
"""


def test_the_faces_are_the_same_under_every_setting_of_jax():
    """Those of version 1, whose bytes may differ on processors of another kind."""
    found = {}
    for name, settings in (("none", {}), ("all", ALL_SETTINGS)):
        plain = {k: v for k, v in os.environ.items() if k not in ALL_SETTINGS}
        done = subprocess.run(
            [sys.executable, "-c", HASHES],
            env=plain | settings,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found[name] = done.stdout.split()
    assert len(found["none"]) == 2
    assert found["all"] == found["none"]


def test_a_version_of_the_faces_stands_for_their_pixels():
    """If this fails on purpose, raise `VERSION`: runs on the faces then notice."""
    parts = faces.find(16)[1:3]
    images = np.concatenate([part.read(np.arange(64)).images for part in parts])
    images = images.astype(float)
    assert face_source.VERSION == 1
    assert_allclose(images.mean((0, 1, 2)), [111.926, 104.277, 90.614], atol=0.01)
    assert_allclose((images**2).mean(), 12398.84, atol=1)
    assert faces.find(16).identity["contents"] == {"version": "1"}


def test_one_face_is_the_same_in_double_precision(x64):
    truth = faces.ground_truth("test", [4], 16)
    key = faces.example_key("test", 4)
    face = jax.jit(faces.render, static_argnums=2)(key, 4 % 3, 16)
    assert face.image.dtype == np.float32
    assert_allclose(face.image, truth.image[0], atol=1e-5)
    assert (face.masks["eyes"] == truth.masks["eyes"][0]).all()


def test_parts_splits_and_examples_that_do_not_exist():
    for arguments, message in (
        (("test", [0], 16, ["whisker"]), "`without` must be of eyes, .*, got whisker"),
        (("test", [0], 16, ["fur"]), "`without` must be of eyes, .*, got fur"),
        (("val", [0], 16), "`split` must be train or test, got val"),
        (("test", [900], 16), r"`indices` must be in 0\.\.899"),
        (("test", [-1], 16), r"`indices` must be in 0\.\.899"),
        (("test", [True], 16), "`indices` must be integers, at least one"),
        (("test", [], 16), "`indices` must be integers, at least one"),
    ):
        with pytest.raises(ArgumentError, match=message):
            faces.ground_truth(*arguments)
    with pytest.raises(ArgumentError, match=r"`label` must be in 0\.\.2, got 3"):
        faces.render(faces.example_key("test", 0), 3, 16)
    one, several = (
        faces.ground_truth("test", [3], 16, without=name) for name in ("Eyes", ["eyes"])
    )
    assert (one.image == several.image).all()
