import jax
import jax.numpy as jnp
from numpy.testing import assert_allclose

from bspec_jax.losses import squared_error


def test_squared_error_and_its_derivative():
    f, y = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.0, 1.0, 0.5])
    assert_allclose(squared_error(f, y), 5)
    assert_allclose(jax.grad(squared_error)(f, y), f - y)  # not y - f
