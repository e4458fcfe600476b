"""Where a swept setting is best, with an interval, and whether the curve over it turns at all.

The best setting of a few noisy means is itself noisy. Seeds are paired: one seed has a value at
every setting. Resampling them with replacement is no use for so few (three cover 80% in place of
95%), so errors of all means at once are drawn from the multivariate t that their joint spread
implies: each seed's deviations times a normal weight, divided by the root of a chi-square over its
degrees of freedom. A setting is excluded where it is worse than another by more than such errors
explain, at the worst over all others; the interval reaches over what is left. The share of draws
in which a setting comes out best is no interval: at the end of a sweep it covers 60%. A U shape is
not what a significant parabola shows; it is two slopes of opposite signs, one on each side
of a turn (the two-lines test of Simonsohn 2018).
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from lmbench.analysis.checks import require
from lmbench.analysis.intervals import Estimate, check_confidence, finite, t_interval
from lmbench.analysis.words import percent, seeds


class Optimum(NamedTuple):
    """The setting of the lowest mean, and its interval."""

    best: float
    low: float
    high: float
    """The ends are settings that were tried: nothing is known between or beyond them."""
    share: float
    """Of the draws in which `best` is the best."""
    at_edge: bool
    """Whether the interval holds the first or the last setting, beyond which it may go on."""
    n: int
    settings: tuple[float, ...]
    confidence: float


class TwoLines(NamedTuple):
    """Slopes before and after a turn, each over the seeds."""

    turn: float
    before: Estimate
    after: Estimate
    is_u: bool
    """Down before and up after, each with p below 1 - confidence."""
    is_inverted: bool
    """Up before and down after."""
    n: int


def sweep_values(runs: pd.DataFrame, *, setting: str, value: str) -> pd.DataFrame:
    """One row a seed, one column a setting in rising order.

    Args:
        runs: one row a run with columns `setting` (numbers), init_seed and `value`.

    Raises:
        ValueError: fewer than 3 settings or 2 seeds, a seed that lacks a setting or has it twice.
    """
    for column in (setting, "init_seed", value):
        require(runs, column)
    finite(runs[value], where=f" of {value}")
    if runs.duplicated([setting, "init_seed"]).any():
        twice = runs[runs.duplicated([setting, "init_seed"])].iloc[0]
        raise ValueError(
            f"{setting} {twice[setting]:g} has init_seed {twice['init_seed']:g} twice; keep one row"
        )
    table = runs.pivot(index="init_seed", columns=setting, values=value).sort_index(axis=1)
    if table.shape[1] < 3:
        raise ValueError(f"an optimum inside a sweep needs at least 3 settings, got {table.shape[1]}")
    if len(table) < 2:
        raise ValueError(f"an interval needs at least 2 seeds, got {len(table)}")
    if table.isna().any(axis=None):
        lost = table.isna().stack()
        seed, at = lost[lost].index[0]
        raise ValueError(
            f"init_seed {seed} has no run at {setting} {at:g}; paired settings need the same seeds"
        )
    return table


def optimum(
    values: pd.DataFrame, *, seed: int = 0, confidence: float = 0.95, n_resamples: int = 4000
) -> Optimum:
    """The setting with the lowest mean, and the interval of the settings that may be the best.

    Args:
        values: from `sweep_values`; lower is better.
        seed: of the resampling.
    """
    check_confidence(confidence)
    settings, mean_S = values.columns.to_numpy(float), values.mean().to_numpy(float)
    errors_NS = drawn_errors(values.to_numpy(float), n_resamples, rng=np.random.default_rng(seed))
    best = int(mean_S.argmin())
    worst_NS = errors_NS - errors_NS.min(axis=1, keepdims=True)  # of a setting against any other
    left = np.flatnonzero(mean_S - mean_S[best] <= np.quantile(worst_NS, confidence, axis=0))
    low, high = min(int(left[0]), best), max(int(left[-1]), best)
    share = float(((mean_S + errors_NS).argmin(axis=1) == best).mean())
    return Optimum(
        best=settings[best], low=settings[low], high=settings[high], share=share,
        at_edge=low == 0 or high == len(settings) - 1, n=len(values), settings=tuple(settings),
        confidence=confidence,
    )  # fmt: skip


def drawn_errors(values_RS: np.ndarray, n: int, *, rng: np.random.Generator) -> np.ndarray:
    """Errors of the means over seeds, (N, S).

    Legend: N resample, R seed, S setting.
    """
    count = len(values_RS)
    weights_NR = rng.standard_normal((n, count)) / math.sqrt(count * (count - 1))
    scale_N = np.sqrt((count - 1) / rng.chisquare(count - 1, n))
    return scale_N[:, None] * (weights_NR @ (values_RS - values_RS.mean(axis=0)))


def optimum_sentence(found: Optimum, *, setting: str = "C", unit: str = "loss") -> str:
    """`The lowest loss is at C = 0.3 of 8 settings from 0 to 0.7 (95% interval 0.2 to 0.3, 5 seeds).`"""
    tried = found.settings
    edge = (
        f" The interval holds an end of what was tried, so the best {setting} may lie beyond it."
        if found.at_edge
        else ""
    )
    return (
        f"The lowest {unit} is at {setting} = {found.best:g} of {len(tried)} settings from {tried[0]:g} to "
        f"{tried[-1]:g} ({percent(found.confidence)} interval {found.low:g} to {found.high:g}, "
        f"{seeds(found.n)}).{edge}"
    )


# ------------------------------------------------------------------ two lines


def two_lines(values: pd.DataFrame, *, confidence: float = 0.95) -> TwoLines:
    """Simonsohn's (2018) test of a U, with the seed as the unit.

    The settings whose mean is within one standard error of the lowest are the flat part; its
    median parts the sweep for a first pair of lines, and the line with the weaker evidence then gets the
    larger share of the flat part ("Robin Hood"). Each seed has a slope on either side, and a slope
    is tested by the t test over seeds. Departs from the paper, whose lines are regressions over
    independent observations; here a setting's values share their seeds.

    Args:
        values: from `sweep_values`.
    """
    check_confidence(confidence)
    x_S, values_RS, alpha = values.columns.to_numpy(float), values.to_numpy(float), round(1 - confidence, 12)
    turn, before, after = _fitted(x_S, values_RS, confidence=confidence)
    is_u, is_inverted = _turns(before, after, alpha), False
    if not is_u:
        mirrored = _fitted(x_S, -values_RS, confidence=confidence)
        is_inverted = _turns(*mirrored[1:], alpha)
        if is_inverted:
            turn, before, after = mirrored[0], *map(_negated, mirrored[1:])
    return TwoLines(float(x_S[turn]), before, after, is_u, is_inverted, len(values))


def _fitted(x_S: np.ndarray, values_RS: np.ndarray, *, confidence: float) -> tuple[int, Estimate, Estimate]:
    """Place of the setting at which both lines meet, inside, so that each has two settings; their slopes.

    Legend: R seed, S setting.
    """
    last, mean_S = len(x_S) - 1, values_RS.mean(axis=0)
    lowest = min(max(int(mean_S.argmin()), 1), last - 1)
    apart_RS = values_RS - values_RS[:, [lowest]]
    error_S = apart_RS.std(axis=0, ddof=1) / math.sqrt(len(values_RS))
    flat = [place for place in range(1, last) if apart_RS.mean(axis=0)[place] <= error_S[place]]
    z = [abs(_size(line)) for line in _lines(x_S, values_RS, int(np.median(flat)), confidence=confidence)]
    # The weaker the first line, the later the turn: it gets the more of the settings.
    share = z[1] / sum(z) if sum(z) > 0 else 0.5
    turn = int(np.quantile(flat, share, method="nearest"))
    return turn, *_lines(x_S, values_RS, turn, confidence=confidence)


def _lines(
    x_S: np.ndarray, values_RS: np.ndarray, turn: int, *, confidence: float
) -> tuple[Estimate, Estimate]:
    """Slopes over the settings up to the turn, and from it on."""
    found = []
    for part in (slice(None, turn + 1), slice(turn, None)):
        steps = x_S[part] - x_S[part].mean()
        slopes = values_RS[:, part] @ steps / (steps @ steps)
        found.append(t_interval(slopes, confidence=confidence))
    return found[0], found[1]


def _size(line: Estimate) -> float:
    """A slope in units of its standard error."""
    half = (line.high - line.low) / 2
    return line.value / half if half > 0 else math.copysign(1e9, line.value) if line.value else 0.0


def _turns(before: Estimate, after: Estimate, alpha: float) -> bool:
    return max(before.p, after.p) < alpha and before.value < 0 < after.value


def _negated(line: Estimate) -> Estimate:
    return line._replace(value=-line.value, low=-line.high, high=-line.low)
