"""Whether two arms are the same to within a margin that was fixed beforehand.

A difference that is not significant shows nothing: with few seeds nothing is significant. "Equal"
is a claim of its own, and is tested by two one-sided tests (Schuirmann 1987): the ratio of the
two arms' means is shown to lie above 1 / (1 + margin) and below 1 + margin, which is so where its
1 - 2 alpha interval lies inside of them. Seeds are paired and ratios are taken on the log scale.
Where the seeds spread too much to tell, the answer is "not decided", and the margin stays.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lmbench.analysis.formats import METRICS
from lmbench.analysis.intervals import check_confidence, finite, holm, t_interval
from lmbench.analysis.pairing import paired_values
from lmbench.analysis.words import percent, seeds

MARGIN = 0.01
"""Of the metric, relative. Fixed before any run; no result widens it."""
Decided = Literal["equal", "lower", "higher", "not decided"]
COLUMNS = ["a", "b", "ratio", "low", "high", "p", "p_holm", "n", "margin", "confidence", "decided"]


class Equivalence(NamedTuple):
    """The ratio of two arms, and on which side of the margin it lies."""

    ratio: float
    """Geometric mean over seeds of a / b."""
    low: float
    high: float
    """Interval of confidence 1 - 2 alpha: the one that two tests at alpha read off."""
    p: float
    """Of the hypothesis that they are *not* equal: the larger one of both one-sided tests."""
    n: int
    margin: float
    decided: Decided


def equivalence(
    a: Sequence[float], b: Sequence[float], *, margin: float = MARGIN, alpha: float = 0.05
) -> Equivalence:
    """Test that the arms a and b are equal to within a relative margin.

    Args:
        a: positive values, one a seed; b: those of the same seeds in the same order.
        margin: 0.01 accepts ratios from 1 / 1.01 to 1.01.
        alpha: of each one-sided test, and so of a wrong "equal" (and of a wrong "lower" or "higher").

    Returns:
        decided "equal": inside the margin. "lower" and "higher": a lies beyond it. Else "not decided",
        as with a single seed, which has no interval.

    Raises:
        ValueError: sides of unequal length, values that are not positive, a margin that is none.
    """
    if not 0 < margin < 1:
        raise ValueError(f"margin is {margin:g}; it is relative and lies between 0 and 1, as 0.01")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha is {alpha:g}; it lies between 0 and 0.5, as 0.05")
    x, y = finite(a), finite(b)
    if len(x) != len(y) or not len(x):
        raise ValueError(f"paired arms need the same seeds, at least 1; got {len(x)} and {len(y)} values")
    if min(x.min(), y.min()) <= 0:
        raise ValueError(f"a ratio needs values above 0, got {min(x.min(), y.min()):g}")
    logs, edge = np.log(x) - np.log(y), math.log1p(margin)
    if len(logs) < 2:
        return Equivalence(math.exp(logs[0]), math.nan, math.nan, math.nan, 1, margin, "not decided")
    known = t_interval(logs, confidence=1 - 2 * alpha)
    p = _two_one_sided(logs, edge)
    decided: Decided = "not decided"
    if -edge < known.low and known.high < edge:
        decided = "equal"
    elif known.low > edge or known.high < -edge:
        decided = "higher" if known.low > edge else "lower"
    ends = (math.exp(known.value), math.exp(known.low), math.exp(known.high))
    return Equivalence(*ends, p, known.n, margin, decided)


def _two_one_sided(logs: np.ndarray, edge: float) -> float:
    """The larger p of the tests that the mean lies above -edge, and below edge."""
    mean, error = float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(len(logs))
    if error == 0:  # seeds that all agree leave no doubt on which side they lie
        return float(not -edge < mean < edge)
    return float(stats.t.sf((edge - abs(mean)) / error, len(logs) - 1))


def equivalences(
    runs: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    *,
    metric: str = "bits_per_byte",
    margin: float = MARGIN,
    alpha: float = 0.05,
) -> pd.DataFrame:
    """`equivalence` of several pairs of arms, one row a pair.

    Args:
        runs: one row a run with columns label, init_seed and the metric; paired by init_seed.
        pairs: (a, b) by label.

    Returns:
        Columns a, b, ratio, low, high, p, p_holm (over all pairs), n, margin, confidence (of low and
        high), decided (by the interval, before any adjustment).

    Raises:
        ValueError: an arm that is not there, seeds that do not match.
    """
    check_confidence(confidence := round(1 - 2 * alpha, 12))
    rows = []
    for a, b in pairs:
        sides = paired_values(runs, a, b, value=metric)
        found = equivalence(*sides, margin=margin, alpha=alpha)
        rows.append({"a": a, "b": b} | found._asdict() | {"confidence": confidence})
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "p_holm"])
    return table.assign(p_holm=holm(table["p"].to_numpy(float)))[COLUMNS]


def equivalence_sentence(
    row: pd.Series | dict, *, metric: str = "bits_per_byte", better: str = "lower"
) -> str:
    """What one row of `equivalences` says, with its interval, and what is missing where it says nothing."""
    row = dict(row)
    unit, edge = METRICS.get(metric, metric), percent(row["margin"])
    what = {
        "equal": f"{row['a']} equals {row['b']} to within {edge}",
        "lower": f"{row['a']} is lower than {row['b']} by more than {edge}",
        "higher": f"{row['a']} is higher than {row['b']} by more than {edge}",
        "not decided": f"Whether {row['a']} equals {row['b']} to within {edge} is not decided",
    }[row["decided"]]
    if row["decided"] in ("lower", "higher"):
        what += f" ({'better' if row['decided'] == better else 'worse'})"
    return f"{what}: {ratio_in_words(row)} in {unit}{_why_not(row)}."


def ratio_in_words(row: dict) -> str:
    """`+0.31% (90% interval −0.12% to +0.74%, 5 seeds)`."""
    value = _signed(row["ratio"])
    if math.isnan(row["low"]):
        return f"{value} ({seeds(row['n'])}, no interval)"
    spread = f"{percent(row['confidence'])} interval {_signed(row['low'])} to {_signed(row['high'])}"
    return f"{value} ({spread}, {seeds(row['n'])})"


def _signed(ratio: float) -> str:
    # Adding 0 turns a rounded -0 into 0.
    return f"{round(100 * (ratio - 1), 2) + 0.0:+.2f}%".replace("-", "−")


def _why_not(row: dict) -> str:
    if row["decided"] != "not decided":
        return ""
    if row["n"] < 2:
        return "; an interval needs at least 2 seeds"
    if math.log(row["high"] / row["low"]) >= 2 * math.log1p(row["margin"]):
        return "; the interval is wider than the margin, which stays as it was fixed"
    return "; the interval holds the edge of the margin"


def p_no_worse(a: Sequence[float], b: Sequence[float], *, margin: float = MARGIN) -> float:
    """One-sided p of the hypothesis that a exceeds b by the margin or more; small says "no worse".

    Half of `equivalence`, for claims that being better would fulfil too. Lower is better; NaN with one seed.
    """
    logs, edge = np.log(finite(a)) - np.log(finite(b)), math.log1p(margin)
    if len(logs) < 2:
        return math.nan
    error = float(logs.std(ddof=1)) / math.sqrt(len(logs))
    if error == 0:
        return float(logs.mean() >= edge)
    return float(stats.t.sf((edge - logs.mean()) / error, len(logs) - 1))
