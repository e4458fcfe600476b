"""What emergence says in words: comparisons beside a figure and in a reading, and which rises are jumps."""

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import pandas as pd

from lmbench.analysis.checks import require
from lmbench.analysis.earlier_words import UNIT, and_more, times, until
from lmbench.analysis.emerged import FEET, TOP
from lmbench.analysis.words import capital, percent, seeds

MOST_SENTENCES = 20
"""Comparisons, above which a reading has a paragraph for each capability and not for each of them."""

_JUMPS = ("score_jump", "nll_jump", "score_jump_half", "nll_jump_half")
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
        # The median was not reached, so the ratio is extrapolated; the restricted means' interval bounds it.
        value, bottom, top = times(row["restricted"], low, high)
        text = f"≥ {bottom}" if row["bound"] == "lower" else f"≤ {top}"
        low, high = (low, math.inf) if row["bound"] == "lower" else (0.0, high)
        return Drawn(row["restricted"], low, high, f"{text}, g = {value}{marks}")
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


def earlier_sentences(table: pd.DataFrame, *, shortcuts: Collection[tuple[str, str]] = ()) -> list[str]:
    """What the comparisons of `earlier_table` say, one by one or, where they are many, by capability.

    Args:
        table: rows of one metric, threshold and unit.
        shortcuts: (task, level) where a shortcut alone comes near the threshold, which get a ‡.
    """
    if len(table) <= MOST_SENTENCES:
        known = table.to_dict("records")
        return [row["sentence"] + " ‡" * ((row["task"], row["level"]) in shortcuts) for row in known]
    first = table.iloc[0]
    said = [
        f"Times earlier by the {first['metric']} at {first['threshold']:g}, in "
        f"{UNIT.get(first['unit'], first['unit'])}, with {percent(float(first['confidence']))} intervals; "
        f"decided after Holm's adjustment over {len(table)} comparisons. Ratios are of medians. Where a "
        "median was not reached, ≥ and ≤ stand before the end of the interval of g, a ratio of restricted "
        "geometric means; fitted ratios are extrapolated; at a † score and answer NLL do not say the same"
        + "; 'more at the end' are runs above at their last points, too few for an onset, and censored"
        * bool((table[["ending_a", "ending_b"]] > 0).any(axis=None))
        + "; at a ‡ a shortcut alone comes near the threshold" * bool(shortcuts)
        + "."
    ]
    reached = table[table["decided"] != "not reached"].groupby(["task", "level"], sort=False).size()
    for (b, task, level), rows in table.groupby(["b", "task", "level"], sort=False):
        if (task, level) not in reached:
            continue
        one = rows.iloc[0]
        by = until(one["latest"], one["budget"], one["unit"])
        beside = f"{b} ({one['emerged_b']} of {seeds(one['n_b'])} by {by}{and_more(one['ending_b'])})"
        mark = " ‡" * ((task, level) in shortcuts)
        said.append(f"{capital(task)} {level}{mark}, beside {beside}: {'; '.join(_verdicts(rows))}.")
    levels = table.groupby(["task", "level"], sort=False).size().index
    nobody = [f"{task} {level}" for task, level in levels if (task, level) not in reached]
    if nobody:
        said.append(f"Reached by no run of any: {', '.join(nobody)}.")
    return said


def earlier_caption(table: pd.DataFrame) -> str:
    """Which rows of `earlier_table` were declared, which are explored, and how each family is adjusted."""
    require(table, "primary")
    declared, explored = int(table["primary"].sum()), int((~table["primary"]).sum())
    said = f"{declared:,} rows are declared (primary) and decided after Holm's adjustment."
    if explored:
        said += (
            f" The other {explored:,} are explored and adjusted apart, by Benjamini and Hochberg, so the "
            "same numbers may have another verdict there."
        )
    return said


def _verdicts(rows: pd.DataFrame) -> list[str]:
    """Of one capability: who is earlier, later, not decided, and who is not there like the reference."""
    said = []
    for decided in ("earlier", "later", "not decided"):
        own = [
            f"{row['a']} {shown(row).text} ({row['emerged_a']} of {row['n_a']}{and_more(row['ending_a'])})"
            for row in rows[rows["decided"] == decided].to_dict("records")
        ]
        said += [f"{decided}: {', '.join(own)}"] if own else []
    neither = [
        row["a"] + f" ({and_more(row['ending_a'])[2:]})" * int(row["ending_a"] > 0)
        for row in rows[rows["decided"] == "not reached"].to_dict("records")
    ]
    return said + ([f"reached by neither: {', '.join(neither)}"] if neither else [])


def jump_sentences(dependence: pd.DataFrame) -> str:
    """Which capabilities jump in one metric only, in words.

    Args:
        dependence: from `emerged.metric_dependence`.

    Raises:
        ValueError: no rows or a missing column.
    """
    for column in ("label", "task", "level", "n", *_JUMPS, "dependent"):
        require(dependence, column)
    rows = [row for row in dependence.to_dict("records") if row["dependent"] != "not reached"]
    if not rows:
        return "Nothing rose in any model, in either metric."
    by = {kind: [row for row in rows if row["dependent"] == kind] for kind in ("yes", "no", "not decided")}
    sharp = [row for row in by["no"] if row["score_jump"] == "sharp"]
    n = len(by["yes"])
    count = f"{n} {'is' if n == 1 else 'are'}" if n else "none is"
    rises = f"{len(rows)} rise{'s' * (len(rows) != 1)} (a model in a task and level)"
    said = [
        f"Of {rises}, {count} metric-dependent, that is sharp in one metric only, both from {FEET[0]:g} and "
        f"from {FEET[1]:g} to {TOP:g}."
    ]
    for row in by["yes"]:
        one, other = ("score", "nll") if row["score_jump"] == "sharp" else ("nll", "score")
        said.append(
            f"{row['label']} in {row['task']} level {row['level']} is sharp in {_THE[one]} and "
            f"{_SAID[row[f'{other}_jump']]} in {_THE[other]} ({seeds(row['n'])})."
        )
    if sharp:
        said.append(f"Sharp in both: {_listed(sharp)}.")
    two_steps = [row for row in by["not decided"] if _rises_in_two_steps(row)]
    coarse = [row for row in by["not decided"] if row not in two_steps]
    if two_steps:
        said.append(
            f"Not decided, as the answer NLL rises in two steps, smooth from {FEET[0]:g} and as sharp as the "
            f"score from {FEET[1]:g}: {_listed(two_steps)}."
        )
    if coarse:
        said.append(
            "Not decided, as evaluations lie too far apart, the rise is not finished in one metric or the "
            f"two feet say different things: {_listed(coarse)}."
        )
    return " ".join(said)


def _rises_in_two_steps(row: Mapping[str, Any]) -> bool:
    """Whether the NLL is smooth from the first foot only, under a score that is sharp from both."""
    return tuple(row[name] for name in _JUMPS) == ("sharp", "smooth", "sharp", "sharp")


def _listed(rows: list[dict]) -> str:
    return "; ".join(f"{row['label']} in {row['task']} level {row['level']}" for row in rows)
