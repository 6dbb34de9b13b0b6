import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from typechecks import without_type_checks

from bspec_jax.losses import (
    classification_floor,
    classification_loss,
    squared_error,
)


def test_squared_error_and_its_derivative():
    f, y = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.0, 1.0, 0.5])
    assert_allclose(squared_error(f, y), 5)
    assert_allclose(jax.grad(squared_error)(f, y), f - y)  # not y - f


def test_the_classification_loss_has_the_papers_target_and_floor(x64):
    # Section 6: p is 0.45085 on the class and 0.06102 elsewhere; H(p) = 1.89491.
    f = jnp.full((2, 10), -1.0).at[0, 3].set(1.0).at[1, 0].set(1.0)
    assert_allclose(classification_loss(f, jnp.array([3, 0])), 1.89491, atol=5e-6)
    beyond = classification_loss(4 * f, jnp.array([3, 0]))
    assert_allclose(beyond, 1.89491, atol=5e-6)
    free = classification_loss(4 * f, jnp.array([3, 0]), clamp="none")
    assert (free > 2).all()


def test_the_classification_loss_has_the_papers_derivatives(x64):
    f = jnp.array([0.3, 1.7, -0.2, -1.0, 0.9])  # one beyond the limits, one at them
    p = np.exp(2 * np.eye(5)[2] - 1)
    p /= p.sum()
    beyond = np.abs(f) >= 1
    limited = jnp.clip(f, -1, 1)
    for clamp, g, inside in (
        ("hard", limited, ~beyond),
        ("none", f, np.ones(5)),
        ("straight-through", limited, np.ones(5)),
    ):
        s = jax.nn.softmax(g)
        gradient, curvature = (
            d(classification_loss)(f, jnp.array(2), clamp=clamp)
            for d in (jax.grad, jax.hessian)
        )
        assert_allclose(gradient, inside * (s - p), rtol=1e-12)
        expected = np.diag(s) - np.outer(s, s)
        assert_allclose(
            curvature, inside[:, None] * expected * inside, rtol=1e-12, atol=1e-15
        )


def test_the_clamp_takes_the_type_of_its_argument(x64):
    for dtype in (jnp.float32, jnp.bfloat16):
        f = jnp.array([0.5, 3.0, -2.0], dtype)
        assert classification_loss(f, jnp.array(0)).dtype == dtype


def test_the_smooth_clamp(x64):
    f = jnp.array([[0.3, 1.7, -0.2]])
    label = jnp.array([1])
    value, gradient = jax.value_and_grad(
        lambda f: classification_loss(f, label, clamp="tanh").sum()
    )(f)
    plain = jax.value_and_grad(
        lambda g: classification_loss(g, label, clamp="none").sum()
    )
    expected, slope = plain(jnp.tanh(f))
    assert_allclose(value, expected, rtol=1e-12)
    assert_allclose(gradient, slope * (1 - jnp.tanh(f) ** 2), rtol=1e-12)


def test_the_straight_through_clamp_has_the_value_of_the_hard_one(x64):
    f = jnp.array([[0.3, 1.7, -2.2]])
    values = [
        classification_loss(f, jnp.array([0]), clamp=clamp)
        for clamp in ("hard", "straight-through")
    ]
    assert_allclose(*values, rtol=1e-14)


def test_an_unknown_clamp():
    with pytest.raises((ValueError, TypeError), match="clamp"):
        classification_loss(jnp.zeros(3), 0, clamp="soft")


def test_the_floor_is_the_entropy_of_the_target(x64):
    assert_allclose(classification_floor(10), 1.89491, atol=5e-6)
    for num_classes in (2, 7):
        p = jax.nn.softmax(2 * jnp.eye(num_classes)[0] - 1)
        expected = classification_loss(2 * jnp.eye(num_classes)[0] - 1, 0)
        assert_allclose(classification_floor(num_classes), expected, rtol=1e-12)
        assert_allclose(classification_floor(num_classes), -(p * jnp.log(p)).sum())


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (jnp.eye(4)[jnp.array([0, 2, 3])], "not float32 of .*one-hot rows take argmax"),
        (jnp.array([0.0, 2.0, 3.0]), r"integers of shape \(3,\) .* not float32"),
        (jnp.array([True, False, True]), "not bool"),
        (jnp.array([0, 2]), r"not int32 of \(2,\)"),
        (jnp.array([[0], [2], [3]]), r"not int32 of \(3, 1\)"),
        (jnp.array([0, 2, 4]), r"must be in 0\.\.3"),
        (np.array([0, 2, -1]), r"must be in 0\.\.3"),
    ],
)
def test_labels_that_are_mistaken(label, words):
    f = jnp.ones((3, 4))
    with without_type_checks(), pytest.raises(ValueError, match=words):
        classification_loss(f, label)


def test_labels_outside_are_nan_where_they_cannot_be_refused():
    f = jnp.ones((3, 4))
    loss = jax.jit(classification_loss)(f, jnp.array([0, 4, -1]))
    assert_allclose(loss, [classification_loss(f[0], 0), np.nan, np.nan])
    assert np.isfinite(classification_loss(f, np.array([0, 3, 2], np.uint8))).all()


def test_logits_that_are_nan():
    for clamp in ("hard", "straight-through", "tanh", "none"):
        f = jnp.zeros((40, 8)).at[3, 5].set(jnp.nan)
        label = jnp.zeros(40, int)
        loss = jax.jit(classification_loss, static_argnames="clamp")(
            f, label, clamp=clamp
        )
        assert np.flatnonzero(np.isnan(loss)).tolist() == [3], clamp


def test_short_floats_are_summed_in_longer_ones(x64):
    f, y = jnp.full(3000, 1.5, jnp.bfloat16), jnp.full(3000, 1.0, jnp.bfloat16)
    loss = squared_error(f, y)
    assert loss.dtype == jnp.float32
    assert loss == 375
    f = jax.random.normal(jax.random.key(0), (20, 10)).astype(jnp.bfloat16)
    label = jnp.arange(20) % 10
    loss = classification_loss(f, label)
    exact = classification_loss(f.astype(float), label)
    assert_allclose(loss.astype(float), exact, rtol=2.0**-8)  # rounded once


def test_shapes_that_numpy_would_repeat():
    with without_type_checks(), pytest.raises(ValueError, match=r"\(3,\), but its ta"):
        squared_error(jnp.ones(3), jnp.ones((3, 1)))
    with pytest.raises(ValueError, match="at least 2, got 1"):
        classification_floor(1)
