"""The score ladder: chance, shortcuts and the Bayes-optimal score of each task, level and metric.

A raw score says little: 0.5 is chance for two choices and nearly all there is to know where the
Bayes predictor has 0.55. The normalised score (value - chance) / (Bayes - chance) is 0 for a guesser
and 1 for the oracle, whichever way the metric points: of a score it is the share of what can be
gained, of an answer's negative log-likelihood the share of the information captured. It may lie
outside 0 ... 1, by noise or because a model is worse than a guesser.
"""

import numpy as np
import pandas as pd

from lmbench.analysis.checks import require
from lmbench.errors import nearest

POINT = ["task", "level", "metric"]
ENDS = ("chance", "bayes")
"""Rungs between which a score is normalised."""


def normalise(points: pd.DataFrame, ladder: pd.DataFrame) -> pd.DataFrame:
    """The points with a column `normalised`: 0 at chance, 1 at the Bayes-optimal value.

    Args:
        points: rows with task, level, metric, value. A value that is not finite stays so.
        ladder: rows with task, level, metric, rung, value; rungs other than "chance" and "bayes"
            are not used.

    Returns:
        A copy, in the same order and with the same index.

    Raises:
        ValueError: a missing column, no points, a (task, level, metric) without its two rungs, a rung
            given twice, or one whose Bayes value equals chance, so that nothing can be learned.
    """
    for column in (*POINT, "value"):
        require(points, column)
        require(ladder, column)
    require(ladder, "rung")
    ends = _ends(ladder)
    # Levels are text in stored rows; a ladder written by hand may hold whole numbers.
    wanted = pd.MultiIndex.from_frame(points[POINT].astype(str))
    for key in wanted.unique():
        _check_ends(ends, key)
    chance, bayes = (ends[end].reindex(wanted).to_numpy(float) for end in ENDS)
    return points.assign(normalised=(points["value"].to_numpy(float) - chance) / (bayes - chance))


def _ends(ladder: pd.DataFrame) -> pd.DataFrame:
    """Columns chance and bayes by (task, level, metric)."""
    rungs = ladder[ladder["rung"].isin(ENDS)]
    rungs = rungs[["rung", "value"]].set_index(pd.MultiIndex.from_frame(rungs[POINT].astype(str)))
    rungs = rungs.set_index("rung", append=True)["value"]
    if not rungs.index.is_unique:
        *key, rung = rungs.index[rungs.index.duplicated()][0]
        raise ValueError(f"the score ladder has {rung} of {_name(key)} twice; keep one row a rung")
    return rungs.unstack("rung").reindex(columns=ENDS)


def _check_ends(ends: pd.DataFrame, key: tuple[str, str, str]) -> None:
    """Raise ValueError unless this (task, level, metric) can be normalised."""
    if key not in ends.index:
        close = nearest(_name(key), [_name(known) for known in ends.index])
        raise ValueError(f"the score ladder has no {_name(key)}, only {len(ends)} others.{close}")
    chance, bayes = ends.loc[key]
    for rung, value in zip(ENDS, (chance, bayes), strict=True):
        if not np.isfinite(value):
            raise ValueError(f"the score ladder needs a finite {rung} of {_name(key)}, got {value}")
    if chance == bayes:
        raise ValueError(
            f"the score ladder of {_name(key)} has bayes = chance = {bayes:g}: nothing can be learned there"
        )


def _name(key: tuple[str, ...] | list[str]) -> str:
    task, level, metric = key
    return f"task {task!r} level {level!r} metric {metric!r}"


def divergence_note(scores: pd.DataFrame) -> str:
    """What a caption adds of runs that diverged: ` 1 run of lstm diverged and counts as at chance.`

    Args:
        scores: rows of `level_scores`, where such a run was scored on no example: n is 0. Without n,
            nothing is said.
    """
    if "n" not in scores:
        return ""
    lost = scores[scores["n"] == 0].drop_duplicates("run")["label"].value_counts(sort=False)
    return "".join(
        f" {n} run{'s' * (n > 1)} of {label} diverged and count{'s' * (n == 1)} as at chance."
        for label, n in lost.items()
    )
