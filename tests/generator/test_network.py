from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from typechecks import without_type_checks

from bspec_jax import generator
from bspec_jax.generator import GeneratorSpec, network
from bspec_jax.generator.diffusion import Velocity, blur, diffuse
from bspec_jax.generator.stargan import PRESETS, Generator
from bspec_jax.storage import checkpoints
from bspec_jax.storage.errors import ArgumentError, UserError

M, CLASSES = 2, ("a", "b", "c")


def spec(residual, precision="float32"):
    return GeneratorSpec(
        preset="tiny",
        branches=M,
        classes=CLASSES,
        image_shape=(16, 16, 1),
        residual=residual,
        sigma=1.5,
        diffusion_step=0.3,
        precision=precision,
    )


@pytest.fixture(scope="module")
def examples():
    x = jax.random.uniform(jax.random.key(0), (3, 16, 16, 1), minval=-1.0)
    return x, jnp.array([2, 0, 1])


@pytest.fixture(scope="module", params=["gaussian", "diffusion"])
def built(request, examples):
    model = generator.build(spec(request.param))
    params = jax.jit(model.init)(jax.random.key(1), *examples)
    return request.param, model, params


@pytest.mark.slow
def test_f_is_the_residual_and_the_sum_of_branches_one_by_one(built, examples):
    residual, model, params = built
    x, labels = examples
    found = jax.jit(model.decompose)(params, x, labels)
    preset = PRESETS["tiny"]
    branch = jax.jit(Generator(preset.base, preset.most, 3).apply)
    if residual == "gaussian":
        r, inputs = blur(x, 1.5), [x] * M
        assert found.inputs is None
    else:
        velocity = partial(Velocity(preset.velocity).apply, params["velocity"])
        r, inputs = diffuse(velocity, x, M, 0.3)
        assert_allclose(found.inputs, inputs, rtol=1e-5, atol=1e-6)
        assert_allclose(found.residual + found.inputs.sum(0), x, atol=1e-5)
    v = [
        branch(
            {"params": jax.tree.map(lambda leaf, k=k: leaf[k], params["branches"])},
            inputs[k],
            labels,
        )
        for k in range(M)
    ]
    assert np.abs(v[0] - v[1]).max() > 0.1  # branches start differently
    assert_allclose(found.residual, r, rtol=1e-5, atol=1e-6)
    assert_allclose(found.components, np.stack(v), rtol=1e-4, atol=1e-4)
    assert_allclose(found.image, r + v[0] + v[1], rtol=1e-4, atol=1e-4)
    image = jax.jit(model.apply)(params, x, labels)
    assert_allclose(image, found.image, rtol=1e-4, atol=1e-4)


def test_a_branch_at_a_time_and_short_floats(built, examples):
    residual, model, params = built
    expected = jax.jit(model.decompose)(params, *examples)
    slow = generator.build(spec(residual), sequential=True)
    found = jax.jit(slow.apply)(params, *examples)
    assert_allclose(found, expected.image, rtol=1e-4, atol=1e-4)
    short = generator.build(spec(residual, precision="bfloat16"))
    parts = jax.jit(short.decompose)(params, *examples)
    assert {leaf.dtype for leaf in jax.tree.leaves(parts)} == {jnp.dtype("float32")}
    error = np.abs(parts.image - expected.image)
    assert 1e-4 < error.max() < 0.5  # bfloat16 has 8 bits
    # R and what the branches read are not shortened.
    assert_allclose(parts.residual, expected.residual, atol=1e-6)


@pytest.mark.slow
def test_batches_of_one_shape(built, examples, monkeypatch):
    _, model, params = built
    x, labels = (np.asarray(leaf) for leaf in examples)
    expected = generator.decompose(model, params, x, labels)
    monkeypatch.setattr(network, "EVALUATION_BATCH", 2)
    found = generator.decompose(model, params, x, labels)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(partial(assert_allclose, rtol=1e-4, atol=1e-4), found, expected)
    image = generator.transfer(model, params, x, labels)
    assert_allclose(image, expected.image, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_is_read_without_flags(built, tmp_path):
    residual, _, params = built
    folder = tmp_path / "checkpoints" / generator.MAIN
    checkpoints.write_spec(folder, spec(residual))
    checkpoints.save(folder, 7, model=params)
    trained = generator.load(tmp_path)
    assert trained.step == 7
    assert trained.spec.classes == CLASSES
    assert trained.spec == spec(residual)
    jax.tree.map(assert_allclose, trained.params, params)
    (folder / checkpoints.SPEC).write_text('{"kind": "classifier"}')
    with pytest.raises(UserError, match="holds no generator"):
        generator.load(folder)


def test_bytes_and_back():
    levels = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    x = generator.to_signed(levels)
    assert (float(x.min()), float(x.max())) == (-1, 1)
    assert (generator.to_bytes(x) == levels).all()
    assert generator.to_bytes(jnp.array([-3.0, 0.0, 9.0])).tolist() == [0, 128, 255]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (np.uint8(127 * (x + 1)), y), "`x` must be floats in -1..1"),
        (lambda x, y: (127.5 * (x + 1), y), "`x` must be in -1..1, got 2"),
        (lambda x, y: (x[0], y[:1]), r"shape \[N, H, W, C\], N at least 1"),
        (lambda x, y: (x[:0], y[:0]), "N at least 1"),
        (lambda x, y: (x, y + 1), r"`labels` must be in 0..2, got 3"),
        (lambda x, y: (x, -y), r"`labels` must be in 0..2, got -"),
        (lambda x, y: (x, y[:2]), "one for each of the 3 examples"),
        (lambda x, y: (x, np.eye(3, dtype=int)[y]), "of one-hot rows take argmax"),
    ],
)
def test_images_and_labels_of_other_units_are_refused(built, examples, change, message):
    _, model, params = built
    x, labels = change(*map(np.asarray, examples))
    for function in (generator.decompose, generator.transfer):
        with without_type_checks(), pytest.raises(ArgumentError, match=message):
            function(model, params, x, labels)


def test_conversions_refuse_what_they_do_not_convert():
    images = np.zeros((2, 4, 4, 1), np.uint8)
    for function, argument in (
        (generator.to_signed, images / 255),
        (generator.to_signed, jnp.asarray(images, jnp.int32)),
        (generator.to_bytes, images),
        (lambda x: blur(x, 2.0), images),
        (lambda x: blur(x, 0.0), generator.to_signed(images)),
    ):
        with without_type_checks(), pytest.raises(ArgumentError):
            function(argument)
