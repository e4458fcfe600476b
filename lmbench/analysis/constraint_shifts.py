"""Claims that a constrained model generalizes better (A19 to A22), judged at equal knowledge.

A claimed "+17%" is read as relative: the shifted score over that of the base, both normalised so that 0
is chance and 1 the best that is possible there. The ratio of two means has Fieller's interval
(1954), here of seeds that are paired, which is exact however near to 0 the base lies. A model that
knows more in distribution also scores more outside it, which is not what is claimed ("at equal
loss"); so a gain counts only where the gap between the two, paired by seed, closes as well.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lmbench.analysis.checks import require
from lmbench.analysis.claims import BASE, claim
from lmbench.analysis.constraint_evidence import Evidence, Tested
from lmbench.analysis.generalization import MEMBER
from lmbench.analysis.intervals import Estimate, check_confidence, finite, t_interval
from lmbench.analysis.pairing import paired_values
from lmbench.analysis.replication import Verdict, half_of, judge_ratio, ratio_in_words
from lmbench.analysis.words import in_digits, percent, seeds

FAMILIES: Mapping[str, str] = {
    "A19": "novel domain",
    "A20": "adversarial",
    "A21": "few-shot",
    "A22": "compositional",
}
"""Family of shifts that a claim is of."""
KNOWN = 0.5
"""Normalised score in distribution from which on there is something that could carry over."""


class Gain(NamedTuple):
    """A ratio of means with its interval; NaN where the denominator is not shown to be above 0."""

    ratio: float
    low: float
    high: float


def relative_gain(a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95) -> Gain:
    """Mean of `a` over mean of `b`, paired, with Fieller's interval.

    The interval holds all r at which a paired t test does not reject that the mean of a - r b is 0. It has
    two ends where b itself is shown to be above 0; elsewhere none is returned.

    Raises:
        ValueError: fewer than 2 pairs, or a value that is not finite.
    """
    x, y = finite(a), finite(b)
    check_confidence(confidence)
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(
            f"a paired ratio needs as many values of both, at least 2; got {len(x)} and {len(y)}"
        )
    t2 = stats.t.ppf((1 + confidence) / 2, len(x) - 1) ** 2
    (v_xx, v_xy), (_, v_yy) = np.cov(x, y) / len(x)
    square = y.mean() ** 2 - t2 * v_yy
    if y.mean() <= 0 or square <= 0:
        return Gain(math.nan, math.nan, math.nan)
    middle = x.mean() * y.mean() - t2 * v_xy
    # Below 0 by rounding only: the ratio of the means itself always solves the inequality.
    root = math.sqrt(max(0.0, middle**2 - square * (x.mean() ** 2 - t2 * v_xx)))
    return Gain(float(x.mean() / y.mean()), float((middle - root) / square), float((middle + root) / square))


def shift_tests(evidence: Evidence) -> list[Tested]:
    """A19 to A22, a test for each arm of the claim and each shift of its family."""
    table, found = evidence.shifted, []
    if table is None:
        return []
    for column in (*MEMBER, "label", "init_seed", "normalised", "normalised_within", "gap"):
        require(table, column)
    for id, family in FAMILIES.items():
        for _, own in table[table["family"] == family].groupby(MEMBER, sort=False):
            there = set(own["label"])
            found += [_shifted(id, own, arm) for arm in claim(id).treatment if {arm, BASE} <= there]
    return found


def _shifted(id: str, own: pd.DataFrame, arm: str) -> Tested:
    """The test of one arm on one shift."""
    first, claimed = own.iloc[0], claim(id).claimed
    level = f"{first['task']} {first['level']} (learned: {first['within_level']})"
    compared = f"{arm} against {BASE}, {level}"
    here, within, gaps = (
        paired_values(own, arm, BASE, value=name) for name in ("normalised", "normalised_within", "gap")
    )
    missing = _missing(here[1].mean(), [side.mean() for side in within], arm, claimed=claimed)
    if missing:
        said = f"on {level} {missing} ({seeds(len(here[0]))})"
        return Tested(id, compared, math.nan, lambda _: ("NT", said))
    gain, gap = relative_gain(*here), t_interval(gaps[0] - gaps[1])
    levels = [_against(*(side.mean() for side in sides)) for sides in (here, within)]
    measured = _measured(gain, gap, *levels)
    return Tested(
        id, compared, t_interval(here[0] - here[1]).p,
        lambda p: judge_gain(gain, gap, claimed=claimed, p_adjusted=p, measured=measured),
    )  # fmt: skip


def _missing(base: float, within: Sequence[float], arm: str, *, claimed: float) -> str:
    """Why means cannot say anything of a gain; "" where they can."""
    if min(within) < KNOWN:
        told = " and ".join(f"{_level(x)} in {name}" for x, name in zip(within, (arm, BASE), strict=True))
        return f"too little was learned to carry over: {told} of the best score, {KNOWN:g} asked for"
    if base * half_of(claimed) > 1:
        return f"there is no room for half of the claim: {BASE} has {_level(base)} of the best score"
    return ""


def judge_gain(
    gain: Gain, gap: Estimate, *, claimed: float, p_adjusted: float, measured: str = ""
) -> tuple[Verdict, str]:
    """The verdict on a gain outside the distribution, and the words with why it is not one.

    Args:
        gain: the arm's shifted score over that of the base.
        gap: the arm's loss from in distribution to shifted, minus that of the base; below 0 it closes.
    """
    verdict = judge_ratio(gain.low, gain.high, claimed=claimed, p_adjusted=p_adjusted)
    if verdict in ("REP", "DIR") and not gap.high < 0:
        return "INC", f"{measured}; more was learned in distribution, and the gap is not shown to close"
    return verdict, measured


def _measured(gain: Gain, gap: Estimate, shifted: str, within: str) -> str:
    value, low, high = in_digits(gap.value, gap.low, gap.high, signed=True)
    told = f"no ratio, as {BASE} is not surely above chance there ({seeds(gap.n)})"
    if math.isfinite(gain.ratio):
        told = f"{ratio_in_words(*gain, gap.n)} the shifted score of {BASE}"
    spread = f"{percent(0.95)} interval {low} to {high}; below 0 it closes"
    return f"{told}, {shifted}; in distribution {within}; gap {value} ({spread})"


def _against(a: float, b: float) -> str:
    return f"{_level(a)} against {_level(b)}"


def _level(x: float) -> str:
    """Two decimals, no negative zero."""
    return f"{round(x, 2) + 0.0:.2f}".replace("-", "−")
