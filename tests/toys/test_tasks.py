import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bspec_jax import toys


def test_tasks_are_those_of_the_paper():
    assert toys.TASKS["toy1"] == ((-1, 0, 0, 1), (1, 0.5, 0.5, 1))
    assert toys.TASKS["toy2"] == ((-1, 0, 1, 2), (1, 0.25, 0.5, 0.75))


def test_branch_is_a_leaky_neuron():
    apply = toys.toy_branch(negative_slope=0.1).apply
    params = {"w": jnp.array(2.0), "b": jnp.array(-1.0)}
    v, _ = apply(params, (), jnp.array([-1.0, 0.0, 0.5, 2.0]))
    assert_allclose(v, [-0.3, -0.1, 0.0, 3.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("init", "deviation"), [("normal", 2.0), ("uniform", 2 / 3**0.5)]
)
def test_initial_distribution(init, deviation):
    net = toys.toy_network(20_000, init=init, init_scale=2.0)
    params, _ = net.init(jax.random.key(0))
    for leaf in params.values():
        # Standard errors: 2 / sqrt(20000) = 0.014 of the mean, and half of it or so of
        # the standard deviation.
        assert abs(float(leaf.mean())) < 0.06
        assert abs(float(leaf.std()) - deviation) < 0.05
    correlation = np.corrcoef(params["w"], params["b"])[0, 1]
    assert abs(correlation) < 0.03
    if init == "uniform":
        assert abs(params["w"]).max() <= 2.0


def test_trial_key_depends_on_branches_and_trial_only():
    key = jax.random.key(0)
    keys = [toys.trial_key(key, m, t) for m in (2, 3) for t in (0, 1)]
    draws = {float(jax.random.uniform(k)) for k in keys}
    assert len(draws) == 4
    again = jax.random.uniform(toys.trial_key(key, 3, 1))
    assert float(again) == float(jax.random.uniform(keys[3]))
