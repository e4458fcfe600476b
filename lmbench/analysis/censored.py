"""Log-normal likelihood of times that are known to an interval only, for one and for two groups.

A time lies in (lower, upper]: upper = inf where a run had not got there by its budget, lower = 0
where it was there at the first evaluation, lower = upper where the time is known exactly.
Two groups are fitted together where they share a spread, or where the shift between their
means is held at a value.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from scipy import optimize, special

EXACT = 1e-6  # a log time known to this width is a number, with a density in place of a mass
FLOOR = 1e-4  # of the spread of log times: seeds never agree to one part in 10,000
REACH = 40.0  # on the log scale: e^40 times earlier is not a finite statement
HALF = np.array([0, 1e-4, 1e-3, 0.004, 0.012, 0.03, 0.07, 0.15, 0.27, 0.4])
# Where hills are looked for: what share of a shift a's mean makes, and of its square the variance.
SHARES = np.concatenate([HALF, [0.5], 1 - HALF[::-1]])
SPREADS = np.array([0.3, 0.65, 1.0, 1.4, 2.2])
LOG_ROOT_2_PI = 0.5 * math.log(2 * math.pi)

Derivatives = tuple[float, ...]
"""A value and its slopes by the parameters."""


class Group:
    """The times of one group on the log scale and their likelihood.

    A run that was never observed, (0, inf], counts in `n` and says nothing else.

    Raises:
        ValueError: fewer than 2 runs, bounds that are no interval, no run that was observed.
    """

    def __init__(self, lower: Sequence[float], upper: Sequence[float], *, name: str) -> None:
        lower, upper = np.asarray(lower, float), np.asarray(upper, float)
        check_bounds(lower, upper, name=name)
        self.n = len(lower)
        seen = (lower > 0) | np.isfinite(upper)
        if not seen.any():
            raise ValueError(f"no run of group {name} was observed: all {self.n} lie in (0, inf]")
        with np.errstate(divide="ignore"):
            low, high = np.log(lower[seen]), np.log(upper[seen])
        known = np.isfinite(low) & np.isfinite(high)
        exact = high - low < EXACT
        self.m = int(known.sum())
        """Runs whose time is bounded on both sides."""
        self.exact, self.low, self.high = low[exact], low[~exact], high[~exact]
        width = float(np.median((high - low)[known])) if self.m else 0.0
        self.floor = max(FLOOR, width / math.sqrt(12))
        # All on one side of what was observed: the likelihood rises for ever towards that side.
        self.beyond = int(np.isinf(high).all()) - int(np.isinf(low).all())
        ends = np.where(np.isinf(low), high, np.where(np.isinf(high), low, (low + high) / 2))
        self.start = float(ends.mean()), max(float(ends.std()), 2 * self.floor, 0.05)
        self.reach = float(ends.min()) - REACH, float(ends.max()) + REACH

    def value(self, mu: float, log_sigma: float) -> Derivatives:
        """Log-likelihood of all runs, and its derivatives by mu and by log sigma."""
        sigma = math.exp(log_sigma)
        total = by_mu = by_log_sigma = 0.0
        if len(self.exact):
            z = (self.exact - mu) / sigma
            total = -0.5 * float(z @ z) - len(z) * (log_sigma + LOG_ROOT_2_PI)
            by_mu, by_log_sigma = float(z.sum()) / sigma, float(z @ z) - len(z)
        if len(self.low):
            below, above = (self.low - mu) / sigma, (self.high - mu) / sigma
            log_mass = _log_mass(below, above)
            slope_below = np.exp(-0.5 * below**2 - LOG_ROOT_2_PI - log_mass)
            slope_above = np.exp(-0.5 * above**2 - LOG_ROOT_2_PI - log_mass)
            total += float(log_mass.sum())
            by_mu += float((slope_below - slope_above).sum()) / sigma
            below, above = (np.where(np.isfinite(z), z, 0.0) for z in (below, above))
            by_log_sigma += float((slope_below * below - slope_above * above).sum())
        return total, by_mu, by_log_sigma

    def values(self, mu: np.ndarray, log_sigma: np.ndarray) -> np.ndarray:
        """Log-likelihoods at many parameters at once, of the shape of both."""
        mu, log_sigma = mu[..., None], log_sigma[..., None]
        scale = np.exp(-log_sigma)
        total = (-0.5 * ((self.exact - mu) * scale) ** 2 - log_sigma - LOG_ROOT_2_PI).sum(axis=-1)
        below, above = (self.low - mu) * scale, (self.high - mu) * scale
        return total + _log_mass(below, above).sum(axis=-1)

    def far(self, sigma: float) -> float:
        """Where nearly to the last digit every run of a group that lies beyond observation is certain."""
        return float(self.low.max() + 10 * sigma if self.beyond > 0 else self.high.min() - 10 * sigma)


class TwoGroups:
    """Both groups' maximum, and what is lost by holding the shift from a's mean to b's.

    `shift` is the most likely shift (infinite where a group lies beyond observation), `near` a
    finite one that loses nothing, `log_sigmas` the spreads of both.

    Raises:
        ValueError: both groups lie beyond what was observed, on the same side.
    """

    def __init__(self, a: Group, b: Group, *, pooled: bool) -> None:
        if a.beyond == b.beyond != 0:
            what = "reached at the first evaluation" if a.beyond < 0 else "not reached by the budget"
            raise ValueError(f"{what} by all {a.n} and {b.n} seeds, so there is no ratio")
        self.a, self.b, self.pooled = a, b, pooled
        floors = [max(a.floor, b.floor)] * 2 if pooled else [a.floor, b.floor]
        self.spreads = [(math.log(floor), math.log(REACH)) for floor in floors]
        if pooled and a.beyond == b.beyond == 0:
            (mu_a, s, mu_b), self.most = maximum(
                lambda x: _joined(a.value(x[0], x[1]), b.value(x[2], x[1]), shared="spread"),
                start=(a.start[0], math.log(max(a.start[1], b.start[1])), b.start[0]),
                bounds=(a.reach, self.spreads[0], b.reach),
            )
            found = [(mu_a, s), (mu_b, s)]
        else:
            found, self.most = self._apart()
        self.mu_a, self.near = found[0][0], found[1][0] - found[0][0]
        self.log_sigmas = found[0][1], found[1][1]
        ahead = b.beyond - a.beyond
        self.shift = self.near if not ahead else math.copysign(math.inf, ahead)

    def lost(self, shift: float, *, enough: float = 0.0) -> float:
        """Twice the log-likelihood lost by holding the shift at this value.

        Where it is found to be no more than `enough`, it may be less than what is returned.
        """
        # Far from the maximum either group may give way, which makes two hills: the higher is climbed.
        mus = self.mu_a - SHARES * (shift - self.near)
        tops = [self._best_spread(g, mu) for g, mu in ((self.a, mus), (self.b, mus + shift))]
        if self.pooled:
            found = [self._climb(mus[i], (tops[0][1][i], tops[1][1][i]), shift=shift) for i in (2, -3)]
            return max(0.0, 2 * (self.most - max(found)))
        both = tops[0][0] + tops[1][0]
        i = int(both.argmax())
        if 2 * (self.most - both[i]) <= enough:
            return max(0.0, 2 * (self.most - both[i]))
        best = max(both[i], self._climb(mus[i], (tops[0][1][i], tops[1][1][i]), shift=shift))
        return max(0.0, 2 * (self.most - float(best)))

    def _best_spread(self, group: Group, mu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearly the largest log-likelihood of a group at some means, and the log spreads there."""
        side = int(group is self.b)
        best = self.mu_a + side * self.near
        # Of exact times the spread at a mean off by x is sigma^2 + x^2, so it is near that.
        off = SPREADS[:, None] * (mu - best) ** 2
        logs = np.clip(0.5 * np.log(math.exp(2 * self.log_sigmas[side]) + off), *self.spreads[side])
        values = group.values(np.broadcast_to(mu, logs.shape), logs)
        most = values.argmax(axis=0)
        at = np.arange(len(mu))
        return values[most, at], logs[most, at]

    def _apart(self) -> tuple[list[tuple[float, float]], float]:
        """Mean and log spread of each group by itself, and the log-likelihood of both."""
        fits = {
            group: maximum(
                lambda x, group=group: group.value(x[0], x[1]),
                start=(group.start[0], math.log(group.start[1])), bounds=(group.reach, spread),
            )
            for group, spread in zip((self.a, self.b), self.spreads, strict=True) if not group.beyond
        }  # fmt: skip
        # Beyond observation the spread is unknown (that of the other is taken) and nothing is lost.
        s = max((x[1] for x, _ in fits.values()), default=0.0)
        found = [fits[g][0] if g in fits else (g.far(math.exp(s)), s) for g in (self.a, self.b)]
        return found, sum(most for _, most in fits.values())

    def _climb(self, mu_a: float, logs: Sequence[float], *, shift: float) -> float:
        """The log-likelihood's maximum at this shift, uphill from here."""
        a, b = self.a, self.b
        if self.pooled:
            return maximum(
                lambda x: _joined(a.value(x[0], x[1]), b.value(x[0] + shift, x[1]), shared="both"),
                start=(mu_a, max(logs)), bounds=(a.reach, self.spreads[0]),
            )[1]  # fmt: skip
        return maximum(
            lambda x: _joined(a.value(x[0], x[1]), b.value(x[0] + shift, x[2]), shared="mean"),
            start=(mu_a, *logs), bounds=(a.reach, *self.spreads),
        )[1]  # fmt: skip


