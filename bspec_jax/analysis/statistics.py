"""Rates, means and rank correlations with 95 % intervals, in NumPy float64.

A value that counts and is not finite makes the result and its bounds NaN. Infinite
bounds mean that there is no interval.
"""

import numpy as np
from scipy import stats

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution
FEW = 5  # values; fewer that are all equal say nothing about their spread
EQUAL = 1e-6  # relative: values differ by less through the rounding of float32 alone


def rate_interval(outcomes, where=True):
    """Rate of True along the last axis, with Wilson's 95 % score interval.

    Args:
      outcomes: booleans, or 0 and 1, `[..., T]`; NaN where the outcome is not known.
      where: which of them count, `[..., T]`.

    Returns:
      The rate, `[...]`, and its bounds, `[..., 2]`, which stay within [0, 1]. Where
      nothing counts, they are NaN and (0, 1).

    Raises:
      ValueError: for other outcomes, and if `where` is not a mask.

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927), p. 209.
    """
    outcomes, where = _values_and_mask(outcomes, where)
    outcomes = np.where(where, outcomes, 0)
    unknown = ~np.isfinite(outcomes)
    if not (unknown | (outcomes == 0) | (outcomes == 1)).all():
        raise ValueError("outcomes must be True or False, or 1 or 0")
    count = where.sum(-1)
    n = np.maximum(count, 1)
    rate = np.where(unknown, np.nan, outcomes).sum(-1) / n
    centre = (rate + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    variance = rate * (1 - rate) / n + Z95**2 / (4 * n**2)
    half = Z95 * np.sqrt(variance) / (1 + Z95**2 / n)
    bounds = np.stack([centre - half, centre + half], -1).clip(0, 1)
    defined = count > 0
    bounds = np.where(defined[..., None], bounds, [0.0, 1.0])
    return np.where(defined, rate, np.nan), bounds


def rate_difference(rates, intervals):
    """Difference of two independent rates, second minus first, with a 95 % interval.

    Args:
      rates: the two rates.
      intervals: Wilson's interval of each, `[2, 2]`.

    Returns:
      The difference and its bounds, which stay within [-1, 1].

    Source: Newcombe, Stat. Med. 17 (1998), p. 873, method 10.
    """
    (first, second), ((low1, high1), (low2, high2)) = rates, intervals
    difference = second - first
    below = np.hypot(second - low2, high1 - first)
    above = np.hypot(high2 - second, first - low1)
    return difference, np.array([difference - below, difference + above])


def mean_interval(values, where=True, bounds=(-np.inf, np.inf)):
    """Mean along the last axis, with Student's 95 % interval.

    Args:
      values: `[..., T]`, independent along the last axis.
      where: which of them count, `[..., T]`, a mask; the others may be NaN.
      bounds: least and greatest possible value, such as (0, 1) for shares, at which the
        interval ends.

    Returns:
      The mean, `[...]`, and its bounds, `[..., 2]`. The bounds are infinite, since
      there is no interval, where only one value counts, or fewer than `FEW` that are
      all equal: Student's interval would have no width then. Where no value counts,
      everything is NaN.

    Raises:
      ValueError: if `where` is not a mask.
    """
    values, where = _values_and_mask(values, where)
    values = np.where(where, np.where(np.isfinite(values), values, np.nan), 0)
    count = where.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = values.sum(-1) / count
        difference = where * (values - mean[..., None])
        squares = (difference**2).sum(-1)
        half = stats.t.ppf(0.975, count - 1) * np.sqrt(squares / (count - 1) / count)
    equal = np.abs(difference).max(-1, initial=0) <= EQUAL * np.abs(mean)
    half = np.where((count > 1) & ~(equal & (count < FEW)), half, np.inf)
    interval = np.stack([mean - half, mean + half], -1)
    clipped = np.clip(interval, *bounds)
    return mean, np.where(np.isinf(interval), interval, clipped)


def rank_correlation(a, b):
    """Spearman's rank correlation of two sequences, with its 95 % interval.

    Args:
      a, b: `[T]`; equal values share their mean rank.

    Returns:
      The correlation and its bounds; NaN and (-1, 1) for fewer than 4 values, or if all
      values of a sequence are equal.

    Raises:
      ValueError: for sequences of different lengths.

    Source: Fieller, Hartley and Pearson, Biometrika 44 (1957), p. 470: atanh of the
    correlation has variance 1.06 / (T - 3).
    """
    a, b = (np.asarray(values, np.float64) for values in (a, b))
    if a.shape != b.shape or a.ndim != 1:
        shapes = f"{a.shape} and {b.shape}"
        raise ValueError(f"expected two sequences of one length, got {shapes}")
    if not np.isfinite([a, b]).all():
        return np.nan, np.array([np.nan, np.nan])
    ranks = [_mean_ranks(values) for values in (a, b)]
    if len(ranks[0]) < 4 or any(r.min() == r.max() for r in ranks):
        return np.nan, np.array([-1.0, 1.0])
    rho = np.corrcoef(*ranks)[0, 1].clip(-1, 1)
    half = Z95 * np.sqrt(1.06 / (len(ranks[0]) - 3))
    with np.errstate(divide="ignore"):
        return rho, np.tanh(np.arctanh(rho) + np.array([-half, half]))


def _values_and_mask(values, where):
    where = np.asarray(where)
    if where.dtype != bool:
        raise ValueError(f"`where` must be a mask of booleans, not {where.dtype}")
    return np.broadcast_arrays(np.asarray(values, np.float64), where)


def _mean_ranks(values):
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[group]
