"""Sentences generated from numbers, so that no prose says more than its table.

A claim says that one thing is better than another. It holds when the interval of the
difference lies wholly on the claimed side of 0 and Holm's p is below 1 - confidence; it is
refuted when both are so on the other side; and otherwise it is not decided, which is
what the sentence then says. Every sentence carries its interval, its p and its n, and
what would have refuted it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from lmbench.analysis.stats import family_of
from lmbench.analysis.words import capital, difference_in_words, in_digits, percent, seeds

Decision = Literal["holds", "refuted", "not decided"]
Better = Literal["lower", "higher"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim, whether it holds, and the paragraph that says so."""

    claim: str
    decided: Decision
    text: str


def verdict(
    claim: str,
    *,
    difference: float,
    low: float,
    high: float,
    p_holm: float,
    n: int,
    unit: str,
    better: Better = "lower",
    confidence: float = 0.95,
) -> Verdict:
    """Judge the claim that a is better than b.

    Args:
        claim: a clause without a full stop, such as "attention beats the MLP".
        difference: mean of a minus mean of b; low and high bound its interval (NaN with n < 2).
        p_holm: p value adjusted over the family of comparisons.
        n: seeds.
        unit: of the difference, such as "bits per byte".
        better: which way is better in this unit.
    """
    decided = _decide(low, high, p_holm, better=better, confidence=confidence)
    numbers = difference_in_words(difference, low, high, p_holm, n, unit=unit, confidence=confidence)
    reason = _reason(decided, low, high, confidence=confidence, n=n)
    text = f"{capital(claim)}: {decided}. The difference is {numbers}{reason}. {_refuter(better, decided)}"
    return Verdict(claim=claim, decided=decided, text=text)


def judge(
    claim: str, pairs: pd.DataFrame, *, unit: str, better: Better = "lower", confidence: float = 0.95
) -> Verdict:
    """Judge a claim that says the same of several pairs: a is better than b in each row.

    It holds if every pair shows it, is refuted if any pair shows the opposite, and is not
    decided otherwise.

    Args:
        pairs: rows of `stats.paired_differences`: a, b, difference, low, high, p_holm, n. In an
            extra column `objection` a text that is not empty says why a pair decides nothing.

    Raises:
        ValueError: no pair.
    """
    if pairs.empty:
        raise ValueError(f"the claim {claim!r} needs at least 1 pair to compare, got 0")
    found = [decided for _, decided, _ in _rows(pairs, better=better, confidence=confidence)]
    decided: Decision = "not decided"
    if "refuted" in found:
        decided = "refuted"
    elif set(found) == {"holds"}:
        decided = "holds"
    count = (
        f"{found.count('holds')} of {len(found)} comparisons show it, {found.count('refuted')} the opposite"
    )
    each = " ".join(comparison_sentences(pairs, unit=unit, better=better, confidence=confidence))
    text = (
        f"{capital(claim)}: {decided} ({count}). {each} {_refuter(better, decided, several=len(found) > 1)}"
    )
    return Verdict(claim=claim, decided=decided, text=text)


def comparison_sentences(
    pairs: pd.DataFrame, *, unit: str, better: Better = "lower", confidence: float = 0.95
) -> list[str]:
    """One sentence a row of `stats.paired_differences`, in the order of the table."""
    worse = "higher" if better == "lower" else "lower"
    sentences = []
    for row, decided, reason in _rows(pairs, better=better, confidence=confidence):
        what = {
            "holds": f"{row.a} is {better} than {row.b}",
            "refuted": f"{row.a} is {worse} than {row.b}",
            "not decided": f"Between {row.a} and {row.b} it is not decided which is {better}",
        }[decided]
        numbers = difference_in_words(
            row.difference, row.low, row.high, row.p_holm, row.n, unit=unit, confidence=confidence
        )
        sentences.append(f"{what}: {numbers}{reason}.")
    return sentences


def ranking_sentence(
    summary: pd.DataFrame, *, label: str, unit: str, better: Better = "lower", confidence: float = 0.95
) -> str:
    """The groups of `stats.summarise` by their means, best first, each with its interval and n."""
    ordered = summary.sort_values("mean", ascending=better == "lower", kind="stable")
    parts = []
    for row in ordered.to_dict("records"):
        value, low, high = in_digits(row["mean"], row["low"], row["high"])
        spread = f"{percent(confidence)} interval {low} to {high}" if low else "no interval"
        parts.append(f"{row[label]} {value} ({spread}, {seeds(row['n'])})")
    return f"Mean {unit}, best first: {', '.join(parts)}. The order is that of the means and is no test."


