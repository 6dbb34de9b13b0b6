import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from trials import KEY, table
from typechecks import without_type_checks

from bspec_jax import toys
from bspec_jax.toys import sweeps

pytestmark = pytest.mark.usefixtures("optimised")


def test_settings_are_all_combinations_with_the_trial_fastest():
    rows = table(learning_rate=[0.1, 0.2], negative_slope=[0.0, 0.5])
    shape = (2, 3, 2, 1, 2, 4)
    assert rows.trial.shape == (np.prod(shape),)
    assert_array_equal(rows.task.reshape(shape)[1, 2, 1, 0, 1, 3], "toy2")
    assert_array_equal(rows.num_branches.reshape(shape)[:, 2], 9)
    assert_array_equal(rows.negative_slope.reshape(shape)[:, :, 1], 0.5)
    assert_array_equal(rows.learning_rate.reshape(shape)[..., 1, :], 0.2)
    assert_array_equal(rows.trial.reshape(shape)[..., 3], 3)


@pytest.mark.parametrize("init", ["normal", "uniform"])
def test_initial_parameters_are_those_of_the_network_alone(init):
    rows = table(init_scale=[0.5, 2.0])
    trials = sweeps.init_trials(KEY, rows, init=init)
    for t in range(0, rows.trial.size, 5):
        m = rows.num_branches[t]
        net = toys.toy_network(int(m), init=init, init_scale=rows.init_scale[t])
        params, _ = net.init(toys.trial_key(KEY, m, rows.trial[t]))
        assert_allclose(trials.w[:m, t], params["w"], rtol=1e-6)
        assert_allclose(trials.b[:m, t], params["b"], rtol=1e-6)
        assert not trials.w[m:, t].any()
        assert not trials.b[m:, t].any()
        x, y = toys.TASKS[rows.task[t]]
        f, _ = net.apply(params, (), jnp.array(x))
        assert_allclose(trials.error[t], ((f - jnp.array(y)) ** 2).sum(), rtol=1e-4)


def test_training_equals_jax_grad_through_the_combinator_in_float64(x64):
    rows = table(negative_slope=[0.01, 0.3], weight_decay=[0.0, 0.03])
    trials = sweeps.init_trials(KEY, rows, dtype=np.float64)
    steps = 600
    trained = sweeps.train(trials, steps=steps, check_every=10)
    assert len(set(trained.steps)) > 5  # many are frozen inside a tile that runs on
    step = jax.jit(toys.gradient_descent_step)
    for t in range(rows.trial.size):
        m = int(rows.num_branches[t])
        taken = int(trained.steps[t])
        assert taken == steps or trained.converged[t]
        params = {"w": jnp.array(trials.w[:m, t]), "b": jnp.array(trials.b[:m, t])}
        x, y = (jnp.array(values) for values in toys.TASKS[rows.task[t]])
        for _ in range(taken):
            params = step(
                params,
                x,
                y,
                learning_rate=0.02,
                weight_decay=rows.weight_decay[t],
                negative_slope=rows.negative_slope[t],
            )
        # Rounding of some hundred steps, each a map with factors near 1.
        assert_allclose(trained.w[:m, t], params["w"], rtol=1e-9, atol=1e-12)
        assert_allclose(trained.b[:m, t], params["b"], rtol=1e-9, atol=1e-12)
        assert not trained.w[m:, t].any()


def test_a_trial_stops_at_the_first_check_below_the_tolerance():
    trials = sweeps.init_trials(KEY, table(num_branches=[6, 10], trial=range(20)))
    trained = sweeps.train(trials, steps=2000, check_every=100)
    stopped = trained.steps
    assert 0 < stopped.min() < stopped.max()
    assert (stopped % 100 == 0).all()
    assert_array_equal(trained.converged, trained.error < 1e-4)
    # One check earlier, every trial was above the tolerance.
    for steps in np.unique(stopped[trained.converged]):
        if steps > 100:
            earlier = sweeps.train(trials, steps=int(steps) - 100)
            assert not earlier.converged[stopped == steps].any()


def test_steps_that_are_no_multiple_of_the_check():
    trials = sweeps.init_trials(KEY, table(num_branches=2))
    trained = sweeps.train(trials, steps=130, check_every=100)
    assert set(trained.steps) <= {100, 130}
    assert (trained.steps == 130).any()


