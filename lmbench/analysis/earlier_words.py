"""A comparison of onsets and its sentence, which says no more than the numbers hold."""

import math
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from lmbench.analysis.aft import Bound
from lmbench.analysis.words import capital, p_value, percent, seeds

Method = Literal["Welch's t", "paired t", "AFT", "AFT with one spread", "none"]
Decided = Literal["earlier", "later", "not decided", "not reached"]

METHOD = {
    "Welch's t": "Welch's t on log times",
    "paired t": "paired t on log times",
    "AFT": "interval-censored log-normal fit, profile likelihood calibrated by t",
    "AFT with one spread": "interval-censored log-normal fit with one spread for both, "
    "profile likelihood calibrated by t",
}
UNIT = {
    "step": "steps",
    "flops": "FLOPs",
    "active_flops": "FLOPs of the units in use",
    "bytes": "bytes",
    "tokens": "tokens",
    "seconds": "seconds",
}


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """How many times earlier `a` is than `b` in one capability; NaN where no run of either got there."""

    a: str
    b: str
    task: str
    level: str
    metric: str
    threshold: float
    unit: str
    ratio: float
    """Median time of b over that of a; inf or 0 where a group lies beyond observation."""
    low: float
    high: float
    p: float
    method: Method
    n_a: int
    n_b: int
    emerged_a: int
    emerged_b: int
    bound: Bound
    """"lower": more than half of b did not get there, so "at least k times" is what can be said."""
    restricted: float
    """Ratio of restricted means, which lies nearer to 1 than the ratio."""
    restricted_low: float
    restricted_high: float
    fisher_p: float
    """Of an equal share of runs that emerge."""
    log_rank_p: float
    """Of one distribution of times."""
    budget: float
    """Last evaluation of the run that was followed least."""
    latest: float
    """Last evaluation at which an onset can be: three points must be at or above."""
    ending_a: int
    """Runs that were above at the end, with too few points for an onset; they are censored."""
    ending_b: int
    confidence: float
    decided: Decided
    sentence: str


def sentence(found: Earlier, *, taken_back: str = "") -> str:
    """What a comparison says: ratio, interval, p, method, seeds, unit, and the share that emerged.

    Args:
        taken_back: why an adjustment for many comparisons does not decide it, where it alone would be.
    """
    where = f"{found.task} level {found.level} ({found.metric} at {found.threshold:g})"
    if found.decided == "not reached":
        return f"{capital(where)}: {_not_reached(found)}."
    if found.method == "none":
        return (
            f"{capital(where)}: not known whether {found.a} ({seeds(found.n_a)}) or {found.b} "
            f"({seeds(found.n_b)}) is earlier, as onsets lie before the first evaluation or were never seen."
        )
    by = until(found.latest, found.budget, found.unit)
    emerged = f"Emerged by {by}: {_share(found, 'a')}, {_share(found, 'b')}"
    tests = [] if math.isnan(found.log_rank_p) else [f"log-rank {p_value(found.log_rank_p)} of equal times"]
    if (found.emerged_a, found.emerged_b) != (found.n_a, found.n_b):
        tests.insert(0, f"Fisher's exact {p_value(found.fisher_p)} of equal shares")
    rank = f" {capital(', '.join(tests))}." if tests else ""
    lead = _lead(found, taken_back=taken_back)
    return f"{capital(where)}, in {UNIT.get(found.unit, found.unit)}: {lead}. {emerged}.{rank}"


def _lead(found: Earlier, *, taken_back: str) -> str:
    a, b = found.a, found.b
    if found.decided == "later":
        # Told from the side of the earlier one, so that the factor is above 1.
        a, b = b, a
    if found.decided == "not decided":
        reason = taken_back or (
            "the interval holds 1"
            if math.isfinite(found.p)
            else "too few onsets are bounded on both sides for an interval"
        )
        return f"not decided whether {a} or {b} is earlier, as {reason} ({_numbers(found, flip=False)})"
    flip = found.decided == "later"
    if found.bound != ("upper" if flip else "lower"):
        return f"{a} is {_ratio(found, flip=flip)} times earlier than {b} ({_numbers(found, flip=flip)})"
    least = 1 / found.restricted if flip else found.restricted
    low, high = (found.restricted_low, found.restricted_high)
    low, high = (1 / high, 1 / low) if flip else (low, high)
    if not low > 1:
        return f"{a} is earlier than {b}, whose median was not reached ({_numbers(found, flip=flip)})"
    value, bottom, top = times(least, low, high)
    held = (
        f"ratio of restricted geometric means {value}, {percent(found.confidence)} interval {bottom} to {top}"
    )
    return f"{a} is ≥ {bottom} times earlier than {b} ({held}); {_numbers(found, flip=flip)}"


