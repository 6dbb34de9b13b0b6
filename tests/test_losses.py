import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from bspec_jax.losses import classification_loss, squared_error


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
    free = classification_loss(4 * f, jnp.array([3, 0]), clamp=False)
    assert (free > 2).all()


def test_the_classification_loss_has_the_papers_derivatives(x64):
    f = jnp.array([0.3, 1.7, -0.2, -1.0, 0.9])  # one beyond the limits, one at them
    p = np.exp(2 * np.eye(5)[2] - 1)
    p /= p.sum()
    for clamp in (True, False):
        inside = np.abs(f) < 1 if clamp else np.ones(5)
        s = jax.nn.softmax(jnp.clip(f, -1, 1) if clamp else f)
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
