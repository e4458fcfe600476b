"""Capability emergence put together: tracked points, the ladder as a table, seeds needed, the reading.

The parts are in `ladders`, `onset`, `emerged`, `survival`, `earlier` and `order`.
"""

import math

import pandas as pd

from lmbench.analysis.emerged import metric_dependence
from lmbench.analysis.emergence_doubts import NEAR, assumption_sentence, cost_sentences, plateau_sentence
from lmbench.analysis.emergence_words import earlier_sentences, jump_sentences
from lmbench.analysis.order import order_sentences
from lmbench.analysis.planning import plan_seeds, sigma_of
from lmbench.records import ROW_COLUMNS

POINT = ["step", "task", "level", "metric"]
RATIOS = (1.25, 1.5, 2.0, 3.0)
MOST_SEEDS = 1000


def tracked(rows: pd.DataFrame) -> pd.DataFrame:
    """The points of the capability tracker among the tidy rows of runs: score and answer_nll.

    Also a column bytes: a symbol is written as one byte. Seconds are those of learning: a run captures or
    compiles its step before its first point, which takes one model many times as long as another, so that
    point is taken to cost its steps at the mean of the run's seconds a step after it. A run that diverged has
    all points of its grid too, with NaN from there on: it is one of those that did not get there, and would
    otherwise not be counted.

    Raises:
        ValueError: rows without such points, or a model of which every run diverged.
    """
    points = rows[(rows["split"] == "track") & rows["metric"].isin(["score", "answer_nll"])]
    if points.empty:
        raise ValueError("the runs hold no tracked points; train them with track = CapabilityTracker(...)")
    if "seconds" in points:
        points = points.assign(seconds=_learning_seconds(points))
    lost = rows[rows["metric"] == "diverged"].drop_duplicates("run")
    whole = points[~points["run"].isin(lost["run"])]
    parts = [points]
    for one in lost.to_dict("records"):
        grid = whole[whole["label"] == one["label"]].drop_duplicates(POINT)
        if grid.empty:
            raise ValueError(f"every run of {one['label']!r} diverged; lower its learning rates")
        own = points[points["run"] == one["run"]][POINT].apply(tuple, axis=1)
        missing = grid[~grid[POINT].apply(tuple, axis=1).isin(own)]
        fixed = {name: one[name] for name in rows if name not in ROW_COLUMNS}
        parts.append(missing.assign(**fixed, value=math.nan, evaluation=""))
    found = pd.concat(parts, ignore_index=True)
    return found.assign(bytes=found["tokens"])


def _learning_seconds(points: pd.DataFrame) -> pd.Series:
    """Seconds from the first point on, and before it at the run's own mean seconds a step after it.

    A run that diverged after one point takes the mean of its model; NaN where there is none.
    """
    runs = points.groupby("run")
    steps, seconds = (runs[name].agg(["min", "max"]) for name in ("step", "seconds"))
    cost = (seconds["max"] - seconds["min"]) / (steps["max"] - steps["min"]).where(lambda x: x > 0)
    cost = cost.fillna(cost.groupby(runs["label"].first()).transform("mean"))
    before = cost * steps["min"] - seconds["min"]
    return points["seconds"] + points["run"].map(before)


def ladder_table(ladder: pd.DataFrame) -> pd.DataFrame:
    """One row for each level: chance, best shortcut and Bayes of the score, nats of chance and Bayes."""
    table = []
    for (task, level), rungs in ladder.groupby(["task", "level"], sort=False):
        score = rungs[rungs["metric"] == "score"].set_index("rung")["value"]
        nats = rungs[rungs["metric"] == "answer_nll"].set_index("rung")["value"]
        others = score.drop(["chance", "bayes"]).sort_values(ascending=False)
        table.append(
            {
                "task": task,
                "level": level,
                "chance": score["chance"],
                "best shortcut": others.index[0].replace("_", " ") if len(others) else "",
                "its score": others.iloc[0] if len(others) else math.nan,
                "bayes": score["bayes"],
                "nats at chance": nats["chance"],
                "nats at bayes": nats["bayes"],
            }
        )
    return pd.DataFrame(table)


