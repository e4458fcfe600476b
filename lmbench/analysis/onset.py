"""Onset of a capability: when a run's normalised score is at or above a threshold for good.

Scores are taken on a grid, so an onset is known as an interval (lower, upper], and a run
that ends without one is right-censored. The first hit is no onset: of 120 evaluations of 100 items
of a model that never learns, one nearly always lies above chance + 0.05. Two rules ask for more:

- "isotonic": the increasing step function closest to the scores (least squares, pool adjacent
  violators) reaches the threshold. It averages, and it means "for good": what is lost again before the
  middle of what remains has no onset.
- "three": the first of three points in a row at or above. It sees a capability that comes and goes.

A thresholded score can jump where the answer's negative log-likelihood moves smoothly (Wei et al.
2022 against Schaeffer et al. 2023), so every onset is also taken of that metric, and
`emerged.metric_dependence` says whether the two agree.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from lmbench.analysis.checks import refuse_mixed_devices, require
from lmbench.errors import unknown

Rule = Literal["isotonic", "three"]
RUN = ["run", "label", "init_seed"]
SERIES = [*RUN, "task", "level", "metric"]
UNITS = ("step", "tokens", "flops", "seconds")
SUSTAINED = 3
"""Points at or above that make an onset, and points below that make a loss."""
FAR = (-1.0, 2.0)
"""Where normalised scores are clipped before the isotonic fit: one whole range beyond chance and Bayes.
A negative log-likelihood has no bound, and one spike must not outweigh fifty good points."""


class Onset(NamedTuple):
    """When a capability came, in (lower, upper], and when it was lost, in the unit of the positions."""

    lower: float
    """Last point below the threshold, 0 where the first is above."""
    upper: float
    """First point at or above it for good; inf for a run without an onset (right-censored)."""
    loss: float
    """First of the first three points in a row below after the onset; NaN where there are none."""
    n: int
    """Points."""


def onset(
    at: Sequence[float],
    normalised: Sequence[float],
    *,
    threshold: float = 0.5,
    rule: Rule = "isotonic",
) -> Onset:
    """The onset of one series of evaluations.

    Both rules need three points at or above (of the fit, or in a row), so a capability that shows
    in the last one or two points only is not an onset: an isotonic fit ends in a mean of one point,
    and would see an onset wherever the last point is lucky. Such a run is right-censored at the point
    before these, for its onset may lie among them; other runs without an onset at their last point.

    Args:
        at: positions > 0, increasing: steps, tokens, FLOPs or seconds.
        normalised: score at each, 0 at chance and 1 at Bayes (`ladders.normalise`).

    Raises:
        ValueError: fewer than 3 points, lengths that differ, positions that do not increase from above
            0, a score that is not finite, a threshold outside 0 ... 1, an unknown rule.
    """
    x, y = np.asarray(at, float), np.asarray(normalised, float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"an onset needs one score a position, got {y.size} scores of {x.size} positions")
    if not np.isfinite(y).all():
        raise ValueError(f"scores are finite numbers, got {y[~np.isfinite(y)][0]}; cut a diverged run there")
    _check_grid(x, "this run")
    thresholds = _check_thresholds((threshold,))
    low, high, lost = (int(found[0]) for found in _indices(y, thresholds, rule))
    before, after = np.r_[0.0, x, math.inf], np.r_[x, math.nan]
    return Onset(float(before[low]), float(before[high]), float(after[lost]), len(x))


def onsets(
    points: pd.DataFrame,
    *,
    thresholds: Sequence[float] = (0.5,),
    rule: Rule = "isotonic",
    units: Sequence[str] = UNITS,
) -> pd.DataFrame:
    """The onset of every series, at every threshold, in every unit.

    From a value that is not finite on, a run has diverged and counts as at chance to the end of its budget:
    it is not censored where it broke, for it will never get there. An isotonic onset is for good, so it is
    none if a later divergence undoes it.

    Args:
        points: rows of `ladders.normalise`, also with run, label, init_seed, step and the units.

    Returns:
        run, label, init_seed, task, level, metric, threshold, unit, lower, upper, emerged, loss (as in
        `Onset`), last (position of the last point, the budget), latest (position of the last point at which
        an onset can be, for three are needed), n_points. A run without an onset whose lower lies before its
        last was above at the end.

    Raises:
        ValueError: a missing column, fewer than 3 points of a series, a step twice in it, positions
            that are not above 0 or fall with the step, seconds of several devices or of runs that shared
            one with different numbers of others; as in `onset`.
    """
    for column in (*SERIES, "step", "normalised", *units):
        require(points, column)
    if "seconds" in units:
        refuse_mixed_devices(points.assign(train_seconds=points["seconds"]), ["train_seconds"])
        if "jobs" in points and points["jobs"].nunique() > 1:
            told = ", ".join(map(str, sorted(set(points["jobs"]))))
            raise ValueError(
                f"seconds of runs that shared a device with different numbers of others ({told}) are not "
                "compared; leave out the unit 'seconds'"
            )
    levels = _check_thresholds(thresholds)
    ordered = points.sort_values("step", kind="stable")
    rows = []
    for key, series in ordered.groupby(SERIES, sort=False, dropna=False, observed=True):
        name = f"run {key[0]!r} (task {key[3]!r}, level {key[4]!r}, metric {key[5]!r})"
        _check_grid(series["step"].to_numpy(float), name)
        at = {unit: _positions(series[unit].to_numpy(float), unit, name) for unit in units}
        rows.extend((*key, *row) for row in _series(at, series["normalised"].to_numpy(float), levels, rule))
    found = ["threshold", "unit", "lower", "upper", "emerged", "loss", "last", "latest", "n_points"]
    return pd.DataFrame(rows, columns=[*SERIES, *found])


def _series(
    at: dict[str, np.ndarray], y: np.ndarray, thresholds: np.ndarray, rule: Rule
) -> Iterator[tuple[float | str | bool | int, ...]]:
    """Rows of one series without its key: found once by index, then written in each unit."""
    n = len(y)
    y = np.where(np.logical_and.accumulate(np.isfinite(y)), y, 0.0)
    indices = list(zip(thresholds, *_indices(y, thresholds, rule), strict=True))
    for unit, x in at.items():
        before, after = np.r_[0.0, x, math.inf], np.r_[x, math.nan]
        for threshold, low, high, lost in indices:
            yield (
                float(threshold), unit, before[low], before[high], bool(high <= n), after[lost], before[n],
                x[n - SUSTAINED], n,
            )  # fmt: skip


def _indices(y: np.ndarray, thresholds: np.ndarray, rule: Rule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the onset and the loss of finite scores lie, for each threshold.

    Returns:
        (lower, upper) as indices into [0, *positions, inf] and loss as one into [*positions, NaN].
    """
    n = len(y)
    above = y >= thresholds[:, None]
    if rule == "isotonic":
        first = np.searchsorted(_isotonic(y), thresholds, side="left")
    elif rule == "three":
        # Where nothing is sustained yet, the points above at the end may be the start of it.
        since = n - np.logical_and.accumulate(above[:, ::-1], axis=1).sum(axis=1)
        first = np.minimum(_first(_sustained(above)), since)
    else:
        raise ValueError(unknown("onset rule", rule, get_args(Rule)))
    emerged = first <= n - SUSTAINED
    lost = _sustained(~above) & (np.arange(n) > first[:, None]) & emerged[:, None]
    # first is the index of a point, so also that of the point before it in [0, *positions, inf].
    return first, np.where(emerged, first + 1, n + 1), _first(lost)


