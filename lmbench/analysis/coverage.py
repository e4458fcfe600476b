"""How often the intervals of "k times earlier" hold the truth, measured on simulated experiments.

An experiment has n runs a group with log-normal times, a spread for each group, evaluations
on a geometric grid and a budget that some runs of the slower group do not meet. A method
covers if its 95% interval holds the ratio that the times were drawn with (for the restricted
mean: the ratio of the restricted means, known in closed form). The percentile bootstrap and
the uncalibrated likelihood are simulated beside them, to show what they would have said. A test
that takes equal groups for different in 5% of experiments "covers" in the other 95%.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from lmbench.analysis.aft import Profile
from lmbench.analysis.intervals import t_interval, welch
from lmbench.analysis.restricted import middles, restricted_mean_ratio
from lmbench.analysis.simulated import Bounds, Design
from lmbench.analysis.survival import log_rank
from lmbench.errors import unknown

NOMINAL = 0.95
RESAMPLES = 1000  # of the bootstrap
PERMUTATIONS = 199  # of the log-rank test: 0.05 is a multiple of 1/200, so its level is exact
ERRORS = 3.0  # standard errors: of 60 exact cells, one study in six shows one outside by chance
SEEDS = (3, 5, 8, 10, 20)

Found = Literal["within", "below", "above"]


# ------------------------------------------------------------------ methods: does it cover?


def _t(design: Design, bounds: Bounds, _: np.random.Generator) -> bool:
    found = t_interval(middles(bounds.b_lower, bounds.b_upper), confidence=NOMINAL)
    return found.low <= math.log(design.median_a * design.ratio) <= found.high


def _welch(design: Design, bounds: Bounds, _: np.random.Generator) -> bool:
    a, b = middles(bounds.a_lower, bounds.a_upper), middles(bounds.b_lower, bounds.b_upper)
    found = welch(b, a, confidence=NOMINAL)
    return found.low <= math.log(design.ratio) <= found.high


def _bootstrap_one(design: Design, bounds: Bounds, rng: np.random.Generator) -> bool:
    means = _resampled_means(middles(bounds.b_lower, bounds.b_upper), rng)
    return _holds(means, math.log(design.median_a * design.ratio))


def _bootstrap(design: Design, bounds: Bounds, rng: np.random.Generator) -> bool:
    a, b = middles(bounds.a_lower, bounds.a_upper), middles(bounds.b_lower, bounds.b_upper)
    return _holds(_resampled_means(b, rng) - _resampled_means(a, rng), math.log(design.ratio))


def _aft(design: Design, bounds: Bounds, _: np.random.Generator) -> bool:
    return _reached(bounds) and Profile(*bounds).holds(design.ratio, confidence=NOMINAL)


def _aft_chi2(design: Design, bounds: Bounds, _: np.random.Generator) -> bool:
    limit = stats.chi2.ppf(NOMINAL, 1)
    return _reached(bounds) and Profile(*bounds).fit.lost(math.log(design.ratio)) <= limit


def _restricted(design: Design, bounds: Bounds, _: np.random.Generator) -> bool:
    found = restricted_mean_ratio(*bounds, budget=design.budget, confidence=NOMINAL)
    truth = design.log_restricted_mean("b") - design.log_restricted_mean("a")
    return found.low <= math.exp(truth) <= found.high


def _restricted_bound(design: Design, bounds: Bounds, _: np.random.Generator) -> bool:
    return restricted_mean_ratio(*bounds, budget=design.budget, confidence=NOMINAL).low <= design.ratio


def _log_rank(_: Design, bounds: Bounds, rng: np.random.Generator) -> bool:
    found = log_rank(*bounds, permutations=PERMUTATIONS, seed=int(rng.integers(2**31)))
    return not found.p <= 1 - NOMINAL


METHODS: dict[str, Callable[[Design, Bounds, np.random.Generator], bool]] = {
    "t": _t,
    "bootstrap of one mean": _bootstrap_one,
    "Welch": _welch,
    "bootstrap of a difference": _bootstrap,
    "AFT": _aft,
    "AFT, chi-square": _aft_chi2,
    "restricted mean": _restricted,
    "restricted mean as a lower bound": _restricted_bound,
    "log-rank": _log_rank,
}


def _reached(bounds: Bounds) -> bool:
    return bool(np.isfinite(bounds.a_upper).any() or np.isfinite(bounds.b_upper).any())


def _resampled_means(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return x[rng.integers(len(x), size=(RESAMPLES, len(x)))].mean(axis=1)


def _holds(values: np.ndarray, truth: float) -> bool:
    low, high = np.quantile(values, [(1 - NOMINAL) / 2, (1 + NOMINAL) / 2])
    return bool(low <= truth <= high)


# ------------------------------------------------------------------ cells


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method under one design, simulated `repeats` times."""

    method: str
    design: Design
    repeats: int
    covered: int
    seed: int

    @property
    def coverage(self) -> float:
        return self.covered / self.repeats

    @property
    def error(self) -> float:
        """Standard error of the coverage were it nominal: binomial."""
        return math.sqrt(NOMINAL * (1 - NOMINAL) / self.repeats)

    @property
    def found(self) -> Found:
        """Whether the coverage lies within 3 standard errors of 95%."""
        gap = self.coverage - NOMINAL
        return "within" if abs(gap) <= ERRORS * self.error else "below" if gap < 0 else "above"


def simulate(method: str, design: Design, *, repeats: int, seed: int) -> Cell:
    """Draw and judge; the same seed and design give the same experiments to every method.

    Raises:
        ValueError: a method that is not known, or fewer than 1 repeat.
    """
    if method not in METHODS:
        raise ValueError(unknown("method", method, METHODS))
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; it must be at least 1")
    drawn, resampled = (np.random.default_rng([seed, design.n, part]) for part in range(2))
    covered = sum(METHODS[method](design, design.draw(drawn), resampled) for _ in range(repeats))
    return Cell(method=method, design=design, repeats=repeats, covered=int(covered), seed=seed)


def designs() -> Iterator[tuple[str, Design]]:
    """The cells of the larger study."""
    for n in SEEDS:
        for method in ("t", "bootstrap of one mean", "Welch", "bootstrap of a difference"):
            yield method, Design(n=n, grid=1)
    for n in SEEDS:
        for censored in (0.0, 0.3, 0.6):
            yield "AFT", Design(n=n, censored=censored)
        yield "AFT", Design(n=n, sigma_a=0.1, sigma_b=0.1, grid=1.5)  # most runs share an interval
        yield "AFT, chi-square", Design(n=n)
    for n in SEEDS:
        for censored in (0.3, 0.6):
            yield "restricted mean", Design(n=n, censored=censored)
        yield "restricted mean as a lower bound", Design(n=n, censored=0.3)
        if n > 3:  # three against three can be exchanged in 20 ways: p is never below 0.1
            yield "log-rank", Design(n=n, ratio=1, sigma_a=0.35, sigma_b=0.35, censored=0.3)


def as_table(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row a cell: its design, coverage, the standard error of nominal coverage, and `found`."""
    rows = [
        {"method": cell.method, **dataclasses.asdict(cell.design), "repeats": cell.repeats}
        | {"covered": cell.covered, "coverage": cell.coverage, "error": cell.error, "found": cell.found}
        for cell in cells
    ]
    return pd.DataFrame(rows)