def passed_without(ladder: pd.DataFrame, *, threshold: float = 0.5) -> pd.DataFrame:
    """Shortcuts whose own score passes a normalised threshold, so that passing it there shows no capability.

    Columns: task, level, shortcut, normalised.
    """
    score = ladder[ladder["metric"] == "score"]
    ends = score.pivot(index=["task", "level"], columns="rung", values="value")[["chance", "bayes"]]
    others = score[~score["rung"].isin(["chance", "bayes"])].join(ends, on=["task", "level"])
    found = others.assign(
        shortcut=others["rung"].str.replace("_", " "),
        normalised=(others["value"] - others["chance"]) / (others["bayes"] - others["chance"]),
    )
    keep = found["normalised"] >= threshold
    return found[keep][["task", "level", "shortcut", "normalised"]].reset_index(drop=True)


def seeds_needed(
    onsets: pd.DataFrame, *, unit: str = "step", threshold: float = 0.5, metric: str = "score"
) -> pd.DataFrame:
    """Seeds for each model that showing a ratio of times would take, by the spread of these runs.

    One row for each model and level that at least two runs reached between evaluations: spread
    (standard deviation of the logarithm of the time) with its interval, and a column for each of RATIOS,
    empty where more than MOST_SEEDS.
    """
    table = []
    chosen = onsets[(onsets["unit"] == unit) & (onsets["metric"] == metric)]
    for (label, task, level), runs in chosen.groupby(["label", "task", "level"], sort=False):
        at = runs[(runs["threshold"] - threshold).abs() < 1e-9]
        inner = (at["lower"] > 0) & at["emerged"]
        if inner.sum() < 2:
            continue
        spread = sigma_of(
            onsets, label, task=task, level=level, metric=metric, threshold=threshold, unit=unit
        )
        row = {"label": label, "task": task, "level": level, "n": len(at), "spread": spread.sigma}
        row |= {"low": spread.low, "high": spread.high}
        table.append(row | {f"{ratio:g}x": _seeds(spread.sigma, ratio) for ratio in RATIOS})
    columns = ["label", "task", "level", "n", "spread", "low", "high", *(f"{ratio:g}x" for ratio in RATIOS)]
    return pd.DataFrame(table, columns=columns)


def _seeds(sigma: float, ratio: float) -> float:
    try:
        return float(plan_seeds(sigma, ratio, most=MOST_SEEDS)) if sigma > 0 else math.nan
    except ValueError:  # more than MOST_SEEDS
        return math.nan


def emergence_reading(
    onsets: pd.DataFrame,
    earlier: pd.DataFrame,
    *,
    points: pd.DataFrame,
    ladder: pd.DataFrame,
    unit: str = "step",
    threshold: float = 0.5,
) -> str:
    """What the tables show and what stands against it.

    Orders within models, declared ratios, verdicts in FLOPs, the assumption behind them, plateaus at the
    threshold, dependence on the metric, shortcuts.
    """
    declared = earlier[earlier["primary"]]
    known = ladder.merge(onsets[["task", "level"]].drop_duplicates(), on=["task", "level"])
    passed = passed_without(known, threshold=round(threshold - NEAR, 12))
    shortcuts = set(zip(passed["task"], passed["level"], strict=True))
    parts = [
        *order_sentences(onsets, unit=unit, threshold=threshold),
        *earlier_sentences(declared, shortcuts=shortcuts),
        *cost_sentences(onsets, earlier, unit=unit),
        assumption_sentence(earlier),
        plateau_sentence(points, threshold=threshold),
        jump_sentences(metric_dependence(onsets, unit=unit, threshold=threshold)),
        _shortcut_sentence(passed, threshold=threshold),
    ]
    return "\n\n".join(filter(None, parts))


def _shortcut_sentence(passed: pd.DataFrame, *, threshold: float) -> str:
    """Which shortcuts come near the threshold or pass it."""
    if passed.empty:
        return ""
    named = ", ".join(
        f"on {row.task} {row.level} {row.shortcut!r} ({row.normalised:.2f})" for row in passed.itertuples()
    )
    return (
        f"‡ Shortcuts alone have a normalised score of at least {threshold - NEAR:g}, that is near "
        f"{threshold:g} or above it, so that passing it does not show the capability itself: {named}."
    )
