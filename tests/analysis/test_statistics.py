import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from bspec_jax.analysis.statistics import (
    mean_interval,
    rank_correlation,
    rate_difference,
    rate_interval,
)


def test_wilson_interval_of_a_published_example():
    # 81 of 263: (0.2553, 0.3662), Newcombe, Stat. Med. 17 (1998), table I, method 3.
    outcomes = np.arange(263) < 81
    rate, bounds = rate_interval(outcomes)
    assert_allclose(rate, 81 / 263)
    assert_allclose(bounds, [0.2553, 0.3662], atol=5e-5)


def test_wilson_interval_at_the_ends():
    rate, (low, high) = rate_interval(np.ones(50, bool))
    # Closed form: n / (n + z^2).
    assert_allclose([rate, low, high], [1, 50 / (50 + 1.959964**2), 1], atol=1e-6)


def test_rates_along_the_last_axis_where_they_count():
    outcomes = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 1, 0]], bool)
    where = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]], bool)
    rate, bounds = rate_interval(outcomes, where)
    assert_allclose(rate, [0.5, 1, np.nan])
    assert bounds.shape == (3, 2)
    assert_array_equal(bounds[2], [0, 1])
    assert_allclose(bounds[0].sum(), 1)


def test_mean_interval_by_hand():
    mean, bounds = mean_interval([1.0, 2.0, 3.0, 6.0])
    # Standard deviation sqrt(14 / 3), over sqrt(4).
    half = 3.182446 * np.sqrt(14 / 3) / 2  # Student's t with 3 degrees of freedom
    assert_allclose(mean, 3)
    assert_allclose(bounds, [3 - half, 3 + half], rtol=1e-6)


def test_mean_interval_ignores_what_does_not_count():
    values = np.array([[1.0, np.nan, 3.0], [5.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    where = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 0]], bool)
    mean, bounds = mean_interval(values, where)
    assert_allclose(mean, [2, 5, np.nan])
    assert_allclose(bounds[0], [2 - 12.706205, 2 + 12.706205], rtol=1e-6)
    assert_array_equal(bounds[1], [-np.inf, np.inf])
    assert np.isnan(bounds[2]).all()


def test_intervals_of_shares_end_at_0_and_1():
    values = np.array([[0.9, 1.0, 1.0, 0.95], [0.1, 0.0, 0.0, 0.05]])
    mean, bounds = mean_interval(values, bounds=(0, 1))
    _, free = mean_interval(values)
    assert free[0, 1] > 1
    assert free[1, 0] < 0
    assert_allclose(bounds, [[free[0, 0], 1], [0, free[1, 1]]])
    assert_allclose(mean, [0.9625, 0.0375])
    one = mean_interval([0.5], bounds=(0, 1))[1]
    assert_array_equal(one, [-np.inf, np.inf])  # no interval is not (0, 1)


def test_few_values_that_are_all_equal_have_no_interval():
    third = np.float32(1) / 3
    for few in ([3.0] * 3, [0.0] * 4, [third, np.nextafter(third, np.float32(1))] * 2):
        assert_array_equal(mean_interval(few)[1], [-np.inf, np.inf])
    assert np.isfinite(mean_interval([third, third, third + 1e-4])[1]).all()
    assert_array_equal(mean_interval([3.0] * 5)[1], [3, 3])
    # Those that do not count make no difference.
    where = np.array([True, True, False, False, True])
    assert np.isinf(mean_interval([2.0, 2.0, 5.0, 7.0, 2.0], where)[1]).all()


def test_the_difference_of_two_rates_of_a_published_example():
    # 56 of 70 less 48 of 80: (0.0524, 0.3339), Newcombe, Stat. Med. 17 (1998), p. 873,
    # table II, method 10.
    rates = [rate_interval(np.arange(n) < k) for k, n in ((48, 80), (56, 70))]
    mean, intervals = zip(*rates, strict=True)
    difference, bounds = rate_difference(mean, intervals)
    assert_allclose(difference, 0.2)
    assert_allclose(bounds, [0.0524, 0.3339], atol=5e-5)
    sure = [rate_interval(np.full(50, value)) for value in (False, True)]
    mean, intervals = zip(*sure, strict=True)
    difference, bounds = rate_difference(mean, intervals)
    assert (difference, bounds[1]) == (1, 1)


def test_rank_correlation_with_ties_and_its_interval():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 6, 40)
    b = a + rng.integers(0, 9, 40)
    rho, (low, high) = rank_correlation(a, b)
    assert_allclose(rho, stats.spearmanr(a, b).statistic, rtol=1e-12)
    assert rank_correlation(-a, b)[0] == pytest.approx(-rho)
    # atanh(rho) +- 1.96 sqrt(1.06 / 37)
    half = 1.959964 * (1.06 / 37) ** 0.5
    assert_allclose(
        np.arctanh([low, high]), np.arctanh(rho) + np.array([-half, half]), rtol=1e-5
    )


def test_rank_correlations_that_are_undefined():
    for a, b in (([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4])):
        rho, interval = rank_correlation(a, b)
        assert np.isnan(rho)
        assert interval.tolist() == [-1, 1]
    assert_allclose(rank_correlation([1, 2, 3, 9], [0, 1, 2, 3])[1], 1)


def test_outcomes_that_are_not_known_and_masks_that_are_none():
    assert rate_interval([1, np.nan, 0], [True, False, True])[0] == 0.5
    assert np.isnan(rate_interval([1, np.nan, 0])[0])
    assert np.isnan(rate_interval([1, np.nan, 0])[1]).all()
    with pytest.raises(ValueError, match="True or False, or 1 or 0"):
        rate_interval([0.5, 1])
    for interval in (rate_interval, mean_interval):
        with pytest.raises(ValueError, match="mask of booleans, not int64"):
            interval([1.0, 0.0], np.array([0, 1]))
    with pytest.raises(ValueError, match=r"one length, got \(3,\) and \(4,\)"):
        rank_correlation([1, 2, 3], [1, 2, 3, 4])
