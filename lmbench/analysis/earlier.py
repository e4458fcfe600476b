"""How many times earlier one model reaches a capability than another, with what the data allow to say.

The ratio is that of the median times. Where every time is known to a narrow interval it is
Welch's t on log times (or the paired t of runs that share their data). Where any run is
censored it is the interval-censored fit of `aft`. Beside it stand the share of runs that
emerged, a permutation log-rank test and the restricted mean's lower bound. Every comparison
comes with its sentence, and where the data allow no number the sentence says so.
"""

import dataclasses

import numpy as np
import pandas as pd

from lmbench.analysis.aft import Bound, aft
from lmbench.analysis.checks import require
from lmbench.analysis.earlier_words import Decided, Earlier, Method, sentence
from lmbench.analysis.emerged import fisher
from lmbench.analysis.intervals import check_confidence
from lmbench.analysis.restricted import NO_RATIO, Ratio, middle_ratio, restricted_mean_ratio
from lmbench.analysis.survival import log_rank
from lmbench.errors import unknown

NARROW = 1.5  # upper / lower of an onset that may be taken at its middle
KEYS = ("task", "level", "metric", "threshold", "unit")
COLUMNS = ("run", "label", "init_seed", *KEYS, "lower", "upper", "emerged", "last", "latest")


def earlier(
    onsets: pd.DataFrame,
    a: str,
    b: str,
    *,
    task: str,
    level: str,
    metric: str = "score",
    threshold: float = 0.5,
    unit: str = "step",
    paired: bool = False,
    confidence: float = 0.95,
    permutations: int = 9999,
) -> Earlier:
    """Compare the onsets of two labels.

    Args:
        onsets: rows of `onset.onsets`.
        paired: runs of the same init_seed share the order of their data. Used where no run is
            censored, and by the log-rank test.
        permutations: of the log-rank test.

    Raises:
        ValueError: a name that the onsets do not hold, fewer than 2 seeds of a label, seeds that
            do not match where they are paired.
    """
    check_confidence(confidence)
    where = {"task": task, "level": level, "metric": metric, "threshold": threshold, "unit": unit}
    sides = [onset_runs(onsets, label, **where) for label in (a, b)]
    if paired and list(sides[0]["init_seed"]) != list(sides[1]["init_seed"]):
        odd = sorted(set(sides[0]["init_seed"]) ^ set(sides[1]["init_seed"]))
        raise ValueError(
            f"paired runs of {a!r} and {b!r} need the same init_seeds, once each; "
            + (f"only one of them has {odd[0]}" if odd else "one of them has a seed twice")
        )
    bounds = [side[name].to_numpy(float) for side in sides for name in ("lower", "upper")]
    counts = [int(side["emerged"].sum()) for side in sides]
    ending = [above_at_the_end(side) for side in sides]
    found, method, bound = _ratio(bounds, paired=paired, confidence=confidence)
    restricted = NO_RATIO if method == "none" else restricted_mean_ratio(*bounds, confidence=confidence)
    late = [2 * k < len(side) for k, side in zip(counts, sides, strict=True)]
    if method != "none" and not bound and any(late):
        # A median beyond the budget is extrapolated; where both are, the later one is.
        bound = "lower" if late[1] and (not late[0] or found.value > 1) else "upper"
    result = Earlier(
        a=a, b=b, task=task, level=str(level), metric=metric, threshold=threshold, unit=unit,
        ratio=found.value, low=found.low, high=found.high, p=found.p, method=method,
        n_a=len(sides[0]), n_b=len(sides[1]), emerged_a=counts[0], emerged_b=counts[1], bound=bound,
        restricted=restricted.value, restricted_low=restricted.low, restricted_high=restricted.high,
        fisher_p=fisher(*((k, len(side)) for k, side in zip(counts, sides, strict=True))),
        log_rank_p=log_rank(*bounds, paired=paired, permutations=permutations).p,
        budget=float(min(side["last"].min() for side in sides)),
        latest=float(min(side["latest"].min() for side in sides)),
        ending_a=ending[0], ending_b=ending[1], confidence=confidence,
        decided=decide(found.low, found.high) if any(counts) else "not reached", sentence="",
    )  # fmt: skip
    return dataclasses.replace(result, sentence=sentence(result))


def above_at_the_end(onsets: pd.DataFrame) -> int:
    """Runs that were above at their last points, too few of them for an onset: censored."""
    return int((~onsets["emerged"].astype(bool) & (onsets["lower"] < onsets["last"])).sum())


def decide(low: float, high: float) -> Decided:
    """What an interval of the ratio b / a says of a; NaN decides nothing."""
    return "earlier" if low > 1 else "later" if high < 1 else "not decided"


def _ratio(bounds: list[np.ndarray], *, paired: bool, confidence: float) -> tuple[Ratio, Method, Bound]:
    """The ratio by the method that the censoring allows."""
    lower, upper = np.concatenate(bounds[::2]), np.concatenate(bounds[1::2])
    unseen = (lower == 0) & np.isinf(upper)
    n_a = len(bounds[0])
    if np.isinf(upper).all() or (lower == 0).all() or unseen[:n_a].all() or unseen[n_a:].all():
        return NO_RATIO, "none", ""
    if (lower > 0).all() and (upper <= NARROW * lower).all():
        method = "paired t" if paired else "Welch's t"
        return middle_ratio(*bounds, paired=paired, confidence=confidence), method, ""
    fit = aft(*bounds, confidence=confidence)
    method = "AFT with one spread" if fit.pooled else "AFT"
    return Ratio(fit.ratio, fit.low, fit.high, fit.p), method, fit.bound


def onset_runs(
    onsets: pd.DataFrame, label: str, *, task: str, level: str, metric: str, threshold: float, unit: str
) -> pd.DataFrame:
    """The onsets of a label's runs in one capability, one row a run, in the order of seeds.

    Raises:
        ValueError: a missing column, a name that the onsets do not hold, fewer than 2 seeds.
    """
    for column in COLUMNS:
        require(onsets, column)
    for name, value in zip(KEYS, (task, level, metric, threshold, unit), strict=True):
        check_known(onsets, name, value)
        onsets = onsets[is_value(onsets[name], value)]
    check_known(onsets, "label", label)
    rows, what = onsets[onsets["label"] == label], f"{task} level {level}"
    if rows["run"].duplicated().any():
        raise ValueError(f"run {rows['run'][rows['run'].duplicated()].iloc[0]!r} has two onsets of {what}")
    if len(rows) < 2:
        raise ValueError(f"an interval needs at least 2 seeds, got {len(rows)} of {label!r} in {what}")
    return rows.sort_values("init_seed", kind="stable")


def check_known(onsets: pd.DataFrame, name: str, value: object) -> None:
    """Raise ValueError unless a column of the onsets holds the value."""
    if not is_value(onsets[name], value).any():
        raise ValueError(unknown(name, str(value), dict.fromkeys(map(str, onsets[name]))))


def is_value(column: pd.Series, value: object) -> pd.Series:
    """Which rows hold a value; levels are compared as text, thresholds to a rounding."""
    if isinstance(value, float):
        return pd.Series(np.isclose(column.astype(float), value), index=column.index)
    return column.astype(str) == str(value)
