import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax.analysis.averages import average, average_stages
from bspec_jax.analysis.specialization import Specialization
from bspec_jax.analysis.statistics import mean_interval


def table(**values):
    """Two values of M, four networks each."""
    fields = dict.fromkeys(Specialization._fields, np.full((2, 4), 0.5))
    fields |= {name: np.array(value, float) for name, value in values.items()}
    return Specialization(**fields)


def test_networks_in_which_a_measure_is_undefined_are_left_out():
    measured = table(
        num_active=[[2, 0, 1, 3], [0, 0, 0, 0]],
        active_pairs=[[1, 0, 0, 3], [0, 0, 0, 0]],
        entropy=[[0.2, 1, 0.4, 0.9], [1, 1, 1, 1]],
        silent_fraction=[[0.1, 1, 0.3, 0.2], [1, 1, 1, 1]],
        correlation=[[0.2, 0, 0, 0.4], [0, 0, 0, 0]],
    )
    means = average(measured)
    assert_allclose(means["entropy"]["mean"], [0.5, np.nan])
    assert_array_equal(means["entropy"]["networks"], [3, 0])
    assert_allclose(means["silent_fraction"]["mean"], [0.2, np.nan])
    assert_allclose(means["correlation"]["mean"], [0.3, np.nan])
    assert_array_equal(means["correlation"]["networks"], [2, 0])
    assert_allclose(means["num_active"]["mean"], [1.5, 0])
    assert_array_equal(means["num_active"]["networks"], [4, 4])
    counts = np.array([[True, True, False, True], [True] * 4])
    assert_allclose(average(measured, counts)["entropy"]["mean"], [0.55, np.nan])


def test_intervals_of_shares_end_at_1_and_of_counts_do_not():
    spread = [[0.1, 1, 1, 1], [0.1, 1, 1, 1]]
    means = average(table(entropy=spread, num_active=spread))
    _, (low, high) = mean_interval(spread[0])
    assert high > 1
    assert_allclose(means["entropy"]["interval"][0], [low, 1])
    assert_allclose(means["num_active"]["interval"][0], [low, high])


def test_a_network_that_is_not_finite_makes_the_mean_nan():
    measured = table(entropy=[[0.2, np.nan, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]])
    found = average(measured)["entropy"]
    assert_allclose(found["mean"], [np.nan, 0.25])
    assert np.isnan(found["interval"][0]).all()


def test_changes_are_paired_and_of_networks_that_have_both():
    after = table(
        correlation=[[0.1, 0.5, 0.3, 0.9], [0.5] * 4],
        active_pairs=[[3, 1, 1, 0], [1] * 4],
    )
    before = table(
        correlation=[[0.2, 0.7, 0.4, 0.2], [0.5] * 4],
        active_pairs=[[3, 1, 0, 1], [1] * 4],
    )
    null = np.full((2, 4), 0.05) + np.arange(4) / 100
    stages = average_stages(after, before, table(), null)
    change = stages["change"]["correlation"]
    # Networks 0 and 1: 2 has no pair before, and 3 none after training.
    assert_allclose(change["mean"], [-0.15, 0], atol=1e-12)
    assert_array_equal(change["networks"], [2, 4])
    half = 12.706205 * 0.05
    assert_allclose(change["interval"][0], [-0.15 - half, -0.15 + half], rtol=1e-6)
    assert_allclose(stages["null"]["correlation"]["mean"], [0.06, 0.065])
    assert_allclose(stages["initial"]["correlation"]["mean"][0], 1.1 / 3)
    counts = np.array([[True, False, True, True]] * 2)
    fewer = average_stages(after, before, table(), counts=counts)
    assert fewer["change"]["correlation"]["mean"][0] == pytest.approx(-0.1)
    assert "null" not in fewer
    assert fewer["initial"]["correlation"]["networks"][0] == 2


def test_a_control_of_fewer_networks():
    control = Specialization(*np.full((9, 2, 3), 0.25))
    good = np.array([[True, True, False]] * 2)
    stages = average_stages(table(), table(), control, control_counts=good)
    assert_array_equal(stages["control"]["entropy"]["networks"], [2, 2])
