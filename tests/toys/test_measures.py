import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from trials import KEY, table
from typechecks import without_type_checks

from bspec_jax import toys
from bspec_jax.analysis.specialization import measure, null_correlation
from bspec_jax.toys import measures, sweeps

pytestmark = pytest.mark.usefixtures("optimised")


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["norm", "centred", "variance"])
def test_measures_are_those_of_each_network_alone(rule, monkeypatch):
    monkeypatch.setattr(measures, "MEASURE_ELEMENTS", 5 * 16**2)  # five at a time
    rows = table()
    trained = sweeps.train(sweeps.init_trials(KEY, rows), steps=1000)
    measured = measures.measure_trials(trained, rule=rule)
    for t in range(0, rows.trial.size, 3):
        m = int(rows.num_branches[t])
        net = toys.toy_network(m)
        params = {"w": jnp.array(trained.w[:m, t]), "b": jnp.array(trained.b[:m, t])}
        x = toys.TASKS[rows.task[t]].x
        v, _ = net.responses(params, (), jnp.array(x))
        seen = v - jnp.median(v, 1, keepdims=True) if rule == "centred" else v
        regions = [np.flatnonzero(np.array(x) == point) for point in sorted(set(x))]
        energy = jnp.stack([(seen[:, at] ** 2).mean(1) for at in regions], 1)
        alone = measure(v, energy=energy, rule=rule)
        for name, value in alone._asdict().items():
            assert_allclose(
                getattr(measured, name)[t], value, rtol=1e-4, atol=1e-5, err_msg=name
            )


def test_sum_of_networks_trained_alone():
    alone = sweeps.init_trials(KEY, table(task="toy1", num_branches=1, trial=range(5)))
    alone = alone._replace(error=np.array([0.1, 0.2, np.nan, 0.4, 0.5], np.float32))
    members = np.array([[0, 4], [1, 2], [3, 0]])
    control = measures.sum_trained_alone(alone, members)
    assert_array_equal(control.num_branches, [3, 3])
    assert_array_equal(control.w[:, 1], alone.w[0, [4, 2, 0]])
    assert_array_equal(control.b[:, 0], alone.b[0, [0, 1, 3]])
    assert_array_equal(control.diverged, [False, True])
    v = measures.trial_responses(control)
    assert_allclose(v[0, 1], measures.trial_responses(alone)[1, 0])


def trials_with(error, num_branches, w):
    rows = table(task="toy1", num_branches=2, trial=range(len(error)))
    trials = sweeps.init_trials(KEY, rows)
    return trials._replace(
        error=np.array(error, np.float32),
        w=np.array(w, np.float32).T.copy(),
        b=np.zeros_like(trials.b),
        num_branches=np.full(len(error), num_branches, np.int32),
    )


def test_averages_leave_out_diverged_trials_and_undefined_measures():
    trials = trials_with(
        [1e-5, 1.0, np.nan, 1e-5],
        2,
        [[1, -1, 0, 0], [1, 0, 0, 0], [np.nan, 0, 0, 0], [1, 1, 0, 0]],
    )
    means = measures.measure_means(trials, ())
    assert_allclose(means["num_active"]["mean"], 5 / 3)
    # One active branch alone has no pair; the others' |rho| at x = -1, 0, 0, 1 are
    # 0.02 / 1.0001 (opposite slopes) and 1 (the same neuron).
    assert_allclose(means["correlation"]["mean"], (0.02 / 1.0001 + 1) / 2, rtol=1e-5)
    assert_allclose(means["silent_fraction"]["mean"], 1 / 6)
    assert means["silent_fraction"]["networks"] == 3
    rates = measures.success_rates(trials, (2,))
    assert_allclose(rates["success_rate"], [0.5, 0.5])
    assert_array_equal(rates["diverged"], [0, 1])


def test_control_is_far_from_specialized():
    rows = table(task="toy1", num_branches=1, trial=range(60))
    alone = sweeps.train(sweeps.init_trials(KEY, rows), steps=3000)
    members = np.random.default_rng(0).permuted(np.tile(np.arange(60), (8, 1)), axis=1)
    means = measures.measure_means(
        measures.sum_trained_alone(alone, members.T[:10]), ()
    )
    assert means["correlation"]["mean"] > 0.95
    assert means["num_silent"]["mean"] < 2


def test_the_two_points_at_0_are_one_region():
    """Toy 1 has x = 0 twice: of two neurons, one answers there and one elsewhere."""
    trials = trials_with([1e-5], 2, [[1, 0, 0, 0]])
    trials = trials._replace(b=trials.b + np.float32([[-0.5], [0], [0], [0]]))
    trials.b[1] = 0.7
    trials = trials._replace(negative_slope=np.zeros(1, np.float32))
    # v = relu(x - .5), at the points -1, 0, 1: 0, 0, .5; and .7 everywhere.
    measured = measures.measure_trials(trials)
    assert_allclose(measured.entropy, 0.5, rtol=1e-6)  # 0 and 1
    assert_allclose(measured.active_per_region, (1 / 3 + 1) / 2, rtol=1e-6)
    assert_allclose(measured.silent_share, 1 / 3, rtol=1e-6)


