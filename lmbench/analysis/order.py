"""When each capability emerges, and in which order, within a model.

A run shows all capabilities of its mixture, so the order of two is a paired question: each seed
says which came first and by what factor.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from lmbench.analysis.earlier import NARROW, above_at_the_end
from lmbench.analysis.earlier_words import UNIT, and_more
from lmbench.analysis.emerged import emerged_table
from lmbench.analysis.formats import format_si
from lmbench.analysis.intervals import Estimate, holm, t_interval
from lmbench.analysis.restricted import Ratio, at_least, middle_ratio, middles, resolution
from lmbench.analysis.survival import median_interval, turnbull
from lmbench.analysis.words import seeds

Name = tuple[str, str]


def onset_table(
    onsets: pd.DataFrame, *, unit: str = "step", threshold: float = 0.5, metric: str = "score"
) -> pd.DataFrame:
    """One row for each model and level, earliest first.

    Columns: label, task, level, n (runs), emerged (of them), share_low and share_high
    (Clopper-Pearson), median_low and median_high (the interval in which the estimated median lies, NaN
    where half of the runs never got there), mean, low, high (geometric mean of the middles of the onset
    intervals with its t interval, NaN where a run is censored on either side), last (the budget), latest
    (the last point at which an onset can be), ending (runs that were above at the end, and are censored).
    """
    rows = _chosen(onsets, unit, threshold, metric)
    shares = emerged_table(rows, by=("label", "task", "level")).set_index(["label", "task", "level"])
    table = []
    for key, runs in rows.groupby(["label", "task", "level"], sort=False):
        low, high = median_interval(turnbull(runs["lower"], runs["upper"]))
        mean = _mean_of_middles(runs)
        share = shares.loc[key]
        table.append(
            dict(zip(("label", "task", "level"), key, strict=True))
            | {"n": len(runs), "emerged": int(share["emerged"])}
            | {"share_low": share["low"], "share_high": share["high"]}
            | {"median_low": low, "median_high": high}
            | {"mean": mean.value, "low": mean.low, "high": mean.high, "last": runs["last"].max()}
            | {"latest": runs["latest"].min(), "ending": above_at_the_end(runs)}
        )
    found = pd.DataFrame(table)
    order = found["median_high"].fillna(math.inf)
    return (
        found.assign(order=order).sort_values(["label", "order"], kind="stable").drop(columns="order")
    ).reset_index(drop=True)


def order_table(
    onsets: pd.DataFrame, *, unit: str = "step", threshold: float = 0.5, metric: str = "score"
) -> pd.DataFrame:
    """Each level of a model against the one that emerged next: how many times earlier, paired by run.

    Columns: label, first, then (names of levels, in the order of the estimate), ratio, low, high, p, p_holm
    (over the table), n. A pair in which a run is censored, or known to a wide interval only, has no ratio;
    its p is that of the sign test over runs that order the two.
    """
    rows, pairs = _chosen(onsets, unit, threshold, metric), []
    for label, runs in onset_table(onsets, unit=unit, threshold=threshold, metric=metric).groupby(
        "label", sort=False
    ):
        reached = runs[runs["emerged"] > 0]
        names = list(zip(reached["task"], reached["level"], strict=True))
        for first, then in itertools.pairwise(names):
            mine = rows[rows["label"] == label]
            pairs.append(
                {"label": label, "first": _name(first), "then": _name(then), **_pair(mine, first, then)}
            )
    table = pd.DataFrame(pairs, columns=["label", "first", "then", "ratio", "low", "high", "p", "n"])
    table.insert(7, "p_holm", holm(table["p"].to_numpy(float)))
    return table


def order_sentences(
    onsets: pd.DataFrame,
    *,
    unit: str = "step",
    threshold: float = 0.5,
    metric: str = "score",
    alpha: float = 0.05,
) -> list[str]:
    """For each model, which capabilities emerge in which order, and which neighbours are decided.

    Levels that half of the runs do not reach have no median and no place in the order, and those that no
    run reaches are told by the last point at which each of them could have been.
    """
    table = onset_table(onsets, unit=unit, threshold=threshold, metric=metric)
    order = order_table(onsets, unit=unit, threshold=threshold, metric=metric)
    said = []
    for label, rows in table.groupby("label", sort=False):
        reached = rows[rows["emerged"] > 0]
        has_median = reached["median_high"].notna()
        parts = [_when(row, unit) for row in reached[has_median].itertuples()]
        some = [_share(row) for row in reached[~has_median].itertuples()]
        clauses = ["in order of their medians " + ", ".join(parts)] * bool(parts)
        clauses += ["reached without a median: " + ", ".join(some)] * bool(some)
        clauses = (clauses or ["nothing emerged"]) + _never(rows[rows["emerged"] == 0], unit)
        pairs = order[order["label"] == label]
        if len(pairs):
            clauses.append(_decided(pairs, n_tests=int(order["p"].notna().sum()), alpha=alpha))
        said.append(f"{label}: {'; '.join(clauses)}.")
    return said


def _never(rows: pd.DataFrame, unit: str) -> list[str]:
    """Levels that no run reached, by when they could have been: levels that take turns end earlier."""
    clauses = []
    for latest, own in sorted(rows.groupby("latest"), reverse=True):
        names = [
            _name((row.task, row.level)) + f" ({and_more(row.ending)[2:]})" * int(row.ending > 0)
            for row in own.itertuples()
        ]
        clauses.append(f"not reached by {format_si(latest)} {UNIT.get(unit, unit)}: {', '.join(names)}")
    return clauses


def _decided(pairs: pd.DataFrame, *, n_tests: int, alpha: float) -> str:
    """Which neighbours are decided, and which all seeds agree on but no sign test could decide."""
    sure = [f"{row.first} before {row.then}" for row in pairs[pairs["p_holm"] < alpha].itertuples()]
    said = "decided between neighbours: " + (", ".join(sure) if sure else "none")
    open_signs = pairs[pairs["ratio"].isna() & (pairs["p_holm"] >= alpha)]
    for n, own in open_signs.groupby("n", sort=False):
        least = binomtest(int(n), int(n)).pvalue
        agreed = own[np.isclose(own["p"], least)]
        if len(agreed) and n > 1 and least * n_tests >= alpha:
            names = ", ".join(f"{row.first} before {row.then}" for row in agreed.itertuples())
            among = f"{n_tests} pair{'s' * (n_tests != 1)}"
            said += (
                f"; in {n} of {n} seeds, which a sign test cannot decide among {among} (p at least "
                f"{least:.3g}, before the adjustment): {names}"
            )
    return said


def _chosen(onsets: pd.DataFrame, unit: str, threshold: float, metric: str) -> pd.DataFrame:
    is_asked = (onsets["unit"] == unit) & (onsets["metric"] == metric)
    rows = onsets[is_asked & np.isclose(onsets["threshold"], threshold)]
    if rows.empty:
        raise ValueError(f"there are no onsets of {metric} at threshold {threshold:g} in {unit}")
    return rows


def _mean_of_middles(runs: pd.DataFrame) -> Estimate:
    """Geometric mean with its interval, whose spread is at least what the grid can resolve."""
    lower, upper = runs["lower"].to_numpy(float), runs["upper"].to_numpy(float)
    if not ((lower > 0) & np.isfinite(upper)).all():
        return Estimate(math.nan, math.nan, math.nan, math.nan, len(runs), math.nan)
    logs = middles(lower, upper)
    if len(logs) == 1:
        return Estimate(math.exp(logs[0]), math.nan, math.nan, math.nan, 1, math.nan)
    found = t_interval(at_least(logs, resolution(lower, upper)))
    return found._replace(value=math.exp(found.value), low=math.exp(found.low), high=math.exp(found.high))


def _pair(runs: pd.DataFrame, first: Name, then: Name) -> dict[str, float | str | int]:
    """Which of two levels came first, by what factor: the paired t, or the sign test where times are
    censored or known to wide intervals only. The names are turned round where the estimate says so."""
    one, other = (
        runs[(runs["task"] == task) & (runs["level"] == level)].set_index("run")[["lower", "upper"]]
        for task, level in (first, then)
    )
    one, other = one.align(other, join="inner", axis=0)
    bounds = [side[end].to_numpy(float) for side in (one, other) for end in ("lower", "upper")]
    is_narrow = all(
        (low > 0).all() and (high <= NARROW * low).all() for low, high in (bounds[:2], bounds[2:])
    )
    if is_narrow and len(one) > 1:
        found = middle_ratio(*bounds, paired=True)
        if found.value < 1:
            first, then = then, first
            found = Ratio(1 / found.value, 1 / found.high, 1 / found.low, found.p)
        ratio = {"ratio": found.value, "low": found.low, "high": found.high, "p": found.p}
    else:
        earlier = int((one["upper"] <= other["lower"]).sum())
        later = int((other["upper"] <= one["lower"]).sum())
        if later > earlier:
            first, then = then, first
        p = binomtest(earlier, earlier + later).pvalue if earlier + later else math.nan
        ratio = dict.fromkeys(("ratio", "low", "high"), math.nan) | {"p": p}
    return {"first": _name(first), "then": _name(then)} | ratio | {"n": len(one)}


def _when(row: tuple, unit: str) -> str:
    when = f"{format_si(row.median_low)} to" if row.median_low > 0 else "by the first point,"
    when = f"{when} {format_si(row.median_high)} {UNIT.get(unit, unit)}"
    return f"{_name((row.task, row.level))} ({when}, {row.emerged} of {row.n}{and_more(row.ending)})"


def _share(row: tuple) -> str:
    return f"{_name((row.task, row.level))} ({row.emerged} of {seeds(row.n)}{and_more(row.ending)})"


def _name(level: Sequence[str]) -> str:
    return f"{level[0]} {level[1]}"
