"""Intervals and tests of a few numbers: t, Welch's t, and Holm's adjustment of a family of tests.

The numbers are one per independent training. A t interval covers at its nominal level
from n = 2 on, where a percentile bootstrap of three seeds covers 80% instead of 95%.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Estimate(NamedTuple):
    """A mean or a difference of means with its confidence interval and its test against 0."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided."""
    n: int
    """Units: seeds, or pairs of them; in Welch's test those of the smaller group."""
    df: float


def t_interval(values: Sequence[float], *, confidence: float = 0.95) -> Estimate:
    """Mean, t interval and one-sample t test against 0.

    Raises:
        ValueError: fewer than 2 values, a value that is not finite, a confidence outside 0 ... 1.
    """
    x = finite(values)
    check_confidence(confidence)
    if len(x) < 2:
        raise ValueError(f"an interval needs at least 2 seeds, got {len(x)}")
    return _estimate(x.mean(), x.std(ddof=1) / math.sqrt(len(x)), len(x) - 1, n=len(x), confidence=confidence)


def welch(a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95) -> Estimate:
    """Mean of `a` minus mean of `b` where seeds share nothing and spreads may differ (Welch 1947).

    Raises:
        ValueError: fewer than 2 values on a side, or one that is not finite.
    """
    x, y = finite(a), finite(b)
    check_confidence(confidence)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"an interval needs at least 2 seeds, got {min(len(x), len(y))}")
    u, v = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    # With no spread on either side df is 0/0; any df gives the same point interval.
    df = (u + v) ** 2 / (u**2 / (len(x) - 1) + v**2 / (len(y) - 1)) if u + v > 0 else 1.0
    n = min(len(x), len(y))
    return _estimate(x.mean() - y.mean(), math.sqrt(u + v), df, n=n, confidence=confidence)


def _estimate(value: float, error: float, df: float, *, n: int, confidence: float) -> Estimate:
    half = stats.t.ppf((1 + confidence) / 2, df) * error
    # Without spread the test has no scale: equal is p = 1, and any difference is certain.
    p = 2 * stats.t.sf(abs(value) / error, df) if error > 0 else float(value == 0)
    return Estimate(float(value), float(value - half), float(value + half), float(p), n, float(df))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjusted p values, in the order given (Holm 1979).

    NaN (a test that could not be made) stays NaN but counts in the family, which is the
    careful choice: leaving a test out must not make the others look better.
    """
    p = np.asarray(p_values, float)
    if np.any((p < 0) | (p > 1)):
        raise ValueError(f"p values lie in 0 ... 1, got {p[(p < 0) | (p > 1)][0]}")
    order = np.argsort(p)  # NaN last
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


def finite(values: Sequence[float], *, where: str = "") -> np.ndarray:
    """The values as floats; a diverged run is refused, as a mean without it would flatter its model."""
    x = np.asarray(values, float)
    if not np.isfinite(x).all():
        raise ValueError(
            f"{np.count_nonzero(~np.isfinite(x))} of {len(x)} values{where} are not finite numbers"
        )
    return x


def check_confidence(confidence: float) -> None:
    """Raise ValueError unless it is a fraction."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it lies between 0 and 1, as 0.95")