def _isotonic(y: np.ndarray) -> np.ndarray:
    """The increasing least-squares fit (pool adjacent violators; Barlow et al. 1972)."""
    from scipy.optimize import isotonic_regression

    return isotonic_regression(np.clip(y, *FAR)).x if len(y) else y


def _sustained(is_so: np.ndarray) -> np.ndarray:
    """Whether it is so at a point and at the two after it; along the last axis."""
    held = np.zeros_like(is_so)
    if is_so.shape[-1] >= SUSTAINED:
        held[:, : 1 - SUSTAINED] = np.lib.stride_tricks.sliding_window_view(is_so, SUSTAINED, -1).all(-1)
    return held


def _first(is_so: np.ndarray) -> np.ndarray:
    """Index of the first True in each row, the row's length where there is none."""
    n = is_so.shape[-1]
    return np.where(is_so.any(-1), is_so.argmax(-1), n) if n else np.zeros(len(is_so), int)


def _check_grid(x: np.ndarray, name: str) -> None:
    """Raise ValueError unless there are three positions that increase from above 0."""
    if len(x) < SUSTAINED:
        raise ValueError(f"an onset needs at least {SUSTAINED} points, {name} has {len(x)}")
    if not np.isfinite(x).all() or x[0] <= 0 or (np.diff(x) <= 0).any():
        first = x[~np.isfinite(x)] if not np.isfinite(x).all() else x[np.r_[x[0] <= 0, np.diff(x) <= 0]]
        raise ValueError(f"positions of {name} must be above 0 and increase; {first[0]:g} does not")


def _positions(x: np.ndarray, unit: str, name: str) -> np.ndarray:
    """Positions in another unit than steps, which a coarse clock may repeat."""
    if not np.isfinite(x).all() or (x <= 0).any() or (np.diff(x) < 0).any():
        raise ValueError(f"{unit} of {name} must be above 0 and never fall with the step")
    return x


def _check_thresholds(thresholds: Sequence[float]) -> np.ndarray:
    values = np.asarray(thresholds, float)
    wrong = values[~((values > 0) & (values < 1))]
    if len(wrong) or not len(values):
        got = f"{wrong[0]:g}" if len(wrong) else "none"
        raise ValueError(f"a threshold of the normalised score lies between 0 and 1, as 0.5; got {got}")
    return np.round(values, 12)  # 0.1 + 0.2 is asked for as 0.3
