"""Claims about the course of a constraint: its oscillation, warm-up and relaxation, and what it adds.

The schedule is compared with variants that lack one part of it, by final loss in paired seeds. The variant
without relaxation ends at other widths, so these two are compared at fixed widths only.
"""

import math

import pandas as pd

from lmbench.analysis.claims import BASE, BOTH, FILTERED, RANDOM, SCHED, claim
from lmbench.analysis.constraint_arms import nearest_constant
from lmbench.analysis.constraint_costs import cost_ratios
from lmbench.analysis.constraint_evidence import Evidence, Tested, difference, fixed, in_words
from lmbench.analysis.equivalence import equivalence
from lmbench.analysis.formats import METRICS
from lmbench.analysis.interaction import interaction
from lmbench.analysis.pairing import paired_values
from lmbench.analysis.replication import Verdict, judge_direction, judge_ratio, ratio_in_words
from lmbench.analysis.words import in_digits, seeds

COUNTED = {"targets": "tokens", "FLOPs": "active FLOPs", "seconds": "seconds"}
"""Costs in words."""
HEADS = 8
"""Fewer heads are too coarse for an oscillation of 0.05: none joins or leaves by it."""
OSCILLATION, WARMUP, RELAXATION = (
    "sched without oscillation",
    "sched without warm-up",
    "sched without relaxation",
)


def schedule_tests(evidence: Evidence) -> list[Tested]:
    """A26 to A30, as far as there is evidence."""
    found = []
    if evidence.has(SCHED, OSCILLATION):
        found.append(_oscillation(evidence))
    if evidence.has(SCHED, WARMUP):
        found.append(_lower("A27", evidence, evidence.runs, WARMUP, f"{SCHED} against {WARMUP}"))
    return [*found, *_graduated(evidence), *_together(evidence), *_relaxation(evidence)]


def _lower(
    id: str, evidence: Evidence, frame: pd.DataFrame, other: str, compared: str, *, arm: str = SCHED
) -> Tested:
    """Whether an arm's loss, the schedule's unless another is named, is lower than that of another."""
    row = difference(frame, arm, other, metric=evidence.metric)
    measured = in_words(row, METRICS.get(evidence.metric, evidence.metric))
    return Tested(
        id, compared, row["p"],
        lambda p: (judge_direction(-row["high"], -row["low"], p_adjusted=p), measured),
    )  # fmt: skip


def _oscillation(evidence: Evidence) -> Tested:
    """A26: lower, and by more than what counts as equal."""
    compared = f"{SCHED} against {OSCILLATION}"
    if "model.n_head" in evidence.runs:
        both = evidence.runs["label"].isin([SCHED, OSCILLATION])
        heads = evidence.runs["model.n_head"][both].min()
        if heads < HEADS:
            few = f"{heads:.0f} heads are fewer than {HEADS}, so the oscillation moves none of them"
            return fixed("A26", compared, "NT", few)
    test = _lower("A26", evidence, evidence.runs, OSCILLATION, compared)
    same = equivalence(
        *paired_values(evidence.runs, SCHED, OSCILLATION, value=evidence.metric), margin=evidence.margin
    )

    def judge(p: float) -> tuple[Verdict, str]:
        verdict, measured = test.judge(p)
        if same.decided == "equal":
            return "NOT", f"{measured}; equal to within {same.margin:.0%}"
        return verdict, measured

    return test._replace(judge=judge)


def _graduated(evidence: Evidence) -> list[Tested]:
    """A28: the race of the schedule against the constant constraint of about its mean."""
    constant, known = nearest_constant(evidence.arms), claim("A28")
    if constant is None or not evidence.has(SCHED):
        return []
    table = cost_ratios(evidence.rows, [(SCHED, constant)], metric=evidence.metric, slack=evidence.slack)
    return [
        race("A28", row, known.claimed, f"{SCHED} against {constant}, {COUNTED[row['cost']]}")
        for row in table.to_dict("records")
        if row["cost"] != "seconds"
    ]


def race(id: str, row: dict, claimed: float, compared: str) -> Tested:
    """The test of one row of `cost_ratios` against a claimed ratio."""
    unit = f"fewer {COUNTED[row['cost']]}"
    if row["reached"]:
        got = "" if row["reached"] == row["n"] else f", reached by {row['reached']} of {seeds(row['n'])}"
        measured = f"{ratio_in_words(row['ratio'], row['low'], row['high'], row['n'])} {unit}{got}"
    else:
        # Nothing was observed but the end of every run, so the bound is one of budgets, not of a sample.
        budget = f"no more than {row['high']:.3g} times {unit}" if math.isfinite(row["high"]) else "no ratio"
        measured = f"{budget}, as its budget allowed: reached by 0 of {seeds(row['n'])}"

    def judge(p: float) -> tuple[Verdict, str]:
        if row["objection"]:
            return "INC", f"{measured}; {row['objection']}"
        return judge_ratio(row["low"], row["high"], claimed=claimed, p_adjusted=p), measured

    return Tested(id, compared, row["p"], judge)


def together(evidence: Evidence) -> dict[str, str] | None:
    """The four arms of architecture by data: against a random selection, or where an arm lacks, all data."""
    for neither, first in ((RANDOM, f"{SCHED}, random 35%"), (BASE, SCHED)):
        if evidence.has(neither, first, FILTERED, BOTH):
            return {"neither": neither, "first": first, "second": FILTERED, "both": BOTH}
    return None


def _together(evidence: Evidence) -> list[Tested]:
    """A29: the interaction of both constraints, and whether both together are best.

    The interaction is on the loss, where below 0 is favourable. It can be so while both together are the
    worst of all, where each alone does so much harm that little is left to do; so that is asked too.
    """
    arms = together(evidence)
    if arms is None:
        return []
    compared = f"{{{arms['neither']}; {arms['first']}}} by {{{arms['second']}; {arms['both']}}}"
    found = interaction(evidence.runs, metric=evidence.metric, **arms).interaction
    value, low, high = in_digits(found.value, found.low, found.high, signed=True)
    unit = METRICS.get(evidence.metric, evidence.metric)
    measured = f"interaction {value} {unit} (95% interval {low} to {high}, {seeds(found.n)}; below 0 favours)"
    means = evidence.runs.groupby("label")[evidence.metric].mean()
    best = min((arms[name] for name in ("neither", "first", "second")), key=lambda arm: means[arm])
    said = f"{BOTH} against {best}, the lowest of the other three"
    return [
        Tested(
            "A29", compared, found.p,
            lambda p: (judge_direction(-found.high, -found.low, p_adjusted=p), measured),
        ),
        _lower("A29", evidence, evidence.runs, best, said, arm=BOTH),
    ]  # fmt: skip


def _relaxation(evidence: Evidence) -> list[Tested]:
    """A30: at each fixed width that both were scored at."""
    table = evidence.widths
    if table is None or not {SCHED, RELAXATION} <= set(table["label"]):
        return []
    found = []
    for width, own in table[table["width"] != "scheduled"].groupby("width", sort=False):
        if {SCHED, RELAXATION} <= set(own["label"]):
            compared = f"{SCHED} against {RELAXATION} at width {width}"
            found.append(_lower("A30", evidence, own, RELAXATION, compared))
    return found