def _log_mass(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Log of the standard normal probability of (below, above]."""
    # In the right tail both normal probabilities round to 1: the mirror image is exact.
    flip = below > 0
    near = special.log_ndtr(np.where(flip, -below, above))
    far = special.log_ndtr(np.where(flip, -above, below))
    return near + np.log(-np.expm1(far - near))


def check_bounds(lower: np.ndarray, upper: np.ndarray, *, name: str) -> None:
    """Raise ValueError unless these bound at least two times."""
    if lower.shape != upper.shape or lower.ndim != 1:
        raise ValueError(f"group {name} has {lower.size} lower and {upper.size} upper bounds; a run has both")
    if len(lower) < 2:
        raise ValueError(f"an interval needs at least 2 seeds, got {len(lower)}")
    wrong = ~((lower >= 0) & np.isfinite(lower) & (upper >= lower) & (upper > 0))
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"run {first} of group {name} has the bounds ({lower[first]:g}, {upper[first]:g}]; "
            "accepted: 0 <= lower <= upper, lower finite, upper inf where it was not reached"
        )


def maximum(
    value: Callable[[np.ndarray], Derivatives],
    *,
    start: Sequence[float],
    bounds: Sequence[tuple[float, float]],
) -> tuple[tuple[float, ...], float]:
    """Where a function with derivatives is largest, uphill from `start`, and its value there."""

    def down(x: np.ndarray) -> tuple[float, np.ndarray]:
        total, *slopes = value(x)
        return -total, -np.array(slopes)

    found = optimize.minimize(
        down, np.array(start), jac=True, method="L-BFGS-B",
        bounds=bounds, options={"ftol": 1e-13, "gtol": 1e-7},
    )  # fmt: skip
    return tuple(map(float, found.x)), -float(found.fun)


def _joined(a: Derivatives, b: Derivatives, *, shared: Literal["spread", "mean", "both"]) -> Derivatives:
    """The likelihood of both, with slopes by: a's mean, a's spread, then what b does not share."""
    by_mean = (a[1] + b[1],) if shared != "spread" else (a[1],)
    by_spread = (a[2] + b[2],) if shared != "mean" else (a[2], b[2])
    return (a[0] + b[0], *by_mean, *by_spread, *((b[1],) if shared == "spread" else ()))
