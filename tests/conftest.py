import jax
import matplotlib as mpl
import pytest

mpl.use("agg")


@pytest.fixture(scope="module")
def quick_compilation():
    """For tests that compile a lot and compute little."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def x64():
    """Double precision, for tests that compare to rounding."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
