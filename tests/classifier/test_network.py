import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax import classifier
from bspec_jax.adapters import from_linen
from bspec_jax.branching import sum_of_branches
from bspec_jax.classifier.network import Pixels
from bspec_jax.classifier.resnet import BATCH_NORM_MOMENTUM, STRIDES, WIDTHS
from bspec_jax.storage import checkpoints
from bspec_jax.storage.errors import UserError

PIXELS = Pixels(np.float32([0.4]), np.float32([0.3]))
IMAGES = np.random.default_rng(0).integers(0, 256, (11, 3, 2, 1), np.uint8)


class Small(nn.Module):
    """Normalised pixels to three classes."""

    @nn.compact
    def __call__(self, x, train=True):
        x = x.reshape(len(x), -1)
        norm = nn.BatchNorm(not train, momentum=BATCH_NORM_MOMENTUM)
        return nn.Dense(3)(norm(x))


NETWORK = sum_of_branches(from_linen(Small()), 2)


@pytest.fixture
def variables():
    return NETWORK.init(jax.random.key(1), jnp.zeros((1, 3, 2, 1)))


def normalised(images):
    return (images.astype(np.float64) / 255 - 0.4) / 0.3


@pytest.mark.parametrize("size", [4, 11, 100])  # batches that do and do not fit
def test_predict_is_the_network_in_evaluation_mode(variables, size, monkeypatch):
    monkeypatch.setattr(classifier, "EVALUATION_BATCH", size)
    params, stats = variables
    v = classifier.predict(NETWORK, params, stats, IMAGES, PIXELS)
    x = normalised(IMAGES).reshape(11, -1) / np.sqrt(1 + 1e-5)  # statistics 0 and 1
    dense = params["Dense_0"]
    expected = [
        x @ kernel + bias
        for kernel, bias in zip(dense["kernel"], dense["bias"], strict=True)
    ]
    assert v.shape == (2, 11, 3)
    assert_allclose(v, expected, rtol=1e-4, atol=1e-5)


def test_calibrated_statistics_are_means_over_batches(variables, monkeypatch):
    monkeypatch.setattr(classifier, "EVALUATION_BATCH", 4)
    params, stats = variables
    stats = jax.tree.map(lambda leaf: leaf + 0.7, stats)  # must not matter
    found = classifier.calibrate(NETWORK, params, stats, IMAGES, PIXELS)
    found = found["batch_stats"]["BatchNorm_0"]
    batches = normalised(IMAGES[:8]).reshape(2, 4, -1)  # the last three make no batch
    for name, expected in (("mean", batches.mean(1)), ("var", batches.var(1))):
        assert_allclose(found[name], np.stack([expected.mean(0)] * 2), rtol=1e-3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny ResNet in a folder, with its responses."""
    run = tmp_path_factory.mktemp("run")
    folder = run / "checkpoints" / "main"
    network = classifier.build(WIDTHS["tiny"], 2, 4)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)
    pixels = Pixels(*np.float32([[0.4, 0.5, 0.6], [0.2, 0.3, 0.4]]))
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(network.init, jax.random.key(3), images[:1] / 255.0)
    params, stats = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.1, 1, leaf.shape), leaf.dtype), shapes
    )
    about = classifier.describe(
        WIDTHS["tiny"], 2, "abcd", (8, 6, 3), pixels, clamp="tanh"
    )
    checkpoints.describe(folder, about)
    checkpoints.save(folder, 5, model={"params": params, "batch_stats": stats})
    v = classifier.predict(network, params, stats, images, pixels)
    return run, images, v


def test_a_loaded_classifier_answers_as_the_saved_one(saved):
    run, images, v = saved
    loaded = classifier.load(run)
    assert (loaded.step, loaded.network.num_branches) == (5, 2)
    assert loaded.description["classes"] == ["a", "b", "c", "d"]
    assert loaded.description["clamp"] == "tanh"
    assert_array_equal(loaded.responses(images), v)


def test_a_checkpoint_of_another_kind(saved, tmp_path):
    checkpoints.describe(tmp_path / "net", {"kind": "generator"})
    checkpoints.save(tmp_path / "net", 1, model={"a": jnp.zeros(2)})
    with pytest.raises(UserError, match="holds no classifier"):
        classifier.load(tmp_path / "net")


def test_flops_are_those_of_the_convolutions_and_little_more(saved):
    run, _, _ = saved
    about = classifier.load(run).description
    height, width, channels = about["image_shape"]
    size, count = height * width, 2 * 9 * channels * 2 * height * width  # the stem
    before = 2
    for out, stride in zip(WIDTHS["tiny"], STRIDES, strict=True):
        height, width = -(-height // stride), -(-width // stride)
        size = height * width
        count += 2 * size * 9 * (before * out + 3 * out * out)
        count += 2 * size * before * out * (before != out or stride > 1)
        before = out
    # XLA leaves out the products with padding, a large part of so small an image, and
    # counts BatchNorm.
    assert 0.5 * count < classifier.forward_flops(about) < 1.3 * count


def test_features_are_what_the_last_layer_reads():
    network = classifier.build(WIDTHS["tiny"], 2, 3)
    images = np.random.default_rng(2).integers(0, 256, (3, 8, 8, 1), np.uint8)
    params, stats = network.init(jax.random.key(4), jnp.asarray(normalised(images)))
    v, features = (
        classifier.predict(network, params, stats, images, PIXELS, features=flag)
        for flag in (False, True)
    )
    assert features.shape == (2, 3, WIDTHS["tiny"][-1])
    head = params["head"]
    expected = np.einsum("mnd,mdc->mnc", features, head["kernel"])
    assert_allclose(v, expected + head["bias"][:, None], rtol=1e-4, atol=1e-5)