def reference_sentence(summary: pd.DataFrame, *, label: str, name: str, value: float, unit: str) -> str:
    """How the groups stand to a reference predictor of exactly known value; lower is better."""
    below = [str(row[label]) for row in summary.to_dict("records") if row["high"] < value]
    above = [str(row[label]) for row in summary.to_dict("records") if row["low"] > value]
    rest = [str(name) for name in summary[label] if str(name) not in below + above]
    says = [
        f"{', '.join(names)} {verb}"
        for names, verb in (
            (below, "better than it with the whole interval"),
            (above, "worse than it with the whole interval"),
            (rest, "not decided (the interval holds it or is missing)"),
        )
        if names
    ]
    return f"The best reference predictor, {name}, reaches {value:.4g} {unit}: {'; '.join(says)}."


def reading(
    summary: pd.DataFrame,
    pairs: pd.DataFrame,
    *,
    label: str,
    unit: str,
    references: Mapping[str, float] | None = None,
    verdicts: Sequence[Verdict] = (),
    better: Better = "lower",
    confidence: float = 0.95,
) -> str:
    """The paragraphs under a table: ranking, references, comparisons, claims.

    Args:
        summary: from `stats.summarise`, with the column `label`.
        pairs: from `stats.paired_differences`.
        references: names and values of predictors without seeds (`table.reference_values`), lower
            is better; the best one is compared with each group.
        verdicts: claims whose paragraphs follow.
    """
    paragraphs = [ranking_sentence(summary, label=label, unit=unit, better=better, confidence=confidence)]
    if references:
        best = min(references, key=references.__getitem__)
        value = references[best]
        paragraphs.append(reference_sentence(summary, label=label, name=best, value=value, unit=unit))
    sentences = comparison_sentences(pairs, unit=unit, better=better, confidence=confidence)
    family = family_of(pairs)
    part = ", of which those of the best model are told" if family > len(pairs) else ""
    many = f"Holm's correction covers all {family} comparisons{part}." if family > 1 else ""
    paragraphs.append(" ".join([*sentences, many]).strip())
    return "\n\n".join(filter(None, [*paragraphs, *(verdict.text for verdict in verdicts)]))


def _decide(low: float, high: float, p_holm: float, *, better: Better, confidence: float) -> Decision:
    if better not in ("lower", "higher"):
        raise ValueError(f"better is {better!r}; accepted: 'lower', 'higher'")
    # NaN compares false, so a missing interval or p decides nothing.
    if not p_holm < _alpha(confidence) or not (low > 0 or high < 0):
        return "not decided"
    return "holds" if (high < 0) == (better == "lower") else "refuted"


def _rows(pairs: pd.DataFrame, *, better: Better, confidence: float) -> Iterator[tuple[Any, Decision, str]]:
    """Each pair with its decision and, where there is none, the reason."""
    objections = pairs["objection"] if "objection" in pairs else [""] * len(pairs)
    for row, objection in zip(pairs.itertuples(), objections, strict=True):
        decided = _decide(row.low, row.high, row.p_holm, better=better, confidence=confidence)
        reason = _reason(decided, row.low, row.high, confidence=confidence, n=row.n)
        if objection and decided != "not decided":
            decided, reason = "not decided", f"; {objection}"
        yield row, decided, reason


def _reason(decided: Decision, low: float, high: float, *, confidence: float, n: int) -> str:
    """Why a difference is not decided."""
    if decided != "not decided":
        return ""
    if n < 2:
        return f"; an interval needs at least 2 seeds, got {n}"
    if low <= 0 <= high:
        return "; the interval holds 0"
    return f"; the interval excludes 0, but the adjusted p is not below {_alpha(confidence):g}"


def _refuter(better: Better, decided: Decision, *, several: bool = False) -> str:
    side = "above" if better == "lower" else "below"
    what = f"an interval{' of any one of them' if several else ''} wholly {side} 0, significant after Holm"
    if decided == "refuted":
        return f"What refutes it: {what}."
    return f"What would have refuted it: {what}."


def _alpha(confidence: float) -> float:
    """1 - confidence without the rounding error that would let p = 0.05 pass at 95%."""
    return round(1 - confidence, 12)
