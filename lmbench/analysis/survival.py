"""Onset times that are only known to lie in an interval: their distribution, median and test.

A time lies in (lower, upper]; upper = inf is a run that had not got there (right-censored), and
lower = upper an exactly known time. The distribution with the greatest likelihood puts mass on
Turnbull's innermost intervals only; where each is an exact time it is Kaplan and Meier's. Two
groups are compared by the log-rank scores of that distribution, permuted between them: exact for
any number of seeds, where an asymptotic test is not.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

GAP = 1e-10
"""How far the mean log-likelihood may lie below its maximum when the iteration stops."""
MOST_ITERATIONS = 20_000
CLOSED_START, CLOSED_END, OPEN_START = range(3)
"""Order of endpoints of one value: [t, t] begins before (s, t] ends, which ends before (t, u] begins."""


class LogRank(NamedTuple):
    """A log-rank test by permutation."""

    score: float
    """Sum of the scores of group a; above 0 where a is earlier."""
    p: float
    """Two-sided; NaN where no run of either group got there."""
    n_a: int
    n_b: int


def turnbull(lower: Sequence[float], upper: Sequence[float]) -> pd.DataFrame:
    """Nonparametric maximum-likelihood distribution of interval-censored times.

    The masses are found by EM (self-consistency), sped up by constrained Newton steps. It stops when no
    mass has a derivative of the mean log-likelihood above 1 + 1e-10, which bounds what is left of the
    way to the maximum by 1e-10. An innermost interval may have mass 0.

    Args:
        lower, upper: of each run, 0 <= lower <= upper; (lower, upper], upper = inf where right-censored,
            lower = upper where exact.

    Returns:
        One row an innermost interval, in order: lower, upper (equal for an exact time), mass, survival
        (share later than this interval; within one the curve is not known).

    Raises:
        ValueError: no runs, lengths that differ, an interval that ends before it starts or at 0.
        RuntimeError: the iteration did not converge.

    Source: Turnbull 1976, JRSS B 38; the stopping rule: Gentleman and Geyer 1994, Biometrika 81; the
    steps: Wang 2008, Computational Statistics and Data Analysis 52.
    """
    start, end = _intervals(lower, upper)
    left, right, first, last = _innermost(start, end)
    mass = _most_likely(first, last, len(left))
    survival = np.r_[mass[::-1].cumsum()[::-1][1:], 0.0]
    return pd.DataFrame({"lower": left, "upper": right, "mass": mass, "survival": survival})


def median_interval(curve: pd.DataFrame) -> tuple[float, float]:
    """The interval (lower, upper] of `turnbull` in which half of the runs have got there.

    (NaN, NaN) where half never do: the median is "not reached".
    """
    # The masses are known to about the root of the iteration's gap.
    row = curve[curve["survival"] <= 0.5 + 1e-5].iloc[0]
    return (math.nan, math.nan) if row["upper"] == math.inf else (float(row["lower"]), float(row["upper"]))


def log_rank(
    a_lower: Sequence[float],
    a_upper: Sequence[float],
    b_lower: Sequence[float],
    b_upper: Sequence[float],
    *,
    paired: bool = False,
    permutations: int = 9999,
    seed: int = 0,
) -> LogRank:
    """Test that two groups of interval-censored times have one distribution.

    Args:
        a_lower, a_upper, b_lower, b_upper: as in `turnbull`.
        paired: runs at the same place share data, so members are exchanged within pairs only.
        permutations: all are gone through when they are no more than this; else as many are drawn,
            and the data count as one more, so that p is never 0. p is twice the smaller one-sided p.
        seed: of the draws.

    Raises:
        ValueError: fewer than 2 runs in a group, pairs that do not match, permutations < 1; as `turnbull`.

    Source: scores of Finkelstein 1986, Biometrics 42; as a permutation test in Fay and Shaw 2010, J.
    Statistical Software 36(2).
    """
    from scipy import stats

    a, b = _intervals(a_lower, a_upper), _intervals(b_lower, b_upper)
    n_a, n_b = len(a[0]), len(b[0])
    if min(n_a, n_b) < 2:
        raise ValueError(f"a test needs at least 2 seeds in each group, got {n_a} and {n_b}")
    if paired and n_a != n_b:
        raise ValueError(f"paired groups have one run a seed in each, got {n_a} and {n_b} runs")
    if permutations < 1:
        raise ValueError(f"permutations is {permutations}; it is at least 1, as 9999")
    start, end = (np.concatenate(both) for both in zip(a, b, strict=True))
    if not np.isfinite(end).any():
        return LogRank(0.0, math.nan, n_a, n_b)
    scores = _scores(start, end)

    # Rounded, as sums that tie must not differ by the iteration's gap.
    def total(x: np.ndarray, _: np.ndarray, axis: int) -> np.ndarray:
        return np.round(x.sum(axis=axis), 6)

    found = stats.permutation_test(
        (scores[:n_a], scores[n_a:]), total, vectorized=True, n_resamples=permutations,
        permutation_type="samples" if paired else "independent", rng=np.random.default_rng(seed),
    )  # fmt: skip
    return LogRank(float(found.statistic), float(found.pvalue), n_a, n_b)


def _scores(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Log-rank score of each run: how much earlier than the pooled distribution expects; they sum to 0.

    (S(l) log S(l) - S(r) log S(r)) / (S(l) - S(r)) with the pooled survival S just before and after
    the run's interval. At an exact time with small jumps it is 1 - cumulative hazard.
    """
    left, _, first, last = _innermost(start, end)
    mass = _most_likely(first, last, len(left))
    later = np.r_[mass[::-1].cumsum()[::-1], 0.0]
    later /= later[0]
    high, low = later[first], later[last + 1]
    # 0 log 0 is 0.
    entropy = [s * np.log(np.where(s > 0, s, 1.0)) for s in (high, low)]
    return (entropy[0] - entropy[1]) / (high - low)


