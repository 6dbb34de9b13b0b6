import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from typechecks import without_type_checks

from bspec_jax import toys


def leaky(z, slope):
    return np.where(z >= 0, z, slope * z)


def loop_gradient(w, b, x, y, slope):
    """Eq. 5 with Python loops, in float64."""
    f = [
        sum(leaky(wk * xj + bk, slope) for wk, bk in zip(w, b, strict=True)) for xj in x
    ]
    gw, gb = np.zeros(len(w)), np.zeros(len(w))
    for k in range(len(w)):
        for xj, yj, fj in zip(x, y, f, strict=True):
            derivative = 1.0 if w[k] * xj + b[k] >= 0 else slope
            gw[k] += (fj - yj) * derivative * xj
            gb[k] += (fj - yj) * derivative
    return gw, gb


@pytest.mark.parametrize("task", ["toy1", "toy2"])
def test_step_equals_the_loop_in_float64(task, x64):
    x, y = (np.array(values) for values in toys.TASKS[task])
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(2, 5))
    stepped = toys.gradient_descent_step(
        {"w": jnp.array(w), "b": jnp.array(b)},
        x,
        y,
        learning_rate=0.02,
        weight_decay=0.3,
        negative_slope=0.1,
    )
    gw, gb = loop_gradient(w, b, x, y, 0.1)
    assert_allclose(stepped["w"], w - 0.02 * (gw + 0.3 * w), rtol=1e-13)
    assert_allclose(stepped["b"], b - 0.02 * (gb + 0.3 * b), rtol=1e-13)


def test_record_equals_a_python_loop_in_float64(x64):
    x, y = (np.array(values) for values in toys.TASKS["toy2"])
    rng = np.random.default_rng(1)
    w, b = rng.normal(size=(2, 3))
    recorded = toys.record(
        {"w": jnp.array(w), "b": jnp.array(b)}, x, y, steps=47, every=15
    )
    expected = []
    for step in range(46):
        if step % 15 == 0:
            expected.append(leaky(w[:, None] * x + b[:, None], 0.01))
        gw, gb = loop_gradient(w, b, x, y, 0.01)
        w, b = w - 0.02 * gw, b - 0.02 * gb
    # 45 steps of a smooth map: rounding grows by a small factor only.
    assert_allclose(recorded, expected, rtol=1e-11, atol=1e-13)


def test_training_reaches_the_targets():
    x, y = (np.array(values) for values in toys.TASKS["toy1"])
    params, _ = toys.toy_network(10).init(jax.random.key(0))
    recorded = toys.record(params, x, y, steps=3000, every=3000)
    f = recorded.sum(1)
    assert ((f[0] - y) ** 2).sum() > 0.1
    assert_allclose(f[1], y, atol=1e-2)


def history(last, dormant_steps=0, length=60):
    """Two branches at two points, constant at `last` but for a dormant beginning."""
    v = np.tile(np.array(last, float), (length, 1, 1))
    v[:dormant_steps, :, 1] = 0.01
    return v


@pytest.mark.parametrize(
    ("recorded", "kinds"),
    [
        (history([[1.0, 0.0], [0.0, 0.5]]), (True, False, False)),
        (history([[1.0, 0.0], [0.0, 0.5]], 30), (False, True, False)),  # 300 steps
        (history([[1.0, 0.0], [0.0, 0.5]], 10), (True, False, False)),  # 100 are few
        (history([[1.0, 0.2], [0.0, 0.3]]), (False, False, True)),
        (history([[1.0, 0.2], [0.0, 0.3]], 30), (False, True, False)),
        (history([[1.0, 0.07], [0.0, 0.43]]), (False, False, False)),  # in between
        (history([[1.0, 0.0], [0.0, 0.4]]), (False, False, False)),  # not learnt
    ],
)
def test_kinds_of_dynamics(recorded, kinds):
    found = toys.classify_dynamics(recorded[None], np.array([1.0, 0.5]), every=10)
    assert_array_equal(np.array(found)[:, 0], kinds)


def test_a_run_that_diverged_is_of_no_kind_and_one_branch_has_none():
    recorded = history([[1.0, 0.0], [0.0, 0.5]])
    recorded[30:] = np.nan
    found = toys.classify_dynamics(recorded[None], np.array([1.0, 0.5]), every=10)
    assert not np.any(found)
    with pytest.raises(ValueError, match="a single branch has no kinds"):
        toys.classify_dynamics(recorded[None, :, :1], np.ones(2), every=10)
    words = r"must be \[T, S, M, 3\], not"
    with without_type_checks(), pytest.raises(ValueError, match=words):
        toys.classify_dynamics(recorded[None], np.ones(3), every=10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 10, "every": 0}, "every must be at least 1, got 0"),
        ({"steps": -1, "every": 1}, "steps must be at least 0, got -1"),
        ({"steps": 10, "every": True}, "every must be a whole number, got True"),
    ],
)
def test_records_of_nothing(options, words):
    params, _ = toys.toy_network(2).init(jax.random.key(0))
    with pytest.raises(ValueError, match=words):
        toys.record(params, *map(np.array, toys.TASKS["toy1"]), **options)
