import atexit
import os
import subprocess
import sys
import tempfile

COMPILED = "JAX_COMPILATION_CACHE_DIR"
# Without XLA's newer code for fusions, LLVM is done in two thirds of the time.
FASTER = "--xla_cpu_use_fusion_emitters=false"


def use_if_known(flag):
    """Adds a flag of XLA, which ends the process if this version does not know it."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    trial = [sys.executable, "-c", "import jax; jax.devices()"]
    known = subprocess.run(
        trial, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True
    )
    if known.returncode == 0:
        os.environ["XLA_FLAGS"] = flags


if COMPILED not in os.environ:
    # What one process compiles, all others of these tests take from there. JAX reads
    # it when it is imported, and those that are started inherit it.
    compiled = tempfile.TemporaryDirectory(prefix="bspec_jax-compiled-")
    atexit.register(compiled.cleanup)
    os.environ[COMPILED] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    use_if_known(FASTER)
# Most tests compile a lot and compute little; `optimised` is for the others.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import jax  # noqa: E402
import matplotlib as mpl  # noqa: E402
import pytest  # noqa: E402

mpl.use("agg")


@pytest.fixture(scope="module")
def optimised():
    """For tests that compute a lot, here and in the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")
        disable_optimizations(False)
        yield
        disable_optimizations(True)


def disable_optimizations(disable):
    """From here on; what JAX compiled before is forgotten, or order would matter."""
    jax.config.update("jax_disable_most_optimizations", disable)
    jax.clear_caches()


@pytest.fixture
def x64():
    """Double precision, for tests that compare to rounding."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def pytest_collection_modifyitems(items):
    """Files of whole runs first: short ones then fill up what the workers have.

    Tests of a whole run are slow.
    """
    items.sort(key=lambda item: not _has_whole_runs(item.path))
    for item in items:
        if {"finished", "sweep"} & set(item.fixturenames):
            item.add_marker("slow")


def _has_whole_runs(path):
    return path.parent.name == "experiments" or path.name == "test_colabs.py"
