import atexit
import os
import tempfile

COMPILED = "JAX_COMPILATION_CACHE_DIR"
if COMPILED not in os.environ:
    # What one process compiles, all others of these tests take from there. JAX reads
    # it when it is imported, and those that are started inherit it.
    compiled = tempfile.TemporaryDirectory(prefix="bspec_jax-compiled-")
    atexit.register(compiled.cleanup)
    os.environ[COMPILED] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax  # noqa: E402
import matplotlib as mpl  # noqa: E402
import pytest  # noqa: E402

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