def test_a_trial_does_not_depend_on_the_others_nor_on_tiles(monkeypatch):
    rows = table(num_branches=[2, 5, 12], trial=range(30))
    trials = sweeps.init_trials(KEY, rows)
    together = sweeps.train(trials, steps=1500)
    monkeypatch.setattr(sweeps, "TILE_ELEMENTS", 96)
    small_tiles = sweeps.train(trials, steps=1500)
    half = np.arange(0, rows.trial.size, 2)
    alone = sweeps.train(trials.select(half), steps=1500)
    # A vectorised loop and its remainder may round differently, by an ulp or two.
    for other, same in ((small_tiles, together), (alone, together.select(half))):
        assert_array_equal(other.steps, same.steps)
        assert_allclose(other.w, same.w, rtol=1e-5, atol=1e-6)
        assert_allclose(other.error, same.error, rtol=1e-3)


def test_the_given_trials_are_not_changed():
    trials = sweeps.init_trials(KEY, table())
    before = trials.w.copy()
    sweeps.train(trials, steps=100)
    assert_array_equal(trials.w, before)


def test_divergence_is_counted_and_ends_a_trial():
    trials = sweeps.init_trials(
        KEY, table(learning_rate=[0.02, 50.0], negative_slope=0.5)
    )
    trained = sweeps.train(trials, steps=5000)
    wild = trials.learning_rate == 50
    assert_array_equal(trained.diverged, wild)
    assert (trained.steps[wild] < 5000).all()
    assert not trained.converged[wild].any()


def test_one_compilation_serves_all_m_of_a_width_and_all_hyperparameters(monkeypatch):
    traces = []
    residual = sweeps._residual
    monkeypatch.setattr(
        sweeps, "_residual", lambda *a: (traces.append(a[0].shape), residual(*a))[1]
    )
    jax.clear_caches()
    for rate, slope in ((0.02, 0.01), (0.01, 0.2)):
        rows = table(
            num_branches=[5, 6, 7, 8], learning_rate=rate, negative_slope=slope
        )
        trials = sweeps.init_trials(KEY, rows)
        sweeps.train(trials, steps=700)
    # Once for the initial errors, and for `train` once in the step and once in the
    # check: none of M, the task, the rate, the slope or the rounds adds a trace.
    assert len(traces) <= 4, traces


def test_progress_adds_up_to_the_number_of_trials():
    told = []
    trials = sweeps.init_trials(KEY, table())
    sweeps.train(trials, steps=700, progress=told.append)
    assert sum(told) == trials.error.size
    assert all(n >= 0 for n in told)


def test_stack_pads_to_the_widest():
    narrow = sweeps.init_trials(KEY, table(num_branches=2))
    wide = sweeps.init_trials(KEY, table(num_branches=9))
    both = sweeps.stack([narrow, wide])
    assert both.w.shape == (16, 16)
    assert_array_equal(both.w[:4, :8], narrow.w)
    assert_array_equal(both.w[:, 8:], wide.w)
    assert_array_equal(both.y[:, 8:], wide.y)


def test_memory_estimate_grows_with_what_is_held():
    assert sweeps.memory_estimate(10**6, 30) >= 10**6 * 32 * 4 * 4
    assert sweeps.memory_estimate(10, 10**5) >= 4 * 10**10


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "toy3"}, "no task 'toy3': choose from"),
        (
            {"num_branches": [2, 2.5]},
            "whole numbers of at least 1",
        ),
        ({"num_branches": True}, "num_branches must be whole numbers"),
        ({"num_branches": 0}, "num_branches must be whole numbers"),
        ({"trial": -1}, "trial must be whole numbers of at least 0"),
        ({"trial": []}, "has no trial"),
    ],
)
def test_settings_that_are_mistaken(changes, words):
    with pytest.raises(ValueError, match=words):
        sweeps.init_trials(KEY, table(**changes))


def test_steps_and_checks_that_are_mistaken():
    trials = sweeps.init_trials(KEY, table(trial=0))
    for options in ({"check_every": 0}, {"steps": -1}, {"check_every": 2.5}):
        with without_type_checks(), pytest.raises(ValueError, match="must be"):
            sweeps.train(trials, **options)
