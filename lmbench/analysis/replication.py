"""Whether a claimed effect was found again: five verdicts, fixed before any run.

    REP  replicated: the interval lies beyond half the claimed effect on the log scale
    DIR  right direction, smaller: the interval excludes no effect on the claimed side, and that is all
    NOT  not replicated: the effect is shown to be reversed, or half of it is excluded and its sign open
    INC  inconclusive: the interval is too wide for any of these
    NT   not tested, with the reason

Half of "19 times" on the log scale is the square root of 19, 4.4 times. An effect is a ratio
whose claimed side is above 1; claims that name no number are of a direction or of a band.

A claim may have several parts (widths, batch sizes, arms). Its own verdict is `overall` of them, so that
a claim of all widths is not counted as replicated at some.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from lmbench.analysis.words import capital, percent, seeds

Verdict = Literal["REP", "DIR", "NOT", "INC", "NT"]
IN_WORDS: Mapping[str, str] = {
    "REP": "replicated",
    "DIR": "right direction, smaller",
    "NOT": "not replicated",
    "INC": "inconclusive",
    "NT": "not tested",
}
WEAKEST: tuple[Verdict, ...] = ("NOT", "INC", "DIR", "REP")
"""Verdicts of what was tested, the weakest first."""
Needs = Literal["all", "any"]
"""Which of its parts a claim needs: all, or one of them, as where it names two arms with "or"."""
ALPHA = 0.05


class Replication(NamedTuple):
    """One claim with its verdict, what was measured in words, and the paragraph that says all."""

    claim: str
    verdict: Verdict
    measured: str
    text: str


def overall(parts: Sequence[Verdict], *, needs: Needs) -> Verdict:
    """The verdict on a claim of several parts; one that was not tested leaves open what it could decide.

    Of "all" it is the weakest: one part that is refuted refutes the claim. Of "any" it is the strongest.
    """
    tested = sorted((part for part in parts if part != "NT"), key=WEAKEST.index)
    if not tested:
        return "NT"
    found = tested[0] if needs == "all" else tested[-1]
    could_change = found in ("REP", "DIR") if needs == "all" else found == "NOT"
    return "INC" if could_change and len(tested) < len(parts) else found


def half_of(claimed: float) -> float:
    """Half a claimed ratio on the log scale: its square root.

    Raises:
        ValueError: a ratio of 1 or less, whose claimed side is not above 1.
    """
    if not (claimed > 1 and math.isfinite(claimed)):
        raise ValueError(f"claimed is {claimed:g}; turn the ratio round so that what is claimed is above 1")
    return math.sqrt(claimed)


def judge_ratio(low: float, high: float, *, claimed: float, p_adjusted: float = 0.0) -> Verdict:
    """The verdict on a ratio by its interval.

    Args:
        low: of the ratio's confidence interval; 0 where only `high` is known.
        high: inf where only `low` is known. NaN decides nothing.
        claimed: ratio, above 1.
        p_adjusted: of no effect, adjusted over the family; an effect with 0.05 or more has no sign.
    """
    half = half_of(claimed)
    has_sign = p_adjusted < ALPHA
    if has_sign and low > 1:
        return "REP" if low >= half else "DIR"
    if (has_sign and high < 1) or high < half:
        return "NOT"
    return "INC"


def judge_direction(low: float, high: float, *, p_adjusted: float = 0.0) -> Verdict:
    """The verdict on a claim that names a side and no size, by the interval of an effect in its direction."""
    if p_adjusted < ALPHA and low > 0:
        return "REP"
    return "NOT" if p_adjusted < ALPHA and high < 0 else "INC"


def judge_band(low: float, high: float, *, band: tuple[float, float]) -> Verdict:
    """The verdict on a claim that something lies in a band, by the interval of where it lies."""
    if low >= band[0] and high <= band[1]:
        return "REP"
    return "NOT" if low > band[1] or high < band[0] else "INC"


def replicate(
    claim: str,
    *,
    ratio: float,
    low: float,
    high: float,
    claimed: float,
    n: int,
    unit: str = "",
    p_adjusted: float = 0.0,
    objection: str = "",
    confidence: float = 0.95,
) -> Replication:
    """Judge a claimed ratio and say so.

    Args:
        claim: a clause without a full stop.
        ratio: measured, NaN where only bounds are known; above 1 on the claimed side.
        unit: what it is a ratio of, such as "FLOPs to the target".
        objection: why the comparison decides nothing, whatever its interval; then it is INC.
        confidence: of the interval.
    """
    verdict = "INC" if objection else judge_ratio(low, high, claimed=claimed, p_adjusted=p_adjusted)
    measured = f"{ratio_in_words(ratio, low, high, n, confidence=confidence)} {unit}".strip()
    reason = objection or _reason(verdict, low, high, claimed=claimed, p_adjusted=p_adjusted, n=n)
    half = half_of(claimed)
    said = f"{measured}; claimed {claimed:g}, half of it on the log scale {half:.3g}; {reason}"
    text = f"{sentence(claim, verdict, said)} {_refuter(verdict, half)}"
    return Replication(claim, verdict, measured, text)


def not_tested(claim: str, reason: str) -> Replication:
    """A claim that was not tested, with the reason."""
    return Replication(claim, "NT", reason, sentence(claim, "NT", reason))


def sentence(claim: str, verdict: Verdict, measured: str) -> str:
    """`Claim: not replicated (measured).`"""
    return f"{capital(claim)}: {IN_WORDS[verdict]} ({measured})."


def ratio_in_words(ratio: float, low: float, high: float, n: int, *, confidence: float = 0.95) -> str:
    """`2.31 times (95% interval 1.80 to 2.97, 5 seeds)`, or the bound that is known."""
    if math.isfinite(ratio):
        if math.isnan(low):
            return f"{ratio:.3g} times ({seeds(n)}, no interval)"
        top = f"to {high:.3g}" if math.isfinite(high) else "upwards"
        return f"{ratio:.3g} times ({percent(confidence)} interval {low:.3g} {top}, {seeds(n)})"
    if low > 0 and math.isinf(high):
        return f"at least {low:.3g} times ({percent(confidence)} bound, {seeds(n)})"
    if math.isfinite(high):
        return f"at most {high:.3g} times ({percent(confidence)} bound, {seeds(n)})"
    return f"no ratio ({seeds(n)})"


def _reason(verdict: Verdict, low: float, high: float, *, claimed: float, p_adjusted: float, n: int) -> str:
    half = half_of(claimed)
    if verdict == "REP":
        return "the interval lies beyond half of the claim"
    if verdict == "DIR":
        side = (
            "half of the claim is excluded"
            if high < half
            else "half of the claim is not reached by all of it"
        )
        return f"the interval excludes 1, and {side}"
    if verdict == "NOT":
        return "the effect is reversed" if high < 1 else "half of the claim is excluded, and the sign is open"
    if n < 2 or math.isnan(low) or math.isnan(high):
        return (
            f"there is no interval, which needs at least 2 seeds, got {n}"
            if n < 2
            else "there is no interval"
        )
    if low > 1 and not p_adjusted < ALPHA:
        return f"the adjusted p, {p_adjusted:.3f}, is not below {ALPHA:g}"
    return "the interval holds both 1 and half of the claim"


def _refuter(verdict: Verdict, half: float) -> str:
    tense = "refutes" if verdict == "NOT" else "would have refuted"
    return f"What {tense} it: an interval wholly below {half:.3g} that does not lie above 1."
