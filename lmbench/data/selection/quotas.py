"""Quotas: how many tokens each domain may keep, and which units fill them.

A domain's quota is share * W * w_d of the W tokens of the text, rounded by largest remainders so
that quotas add up. The weights w are the domains' natural shares p, their tempered shares
p^tau / sum p^tau (tau = 1 natural, 0 uniform), or shifted towards domains in which a student is
still far behind a reference:

    w_d = (1 - c) p_d exp(eta * e_d) / sum_k p_k exp(eta * e_k) + c / D,

e the mean excess loss per token, each clipped at 0. This is one step of the exponentiated gradient
of DoReMi (Xie et al. 2023, arXiv:2305.10429, algorithm 1), which repeats it while a proxy model
trains and averages the weights; we depart in taking the single step, so no proxy is trained.

A domain that holds less than its quota gives all it has, and the others share the rest. The last
unit of a domain is cut where the quota ends: arms with equal shares keep equal numbers of tokens.

Legend: D domain, U unit, K kept unit.
"""

from collections.abc import Sequence

import numpy as np


def natural(tokens_D: np.ndarray) -> np.ndarray:
    """(D,) the domains' shares of the text."""
    return tokens_D / tokens_D.sum()


def tempered(tokens_D: np.ndarray, *, tau: float) -> np.ndarray:
    """(D,) shares to the power of tau, normalised; a domain without tokens stays without."""
    powered_D = np.where(tokens_D > 0, natural(tokens_D) ** tau, 0.0)
    return powered_D / powered_D.sum()


def by_excess(
    tokens_D: np.ndarray, excess_D: np.ndarray, *, step: float = 1.0, smoothing: float = 1e-3
) -> np.ndarray:
    """(D,) natural shares, raised where the mean excess loss (nats per token) is high.

    Args:
        step: eta above; 0 leaves the natural shares.
        smoothing: c above, which keeps every domain alive.
    """
    gained_D = natural(tokens_D) * np.exp(step * (np.maximum(excess_D, 0.0) - np.max(excess_D)))
    return (1 - smoothing) * gained_D / gained_D.sum() + smoothing / len(tokens_D)


def largest_remainder(total: int, weights_D: np.ndarray) -> np.ndarray:
    """(D,) integers that add up to `total` in proportion to the weights; ties go to the first.

    Each is its exact share rounded down or up (Hamilton's method).
    """
    exact_D = total * weights_D / weights_D.sum()
    floor_D = np.floor(exact_D + 1e-9).astype(np.int64)
    left = total - int(floor_D.sum())
    floor_D[np.argsort(floor_D - exact_D, kind="stable")[:left]] += 1
    return floor_D


def allot(total: int, weights_D: np.ndarray, *, available_D: np.ndarray) -> np.ndarray:
    """(D,) tokens of each domain: at most what is available, the others sharing what one cannot fill.

    Adds up to `total`, or to all that is available where that is less.
    """
    quota_D = np.zeros(len(weights_D), dtype=np.int64)
    open_D = (weights_D > 0) & (available_D > 0)
    left = min(total, int(available_D.sum()))
    while left > 0:
        if not open_D.any():  # only domains of weight 0 have tokens left
            open_D = available_D > quota_D
            weights_D = available_D.astype(float)
        wanted_D = np.zeros_like(quota_D)
        wanted_D[open_D] = largest_remainder(left, weights_D[open_D])
        full_D = open_D & (quota_D + wanted_D >= available_D)
        if not full_D.any():
            return quota_D + wanted_D
        quota_D[full_D] = available_D[full_D]
        open_D &= ~full_D
        left = min(total, int(available_D.sum())) - int(quota_D.sum())
    return quota_D


def fill(preferred: Sequence[int], *, tokens_U: np.ndarray, quota: int) -> tuple[np.ndarray, np.ndarray]:
    """Take units in the given order until the quota is full.

    Returns:
        The units (K,), and how many tokens of each are kept (K,): all, but for the last.
    """
    chosen = np.asarray(preferred, dtype=np.int64)
    before = np.cumsum(tokens_U[chosen]) - tokens_U[chosen]
    chosen = chosen[before < quota]
    return chosen, np.minimum(tokens_U[chosen], quota - before[: len(chosen)])
