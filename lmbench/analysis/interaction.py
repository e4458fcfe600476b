"""Whether two changes together do more than each alone: the interaction of a 2 x 2 design.

With y for the metric, a for the first change and b for the second, a seed's interaction is
(y_ab - y_b) - (y_a - y_0): how much more the first change does where the second is made too. Seeds are
paired over all four arms, so this is one number a seed, with a t interval. On the log scale it
compares factors instead of differences: no interaction is that the factors multiply.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from lmbench.analysis.intervals import Estimate, t_interval
from lmbench.analysis.pairing import seed_table
from lmbench.analysis.words import in_digits, percent, seeds
from lmbench.errors import unknown

Scale = Literal["linear", "log"]


class Interaction(NamedTuple):
    """Effects of a 2 x 2 design over paired seeds; each an estimate with interval and p."""

    interaction: Estimate
    first: Estimate
    """The first change alone: y_a - y_0."""
    second: Estimate
    """The second alone: y_b - y_0."""
    both: Estimate
    """y_ab - y_0."""
    scale: Scale
    arms: tuple[str, str, str, str]
    """Neither, first, second, both."""


def interaction(
    runs: pd.DataFrame,
    *,
    neither: str,
    first: str,
    second: str,
    both: str,
    metric: str = "bits_per_byte",
    scale: Scale = "linear",
    confidence: float = 0.95,
) -> Interaction:
    """The interaction of two changes, from four arms with the same seeds.

    Args:
        runs: one row a run with columns label, init_seed and the metric.
        neither: label of the arm without both changes; `first`, `second`, `both`: of the others.
        scale: "log" for values above 0 whose ratios are of interest.

    Raises:
        ValueError: an arm that is not there, seeds that do not match, fewer than 2 of them.
    """
    if scale not in ("linear", "log"):
        raise ValueError(unknown("scale", scale, ("linear", "log")))
    arms = (neither, first, second, both)
    if len(set(arms)) < 4:
        raise ValueError(f"a 2 x 2 design needs 4 different arms, got {', '.join(arms)}")
    table = seed_table(runs, arms, value=metric)
    if len(table) < 2:
        raise ValueError(f"an interval needs at least 2 seeds, got {len(table)}")
    if scale == "log" and table.min(axis=None) <= 0:
        raise ValueError(f"the log scale needs values above 0, got {table.min(axis=None):g}")
    y_0, y_a, y_b, y_ab = ((np.log(table) if scale == "log" else table)[arm].to_numpy() for arm in arms)
    effects = ((y_ab - y_b) - (y_a - y_0), y_a - y_0, y_b - y_0, y_ab - y_0)
    return Interaction(*(t_interval(effect, confidence=confidence) for effect in effects), scale, arms)


def interaction_table(found: Interaction) -> pd.DataFrame:
    """One row an effect: effect, arms, difference (or on the log scale a factor), low, high, p, n."""
    neither, first, second, both = found.arms
    names = {
        "first": (f"{first} − {neither}", found.first),
        "second": (f"{second} − {neither}", found.second),
        "both": (f"{both} − {neither}", found.both),
        "interaction": (f"({both} − {second}) − ({first} − {neither})", found.interaction),
    }
    on_scale = math.exp if found.scale == "log" else float
    rows = [
        (name, arms, on_scale(e.value), on_scale(e.low), on_scale(e.high), e.p, e.n)
        for name, (arms, e) in names.items()
    ]
    return pd.DataFrame(rows, columns=["effect", "arms", "difference", "low", "high", "p", "n"])


def interaction_sentence(found: Interaction, *, unit: str = "bits per byte", confidence: float = 0.95) -> str:
    """What the interaction says, for a metric of which less is better."""
    known = found.interaction
    value, low, high = in_digits(known.value, known.low, known.high, signed=True)
    unit = f"{unit} on the log scale" if found.scale == "log" else unit
    what = "is not decided: the interval holds 0"
    if known.high < 0:
        what = "is favourable: together they take off more than the sum of what each takes off alone"
    elif known.low > 0:
        what = "is unfavourable: together they take off less than the sum of what each takes off alone"
    return (
        f"The interaction of {found.arms[1]} and {found.arms[2]} {what} ({value} {unit}, "
        f"{percent(confidence)} interval {low} to {high}, p = {known.p:.3f}, {seeds(known.n)})."
    )
