"""Rates, means and rank correlations with 95 % intervals, in NumPy float64."""

import numpy as np
from scipy import stats

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def rate_interval(outcomes, where=True):
    """Rate of True along the last axis, with Wilson's 95 % score interval.

    Args:
      outcomes: booleans, `[..., T]`.
      where: which of them count, `[..., T]`.

    Returns:
      The rate, `[...]`, and its bounds, `[..., 2]`, which stay within [0, 1]. Where
      nothing counts, they are NaN and (0, 1).

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927), p. 209.
    """
    outcomes, where = np.broadcast_arrays(np.asarray(outcomes, bool), where)
    count = where.sum(-1)
    n = np.maximum(count, 1)
    rate = (outcomes & where).sum(-1) / n
    centre = (rate + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    variance = rate * (1 - rate) / n + Z95**2 / (4 * n**2)
    half = Z95 * np.sqrt(variance) / (1 + Z95**2 / n)
    bounds = np.stack([centre - half, centre + half], -1).clip(0, 1)
    defined = count > 0
    bounds = np.where(defined[..., None], bounds, [0.0, 1.0])
    return np.where(defined, rate, np.nan), bounds


def mean_interval(values, where=True):
    """Mean along the last axis, with Student's 95 % interval.

    Args:
      values: `[..., T]`, independent along the last axis.
      where: which of them count, `[..., T]`; the others may be NaN.

    Returns:
      The mean, `[...]`, and its bounds, `[..., 2]`. The bounds are infinite where only
      one value counts; where none does, everything is NaN.
    """
    values, where = np.broadcast_arrays(np.asarray(values, np.float64), where)
    values = np.where(where, values, 0)
    count = where.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = values.sum(-1) / count
        squares = (where * (values - mean[..., None]) ** 2).sum(-1)
        half = stats.t.ppf(0.975, count - 1) * np.sqrt(squares / (count - 1) / count)
    half = np.where(count > 1, half, np.inf)
    return mean, np.stack([mean - half, mean + half], -1)


def rank_correlation(a, b):
    """Spearman's rank correlation of two sequences, with its 95 % interval.

    Args:
      a, b: `[T]`, finite; equal values share their mean rank.

    Returns:
      The correlation and its bounds; NaN and (-1, 1) for fewer than 4 values, or if all
      values of a sequence are equal.

    Source: Fieller, Hartley and Pearson, Biometrika 44 (1957), p. 470: atanh of the
    correlation has variance 1.06 / (T - 3).
    """
    ranks = [_mean_ranks(np.asarray(values, np.float64)) for values in (a, b)]
    if len(ranks[0]) < 4 or any(r.min() == r.max() for r in ranks):
        return np.nan, np.array([-1.0, 1.0])
    rho = np.corrcoef(*ranks)[0, 1].clip(-1, 1)
    half = Z95 * np.sqrt(1.06 / (len(ranks[0]) - 3))
    with np.errstate(divide="ignore"):
        return rho, np.tanh(np.arctanh(rho) + np.array([-half, half]))


def _mean_ranks(values):
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[group]
