"""How many runs learned a capability at all, and whether that depends on the metric.

Outcomes over seeds are often bimodal: some runs never learn. So the share that does is reported
apart from the time of those that did, with its exact interval. And a sudden rise of a thresholded
score may be the metric's own (Schaeffer et al. 2023, "Are emergent abilities of large language models
a mirage?"), so shape and order of onsets are compared between the score and its continuous twin.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmbench.analysis.checks import require
from lmbench.analysis.intervals import check_confidence
from lmbench.errors import unknown

SERIES = ["run", "task", "level", "metric", "threshold"]
METRICS = {"score": "score", "nll": "answer_nll"}
"""Prefix of the columns, and the metric of the rows."""
FEET, TOP = (0.25, 0.5), 0.75
"""Thresholds between which a rise is measured. The nats of an answer pass 0.25 while a model learns the
format and the marginals, long before they fall with the score, so the first foot alone makes any rise of
the score look like the metric's own."""
SHARP = 1.5
"""Factor of the unit within which a sharp rise goes from foot to top."""


def emerged_table(
    onsets: pd.DataFrame,
    *,
    by: Sequence[str] = ("label", "task", "level", "metric", "threshold"),
    confidence: float = 0.95,
) -> pd.DataFrame:
    """In how many runs each capability emerged, with Clopper and Pearson's exact interval (1934).

    Args:
        onsets: rows of `onset.onsets`; a run counts once, whatever the number of units.

    Returns:
        The `by` columns, n (runs), emerged, share, low, high, in order of first appearance.

    Raises:
        ValueError: a missing column, no rows, or a `by` so coarse that a run would count twice.
    """
    from scipy import stats

    by = list(by)
    for column in (*SERIES, *by, "emerged"):
        require(onsets, column)
    check_confidence(confidence)
    once = onsets.drop_duplicates(SERIES)
    twice = once.duplicated([*by, "run"])
    if twice.any():
        mixed = [name for name in SERIES[1:] if name not in by and once[name].nunique() > 1]
        raise ValueError(
            f"run {once['run'][twice].iloc[0]!r} would count several times; add {', '.join(mixed)} to `by`"
        )
    rows = []
    for key, group in once.groupby(by, sort=False, dropna=False, observed=True):
        k, n = int(group["emerged"].sum()), len(group)
        known = stats.binomtest(k, n).proportion_ci(confidence, method="exact")
        rows.append((*key, n, k, k / n, float(known.low), float(known.high)))
    return pd.DataFrame(rows, columns=[*by, "n", "emerged", "share", "low", "high"])


