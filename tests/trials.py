"""A small table of toy trials, for tests of sweeps and their measures."""

import jax

from bspec_jax.toys import sweeps

KEY = jax.random.key(7)


def table(**changes):
    values = {
        "task": ["toy1", "toy2"],
        "num_branches": [2, 3, 9],
        "learning_rate": 0.02,
        "trial": range(4),
    }
    return sweeps.settings(**(values | changes))
