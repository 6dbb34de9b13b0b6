"""One setting of JAX, under which the faces are the same data for everyone."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import jax
import numpy as np
from jaxtyping import Array, Key

IMPLEMENTATION = "threefry2x32"  # of the random numbers
# XLA's own optimisation, which decides where it rounds, whatever JAX asks for.
OPTIMISED = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}


@contextmanager
def pinned() -> Iterator[None]:
    """Sets all settings of JAX that change numbers, for what is computed inside.

    Computes on the CPU, as other devices round differently, unless JAX may not use it.
    """
    with ExitStack() as settings:
        for setting in (
            jax.enable_x64(False),
            jax.threefry_partitionable(True),
            jax.default_prng_impl(IMPLEMENTATION),
            jax.numpy_rank_promotion("allow"),
            jax.numpy_dtype_promotion("standard"),
            jax.default_matmul_precision(None),
            jax.disable_jit(False),
            jax.debug_nans(False),
            jax.debug_infs(False),
            jax.debug_key_reuse(False),
            jax.transfer_guard("allow"),
            jax.default_device(_cpu()),
        ):
            settings.enter_context(setting)
        yield


def _cpu():
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names other ones alone
        return None


def new_key(seed: int) -> Key[Array, ""]:
    """The key of a seed below 2^32, whatever JAX adds to seeds."""
    return jax.random.wrap_key_data(np.array([0, seed], np.uint32), impl=IMPLEMENTATION)
