"""How many seeds a claim of "k times earlier" needs, from the spread of log times in a pilot.

With a spread of 0.35, usual for small models, three seeds a group have an interval of a factor
2.2 to each side, so a true factor of 2 cannot be shown with them.
"""

import bisect
import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lmbench.analysis.censored import Group, maximum
from lmbench.analysis.earlier import onset_runs
from lmbench.analysis.intervals import check_confidence
from lmbench.analysis.restricted import at_least, middles, resolution
from lmbench.analysis.words import percent, seeds

NODES = 200  # of the average over the share of variances: power to 0.001
BEYOND = 30.0  # standard errors: power is 1 to the last digit


class Spread(NamedTuple):
    """Standard deviation of log T over seeds with its chi-square interval."""

    sigma: float
    low: float
    high: float
    n: int
    """Runs."""
    emerged: int
    """Of them with a time bounded on both sides; the interval has one degree of freedom less."""


def plan_seeds(
    sigma: float,
    ratio: float,
    *,
    power: float = 0.8,
    confidence: float = 0.95,
    sigma_b: float | None = None,
    most: int = 1000,
) -> int:
    """Least seeds a group with which a two-sided Welch t on log times shows a true ratio.

    Args:
        sigma: standard deviation of log T over seeds in one group.
        ratio: true ratio of the median times, on either side of 1.
        power: wanted probability of p < 1 - confidence.
        sigma_b: that of the other group; by default the same.
        most: give up beyond this many.

    Raises:
        ValueError: a ratio of 1 or not above 0, a spread or a power out of range, more than `most`.
    """
    check_confidence(confidence)
    _check_sigmas(sigma, sigma_b)
    if not (ratio > 0 and math.isfinite(ratio)) or ratio == 1:
        raise ValueError(
            f"ratio is {ratio:g}; it is above 0 and not 1, as 1.5 (no seeds show that times agree)"
        )
    if not 0 < power < 1:
        raise ValueError(f"power is {power:g}; it lies between 0 and 1, as 0.8")
    least = bisect.bisect_left(
        range(2, most + 1),
        power,
        key=lambda n: power_of(sigma, ratio, n=n, sigma_b=sigma_b, confidence=confidence),
    )
    if least + 2 > most:
        raise ValueError(
            f"a ratio of {ratio:g} takes more than {most} seeds a group at sigma = {sigma:g}; raise `most`"
        )
    return least + 2


def power_of(
    sigma: float, ratio: float, *, n: int, sigma_b: float | None = None, confidence: float = 0.95
) -> float:
    """Probability that Welch's test of n seeds a group shows a true ratio, exactly.

    Given the share w that a has of both groups' sums of squares (each over its variance), which is
    Beta((n - 1) / 2, (n - 1) / 2) and independent of their total, Welch's df are fixed and its t is
    a multiple of a noncentral t with 2n - 2 df. The average over w is taken at its quantiles.
    """
    u, v = sigma**2, (sigma if sigma_b is None else sigma_b) ** 2
    away = abs(math.log(ratio)) / math.sqrt((u + v) / n)
    if away > BEYOND:
        return 1.0
    w = stats.beta.ppf((np.arange(NODES) + 0.5) / NODES, (n - 1) / 2, (n - 1) / 2)
    a, b = u * w, v * (1 - w)
    df = (n - 1) * (a + b) ** 2 / (a**2 + b**2)
    cut = stats.t.ppf((1 + confidence) / 2, df) * np.sqrt(2 * (a + b) / (u + v))
    # The far tail is below 1e-6 where the near one is not small, and is not computable there.
    far = stats.nct.cdf(-cut, 2 * n - 2, away) if away < 5 else 0.0
    return float(np.mean(stats.nct.sf(cut, 2 * n - 2, away) + far))


def half_width(sigma: float, n: int, *, sigma_b: float | None = None, confidence: float = 0.95) -> float:
    """Factor to each side of a ratio of times that Welch's interval of n seeds a group spans.

    exp(t sqrt((sigma^2 + sigma_b^2) / n)) at the df of these spreads: at 0.35, 2.21 with 3 seeds, 1.67
    with 5, 1.39 with 10, 1.25 with 20. Simulated intervals have this median from 5 seeds on
    (1.66, 1.38, 1.25); with 3 theirs is wider, 2.29, since their df are estimated.

    Raises:
        ValueError: fewer than 2 seeds, a spread out of range.
    """
    check_confidence(confidence)
    _check_sigmas(sigma, sigma_b)
    if n < 2:
        raise ValueError(f"an interval needs at least 2 seeds, got {n}")
    error, df = _error(sigma, sigma_b, n)
    return math.exp(stats.t.ppf((1 + confidence) / 2, df) * error)