def _ratio(found: Earlier, *, flip: bool) -> str:
    return times(*_turned(found, flip=flip))[0]


def _numbers(found: Earlier, *, flip: bool) -> str:
    """Ratio where it is finite, interval, p, method and seeds."""
    ratio, low, high = _turned(found, flip=flip)
    value, bottom, top = times(ratio, low, high)
    parts = [f"{percent(found.confidence)} interval of the ratio {bottom} to {top}"]
    if found.decided == "not decided" or found.bound:
        beyond = "no finite ratio of medians" if not 0 < ratio < math.inf else f"fitted ratio {value}"
        parts.insert(0, beyond)
    if math.isfinite(found.p):
        parts.append(p_value(found.p))
    return ", ".join([*parts, METHOD[found.method], f"{found.n_a} and {seeds(found.n_b)}"])


def _turned(found: Earlier, *, flip: bool) -> tuple[float, float, float]:
    if not flip:
        return found.ratio, found.low, found.high
    return tuple(math.inf if x == 0 else 1 / x for x in (found.ratio, found.high, found.low))


def times(value: float, low: float, high: float) -> tuple[str, str, str]:
    """A ratio and its interval in three digits, more where a bound would print as 1; inf as it is."""
    digits = 3
    while digits < 7 and any(x != 1 and float(f"{x:.{digits}g}") == 1 for x in (low, high)):
        digits += 1
    return tuple("infinity" if x == math.inf else _plain(x, digits) for x in (value, low, high))


def _plain(x: float, digits: int) -> str:
    return f"{x:,.0f}" if 1000 <= x < 1e6 else f"{x:.{digits}g}"


def _not_reached(found: Earlier) -> str:
    """`not reached: 0 of 5 seeds by 2,000 steps`, said of both."""
    by = until(found.latest, found.budget, found.unit)
    a, b = (
        f"0 of {seeds(n)} by {by} in {label}{_and_censored(more)}"
        for n, label, more in ((found.n_a, found.a, found.ending_a), (found.n_b, found.b, found.ending_b))
    )
    return f"not reached: {a}, {b}"


def _share(found: Earlier, side: Literal["a", "b"]) -> str:
    names = side, f"n_{side}", f"emerged_{side}", f"ending_{side}"
    label, n, k, more = (getattr(found, name) for name in names)
    known = stats.binomtest(k, n).proportion_ci(found.confidence, method="exact")
    interval = f"{percent(found.confidence)} interval {100 * known.low:.0f}% to {100 * known.high:.0f}%"
    return f"{label} in {k} of {seeds(n)} ({interval}){_and_censored(more)}"


def _and_censored(n: int) -> str:
    """`, 2 more were above at the end and are censored`; "" of none."""
    verbs = ("was", "is") if n == 1 else ("were", "are")
    return f", {n} more {verbs[0]} above at the end and {verbs[1]} censored" * int(n > 0)


def and_more(n: int) -> str:
    """`, 2 more at the end`: runs above at their last points, too few for an onset; "" of none."""
    return f", {n} more at the end" * int(n > 0)


def until(latest: float, budget: float, unit: str) -> str:
    """`5,045 steps, scored until 6,000`: when an onset can be last, and the last evaluation."""
    return amount(latest, unit) + f", scored until {_number(budget)}" * int(latest < budget)


def amount(x: float, unit: str) -> str:
    """`2,000 steps`."""
    return f"{_number(x)} {UNIT.get(unit, unit)}"


def _number(x: float) -> str:
    return f"{x:,.0f}" if x < 1e9 else f"{x:.3g}"
