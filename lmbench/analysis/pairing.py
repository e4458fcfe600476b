"""Values of arms that share their seeds, in one order: what every paired statistic begins with."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmbench.analysis.checks import require
from lmbench.analysis.intervals import finite
from lmbench.errors import unknown


def paired_values(runs: pd.DataFrame, *arms: str, value: str) -> list[np.ndarray]:
    """The values of each arm in the order of its seeds, which are those of the first arm.

    Args:
        runs: one row a run with columns label, init_seed and `value`.

    Raises:
        ValueError: an arm or column that is not there, seeds that do not match, values that are not
            finite (a run that diverged).
    """
    table = seed_table(runs, arms, value=value)
    return [table[arm].to_numpy(float) for arm in arms]


def seed_table(runs: pd.DataFrame, arms: Sequence[str], *, value: str) -> pd.DataFrame:
    """One row a seed, one column an arm, in the order given; the errors are those of `paired_values`."""
    for column in ("label", "init_seed", value):
        require(runs, column)
    columns = {}
    for arm in arms:
        own = runs[runs["label"] == arm]
        if own.empty:
            raise ValueError(unknown("label", arm, dict.fromkeys(map(str, runs["label"]))))
        if own["init_seed"].duplicated().any():
            twice = own["init_seed"][own["init_seed"].duplicated()].iloc[0]
            raise ValueError(f"label {arm!r} has init_seed {twice} twice; keep one row a seed")
        columns[arm] = pd.Series(
            finite(own[value], where=f" of {value} in {arm}"), index=own["init_seed"].to_numpy()
        ).sort_index()
    first = next(iter(columns))
    for arm, column in columns.items():
        odd = sorted(set(column.index) ^ set(columns[first].index))
        if odd:
            raise ValueError(f"paired {first!r} and {arm!r} need the same init_seeds; only one has {odd[0]}")
    return pd.DataFrame(columns)
