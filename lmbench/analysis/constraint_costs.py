"""Losses at equal cost, and how many times less it costs to reach the loss of another arm.

An arm that takes units out spends less in a step, so equal numbers of tokens are not equal numbers
of FLOPs, and both are asked. At equal cost the loss is read off the validations on the way; that
is fair where the learning rate does not fall towards an end that only the longer runs reach
(a constant rate). The target of a race is the other arm's own final loss, seed by seed, so that it is
reached by definition. A time is known to the gap between two validations, and the interval of
a ratio counts these gaps against whoever it favours.

Where masks leave units out, rows hold the FLOPs that were executed, which are those of all units;
`with_active` puts those of the units in use in their place, and adds what a selection of data took.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from lmbench.analysis.checks import refuse_mixed_devices, require
from lmbench.analysis.intervals import t_interval
from lmbench.analysis.time_to_quality import COSTS, crossings, with_optimizer
from lmbench.errors import unknown

RATIOS = ["a", "b", "cost", "ratio", "low", "high", "p", "n", "reached", "known", "objection"]
UPFRONT = ("selection_flops", "selection_reference_flops")
"""Costs of a run that are spent before its first step."""
SHARED = "runs shared the device, and seconds are not those of a lone run"


def with_active(rows: pd.DataFrame, active: Mapping[str, Callable[[int], float]]) -> pd.DataFrame:
    """Tidy rows whose `flops` are those of the units in use, with those of the selection of data.

    Args:
        active: by run, the FLOPs of its first steps. A run that is not named keeps what it executed.
    """
    for column in ("run", "step", "flops", "split", "metric", "value"):
        require(rows, column)
    flops = rows["flops"].astype(float)
    for run, spent in active.items():
        own = rows["run"] == run
        at = {step: float(spent(int(step))) for step in rows["step"][own].unique()}
        flops = flops.where(~own, rows["step"].map(at))
    taken = rows[(rows["split"] == "") & rows["metric"].isin(UPFRONT)]
    upfront = taken.drop_duplicates(["run", "metric"], keep="last").groupby("run")["value"].sum()
    return rows.assign(flops=flops + rows["run"].map(upfront).fillna(0.0))


def at_equal(
    rows: pd.DataFrame,
    *,
    cost: str,
    metric: str = "bits_per_byte",
    arms: Sequence[str] | None = None,
    budget: float | None = None,
) -> pd.DataFrame:
    """The validation loss of every run at one cost, by a line between validations over log cost.

    Args:
        rows: tidy rows of runs with validations along the way, columns label, init_seed and `COSTS`.
        cost: "flops", "tokens" or "seconds".
        arms: labels; None takes all.
        budget: where losses are read; None takes what the cheapest of the runs spent in all.

    Returns:
        One row a run: run, label, init_seed, the cost (the budget) and the metric.

    Raises:
        ValueError: no such rows, an arm whose first validation lies beyond the budget or whose last
            lies before it.
    """
    if cost not in COSTS:
        raise ValueError(unknown("cost", cost, COSTS))
    valid = _validations(rows, metric, arms)
    ends = valid.groupby("run")[cost].agg(["min", "max"])
    names = valid.drop_duplicates("run").set_index("run")["label"]
    budget = float(ends["max"].min()) if budget is None else budget
    for run, first, last in ends.itertuples():
        if not first <= budget * (1 + 1e-9) or not last >= budget * (1 - 1e-9):
            where = f"first is at {first:.4g}" if first > budget else f"last is at {last:.4g}"
            raise ValueError(
                f"no loss of {names[run]} is known at {budget:.4g} {COSTS[cost]}: its {where}; "
                "validate more often or choose another budget"
            )
    out = []
    for run, own in valid.groupby("run", sort=False):
        own = own.sort_values(cost)
        loss = float(np.interp(math.log(budget), np.log(own[cost].to_numpy(float)), own["value"]))
        known = own.iloc[0]
        out.append((run, known["label"], known["init_seed"], budget, loss))
    return pd.DataFrame(out, columns=["run", "label", "init_seed", cost, metric])


def of_whole_task(rows: pd.DataFrame) -> pd.DataFrame:
    """Tidy rows without those of single levels, which share the names of metrics."""
    return rows[rows["level"].fillna("") == ""] if "level" in rows else rows


def _validations(rows: pd.DataFrame, metric: str, arms: Sequence[str] | None) -> pd.DataFrame:
    for column in ("label", "init_seed", *COSTS):
        require(rows, column)
    if arms is not None:
        for arm in arms:
            if arm not in set(rows["label"]):
                raise ValueError(unknown("label", arm, dict.fromkeys(map(str, rows["label"]))))
        rows = rows[rows["label"].isin(list(arms))]
    rows = with_optimizer(of_whole_task(rows))
    on = (rows["split"] == "valid") & (rows["step"] > 0)
    valid = rows[on & (rows["metric"] == metric) & np.isfinite(rows["value"].astype(float))]
    if valid.empty:
        raise ValueError(unknown("validation metric", metric, set(rows["metric"][on])))
    if valid.duplicated(["run", "step"]).any():
        twice = valid[valid.duplicated(["run", "step"])].iloc[0]
        raise ValueError(f"run {twice['run']!r} has two values of {metric} at step {twice['step']}; keep one")
    return valid


def cost_ratios(
    rows: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    *,
    metric: str = "bits_per_byte",
    slack: float = 0.0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """How many times less arm a spends than arm b, to the final validation loss of b.

    Args:
        rows: as in `at_equal`.
        pairs: (a, b) by label; they share their init_seeds.
        slack: relative; 0.01 asks for a loss no more than 1% above the final one, of both arms.

    Returns:
        One row a pair and cost: a, b, cost (as in `COSTS`), ratio (of b's cost to a's; above 1 a is
        cheaper), low, high, p (of ratio 1, which counts the gaps too), n (seeds), reached (seeds of a that
        got there), known, objection.
        known "interval": a paired t interval over seeds on the log scale, between the validations before
        and after. "bound": some seeds of a never got there, so only `high` is known.

    Raises:
        ValueError: an arm that is not there, seeds that do not match, a final loss that is not finite,
            seconds of several devices.
    """
    refuse_mixed_devices(rows.assign(train_seconds=rows["seconds"]), ["train_seconds"])
    rows, out = of_whole_task(rows), []
    for a, b in pairs:
        valid = _validations(rows, metric, [a, b])
        finals = valid.sort_values("step").groupby(["label", "init_seed"])["value"].last()
        seeds = {arm: sorted(set(rows["init_seed"][rows["label"] == arm])) for arm in (a, b)}
        if seeds[a] != seeds[b]:
            odd = sorted(set(seeds[a]) ^ set(seeds[b]))
            raise ValueError(f"paired {a!r} and {b!r} need the same init_seeds; only one has {odd[0]}")
        met = []
        for seed in seeds[b]:
            if (b, seed) not in finals.index:
                raise ValueError(f"{b!r} with init_seed {seed} has no final loss to be reached")
            own = rows[rows["label"].isin([a, b]) & (rows["init_seed"] == seed)]
            met.append(crossings(own, target=finals[b, seed] * (1 + slack), metric=metric))
        both = pd.concat(met)
        sides = [both[both["label"] == arm].sort_values("init_seed") for arm in (a, b)]
        for cost, name in COSTS.items():
            out.append({"a": a, "b": b, "cost": name} | _ratio(*sides, cost, confidence=confidence))
    return pd.DataFrame(out, columns=RATIOS)


def _ratio(a: pd.DataFrame, b: pd.DataFrame, cost: str, *, confidence: float) -> dict[str, object]:
    """The ratio of b's cost to a's over paired seeds."""
    reached = a["reached"].to_numpy(bool)
    with np.errstate(divide="ignore"):
        first, second = (np.log(side[cost].to_numpy(float)) for side in (a, b))
        # At the end of a run that never got there, "before" is the end as well.
        before, before_b = (np.log(side[f"before_{cost}"].to_numpy(float)) for side in (a, b))
    logs, least, most = second - first, before_b - first, second - before
    n, p, ratio = len(logs), math.nan, math.nan
    low, high = 0.0, _end(most, "high", confidence)
    if reached.all():
        ratio, low = math.exp(logs.mean()), _end(least, "low", confidence)
        p = _p_between(least, most) if n > 1 else math.nan
    shares = cost == "seconds" and "jobs" in a and max(a["jobs"].max(), b["jobs"].max()) > 1
    return {
        "ratio": ratio, "low": low if n > 1 else math.nan, "high": high, "p": p, "n": n,
        "reached": int(reached.sum()), "known": "interval" if reached.all() else "bound",
        "objection": SHARED if shares else "",
    }  # fmt: skip


def _p_between(least: np.ndarray, most: np.ndarray) -> float:
    """p of ratio 1, wherever in its gap a time lies: the larger of both ends', 1 where 1 lies between."""
    if least.mean() <= 0 <= most.mean() or not np.isfinite([*least, *most]).all():
        return 1.0
    return max(t_interval(logs).p for logs in (least, most))


def _end(logs: np.ndarray, side: str, confidence: float) -> float:
    """One end of the t interval of the exponential; what is unbounded in a seed is so on the whole."""
    if len(logs) < 2:
        return math.nan
    if not np.isfinite(logs).all():
        return 0.0 if side == "low" else math.inf
    return math.exp(getattr(t_interval(logs, confidence=confidence), side))
