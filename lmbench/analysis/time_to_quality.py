"""Time to quality: what runs spend until a validation loss first reaches a target.

The quality is fixed and the cost is measured: seconds, FLOPs and targets of training up to
the first validation at or below the target. A run that never gets there is censored: all that
is known is that its cost lies above what it spent. Costs are multiplicative, so means and t
intervals over seeds are taken on the log scale, and two recipes are compared by the ratio of
their means. With a censored seed there is no interval, only a bound: the mean in which that
seed counts with what it spent. Whether such a comparison is decided is asked of the log-rank
test, which knows of censoring.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lmbench.analysis.checks import refuse_mixed_devices, require
from lmbench.analysis.intervals import check_confidence, holm, t_interval, welch
from lmbench.errors import unknown
from lmbench.records import flatten

COSTS = {"seconds": "seconds", "flops": "FLOPs", "tokens": "targets"}
"""Column of the rows, and what it counts in words; all of training alone."""
KEPT = ("run", "label", "init_seed", "device", "jobs")
RATIOS = ["a", "b", "cost", "ratio", "low", "high", "p", "p_holm", "n", "known", "objection"]


class Spent(NamedTuple):
    """Mean cost of some runs; NaN where it is not known."""

    mean: float
    low: float
    high: float


def with_optimizer(rows: pd.DataFrame) -> pd.DataFrame:
    """Tidy rows whose `flops` count the optimizer's too, which rows of runs hold apart."""
    totals = rows[(rows["metric"] == "optimizer_flops") & (rows["step"] > 0)].drop_duplicates("run")
    per_step = pd.Series((totals["value"] / totals["step"]).to_numpy(), index=totals["run"].to_numpy())
    return rows.assign(flops=rows["flops"] + rows["step"] * rows["run"].map(per_step).fillna(0.0))


def crossings(rows: pd.DataFrame, *, target: float, metric: str = "nll") -> pd.DataFrame:
    """One row per run: where its validations are first at or below `target`.

    Args:
        rows: tidy rows of runs (`Store.frame`), each with validations along the way.
        target: of `metric` on the validation split; lower is better.

    Returns:
        run, label, init_seed, device, jobs; reached; step, seconds, flops, tokens at the first such
        validation, or at the end of a run that has none; the same with `before_` for the validation
        before it (0 where it is the first; the end where there is none); best, the lowest
        validation, and best_seconds, when it was; optimizer_share of flops.

    Raises:
        ValueError: no rows, no validations of that metric, or seconds of several devices.
    """
    for column in ("label", *COSTS):
        require(rows, column)
    refuse_mixed_devices(rows.assign(train_seconds=rows["seconds"]), ["train_seconds"])
    rows = with_optimizer(rows.assign(model_flops=rows["flops"]))
    scored = (rows["split"] == "valid") & (rows["metric"] == metric)
    if not scored.any():
        raise ValueError(unknown("validation metric", metric, set(rows["metric"][rows["split"] == "valid"])))
    runs = rows.assign(scored=scored).groupby("run", sort=False)
    return pd.DataFrame([_crossing(own, target) for _, own in runs])


def _crossing(rows: pd.DataFrame, target: float) -> dict[str, Any]:
    """`crossings` of one run."""
    rows = rows.sort_values("step", kind="stable")
    valid, end = rows[rows["scored"]], rows.iloc[-1]
    hits = np.flatnonzero(valid["value"] <= target)
    at, before = end, end
    if len(hits):
        at = valid.iloc[hits[0]]
        before = valid.iloc[hits[0] - 1] if hits[0] else dict.fromkeys(("step", *COSTS), 0)
    finite = valid[np.isfinite(valid["value"])]
    lowest = finite.iloc[finite["value"].argmin()] if len(finite) else {}
    return (
        {name: end[name] for name in KEPT if name in rows}
        | {"reached": bool(len(hits))}
        | {name: at[name] for name in ("step", *COSTS)}
        | {f"before_{name}": before[name] for name in ("step", *COSTS)}
        | {"best": lowest.get("value", math.nan), "best_seconds": lowest.get("seconds", math.nan)}
        | {"optimizer_share": 1 - at["model_flops"] / at["flops"]}
    )


def spent(runs: pd.DataFrame, cost: str, *, confidence: float = 0.95) -> Spent:
    """Geometric mean of a cost over the runs of one recipe, with its t interval.

    With a censored run the mean is not known: (NaN, lower bound, inf). One seed has no interval, and
    seeds that all cross at one validation have none either: their spread is finer than the validations.
    """
    logs = np.log(runs[cost].to_numpy(float))
    if not runs["reached"].all():
        return Spent(math.nan, math.exp(logs.mean()), math.inf)
    if np.ptp(logs) == 0:
        return Spent(math.exp(logs[0]), math.nan, math.nan)
    known = t_interval(logs, confidence=confidence)
    return Spent(math.exp(known.value), math.exp(known.low), math.exp(known.high))


