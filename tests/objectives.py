"""Small objectives in float64, with asymmetric targets, for tests of the Hessian."""

import jax
import jax.numpy as jnp

from bspec_jax.analysis.objective import Objective, frozen_responses
from bspec_jax.branching import from_functions, sum_of_branches
from bspec_jax.losses import classification_loss, squared_error


def network(m, width=2, c=3):
    def init(key):
        first, second = jax.random.split(key)
        return {
            "out": jax.random.normal(first, (width, c), jnp.float64),
            "hidden": jax.random.normal(second, (2, width), jnp.float64),
        }

    def apply(params, x):
        return jnp.tanh(x @ params["hidden"]) @ params["out"]

    return sum_of_branches(from_functions(init, apply), m)


def unclamped_loss(f, target):
    return classification_loss(f, target, clamp="none")


def squared(f, target):
    return squared_error(f, target * jnp.arange(f.size, dtype=f.dtype))


LOSSES = (squared, unclamped_loss, classification_loss)


def problem(loss, m, n=5, seed=0, **shape):
    net = network(m, **shape)
    params, state = net.init(jax.random.key(seed))
    x = jax.random.normal(jax.random.key(seed + 1), (n, 2), jnp.float64)
    respond = frozen_responses(net, state)
    return Objective(respond, loss, x, jnp.arange(n) % 3), params
