"""What stands against a reading of emergence: what a step costs, what a method assumes, noise, shortcuts.

A winner in steps may be the loser in FLOPs; a decision may rest on an assumption that no test without it
bears out; and a score that stays at the threshold passes it by noise. Each has a sentence, with its counts.
"""

import numpy as np
import pandas as pd

from lmbench.analysis.checks import require
from lmbench.analysis.earlier import decide
from lmbench.analysis.earlier_words import UNIT
from lmbench.analysis.emergence_words import shown
from lmbench.analysis.intervals import holm

ASSUMING = "AFT with one spread"
LAST = 10
"""Points at the end of a run that show whether it still rises."""
NOISE = 2.0
"""Standard deviations of a single point within which a run's mean lies at the threshold."""
NEAR = 0.05
"""Below the threshold, from where on a shortcut is told: noise is as large."""


def cost_sentences(
    onsets: pd.DataFrame, earlier: pd.DataFrame, *, unit: str = "step", other: str = "flops"
) -> list[str]:
    """What a step costs in another unit, and which declared verdicts are others in it.

    Args:
        onsets: rows of `onset.onsets`.
        earlier: of `earlier_table`. Its scores in `other` are adjusted by Holm here, as the declared
            family is, for what is the same question in another unit.

    Returns:
        No sentences where the tables do not hold both units.
    """
    declared = earlier[earlier["primary"]]
    is_there = {unit, other} <= set(onsets["unit"]) and {unit, other} <= set(earlier["unit"])
    if declared.empty or not is_there:
        return []
    spent = onsets.groupby(["label", "unit"], sort=False)["last"].max().unstack()
    cost = spent[other] / spent[unit]
    said = []
    for b in dict.fromkeys(declared["b"]):
        each = ", ".join(f"{a} {cost[a] / cost[b]:.3g}" for a in dict.fromkeys(declared["a"]) if a != b)
        said.append(f"Times the {UNIT[other]} of a step of {b}, a step costs: {each}.")
    changed = changed_verdicts(earlier, unit=other)
    opening = (
        f"Of {len(declared)} declared verdicts {len(changed)} are others in {UNIT[other]}, adjusted alike"
    )
    if changed.empty:
        return [" ".join([*said, f"{opening}."])]
    groups = [
        f"{here} in {UNIT[unit]} and {then} in {UNIT[other]}: " + ", ".join(_both(rows))
        for (here, then), rows in changed.groupby(["decided", "decided_there"], sort=True)
    ]
    return [" ".join([*said, f"{opening}; {'; '.join(groups)}."])]


def changed_verdicts(earlier: pd.DataFrame, *, unit: str) -> pd.DataFrame:
    """The declared comparisons that have another verdict in `unit`, whose columns end in _there.

    Args:
        earlier: of `earlier_table`, against one reference or several, as one family.
    """
    declared, there = earlier[earlier["primary"]], _family(earlier, unit)
    beside = declared.merge(there, on=["a", "b", "task", "level"], suffixes=("", "_there"))
    return beside[beside["decided"] != beside["decided_there"]]


def decided_otherwise(table: pd.DataFrame, rows: pd.DataFrame) -> set[tuple[str, str, str]]:
    """(a, task, level) of declared rows that have another verdict in FLOPs.

    Args:
        table: of `earlier_table`.
        rows: those of it that are drawn, against one reference.
    """
    if not rows["primary"].all() or "flops" not in set(table["unit"]) or (rows["unit"] == "flops").any():
        return set()
    found = changed_verdicts(table, unit="flops")
    found = found[found["b"].isin(rows["b"])]
    return set(zip(found["a"], found["task"], found["level"], strict=True))


def _family(earlier: pd.DataFrame, unit: str) -> pd.DataFrame:
    """The declared comparisons in another unit, decided after Holm's adjustment over them."""
    declared = earlier[earlier["primary"]]
    same = (earlier["metric"] == "score") & (earlier["unit"] == unit)
    rows = earlier[same & earlier["threshold"].isin(declared["threshold"])].copy()
    alpha = (1 - rows["confidence"]).round(12)
    sure = holm(rows["p"].to_numpy(float)) < alpha
    own = [decide(low, high) for low, high in zip(rows["low"], rows["high"], strict=True)]
    verdict = pd.Series(own, index=rows.index, dtype=object).where(sure, "not decided")
    return rows.assign(decided=verdict.where(rows["decided"] != "not reached", "not reached"))


