"""Pacing: at each step the easiest part of the data, growing to all of it.

After a share p of the training a learner is competent for c(p) = min(1, sqrt(p (1 - c0^2) + c0^2))
of the data, and draws uniformly from what is easier than the percentile c. The square root lets
few new examples in at a time when many are already learned.

Source: Platanios et al. 2019 (arXiv:1903.09848), equation 8, with training length = all of the run.
Legend: S step, K kept unit, W window.
"""

import math

import numpy as np


def competence(progress: float, *, start: float) -> float:
    """The part of the data that is drawn from.

    Args:
        progress: share of the training that is done, 0 .. 1.
        start: c0, the competence at the beginning; 1 is all of the data from the first step.
    """
    return min(1.0, math.sqrt(progress * (1 - start**2) + start**2))


def pools(difficulty_W: np.ndarray, *, steps: int, start: float) -> np.ndarray:
    """(S,) how many of the windows, easiest first, each step draws from; at least those of the easiest.

    Args:
        difficulty_W: percentile of each window's unit, in increasing order.
        steps: of the whole run, by which progress is measured.
    """
    assert np.all(np.diff(difficulty_W) >= 0)
    competence_S = [competence(step / steps, start=start) for step in range(steps)]
    counts_S = np.searchsorted(difficulty_W, competence_S, side="right")
    easiest = np.searchsorted(difficulty_W, difficulty_W[0], side="right")
    return np.maximum(counts_S, easiest)