def sigma_of(
    onsets: pd.DataFrame,
    label: str,
    *,
    task: str,
    level: str,
    metric: str = "score",
    threshold: float = 0.5,
    unit: str = "step",
    confidence: float = 0.95,
) -> Spread:
    """The spread of log T in a pilot, fitted to the intervals where runs are censored.

    Args:
        onsets: rows of `onset.onsets`.

    Raises:
        ValueError: as `earlier.earlier`, or fewer than 2 runs that emerged within the budget.
    """
    check_confidence(confidence)
    runs = onset_runs(onsets, label, task=task, level=level, metric=metric, threshold=threshold, unit=unit)
    lower, upper = runs["lower"].to_numpy(float), runs["upper"].to_numpy(float)
    inner = (lower > 0) & np.isfinite(upper)
    m = int(inner.sum())
    if m < 2:
        raise ValueError(
            f"a spread needs at least 2 runs that emerged between two evaluations, got {m} of "
            f"{seeds(len(runs))} of {label!r} in {task} level {level}"
        )
    if inner.all():
        sigma = float(at_least(middles(lower, upper), resolution(lower, upper)).std(ddof=1))
    else:
        group = Group(lower, upper, name=label)
        (_, log_sigma), _ = maximum(
            lambda x: group.value(x[0], x[1]), start=(group.start[0], math.log(group.start[1])),
            bounds=(group.reach, (math.log(group.floor), math.log(10))),
        )  # fmt: skip
        sigma = math.exp(log_sigma) * math.sqrt(m / (m - 1))
    edges = stats.chi2.ppf([(1 + confidence) / 2, (1 - confidence) / 2], m - 1)
    low, high = sigma * np.sqrt((m - 1) / edges)
    return Spread(sigma, float(low), float(high), len(runs), m)


def plan_sentence(
    spread: Spread, ratio: float, *, power: float = 0.8, confidence: float = 0.95, most: int = 1000
) -> str:
    """How many seeds a claim takes, with what the pilot's own uncertainty makes of it.

    Raises:
        ValueError: as `plan_seeds`.
    """
    options = {"power": power, "confidence": confidence, "most": most}
    n = plan_seeds(spread.sigma, ratio, **options)
    low, high = (_planned(x, ratio, **options) for x in (spread.low, spread.high))
    width = half_width(spread.sigma, n, confidence=confidence)
    return (
        f"To show that a model is {ratio:g} times earlier (two-sided Welch's t on log times, p < "
        f"{round(1 - confidence, 12):g}, power {percent(power)}) takes {seeds(n)} a group, if log T has the "
        f"pilot's standard deviation of {spread.sigma:.2g}. The pilot ({spread.emerged} of {seeds(spread.n)} "
        f"emerged) knows it to {spread.low:.2g} to {spread.high:.2g} ({percent(confidence)} interval), "
        f"which makes {low} to {high}. With {n} the ratio is known to a factor of {width:.3g}."
    )


def _planned(sigma: float, ratio: float, *, power: float, confidence: float, most: int) -> str:
    try:
        return str(plan_seeds(sigma, ratio, power=power, confidence=confidence, most=most))
    except ValueError:  # the only one left here: more than `most`
        return f"more than {most}"


def _error(sigma: float, sigma_b: float | None, n: int) -> tuple[float, float]:
    """Standard error of a difference of mean log times, and Welch's df at these spreads."""
    u, v = sigma**2, (sigma if sigma_b is None else sigma_b) ** 2
    return math.sqrt((u + v) / n), (n - 1) * (u + v) ** 2 / (u**2 + v**2)


def _check_sigmas(sigma: float, sigma_b: float | None) -> None:
    for name, value in (("sigma", sigma), ("sigma_b", sigma_b)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} is {value:g}; a standard deviation of log times is above 0, as 0.35")