def crossing_table(crossed: pd.DataFrame, *, confidence: float = 0.95) -> pd.DataFrame:
    """One row per recipe: seeds, how many reached the target, the costs until then, the best loss.

    Returns:
        Columns model, seeds, reached, steps (geometric mean), and for each of `COSTS` its mean, low
        and high. Where a seed is censored the mean is missing, low is the lower bound and high infinite.
    """
    check_confidence(confidence)
    table = []
    for label, runs in crossed.groupby("label", sort=False):
        row = {"model": label, "seeds": len(runs), "reached": int(runs["reached"].sum())}
        row["steps"] = spent(runs, "step").mean
        for cost, name in COSTS.items():
            row |= dict(
                zip(
                    (name, f"{name} low", f"{name} high"),
                    spent(runs, cost, confidence=confidence),
                    strict=True,
                )
            )
        table.append(row | {"best validation": runs["best"].mean(skipna=False)})
    return pd.DataFrame(table)


def crossing_ratios(crossed: pd.DataFrame, *, confidence: float = 0.95) -> pd.DataFrame:
    """How many times the cost of recipe b recipe a needs, for all pairs and costs.

    Seeds are not paired, as recipes of different shapes draw different batches: the interval
    is Welch's on the log scale. All rows are one family for Holm's correction.

    Returns:
        Columns a (the later), b (the earlier label), cost, ratio, low, high, p, p_holm, n (the smaller
        number of seeds), known (how), objection: why a row decides nothing, or "".
        known "interval": as above. "point": on either side all seeds cross at one validation, so that
        there is no spread to make an interval of. "bound": seeds of one side are censored; ratio is
        missing, and high is its upper bound (seeds of b) or low its lower one (seeds of a). "nothing":
        seeds of both are.
    """
    check_confidence(confidence)
    groups = dict(iter(crossed.groupby("label", sort=False)))
    table = []
    for b, a in itertools.combinations(groups, 2):
        for cost, name in COSTS.items():
            found = _ratio(groups[a], groups[b], cost, confidence=confidence)
            table.append({"a": a, "b": b, "cost": name} | found)
    out = pd.DataFrame(table, columns=RATIOS)
    return out.assign(p_holm=holm(out["p"].to_numpy(float)))


def _ratio(a: pd.DataFrame, b: pd.DataFrame, cost: str, *, confidence: float) -> dict[str, Any]:
    """Ratio of costs of two recipes, or what is known of it."""
    n = min(len(a), len(b))
    logs_a, logs_b = (np.log(side[cost].to_numpy(float)) for side in (a, b))
    whole = math.exp(logs_a.mean() - logs_b.mean())
    ratio, low, high = whole, math.nan, math.nan
    p = _log_rank(a, b, cost) if n > 1 else math.nan
    if a["reached"].all() and b["reached"].all():
        known = "interval" if np.ptp(logs_a) + np.ptp(logs_b) > 0 else "point"
        if known == "interval" and n > 1:
            found = welch(logs_a, logs_b, confidence=confidence)
            low, high, p = math.exp(found.low), math.exp(found.high), found.p
    elif a["reached"].all():
        known, ratio, low, high = "bound", math.nan, 0.0, whole
    elif b["reached"].all():
        known, ratio, low, high = "bound", math.nan, whole, math.inf
    else:
        known, ratio, p = "nothing", math.nan, math.nan
    faster, slower = (a, b) if whole < 1 else (b, a)
    return {
        "ratio": ratio, "low": low, "high": high, "p": p, "n": n, "known": known,
        "objection": _objection(faster, slower, cost),
    }  # fmt: skip


def _log_rank(a: pd.DataFrame, b: pd.DataFrame, cost: str) -> float:
    """Two-sided p of the log-rank test that both reach the target at equal rates (Mantel 1966)."""
    from scipy import stats

    if pd.concat([a, b])[cost].nunique() == 1:
        return 1.0  # the test would divide 0 by 0
    sides = [
        stats.CensoredData(side[cost][side["reached"]].to_numpy(float), right=side[cost][~side["reached"]])
        for side in (a, b)
    ]
    return float(stats.logrank(*sides).pvalue)


def _objection(faster: pd.DataFrame, slower: pd.DataFrame, cost: str) -> str:
    """Why a difference of this cost says nothing, whatever its interval."""
    both = pd.concat([faster, slower])
    if cost == "seconds" and "jobs" in both and both["jobs"].fillna(1).max() > 1:
        return (
            f"up to {both['jobs'].max():.0f} runs shared the device, and seconds are not those of a lone run"
        )
    before = slower[f"before_{cost}"].to_numpy(float)
    # The slower side may have crossed right after its previous validation.
    if (before <= 0).any() or np.log(before).mean() <= np.log(faster[cost].to_numpy(float)).mean():
        return "the difference is smaller than the gap between two validations"
    return ""


def differing_settings(configs: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    """One row per field in which recipes differ, one column per recipe.

    Args:
        configs: name of a recipe to the config of a run (`Run.to_dict`).
    """
    flat = {name: flatten(config) for name, config in configs.items()}
    table = []
    for field in dict.fromkeys(field for config in flat.values() for field in config):
        values = {name: str(config.get(field, "")) for name, config in flat.items()}
        if len(set(values.values())) > 1:
            table.append({"setting": field} | values)
    return pd.DataFrame(table, columns=["setting", *configs])
