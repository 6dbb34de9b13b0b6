import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from bspec_jax.classifier.recipe import Recipe, decay_budget, kept_steps, optimizer

PLAIN = Recipe(epochs=1, learning_rate=0.3, weight_decay=2e-3)


@pytest.mark.parametrize("total", [1, 2, 7, 100])
@pytest.mark.parametrize("share", [0, 0.3, 0.5, 1])
def test_the_decay_budget_is_a_sum_over_the_schedule(x64, total, share):
    done = int(share * total)
    rate = optax.cosine_decay_schedule(0.3, total)
    rates = sum(float(rate(t)) for t in range(done))
    assert_allclose(decay_budget(PLAIN, total, done), 0.02 * rates, atol=1e-12)
    adamw = PLAIN._replace(optimizer="adamw")
    assert_allclose(decay_budget(adamw, total, done), 0.002 * rates, atol=1e-12)
    constant = PLAIN._replace(schedule="constant")
    assert_allclose(decay_budget(constant, total, done), 0.02 * 0.3 * done)
    if done == total:
        assert decay_budget(PLAIN, total) == decay_budget(PLAIN, total, done)


def test_the_customary_recipe_has_a_budget_of_twenty():
    recipe = Recipe(epochs=200, learning_rate=0.1, weight_decay=5e-4)
    assert_allclose(decay_budget(recipe, 200 * 391), 0.005 * 0.1 * 78_201 / 2)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_what_gets_no_gradient_shrinks_by_the_budget(x64, name, schedule):
    decay = {"sgd": 4e-4, "adamw": 4e-3}[name]
    if schedule == "constant":  # the same budget, which is of first order in a step
        decay /= 2
    recipe = PLAIN._replace(optimizer=name, weight_decay=decay, schedule=schedule)
    total = 20_000
    step = optimizer(recipe, total)
    params = {"kernel": jnp.array([[2.0, -3.0]])}
    zero = jax.tree.map(jnp.zeros_like, params)

    def take(carry, _):
        params, state = carry
        updates, state = step.update(zero, state, params)
        return (optax.apply_updates(params, updates), state), None

    (last, _), _ = jax.lax.scan(take, (params, step.init(params)), length=total)
    budget = decay_budget(recipe, total)
    assert budget > 10
    shrunk = np.log(params["kernel"] / last["kernel"])
    assert_allclose(shrunk, budget, rtol=0.01)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_biases_decay_or_not(name):
    params = {
        "stem": {"kernel": jnp.ones((2, 3, 4)), "bias": jnp.ones((2, 4))},
        "norm": {"scale": jnp.ones((2, 4))},
    }
    zero = jax.tree.map(jnp.zeros_like, params)
    for decay_biases in (True, False):
        recipe = PLAIN._replace(optimizer=name, decay_biases=decay_biases)
        step = optimizer(recipe, 10)
        updates, _ = step.update(zero, step.init(params), params)
        kept = 0 if not decay_biases else -0.3 * 2e-3
        assert_allclose(updates["stem"]["kernel"], -0.3 * 2e-3, rtol=1e-5)
        assert_allclose(updates["stem"]["bias"], kept, rtol=1e-5)
        assert_allclose(updates["norm"]["scale"], kept, rtol=1e-5)


def test_the_middle_of_a_training_is_kept():
    assert kept_steps(9) == {"start": 0, "half": 4, "end": 9}
