"""The ratio of restricted means: what censored times say about "k times earlier" without a model.

Up to the budget every time is observed: min(T, budget) is known for each run, also where T is
not. The difference of the means of log min(T, budget) is smaller than that of log T wherever
the slower group is cut off more, so its exponential is a lower bound of how many times
earlier the other is, with Welch's interval. Times before the first evaluation are cut off
there in the same way, in both groups.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lmbench.analysis.censored import check_bounds
from lmbench.analysis.intervals import Estimate, t_interval, welch


class Ratio(NamedTuple):
    """A ratio of times with its confidence interval and the two-sided p of ratio 1."""

    value: float
    low: float
    high: float
    p: float


NO_RATIO = Ratio(math.nan, math.nan, math.nan, math.nan)


def restricted_mean_ratio(
    a_lower: Sequence[float],
    a_upper: Sequence[float],
    b_lower: Sequence[float],
    b_upper: Sequence[float],
    *,
    budget: float | None = None,
    confidence: float = 0.95,
) -> Ratio:
    """Ratio b / a of geometric means of times restricted to what both groups were observed for.

    Args:
        a_lower: bounds of the times, one a run; (lower, upper], upper = inf where censored.
        budget: where times are cut off; by default the least time at which a run was censored.

    Returns:
        NaN where nothing lies between the first evaluation and the budget: a run diverged
        before its first, or every run of one group was there at it.

    Raises:
        ValueError: fewer than 2 runs in a group, bounds that are no interval.
    """
    groups = [
        (np.asarray(x, float), np.asarray(y, float)) for x, y in ((a_lower, a_upper), (b_lower, b_upper))
    ]
    for (lower, upper), name in zip(groups, "ab", strict=True):
        check_bounds(lower, upper, name=name)
    every = np.concatenate([lower for lower, _ in groups]), np.concatenate([upper for _, upper in groups])
    last = float(np.min(every[0], where=np.isinf(every[1]), initial=math.inf)) if budget is None else budget
    first = float(np.max(every[1], where=(every[0] == 0) & np.isfinite(every[1]), initial=0.0))
    if first >= last:
        return NO_RATIO
    a, b = (_restricted(lower, upper, first=first, last=last) for lower, upper in groups)
    return as_ratio(welch(b, a, confidence=confidence))


def middle_ratio(
    a_lower: Sequence[float],
    a_upper: Sequence[float],
    b_lower: Sequence[float],
    b_upper: Sequence[float],
    *,
    paired: bool = False,
    confidence: float = 0.95,
) -> Ratio:
    """Ratio b / a of geometric means by Welch's or the paired t, for intervals bounded on both sides.

    Each time is taken at the geometric middle of its interval.

    Args:
        paired: runs at the same place share their seed and the order of their data.
    """
    a, b = middles(a_lower, a_upper), middles(b_lower, b_upper)
    floor_a, floor_b = resolution(a_lower, a_upper), resolution(b_lower, b_upper)
    if paired:
        return as_ratio(t_interval(at_least(b - a, math.hypot(floor_a, floor_b)), confidence=confidence))
    return as_ratio(welch(at_least(b, floor_b), at_least(a, floor_a), confidence=confidence))


def middles(lower: Sequence[float], upper: Sequence[float]) -> np.ndarray:
    """Logs of the geometric middles of intervals that are bounded on both sides."""
    return 0.5 * (np.log(np.asarray(lower, float)) + np.log(np.asarray(upper, float)))


def resolution(lower: Sequence[float], upper: Sequence[float]) -> float:
    """Standard deviation of a log time that is known to its interval only: width / sqrt(12)."""
    return float(np.median(np.log(np.asarray(upper, float) / np.asarray(lower, float)))) / math.sqrt(12)


def at_least(x: np.ndarray, floor: float) -> np.ndarray:
    """The values, spread about their mean so that their standard deviation is at least `floor`.

    Seeds whose times fall between the same two evaluations have no spread to be seen, which
    would make any difference certain.
    """
    if x.std(ddof=1) >= floor:
        return x
    pattern = np.linspace(-1, 1, len(x))
    return x.mean() + floor * pattern / pattern.std(ddof=1)


def as_ratio(found: Estimate) -> Ratio:
    """A difference of logs as a ratio."""
    return Ratio(math.exp(found.value), math.exp(found.low), math.exp(found.high), found.p)


def _restricted(lower: np.ndarray, upper: np.ndarray, *, first: float, last: float) -> np.ndarray:
    """Logs of the times, cut off at `first` and `last`."""
    inner = (lower > 0) & np.isfinite(upper)
    x = np.full(len(lower), math.log(last))
    x[(lower == 0) & np.isfinite(upper)] = math.log(first) if first > 0 else -math.inf
    if inner.any():
        x[inner] = middles(lower[inner], upper[inner])
    x = np.clip(x, math.log(first) if first > 0 else -math.inf, math.log(last))
    # Runs cut off at the budget agree exactly, so only times that are seen have a resolution.
    return at_least(x, resolution(lower[inner], upper[inner])) if inner.all() else x
