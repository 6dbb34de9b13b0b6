import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifiers import NETWORK, PIXELS, normalised
from numpy.testing import assert_allclose, assert_array_equal
from typechecks import without_type_checks

from bspec_jax import classifier
from bspec_jax.classifier import network
from bspec_jax.classifier.branches import STRIDES, WIDTHS
from bspec_jax.storage import checkpoints, files
from bspec_jax.storage.errors import ArgumentError, UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 3, 2, 1), np.uint8)
SPEC = classifier.ClassifierSpec(
    widths=WIDTHS["tiny"],
    branches=2,
    classes=("a", "b", "c", "d"),
    image_shape=(8, 6, 3),
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.4),
    clamp="tanh",
)


@pytest.fixture
def variables():
    return NETWORK.init(jax.random.key(1), jnp.zeros((1, 3, 2, 1)))


@pytest.mark.parametrize("size", [4, 11, 100])  # batches that do and do not fit
def test_predict_is_the_network_in_evaluation_mode(variables, size, monkeypatch):
    monkeypatch.setattr(network, "EVALUATION_BATCH", size)
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
    monkeypatch.setattr(network, "EVALUATION_BATCH", 4)
    params, stats = variables
    stats = jax.tree.map(lambda leaf: leaf + 0.7, stats)  # must not matter
    calibrated = classifier.calibrate(NETWORK, params, stats, IMAGES, PIXELS)
    statistics = calibrated["batch_stats"]["BatchNorm_0"]
    batches = normalised(IMAGES[:8]).reshape(2, 4, -1)  # the last three make no batch
    for name, expected in (("mean", batches.mean(1)), ("var", batches.var(1))):
        assert_allclose(statistics[name], np.stack([expected.mean(0)] * 2), rtol=1e-3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny ResNet in a folder, with its responses."""
    run = tmp_path_factory.mktemp("run")
    folder = run / "checkpoints" / "main"
    branched = classifier.build(SPEC)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(branched.init, jax.random.key(3), images[:1] / 255.0)
    params, stats = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.1, 1, leaf.shape), leaf.dtype), shapes
    )
    checkpoints.write_spec(folder, SPEC)
    checkpoints.save(folder, 5, model={"params": params, "batch_stats": stats})
    v = classifier.predict(branched, params, stats, images, SPEC.pixels)
    return run, images, v


def test_a_loaded_classifier_answers_as_the_saved_one(saved):
    run, images, v = saved
    loaded = classifier.load(run)
    assert (loaded.step, loaded.network.num_branches) == (5, 2)
    assert loaded.spec == SPEC
    assert loaded.spec.classes == ("a", "b", "c", "d")
    assert loaded.spec.clamp == "tanh"
    assert_array_equal(loaded.responses(images), v)


FORMS = {
    "mlp": {"branch": "mlp", "widths": (5, 4), "normalisation": "none"},
    "linear": {"branch": "mlp", "widths": (), "normalisation": "none"},
    "cnn": {"branch": "cnn", "widths": (3,), "biases": False},
    "resnet": {"normalisation": "none"},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_classifier_of_any_branch_is_saved_and_loaded(form, tmp_path):
    spec = dataclasses.replace(SPEC, **FORMS[form])
    branched = classifier.build(spec)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)
    init = jax.jit(branched.init)
    params, stats = init(jax.random.key(3), jnp.zeros((1, 8, 6, 3)))
    assert bool(stats) == (form == "cnn")
    checkpoints.write_spec(tmp_path, spec)
    checkpoints.save(tmp_path, 5, model={"params": params, "batch_stats": stats})
    loaded = classifier.load(tmp_path)
    assert loaded.spec == spec
    v = classifier.predict(branched, params, stats, images, spec.pixels)
    assert_array_equal(loaded.responses(images), v)
    assert np.abs(v).max() > 0.01
    features = loaded.responses(images, features=True)
    assert features.shape == (
        2,
        5,
        {"linear": 144, "mlp": 4}.get(form, features.shape[2]),
    )
    if form != "cnn":  # there is nothing to calibrate
        assert classifier.calibrate(branched, params, {}, images, spec.pixels) == {}


def test_a_specification_of_version_0_3_is_a_resnet_with_batch_norm(tmp_path):
    fields = dataclasses.asdict(SPEC)
    for name in ("branch", "normalisation", "biases"):
        del fields[name]
    files.write_json(tmp_path / checkpoints.SPEC, {"kind": "classifier", **fields})
    assert checkpoints.read_spec(tmp_path, classifier.ClassifierSpec) == SPEC
    assert (SPEC.branch, SPEC.normalisation, SPEC.biases) == ("resnet", "batch", True)


def test_a_checkpoint_of_another_kind(saved, tmp_path):
    folder = tmp_path / "net"
    folder.mkdir()
    files.write_json(folder / checkpoints.SPEC, {"kind": "generator"})
    checkpoints.save(folder, 1, model={"a": jnp.zeros(2)})
    with pytest.raises(UserError, match="holds no classifier"):
        classifier.load(folder)


def test_flops_are_those_of_the_convolutions_and_little_more(saved):
    run, _, _ = saved
    spec = classifier.load(run).spec
    height, width, channels = spec.image_shape
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
    assert 0.5 * count < classifier.forward_flops(spec) < 1.3 * count


def test_flops_of_a_perceptron_are_two_for_each_weight():
    spec = dataclasses.replace(SPEC, **FORMS["mlp"])
    products = 2 * (144 * 5 + 5 * 4 + 4 * 4)
    # XLA counts biases and leaky ReLUs, too.
    assert products < classifier.forward_flops(spec) < 1.1 * products


def test_flops_are_counted_where_jax_has_no_cpu(monkeypatch):
    def missing(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    spec = dataclasses.replace(SPEC, **FORMS["mlp"])
    expected = classifier.forward_flops(spec)
    monkeypatch.setattr(jax, "local_devices", missing)
    assert classifier.forward_flops(spec) == pytest.approx(expected, rel=0.1)


@pytest.mark.slow
def test_features_are_what_the_last_layer_reads():
    spec = dataclasses.replace(SPEC, classes=("a", "b", "c"), image_shape=(8, 8, 1))
    branched = classifier.build(spec)
    images = np.random.default_rng(2).integers(0, 256, (3, 8, 8, 1), np.uint8)
    params, stats = branched.init(jax.random.key(4), jnp.asarray(normalised(images)))
    v, features = (
        classifier.predict(branched, params, stats, images, PIXELS, features=flag)
        for flag in (False, True)
    )
    assert features.shape == (2, 3, WIDTHS["tiny"][-1])
    head = params["head"]
    expected = np.einsum("mnd,mdc->mnc", features, head["kernel"])
    assert_allclose(v, expected + head["bias"][:, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES / 255, r"bytes in 0..255 \(uint8\), got float64"),
        (IMAGES.astype(np.int64), "got int64"),
        (IMAGES[0], r"shape \[N, H, W, 1\], N at least 1, got \[3, 2, 1\]"),
        (IMAGES.repeat(3, -1), r"got \[11, 3, 2, 3\]"),
        (IMAGES.transpose(0, 3, 1, 2), r"got \[11, 1, 3, 2\]"),
        (IMAGES[:0], "N at least 1"),
    ],
)
def test_images_of_other_units_or_shapes_are_refused(variables, images, message):
    for function in (classifier.predict, classifier.calibrate):
        with without_type_checks(), pytest.raises(ArgumentError, match=message):
            function(NETWORK, *variables, images, PIXELS)


def test_a_classifier_takes_images_of_its_own_shape():
    trained = classifier.Classifier(NETWORK, {}, {}, SPEC, 0)
    images = np.zeros((2, 8, 6, 3), np.uint8)
    for other in (images[:, :6], images[..., :1], images / 255):
        with without_type_checks(), pytest.raises(ArgumentError, match="`images` must"):
            trained.responses(other)
