"""The integrator guide's claims beside what was counted and measured, each with its verdict.

Numbers of claims are those of our list of all of them. A verdict is "holds", "refuted" or "not
decided"; claims that the scale at hand cannot test are listed with the reason. A claim that one
thing is lower follows the rule of `verdict` (interval and Holm's p). A claim that nothing is lost holds
where the 95% interval of the difference ends below a margin that is named beforehand, and is refuted
where it begins above it and Holm's p is below 0.05. A claim of a range is judged by where the interval
lies. Counts are exact.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from lmbench.analysis.formats import METRICS
from lmbench.analysis.intervals import t_interval
from lmbench.analysis.verdict import Decision, comparison_sentences, judge
from lmbench.analysis.words import difference_in_words, in_digits, seeds

ALPHA = 0.05
UNTESTED = "not tested"
CLAIMS = ["number", "claim", "measured", "verdict"]
MEMORY_SAVED = 0.5  # the claim's lower end, of training memory
SLOWER = (1.2, 1.4)  # "about 30% slower", read as 20% to 40%
TYPICAL = (0.5, 0.7)  # "5 to 7 of 10 iterations"
OUT_OF_REACH = (
    ("8", "checkpointing enables models 2 to 3 times as large",
     "no model here is limited by memory; claim 7 says what its premise is worth"),
    ("11", "early stopping makes inference 30 to 50% faster",
     "iterations are counted; tokens that are done are frozen and not removed, so no time is saved here"),
    ("22", "sparse excitation makes inference 10% faster",
     "the force acts in training only, and its table is made once a step for all tokens"),
    ("32 to 39", "memory of models from 3 to 100 billion parameters, and on which cards they run",
     "nothing of this size is trained; their parameters are counted under 35"),
    ("41", "scales to 100 billion parameters", "no settings of such a model were published"),
)  # fmt: skip
"""(number, claim, why this cannot be tested here)."""


class Finding(NamedTuple):
    """One claim with its outcome."""

    number: str
    claim: str
    measured: str
    verdict: str


def counted_claims(counts: pd.DataFrame, savings: pd.DataFrame) -> list[Finding]:
    """Claims that a count decides.

    Args:
        counts: from `count_claims`.
        savings: from `saving_table`.
    """
    found = [
        Finding(row.number, row.claim, f"counted {row.counted}, claimed {row.claimed}", row.verdict)
        for row in counts.itertuples()
    ]
    for row in savings.to_dict("records"):
        measured = (
            f"claimed {row['claimed saving']}; counted: level 1 {row['level 1']}, ultra as published "
            f"{row['ultra as published']}, as described {row['ultra as described']}"
        )
        claim = f"size {row['size']}: parameters saved by all optimisations"
        found.append(Finding("35", claim, measured, row["verdict"]))
    return found


def memory_claims(checkpointing: pd.DataFrame) -> list[Finding]:
    """Claims about checkpointing, of which the published code wraps each step.

    Args:
        checkpointing: from `checkpointing_table`.
    """
    table = checkpointing.set_index("checkpointing")
    step, none = table.loc["step"], table.loc["none"]
    activations, whole = 1 - step["saved"] / none["saved"], 1 - step["training"] / none["training"]
    held = "holds" if whole >= MEMORY_SAVED else "refuted"
    kept = 1 - none["peak"] / none["training"]
    measured = (
        f"−{activations:.0%} of the saved activations, −{whole:.0%} of what training holds in all, of which "
        f"float32 weights and AdamW's moments, which no checkpointing touches, are {kept:.0%} here"
    )
    memory = Finding("7", "checkpointing takes 50 to 70% off the training memory", measured, held)
    value, low, high = in_digits(step["ratio"], step["low"], step["high"])
    spread = f" (95% interval {low} to {high}, {step['n']} timings)" if low else ""
    slower = f"a step takes {value} times as long{spread}; {step['recomputed']} of the forward FLOPs again"
    decided = _in_range(step["low"], step["high"], *SLOWER)
    return [memory, Finding("9", "training with checkpointing is about 30% slower", slower, decided)]


def stopping_claims(
    every: pd.DataFrame, pairs: pd.DataFrame, *, metric: str, margin: float, min_iteration: int
) -> list[Finding]:
    """Claims about early stopping, on trained weights.

    Args:
        every: from `iteration_runs`.
        pairs: from `iteration_pairs`.
        margin: of the metric, below which a difference counts as none.
    """
    unit = METRICS.get(metric, metric)
    ruled = every[every["how"].isin(["stopping", "published rule"])]
    published = ruled[ruled["how"] == "published rule"]
    shares = published["iterations"] / published["at_most"]
    found = [Finding("10", "5 to 7 of 10 iterations are typical", *_typical(shares))]
    for row in pairs[pairs["a"].str.startswith("published rule")].itertuples():
        text, decided = _lossless(row, unit, margin)
        if shares.eq(1).all():
            text, decided = "no token ever stops by it, so there is nothing to lose", "not decided"
        found.append(Finding("12", f"no accuracy is lost by the {row.a}", text, decided))
    found += [_relative(ruled[ruled["how"] == "stopping"], pairs, unit, margin)]
    least = ruled["iterations"].min()
    text = f"at least {min_iteration} asked for; the least mean over positions is {least:.2f}"
    kept = "holds" if least >= min_iteration else "refuted"
    return [
        *found,
        Finding("13", "no fewer iterations are taken than the least number", text, kept),
    ]


def _typical(shares: pd.Series) -> tuple[str, str]:
    if len(shares) < 2:
        return f"{shares.mean():.0%} of the iterations with the published rule (1 seed)", "not decided"
    known = t_interval(shares)
    text = (
        f"{known.value:.0%} of the iterations with the published rule (95% interval {known.low:.0%} to "
        f"{known.high:.0%}, {seeds(known.n)})"
    )
    return text, _in_range(known.low, known.high, *TYPICAL)


def _relative(stopping: pd.DataFrame, pairs: pd.DataFrame, unit: str, margin: float) -> Finding:
    """The corrected rule at the tolerance that saves most without a loss beyond the margin."""
    claim = "some iterations can be saved without loss by a rule that looks at the step"
    ahead = pairs[pairs["a"].str.startswith("stopping")]
    shares = stopping.groupby("setting")["iterations"].mean() / stopping["at_most"].max()
    took, kept = {f"stopping at {setting:g}": share for setting, share in shares.items()}, []
    for row in ahead.itertuples():
        text, decided = _lossless(row, unit, margin)
        if decided == "holds" and took[row.a] < 1:
            kept.append((took[row.a], f"{row.a} takes {took[row.a]:.0%} of them: {text}"))
    if kept:
        return Finding("12", claim, min(kept)[1], "holds")
    return Finding("12", claim, f"none of {len(ahead)} tolerances is shown to lose less", "not decided")


def quality_claims(
    pairs: pd.DataFrame, *, base: str, metric: str, margin: float, low_rank: str = "low rank, tied head"
) -> list[Finding]:
    """Claims about quality: the low-rank embedding, and efficiency against transformers.

    Args:
        pairs: from `stats.paired_differences` over the declared family.
    """
    unit, found = METRICS.get(metric, metric), []
    for row in pairs[pairs["a"] == low_rank].itertuples():
        found.append(Finding("6", "the low-rank embedding is as expressive", *_lossless(row, unit, margin)))
    for what in ("parameters", "FLOPs"):
        rival = pairs[(pairs["a"] == base) & pairs["b"].str.endswith(f"equal {what}")]
        if len(rival):
            claim = f"more efficient than a transformer of equal {what}"
            judged = judge(claim, rival, unit=unit)
            row = rival.iloc[0]
            found.append(Finding("40", claim, _in_words(row, unit), judged.decided))
    return found


def claim_table(findings: Sequence[Finding]) -> pd.DataFrame:
    """All findings in the order of the guide, and below them what cannot be tested here."""
    listed = sorted(findings, key=lambda finding: int(finding.number))
    rest = [Finding(number, claim, reason, UNTESTED) for number, claim, reason in OUT_OF_REACH]
    return pd.DataFrame([*listed, *rest], columns=CLAIMS)


def claims_reading(table: pd.DataFrame, pairs: pd.DataFrame, *, metric: str) -> str:
    """Paragraphs: how many claims hold, each that was decided or not, and every arm against the base.

    Args:
        table: from `claim_table`.
        pairs: of the arms.
    """
    tested = table[table["verdict"] != UNTESTED]
    counts = tested["verdict"].value_counts()
    said = ", ".join(f"{counts.get(name, 0)} {name}" for name in ("holds", "refuted", "not decided"))
    opening = f"Of {len(tested)} claims and parts of claims that were tested: {said}."
    measured = [
        row for row in tested.to_dict("records") if not row["measured"].startswith(("counted", "claimed"))
    ]
    each = [
        f"Claim {row['number']}, {row['claim']}: {row['verdict']} ({row['measured']})." for row in measured
    ]
    rest = table[table["verdict"] == UNTESTED]
    untested = [f"{row.claim} ({row.number}): {row.measured}" for row in rest.itertuples()]
    arms = comparison_sentences(pairs, unit=METRICS.get(metric, metric))
    many = f"Holm's correction covers all {len(pairs)} comparisons."
    return "\n\n".join(
        [opening, " ".join(each), " ".join([*arms, many]), f"Not tested here: {'; '.join(untested)}."]
    )


def _in_range(low: float, high: float, least: float, most: float) -> Decision:
    """Whether an interval lies in a range, outside of it, or says neither."""
    if low >= least and high <= most:
        return "holds"
    return "refuted" if low > most or high < least else "not decided"


def _lossless(row: Any, unit: str, margin: float) -> tuple[str, Decision]:
    """Whether a is worse than b by less than the margin; in words, and the decision."""
    text = f"{_in_words(row, unit)}; {margin:g} counts as none"
    if row.high < margin:
        return text, "holds"
    return text, "refuted" if row.low > margin and row.p_holm < ALPHA else "not decided"


def _in_words(row: Any, unit: str) -> str:
    return difference_in_words(
        row.difference, row.low, row.high, row.p_holm, row.n, unit=unit, confidence=0.95
    )
