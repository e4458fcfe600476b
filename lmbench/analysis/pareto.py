"""Pareto fronts: the rows that no other row beats in both cost and loss.

A model lies on the front if nothing is at least as cheap and at least as good and better
in one of the two. Which cost is meant (FLOPs, parameters, bytes, seconds) changes the
front, so it is always named.
"""

import numpy as np
import pandas as pd

from lmbench.analysis.checks import refuse_mixed_devices

TOLERANCE = 0.02  # costs that differ by less are equal: budgets are met to a whole optimizer step


def pareto_front(frame: pd.DataFrame, *, cost: str, loss: str, tolerance: float = TOLERANCE) -> pd.DataFrame:
    """The rows of `frame` on the front, from cheapest to dearest; lower is better in both.

    Costs within a relative `tolerance` count as equal; without it, models of one FLOP budget would
    all stand on the front because each missed it by another fraction of a step.

    Rows that tie in both stand together, on the front or off it. Costs that depend on the
    machine are compared on one only: a column `device` must then hold a single value.

    Raises:
        ValueError: a missing column, no rows, a value that is not finite, several devices.
    """
    return frame[_is_on_front(frame, cost=cost, loss=loss, tolerance=tolerance)].sort_values(
        [cost, loss], kind="stable"
    )


def _is_on_front(frame: pd.DataFrame, *, cost: str, loss: str, tolerance: float) -> np.ndarray:
    for name in (cost, loss):
        if name not in frame:
            raise ValueError(f"the table has no column {name!r}; it has {', '.join(map(str, frame))}")
        bad = int((~np.isfinite(frame[name].to_numpy(float))).sum())
        if bad:
            raise ValueError(f"{bad} of {len(frame)} values of {name!r} are not finite numbers")
    if frame.empty:
        raise ValueError("a Pareto front needs at least 1 row, got 0")
    refuse_mixed_devices(frame, [cost])
    c, x = frame[cost].to_numpy(float), frame[loss].to_numpy(float)
    # beats[i, j]: i is nowhere worse than j and somewhere better. Tables have tens of rows, not thousands.
    no_worse = (c[:, None] <= c * (1 + tolerance)) & (x[:, None] <= x)
    better = (c[:, None] * (1 + tolerance) < c) | (x[:, None] < x)
    return ~(no_worse & better).any(axis=0)