def test_null_correlations_are_those_of_each_network_alone():
    trained = sweeps.init_trials(KEY, table(task="toy2"))
    key = jax.random.key(3)
    found = measures.null_correlations(trained, key, rule="centred")
    keys = jax.random.split(key, trained.error.size)
    v = measures.trial_responses(trained)
    for t in (0, 7, 11):
        m = int(trained.num_branches[t])
        padded = null_correlation(jnp.asarray(v[t]), keys[t], rule="centred")
        assert_allclose(found[t], padded, rtol=1e-5)
        assert 0 < found[t] <= 1
        # Padding adds no pair, but draws other keys: of 4 points, far from 0.
        alone = null_correlation(jnp.asarray(v[t, :m]), keys[t], rule="centred")
        assert abs(alone - found[t]) < 0.6


def test_stages_hold_changes_of_each_network_and_a_null():
    rows = table(task="toy1", num_branches=[2, 9], trial=range(6))
    start = sweeps.init_trials(KEY, rows)
    trained = sweeps.train(start, steps=500)
    alone = sweeps.init_trials(KEY, table(task="toy1", num_branches=1, trial=range(36)))
    members = np.arange(36).reshape(9, 4)
    control = sweeps.stack(
        [measures.sum_trained_alone(alone, members[:m]) for m in (2, 9)]
    )
    stages = measures.measure_stages(
        start, trained, control, (2,), rule="centred", null_key=jax.random.key(0)
    )
    before, after = (
        measures.measure_trials(trials, rule="centred") for trials in (start, trained)
    )
    both = (before.active_pairs > 0) & (after.active_pairs > 0)
    change = np.where(both, after.correlation - before.correlation, np.nan)
    expected = np.nanmean(change.reshape(2, 6), 1)
    found = stages["change"]["correlation"]
    assert_allclose(found["mean"], expected, rtol=1e-4)
    assert_array_equal(found["networks"], both.reshape(2, 6).sum(1))
    assert stages["control"]["entropy"]["networks"].max() <= 4
    null = stages["null"]["correlation"]
    assert (null["mean"] > 0.2).all()  # of four points, two of them equal
    again = measures.measure_stages(start, trained, control, (2,), rule="norm")
    assert "null" not in again


def test_each_network_is_in_one_sum_of_the_control():
    members = measures.control_members(30)
    assert members.shape == measures.control_shape(30) == (30, 100)
    assert len(np.unique(members)) == members.size
    assert measures.control_shape(1000) == (1000, 10)


def test_no_trials_have_no_measures():
    trials = sweeps.init_trials(KEY, table())
    measured = measures.measure_trials(trials.select(trials.error < 0))
    assert {values.shape for values in measured} == {(0,)}


def test_growth_is_relative_to_a_quarter_of_the_largest_m():
    mean_active = np.array([[1.0, 2.0], [2.0, np.nan], [3.0, 6.0]])
    growth = measures.active_growth([2, 8, 32], mean_active)
    assert growth["branches"] == [8, 32]
    assert growth["threshold"] == 1.5
    assert_array_equal(growth["ratio"], [1.5, np.nan])
    assert measures.active_growth([16, 32], mean_active[:2]) is None
    assert measures.active_growth([32], mean_active[:1]) is None


def test_curves_are_exact_between_their_points():
    w = np.array([1.0, -2.0, 0.0, 0.01], np.float32)
    b = np.array([0.5, 0.25, -1.0, 9.0], np.float32)  # the last bends outside
    curves = measures.response_curves(w, b, 0.1, -2.0, 3.0)
    assert_array_equal(curves.x, [-2, -0.5, 0.125, 3])
    x = np.linspace(-2, 3, 101)
    z = w[:, None] * x + b[:, None]
    v = np.where(z >= 0, z, 0.1 * z)
    for k in range(4):
        drawn = np.interp(x, curves.x, curves.responses[k])
        assert_allclose(drawn, v[k], rtol=1e-5, atol=1e-6)
    assert_allclose(np.interp(x, curves.x, curves.total), v.sum(0), rtol=1e-5)


def test_members_that_are_no_networks_of_one_branch():
    alone = trials_with([0.1] * 4, 1, [[1, 0, 0, 0]] * 4)
    for members, words in (
        (np.array([[0, 4]]), r"must be in 0\.\.3"),
        (np.array([[0, -1]]), r"must be in 0\.\.3"),
        (np.array([[True, False, True, True]]), "must be indices, not bool"),
    ):
        with without_type_checks(), pytest.raises(ValueError, match=words):
            measures.sum_trained_alone(alone, members)
    wide = trials_with([0.1] * 4, 2, [[1, 0, 0, 0]] * 4)
    with pytest.raises(ValueError, match="one branch each"):
        measures.sum_trained_alone(wide, np.array([[0, 1]]))
