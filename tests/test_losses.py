import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

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
