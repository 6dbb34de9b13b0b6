import jax
import matplotlib as mpl
import pytest

mpl.use("agg")


@pytest.fixture
def x64():
    """Double precision, for tests that compare to rounding."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