def _both(rows: pd.DataFrame) -> list[str]:
    """Each comparison of a group, with what it shows in the one unit and in the other."""
    said = []
    for row in rows.to_dict("records"):
        there = {name: row[f"{name}_there"] for name in row if f"{name}_there" in row}
        texts = [shown(row | side | {"depends_on_metric": False}).text for side in ({}, there)]
        said.append(f"{row['a']} on {row['task']} {row['level']} ({texts[0]}; {texts[1]})")
    return said


def assumption_sentence(earlier: pd.DataFrame) -> str:
    """How many declared decisions rest on a common spread, and which of them nothing else bears out.

    Args:
        earlier: of `earlier_table`.
    """
    declared = earlier[earlier["primary"]]
    if declared.empty:
        return ""
    for column in ("method", "decided", "fisher_p", "log_rank_p", "confidence"):
        require(declared, column)
    decided = declared["decided"].isin(["earlier", "later"])
    resting = decided & (declared["method"] == ASSUMING)
    if not resting.any():
        return ""
    alpha = (1 - declared["confidence"]).round(12)
    tests = [holm(declared[name].to_numpy(float)) < alpha for name in ("fisher_p", "log_rank_p")]
    alone = declared[resting & ~np.logical_or(*tests)]
    named = ", ".join(f"{row.a} on {row.task} {row.level}" for row in alone.itertuples())
    said = (
        f"{resting.sum()} of {decided.sum()} decisions rest on {ASSUMING!r}: it assumes that log times are "
        "normal with the same spread in both models, where one of them has too few onsets to show its own. "
    )
    checks = "Fisher's exact test of equal shares" + " {} the log-rank test, each after the same adjustment, "
    if alone.empty:
        return said + checks.format("or") + "bears out each of them."
    return f"{said}Neither {checks.format('nor')}bears out {len(alone)} of them: {named}."


def plateau_sentence(points: pd.DataFrame, *, threshold: float = 0.5) -> str:
    """Where most runs of a model end level at the threshold, so that noise decides whether they emerged.

    Over a run's last points a straight line in log steps is fitted. The run is level if the line rises by
    no more than `NOISE` standard deviations of a point about it, and at the threshold if its mean is as near.

    Args:
        points: tracked points with column `normalised`.
    """
    for column in ("run", "label", "task", "level", "metric", "step", "normalised"):
        require(points, column)
    scores = points[points["metric"] == "score"].sort_values("step", kind="stable")
    named = []
    for (task, level), capability in scores.groupby(["task", "level"], sort=False, observed=True):
        for label, runs in capability.groupby("label", sort=False, observed=True):
            level_runs = [_is_level(run, threshold) for _, run in runs.groupby("run", sort=False)]
            if 2 * sum(level_runs) > len(level_runs):
                named.append(f"{label} on {task} {level} ({sum(level_runs)} of {len(level_runs)} runs)")
    if not named:
        return ""
    return (
        f"A plateau at the threshold, not a rise: {', '.join(named)}. The last {LAST} scores of these runs "
        f"do not rise and have their mean within {NOISE:g} standard deviations of {threshold:g}, so noise "
        "decides which of them count as emerged."
    )


def _is_level(run: pd.DataFrame, threshold: float) -> bool:
    """Whether the end of a run's scores is level and at the threshold, by its own noise."""
    end = run.tail(LAST)
    y = end["normalised"].to_numpy(float)
    if len(y) < LAST or not np.isfinite(y).all():
        return False
    x = np.log(end["step"].to_numpy(float))
    slope, start = np.polyfit(x, y, 1)
    noise = NOISE * float(np.std(y - start - slope * x, ddof=2))
    return bool(abs(slope * (x[-1] - x[0])) <= noise and abs(y.mean() - threshold) <= noise)
