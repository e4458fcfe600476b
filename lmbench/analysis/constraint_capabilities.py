"""Claims that a constrained model acquires capabilities earlier (A13 to A17), judged by times of emergence.

Arms and base learn one mixture of tasks made by rule, the same examples in the same order, and are
scored on a grid of steps. A time is counted in tokens and in the FLOPs of the units in use, and the
claim is held to both: a step that costs less is earlier in FLOPs before anything has been
learned, and one that teaches more may cost more. Runs that end first are censored and stay in.

What is claimed is of the schedule together with a filter of data. Such tasks have no documents that
a filter could choose among, so it is the schedule alone that is asked here, and the small model.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lmbench.analysis.checks import require
from lmbench.analysis.claims import BASE, claim
from lmbench.analysis.constraint_evidence import Evidence, Tested, fixed
from lmbench.analysis.earlier_table import earlier_table
from lmbench.analysis.emergence import passed_without
from lmbench.analysis.onset import onsets
from lmbench.analysis.replication import ALPHA, Verdict, judge_ratio, ratio_in_words
from lmbench.analysis.words import seeds

TASKS: Mapping[str, tuple[str, ...]] = {
    "A13": ("chain", "recall"),
    "A14": ("audit", "retry"),
    "A15": ("scm",),
    "A16": ("route",),
    "A17": ("reports",),
}
"""Tasks that ask for the capability of a claim."""
CONTINUOUS = ("A17",)
"""Claims judged by the nats of the answer: normalised, they are 1 minus the divergence from the exact
posterior over that of a guesser. A score counts answers and asks for no estimate."""
UNITS = {"tokens": "tokens", "active_flops": "active FLOPs"}
"""In which an emergence has to be earlier, all of them."""


def times_earlier(
    points: pd.DataFrame, ladder: pd.DataFrame, *, reference: str = BASE, threshold: float = 0.5
) -> pd.DataFrame:
    """How many times earlier each arm has each capability than the base, in tokens and in FLOPs.

    Args:
        points: tracked points with column `normalised`, labels of arms, and `active_flops`.
        ladder: of the same levels.
        threshold: of the normalised score.

    Returns:
        The rows of `earlier_table`, paired by seed, with steps (all that were trained) and shortcut: what
        passes the threshold of the score without the capability, "" where nothing does.

    Raises:
        ValueError: as `onsets` and `earlier_table`.
    """
    known = onsets(points, thresholds=[threshold], units=list(UNITS))
    table = earlier_table(
        known, reference=reference, primary_unit="tokens", primary_threshold=threshold, paired=True
    )
    passed = passed_without(ladder, threshold=threshold).drop_duplicates(["task", "level"])
    named = passed.set_index(["task", "level"])["shortcut"].to_dict()
    keys = zip(table["task"], table["level"].astype(str), table["metric"], strict=True)
    shortcut = [named.get((task, level), "") if metric == "score" else "" for task, level, metric in keys]
    return table.assign(shortcut=shortcut, steps=int(points["step"].max()))


def emergence_tests(evidence: Evidence) -> list[Tested]:
    """A13 to A17, a test for each arm of the claim and each level of its tasks that were learned."""
    table, found = evidence.emergence, []
    if table is None:
        return []
    for column in ("a", "b", "task", "level", "metric", "unit", "shortcut", "steps"):
        require(table, column)
    for id, tasks in TASKS.items():
        metric = "answer_nll" if id in CONTINUOUS else "score"
        own = table[table["task"].isin(tasks) & (table["metric"] == metric) & (table["b"] == BASE)]
        for arm in claim(id).treatment:
            for _, rows in own[own["a"] == arm].groupby(["task", "level"], sort=False):
                by_unit = {row["unit"]: row for row in rows.to_dict("records")}
                found.append(_earlier(id, [by_unit[unit] for unit in UNITS]))
    return found


def _earlier(id: str, rows: Sequence[dict]) -> Tested:
    """The test of one arm on one level: a row of times in each unit."""
    row, counted = rows[0], []
    level = f"{row['task']} level {row['level']}" + ", by the nats of the answer" * (id in CONTINUOUS)
    compared = f"{row['a']} against {row['b']}, {level}"
    if row["shortcut"]:
        said = f"the shortcut {row['shortcut']!r} alone passes {row['threshold']:g} on {level}"
        return fixed(id, compared, "NT", f"{said}, so passing it does not show the capability")
    counts = (f"{row[f'emerged_{side}']} of {seeds(row[f'n_{side}'])} in {row[side]}" for side in "ab")
    reached = f"reached: {', '.join(counts)}, by {row['steps']:,} steps"
    if row["decided"] == "not reached":
        # A test that was declared and could not be made counts in its family.
        return Tested(id, compared, math.nan, lambda _: ("NT", f"{level} not {reached}"))
    ends = [bounds(one) for one in rows]
    for one, (low, high) in zip(rows, ends, strict=True):
        ratio = math.nan if one["bound"] else one["ratio"]
        n = min(one["n_a"], one["n_b"])
        counted.append(f"in {UNITS[one['unit']]} {ratio_in_words(ratio, low, high, n)}")
    depends = "; score and nats of the answer do not say the same" * any(
        one["depends_on_metric"] is True for one in rows
    )
    if all(low <= 0 and math.isinf(high) for low, high in ends):
        counted = ["too few onsets are bounded on both sides to say how many times"]
    measured = f"{', '.join(counted)} earlier; {reached}{depends}"
    claimed = claim(id).claimed
    return Tested(
        id, compared, either([one["p"] for one in rows]),
        lambda p: (judge_all(ends, claimed=claimed, p_adjusted=p), measured),
    )  # fmt: skip


def bounds(row: Mapping[str, object]) -> tuple[float, float]:
    """The interval of a ratio of times; where a median lies beyond the budget, one end of it is open.

    The other end is the more cautious of two. The ratio of restricted means lies nearer to 1 than that of
    medians, which are extrapolated. But where nearly all runs are censored, restricted means are equal
    without any spread, whatever the times are, and then it is the fit that says how little is known.
    """
    if row["bound"] == "lower":
        return float(np.minimum(row["low"], row["restricted_low"])), math.inf
    if row["bound"] == "upper":
        return 0.0, float(np.maximum(row["high"], row["restricted_high"]))
    return float(row["low"]), float(row["high"])


def either(p_values: Sequence[float]) -> float:
    """p of a difference in at least one unit, by Bonferroni; NaN where no unit has a test."""
    known = np.asarray(p_values, float)
    known = known[~np.isnan(known)]
    return min(1.0, len(p_values) * float(known.min())) if len(known) else math.nan


def judge_all(ends: Sequence[tuple[float, float]], *, claimed: float, p_adjusted: float = 0.0) -> Verdict:
    """The verdict on a ratio that is claimed in several units at once, by its interval in each.

    Replicated needs all of them. One that is shown to be reversed refutes the claim; a sign in only one of
    them, the others open, is a direction at most.

    Args:
        p_adjusted: of a difference in any of them; a unit's own interval then says in which.
    """
    each = [judge_ratio(low, high, claimed=claimed, p_adjusted=p_adjusted) for low, high in ends]
    if p_adjusted < ALPHA and any(high < 1 for _, high in ends):
        return "NOT"
    if set(each) == {"REP"}:
        return "REP"
    if {"REP", "DIR"} & set(each):
        return "DIR"
    return "NOT" if "NOT" in each else "INC"