def _innermost(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Turnbull's intervals, from a start to the next endpoint if that is an end.

    Returns:
        Their lower and upper ends [J], and for each run the first and last that it holds [n].
    """
    starts = np.stack([start, np.where(start == end, CLOSED_START, OPEN_START)], axis=1)
    ends = np.stack([end, np.full(len(end), CLOSED_END)], axis=1)
    points = np.unique(np.concatenate([starts, ends]), axis=0)  # by value, then by kind
    is_end = points[:, 1] == CLOSED_END
    at = np.flatnonzero(~is_end[:-1] & is_end[1:])
    keys = {tuple(point): place for place, point in enumerate(points)}
    first = np.searchsorted(at, [keys[tuple(point)] for point in starts])
    last = np.searchsorted(at, [keys[tuple(point)] for point in ends]) - 1
    return points[at, 0], points[at + 1, 0], first, last


def _most_likely(first: np.ndarray, last: np.ndarray, n_intervals: int) -> np.ndarray:
    """Masses [J] of greatest likelihood of runs that hold intervals first ... last each.

    EM alone takes seconds where intervals overlap widely, so each of its steps follows one of Newton's
    kind, in which no mass falls below 0 and which is taken only as far as the likelihood rises.
    """
    from scipy.optimize import nnls

    place = np.arange(n_intervals)
    holds = ((first[:, None] <= place) & (place <= last[:, None])).astype(float)
    mass, goal = np.full(n_intervals, 1 / n_intervals), np.r_[np.zeros(len(first)), 1.0]
    for _ in range(MOST_ITERATIONS):
        ratio = holds / (holds @ mass)[:, None]
        if ratio.mean(axis=0).max() <= 1 + GAP:
            return mass
        # Around these masses the log-likelihood of others m is -|ratio m - 2|^2 / 2 plus a constant,
        # and 2 is 2 sum(m); the last row asks for sum(m) = 1 up to a scale.
        aim, _ = nnls(np.vstack([ratio - 2, np.ones(n_intervals)]), goal)
        mass = _rise(holds, mass, aim / aim.sum())
        mass = mass * (holds / (holds @ mass)[:, None]).mean(axis=0)
        mass /= mass.sum()
    raise RuntimeError(f"Turnbull's estimate did not converge in {MOST_ITERATIONS} iterations")


def _rise(holds: np.ndarray, mass: np.ndarray, aim: np.ndarray) -> np.ndarray:
    """The first of the whole way to `aim`, half of it, ... where the likelihood is higher; or `mass`."""
    now = np.log(holds @ mass).sum()
    for part in 0.5 ** np.arange(12):
        moved = (1 - part) * mass + part * aim
        held = holds @ moved
        if (held > 0).all() and np.log(held).sum() > now:
            return moved
    return mass


def _intervals(lower: Sequence[float], upper: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Both ends as floats, checked."""
    start, end = np.asarray(lower, float), np.asarray(upper, float)
    if start.shape != end.shape or start.ndim != 1:
        raise ValueError(f"each time has a lower and an upper end, got {start.size} and {end.size}")
    if not len(start):
        raise ValueError("a distribution of times needs at least 1 run, got 0")
    wrong = ~((start >= 0) & (start <= end) & np.isfinite(start) & (end > 0))
    if wrong.any():
        low, high = start[wrong][0], end[wrong][0]
        raise ValueError(f"a time lies in (lower, upper] with 0 <= lower <= upper, got ({low:g}, {high:g}]")
    return start, end