def fisher(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Two-sided p of Fisher's exact test that two groups emerge equally often.

    Args:
        a, b: (emerged, n) of each group.

    Raises:
        ValueError: counts that are not 0 <= emerged <= n with n >= 1.
    """
    from scipy import stats

    for emerged, n in (a, b):
        if not 0 <= emerged <= n or n < 1:
            raise ValueError(f"counts are (emerged, n) with 0 <= emerged <= n and n >= 1, got {(emerged, n)}")
    table = [[int(emerged), int(n - emerged)] for emerged, n in (a, b)]
    return float(stats.fisher_exact(table).pvalue)


def metric_dependence(
    onsets: pd.DataFrame, *, unit: str = "step", threshold: float = 0.5, factor: float = SHARP
) -> pd.DataFrame:
    """Whether a rise that is sharp in the score is sharp in the answer's NLL too.

    A run's rise is as steep as T(0.75) / T(0.25), which the grid bounds from below and above. Of a
    label's runs the medians of these bounds count, a rise that is not finished as infinite:
    "sharp" if the upper one is at most `factor`, "smooth" if the lower one is above it, "not reached" if
    it is infinite, else "not decided": the grid is too coarse, or the first point was past the foot. The same
    is asked of T(0.75) / T(0.5), for a score that jumps in the middle of a smooth rise of the NLL is sharp
    from both feet, and an NLL that rises in two steps is smooth from the first foot only.

    Args:
        onsets: rows of `onset.onsets` with both metrics and the thresholds 0.25, 0.5, 0.75 and `threshold`.

    Returns:
        label, task, level, n (runs), and score_emerged, nll_emerged (runs past `threshold`), score_jump,
        nll_jump (from 0.25), score_jump_half, nll_jump_half (from 0.5), dependent ("yes" where from both
        feet the same one is sharp and the other smooth or not reached, "no" where from the first both are
        alike and the second does not contradict it, else "not decided").

    Raises:
        ValueError: a missing column, unit, metric or threshold; runs that lack one of the metrics.
    """
    chosen = _chosen(onsets, unit, (*FEET, threshold, TOP))
    rows = []
    for key, group in chosen.groupby(["label", "task", "level"], sort=False, dropna=False, observed=True):
        row = dict(zip(("label", "task", "level"), key, strict=True)) | {"n": group["run"].nunique()}
        own = {name: _of_metric(group, metric, key) for name, metric in METRICS.items()}
        emerged = {name: int(part["emerged"].xs(threshold).sum()) for name, part in own.items()}
        jumps = [[_jump(part, factor, foot=foot) for part in own.values()] for foot in FEET]
        row |= {f"{name}_emerged": k for name, k in emerged.items()}
        for suffix, both in zip(("", "_half"), jumps, strict=True):
            row |= {f"{name}_jump{suffix}": jump for name, jump in zip(own, both, strict=True)}
        rows.append(row | {"dependent": _from_both_feet(*jumps)})
    return pd.DataFrame(rows)


def metric_order(onsets: pd.DataFrame, *, unit: str = "step", threshold: float = 0.5) -> pd.DataFrame:
    """Whether both metrics put the onsets of two labels in the same order; an order, not a test.

    A run of a is earlier than one of b if its interval ends by the start of the other's. The label
    that is earlier in more of these pairs of runs leads; in neither more, "neither" does.

    Returns:
        task, level, a, b, score_earlier, nll_earlier (the label, or "neither"), agrees.

    Raises:
        ValueError: as `metric_dependence`.
    """
    chosen = _chosen(onsets, unit, (threshold,))
    rows = []
    for (task, level), group in chosen.groupby(["task", "level"], sort=False, dropna=False, observed=True):
        labels = dict(iter(group.groupby("label", sort=False, observed=True)))
        for a, b in itertools.combinations(labels, 2):
            row = {"task": task, "level": level, "a": a, "b": b}
            for name, metric in METRICS.items():
                sides = [_of_metric(labels[label], metric, (label, task, level)) for label in (a, b)]
                row[f"{name}_earlier"] = ("neither", a, b)[_leader(*sides)]
            rows.append(row | {"agrees": row["score_earlier"] == row["nll_earlier"]})
    return pd.DataFrame(rows, columns=["task", "level", "a", "b", "score_earlier", "nll_earlier", "agrees"])


def _leader(a: pd.DataFrame, b: pd.DataFrame) -> int:
    """1 if the runs of a are more often earlier, -1 if those of b, 0 if neither."""
    wins = (a["upper"].to_numpy()[:, None] <= b["lower"].to_numpy()).sum()
    losses = (b["upper"].to_numpy()[:, None] <= a["lower"].to_numpy()).sum()
    return int(np.sign(wins - losses))


def _chosen(onsets: pd.DataFrame, unit: str, thresholds: Sequence[float]) -> pd.DataFrame:
    """Rows in one unit at some thresholds, all of which must be there."""
    for column in (*SERIES, "label", "unit", "lower", "upper", "emerged"):
        require(onsets, column)
    if unit not in set(onsets["unit"]):
        raise ValueError(unknown("unit", unit, set(onsets["unit"])))
    for threshold in thresholds:
        if threshold not in set(onsets["threshold"]):
            raise ValueError(unknown("threshold", f"{threshold:g}", set(onsets["threshold"])))
    for metric in METRICS.values():
        if metric not in set(onsets["metric"]):
            raise ValueError(unknown("metric", metric, set(onsets["metric"])))
    return onsets[(onsets["unit"] == unit) & onsets["threshold"].isin(thresholds)]


def _of_metric(group: pd.DataFrame, metric: str, key: tuple[str, str, str]) -> pd.DataFrame:
    """Rows of one metric by (threshold, run)."""
    own = group[group["metric"] == metric]
    if set(own["run"]) != set(group["run"]):
        lacking = sorted(set(group["run"]) - set(own["run"]))[0]
        raise ValueError(
            f"run {lacking!r} has no {metric} of {' '.join(map(str, key[1:]))}, only the other metric"
        )
    return own.set_index(["threshold", "run"])


def _jump(own: pd.DataFrame, factor: float, *, foot: float) -> str:
    """How steep a rise is; `own` is of one metric, by (threshold, run)."""
    foot = own.xs(foot)
    top = own.xs(TOP).reindex(foot.index)
    with np.errstate(divide="ignore"):
        most = np.where(top["emerged"], top["upper"] / foot["lower"], math.inf)
        least = np.where(top["emerged"], top["lower"] / foot["upper"], math.inf)
    if np.median(least) == math.inf:
        return "not reached"
    if np.median(most) <= factor:
        return "sharp"
    return "smooth" if np.median(least) > factor else "not decided"


def _from_both_feet(first: Sequence[str], second: Sequence[str]) -> str:
    """What (score, nll) from the first foot says, unless the second foot does not bear it out."""
    one, other = _dependent(*first), _dependent(*second)
    if one == "yes":
        is_same = other == "yes" and first.index("sharp") == second.index("sharp")
        return "yes" if is_same else "not decided"
    return "not decided" if (one, other) == ("no", "yes") else one


def _dependent(score: str, nll: str) -> str:
    if score == nll == "not reached":
        return "not reached"
    if "not decided" in (score, nll):
        return "not decided"
    if score == nll:
        return "no"
    return "yes" if "sharp" in (score, nll) else "not decided"
