"""What emergence says in words: comparisons beside a figure and in a reading, and which rises are jumps."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from lmbench.analysis.checks import require
from lmbench.analysis.earlier_words import UNIT, amount, times
from lmbench.analysis.replication import ALPHA
from lmbench.analysis.words import capital, p_value, percent, seeds

MOST_SENTENCES = 20
"""Comparisons, above which a reading has a paragraph for each capability and not for each of them."""

_THE = {"score": "the score", "nll": "the answer NLL"}
_SAID = {"smooth": "smooth", "not reached": "not finished"}


class Drawn(NamedTuple):
    """What one row shows: ratio and interval (NaN where there is none), and its words."""

    ratio: float
    low: float
    high: float
    text: str


def shown(row: dict[str, Any]) -> Drawn:
    """What the row of a comparison shows."""
    if row["decided"] == "not reached":
        return Drawn(math.nan, math.nan, math.nan, "not reached by either")
    if row["method"] == "none":
        return Drawn(math.nan, math.nan, math.nan, "both by the first evaluation")
    marks = " †" if row["depends_on_metric"] is True else ""
    low, high = row["restricted_low"], row["restricted_high"]
    is_bound = {("lower", "earlier"): low > 1, ("upper", "later"): high < 1}
    if is_bound.get((row["bound"], row["decided"]), False):
        # The median was not reached, so the ratio is extrapolated; restricted means bound it.
        sign = "≥" if row["bound"] == "lower" else "≤"
        text = f"{sign} {_in_words(row['restricted'], low, high)}{marks}"
        low, high = (low, math.inf) if row["bound"] == "lower" else (0.0, high)
        return Drawn(row["restricted"], low, high, text)
    numbers = row["ratio"], row["low"], row["high"]
    fitted = "fitted " if row["bound"] else ""
    return Drawn(*numbers, f"{fitted}{_in_words(*numbers)}{marks}")


def _in_words(ratio: float, low: float, high: float) -> str:
    """`1.92 [0.99, 3.74]`; what is far from 1 is not told to its digits."""
    known = (ratio, low, high)
    words = [_far(x) or text for x, text in zip(known, times(*known), strict=True)]
    return "{} [{}, {}]".format(*words)


def _far(x: float) -> str:
    if x in (0.0, math.inf):
        return "0" if x == 0 else "∞"
    return "< 0.001" if x < 1e-3 else "> 1000" if x > 1e3 else ""


def earlier_sentences(table: pd.DataFrame) -> list[str]:
    """What the comparisons of `earlier_table` say, one by one or, where they are many, by capability.

    Args:
        table: rows of one metric, threshold and unit.
    """
    if len(table) <= MOST_SENTENCES:
        return [f"{row['sentence']}{_adjusted(row, len(table))}" for row in table.to_dict("records")]
    first = table.iloc[0]
    said = [
        f"Times earlier by the {first['metric']} at {first['threshold']:g}, in "
        f"{UNIT.get(first['unit'], first['unit'])}, with {percent(float(first['confidence']))} intervals; "
        f"decided after Holm's adjustment over {len(table)} comparisons. ≥ and ≤ are bounds from restricted "
        "means, where a median was not reached; fitted ratios are extrapolated; at a † score and answer NLL "
        "do not say the same."
    ]
    reached = table[table["decided"] != "not reached"].groupby(["task", "level"], sort=False).size()
    for (b, task, level), rows in table.groupby(["b", "task", "level"], sort=False):
        if (task, level) not in reached:
            continue
        one = rows.iloc[0]
        beside = f"{b} ({one['emerged_b']} of {seeds(one['n_b'])} by {amount(one['budget'], one['unit'])})"
        said.append(f"{capital(task)} {level}, beside {beside}: {'; '.join(_verdicts(rows))}.")
    levels = table.groupby(["task", "level"], sort=False).size().index
    nobody = [f"{task} {level}" for task, level in levels if (task, level) not in reached]
    if nobody:
        said.append(f"Reached by no run of any: {', '.join(nobody)}.")
    return said


def _adjusted(row: Mapping[str, Any], n: int) -> str:
    """What the adjustment takes back of a sentence that says earlier or later."""
    if row["decided"] != "not decided" or not row["p"] < ALPHA <= row["p_holm"]:
        return ""
    return f" Over {n} comparisons it is not decided: Holm's {p_value(row['p_holm'])}."


def _verdicts(rows: pd.DataFrame) -> list[str]:
    """Of one capability: who is earlier, later, not decided, and who is not there like the reference."""
    said = []
    for decided in ("earlier", "later", "not decided"):
        own = [
            f"{row['a']} {shown(row).text} ({row['emerged_a']} of {row['n_a']})"
            for row in rows[rows["decided"] == decided].to_dict("records")
        ]
        said += [f"{decided}: {', '.join(own)}"] if own else []
    neither = list(rows.loc[rows["decided"] == "not reached", "a"])
    return said + ([f"reached by neither: {', '.join(neither)}"] if neither else [])


def jump_sentences(dependence: pd.DataFrame) -> str:
    """Which capabilities jump in one metric only, in words.

    Args:
        dependence: from `emerged.metric_dependence`.

    Raises:
        ValueError: no rows or a missing column.
    """
    for column in ("label", "task", "level", "n", "score_jump", "nll_jump", "dependent"):
        require(dependence, column)
    rows = [row for row in dependence.to_dict("records") if row["dependent"] != "not reached"]
    if not rows:
        return "Nothing rose in any model, in either metric."
    by = {kind: [row for row in rows if row["dependent"] == kind] for kind in ("yes", "no", "not decided")}
    sharp = [row for row in by["no"] if row["score_jump"] == "sharp"]
    n = len(by["yes"])
    count = f"{n} {'is' if n == 1 else 'are'}" if n else "none is"
    rises = f"{len(rows)} rise{'s' * (len(rows) != 1)} (a model in a task and level)"
    said = [f"Of {rises}, {count} metric-dependent, that is sharp in one metric only."]
    for row in by["yes"]:
        one, other = ("score", "nll") if row["score_jump"] == "sharp" else ("nll", "score")
        said.append(
            f"{row['label']} in {row['task']} level {row['level']} is sharp in {_THE[one]} and "
            f"{_SAID[row[f'{other}_jump']]} in {_THE[other]} ({seeds(row['n'])})."
        )
    if sharp:
        said.append(f"Sharp in both: {_listed(sharp)}.")
    if by["not decided"]:
        said.append(
            "Not decided, as evaluations lie too far apart or the rise is not finished in one metric: "
            f"{_listed(by['not decided'])}."
        )
    return " ".join(said)


def _listed(rows: list[dict]) -> str:
    return "; ".join(f"{row['label']} in {row['task']} level {row['level']}" for row in rows)
