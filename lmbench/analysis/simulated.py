"""Simulated experiments in which the times of emergence are known: what the coverage study draws.

Log times are normal with a spread for each group. They are seen on a geometric grid of
evaluations up to a budget, which some runs of the slower group do not meet.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats


class Bounds(NamedTuple):
    """An experiment: bounds of the times of both groups, each of shape (n,)."""

    a_lower: np.ndarray
    a_upper: np.ndarray
    b_lower: np.ndarray
    b_upper: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is drawn: the truth of an experiment and how it is observed."""

    n: int
    """Runs a group."""
    ratio: float = 2.0
    """Median time of b over that of a."""
    sigma_a: float = 0.25
    """Standard deviation of a's log times. Probes of small models showed 0.07 to 0.55."""
    sigma_b: float = 0.45
    censored: float = 0.0
    """Share of b's runs that do not get there within the budget, on average."""
    grid: float = 1.1
    """Ratio of an evaluation's step to that of the one before; 1 gives exact times."""
    median_a: float = 300.0
    """Steps."""

    @property
    def budget(self) -> float:
        """The last evaluation."""
        if not self.censored:
            return math.inf
        return self.median_a * self.ratio * math.exp(self.sigma_b * stats.norm.isf(self.censored))

    def draw(self, rng: np.random.Generator) -> Bounds:
        """One experiment."""
        a = self.median_a * np.exp(self.sigma_a * rng.standard_normal(self.n))
        b = self.median_a * self.ratio * np.exp(self.sigma_b * rng.standard_normal(self.n))
        return Bounds(*self._observed(a), *self._observed(b))

    def log_restricted_mean(self, group: Literal["a", "b"]) -> float:
        """E[log min(T, budget)]: of a normal variable that is cut off at a value."""
        mu = math.log(self.median_a * (self.ratio if group == "b" else 1.0))
        sigma, cut = (self.sigma_a if group == "a" else self.sigma_b), math.log(self.budget)
        if math.isinf(cut):
            return mu
        z = (cut - mu) / sigma
        return mu * stats.norm.cdf(z) - sigma * stats.norm.pdf(z) + cut * stats.norm.sf(z)

    def _observed(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        budget = self.budget
        if self.grid == 1:
            lower = upper = times
        else:
            # The grid ends at the budget, so that the last evaluation is the last step.
            anchor = budget if math.isfinite(budget) else 1.0
            place = np.ceil(np.log(times / anchor) / math.log(self.grid))
            lower, upper = anchor * self.grid ** (place - 1), anchor * self.grid**place
        late = times > budget
        return np.where(late, budget, lower), np.where(late, np.inf, upper)
