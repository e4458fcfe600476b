"""A score against an ordered quantity that the tests vary: shots, length, rewrites, flips.

What varies is told by the text of a level, such as "0, rewrites=8", or by a mapping from level to number.
"""

from collections.abc import Iterable, Mapping

import pandas as pd

from lmbench.analysis.checks import require
from lmbench.analysis.ladders import ENDS, POINT
from lmbench.analysis.stats import summarise
from lmbench.errors import unknown


def settings(levels: Iterable[str], name: str, *, usual: float) -> dict[str, float]:
    """What each level says of one setting: of "0, rewrites=8, shift=4" and "rewrites" 8, of "0" the usual.

    Raises:
        ValueError: a setting that is no number.
    """
    found = {}
    for level in dict.fromkeys(map(str, levels)):
        told = dict(part.strip().partition("=")[::2] for part in level.split(","))
        text = told.get(name, usual)
        try:
            found[level] = float(text)
        except ValueError:
            raise ValueError(f"level {level!r} says {name}={text!r}, which is no number") from None
    return found


def against(
    rows: pd.DataFrame,
    *,
    x: Mapping[str, float],
    ladder: pd.DataFrame | None = None,
    metric: str = "score",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Means over seeds at each x, with the score ladder there.

    Args:
        rows: label, init_seed, task, level, metric, value; one row for each seed and level.
        x: level to the quantity; rows of other levels are left out. Two levels of one task may not have
            the same x. `settings` reads it off the levels.
        ladder: rows with task, level, metric, rung, value; None where nothing is known of chance and Bayes.

    Returns:
        task, label, level, x, mean, sd, n (seeds), low, high, chance, bayes (NaN without a ladder), in
        order of appearance and then of x.

    Raises:
        ValueError: a missing column, a metric or levels that the rows lack, two levels at one x, or a
            seed that has a level twice.
    """
    for column in ("label", "init_seed", *POINT, "value"):
        require(rows, column)
    if metric not in set(rows["metric"]):
        raise ValueError(unknown("metric", metric, set(rows["metric"])))
    x = {str(level): float(value) for level, value in x.items()}
    chosen = rows[rows["metric"] == metric].astype({"level": str})
    chosen = chosen[chosen["level"].isin(x)]
    if chosen.empty:
        raise ValueError(f"the rows have none of the levels of x: {', '.join(x) or 'it is empty'}")
    twice = chosen[chosen.duplicated(["label", "init_seed", "task", "level"])]
    if len(twice):
        row = twice.iloc[0]
        raise ValueError(
            f"label {row['label']!r} has init_seed {row['init_seed']} of level {row['level']!r} twice; "
            "keep one row a seed"
        )
    by = ["task", "label", "level"]
    table = summarise(chosen, by=by, value="value", confidence=confidence)
    table.insert(3, "x", table["level"].map(x))
    doubled = table[table.duplicated(["task", "label", "x"])]
    if len(doubled):
        row = doubled.iloc[0]
        raise ValueError(f"task {row['task']!r} has two levels at x = {row['x']:g}; give x only one of them")
    ends = _ends(ladder, metric)
    for end in ENDS:
        table[end] = [ends.get((*key, end), float("nan")) for key in table[["task", "level"]].to_numpy()]
    parts = [part.sort_values("x") for _, part in table.groupby(["task", "label"], sort=False)]
    return pd.concat(parts, ignore_index=True)


def flip_rows(curves: pd.DataFrame) -> pd.DataFrame:
    """Curves of flipped tokens as rows for `against`: the adversary is the task, the budget the level.

    Args:
        curves: from `training.robustness.flip_curves`; the x of a level is then its number.
    """
    for column in ("label", "init_seed", "kind", "budget", "nll"):
        require(curves, column)
    rows = curves[["label", "init_seed"]].assign(task=curves["kind"], level=curves["budget"].astype(str))
    return rows.assign(metric="nll", value=curves["nll"])


def _ends(ladder: pd.DataFrame | None, metric: str) -> dict[tuple[str, str, str], float]:
    """Values of chance and Bayes by (task, level, rung)."""
    if ladder is None:
        return {}
    rows = ladder[(ladder["metric"] == metric) & ladder["rung"].isin(ENDS)]
    return {
        (row["task"], str(row["level"]), row["rung"]): float(row["value"]) for row in rows.to_dict("records")
    }
