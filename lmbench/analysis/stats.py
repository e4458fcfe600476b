"""Intervals and tests whose unit is the seed.

An architecture is judged by independent trainings, so n is a number of seeds, and every
interval is a t interval over them. Where models share the order of their data, seeds are
paired and the pairs are what is averaged. Several comparisons are one family, adjusted by
Holm's method.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import pandas as pd

from lmbench.analysis.intervals import Estimate, check_confidence, finite, holm, t_interval, welch
from lmbench.errors import unknown

MOST_PAIRS = 20  # that a reading tells and a figure draws; of more those of the best group


def summarise(
    frame: pd.DataFrame, *, by: str | Sequence[str], value: str = "value", confidence: float = 0.95
) -> pd.DataFrame:
    """Mean, sd, n and t interval of each group; one row of `frame` is one seed.

    Returns:
        The `by` columns, mean, sd, n, low, high, in order of first appearance. With one
        seed sd, low and high are NaN.

    Raises:
        ValueError: a missing column, an empty frame, a value that is not finite.
    """
    by = [by] if isinstance(by, str) else list(by)
    _check_columns(frame, [*by, value])
    check_confidence(confidence)
    rows = []
    for key, group in frame.groupby(by, sort=False, dropna=False, observed=True):
        x = finite(group[value], where=f" in {' '.join(map(str, key))}")
        known = t_interval(x, confidence=confidence) if len(x) > 1 else None
        low, high = (known.low, known.high) if known else (math.nan, math.nan)
        sd = x.std(ddof=1) if known else math.nan
        rows.append((*key, x.mean(), sd, len(x), low, high))
    return pd.DataFrame(rows, columns=[*by, "mean", "sd", "n", "low", "high"])


def with_the_best(
    pairs: pd.DataFrame, *, most: int = MOST_PAIRS, better: Literal["lower", "higher"] = "lower"
) -> pd.DataFrame:
    """All pairs, or where they are more than `most` those of the group with the best values.

    A part has the column `family`: how many pairs Holm's correction covers, see `family_of`.
    """
    if len(pairs) <= most:
        return pairs
    groups = list(dict.fromkeys([*pairs["a"], *pairs["b"]]))
    ahead = -pairs["difference"] if better == "lower" else pairs["difference"]
    wins = {
        name: int(((pairs["a"] == name) & (ahead > 0)).sum() + ((pairs["b"] == name) & (ahead < 0)).sum())
        for name in groups
    }
    best = max(groups, key=wins.__getitem__)
    return pairs[(pairs["a"] == best) | (pairs["b"] == best)].reset_index(drop=True).assign(family=len(pairs))


def family_of(pairs: pd.DataFrame) -> int:
    """How many comparisons their adjusted p values cover: these, or those that they are a part of."""
    return int(pairs["family"].iloc[0]) if "family" in pairs and len(pairs) else len(pairs)


def paired_differences(
    frame: pd.DataFrame,
    *,
    group: str,
    unit: str,
    value: str = "value",
    reference: str | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Mean difference a - b over shared units, with t interval, paired t test and Holm's p.

    Args:
        frame: one row for each group and unit.
        group: column of what is compared, such as "label".
        unit: column that pairs the rows, such as "init_seed".
        reference: compare every other group with this one.
        pairs: compare these (a, b) only. With neither, all pairs in order of appearance.

    Returns:
        One row a pair: a, b, difference, low, high, p, p_holm, n. All pairs returned are one
        family. With one unit the interval and p are NaN.

    Raises:
        ValueError: units that do not match, a unit twice in a group, an unknown reference or pair.
    """
    columns, chosen = _columns_and_pairs(frame, group, unit, value, reference, pairs)
    for a, b in chosen:
        odd = sorted(columns[a].index.symmetric_difference(columns[b].index))
        if odd:
            without = b if odd[0] in columns[a].index else a
            raise ValueError(
                f"{group} {without!r} has no {unit} {odd[0]}; paired {a!r} and {b!r} need the same"
            )

    def compare(a: str, b: str) -> Estimate:
        return t_interval(columns[a] - columns[b].loc[columns[a].index], confidence=confidence)

    return _compared(columns, chosen, compare)


def welch_differences(
    frame: pd.DataFrame,
    *,
    group: str,
    unit: str,
    value: str = "value",
    reference: str | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """`paired_differences` for groups whose seeds share nothing: Welch's interval and test."""
    columns, chosen = _columns_and_pairs(frame, group, unit, value, reference, pairs)

    def compare(a: str, b: str) -> Estimate:
        return welch(columns[a], columns[b], confidence=confidence)

    return _compared(columns, chosen, compare)


def _columns_and_pairs(
    frame: pd.DataFrame,
    group: str,
    unit: str,
    value: str,
    reference: str | None,
    pairs: Sequence[tuple[str, str]] | None,
) -> tuple[dict[str, pd.Series], list[tuple[str, str]]]:
    """The values of each group by unit, and the pairs of groups to compare."""
    _check_columns(frame, [group, unit, value])
    twice = frame.duplicated([group, unit])
    if twice.any():
        first = frame[twice].iloc[0]
        raise ValueError(f"{group} {first[group]!r} has {unit} {first[unit]} twice; keep one row a {unit}")
    columns = {}
    for name, rows in frame.groupby(group, sort=False, observed=True):
        columns[name] = pd.Series(finite(rows[value], where=f" in {name}"), index=rows[unit].to_numpy())
    for name in [*([] if reference is None else [reference]), *itertools.chain(*(pairs or ()))]:
        if name not in columns:
            raise ValueError(unknown(group, name, columns))
    if len(columns) < 2:
        raise ValueError(f"a comparison needs at least 2 values of {group}, got {len(columns)}")
    if pairs is not None:
        return columns, list(pairs)
    if reference is not None:
        return columns, [(name, reference) for name in columns if name != reference]
    return columns, list(itertools.combinations(columns, 2))


def _compared(
    columns: dict[str, pd.Series], pairs: list[tuple[str, str]], compare: Callable[[str, str], Estimate]
) -> pd.DataFrame:
    rows = []
    for a, b in pairs:
        n = min(len(columns[a]), len(columns[b]))
        gap = float(columns[a].mean() - columns[b].mean())
        found = compare(a, b) if n > 1 else Estimate(gap, math.nan, math.nan, math.nan, n, math.nan)
        rows.append((a, b, found.value, found.low, found.high, found.p, n))
    table = pd.DataFrame(rows, columns=["a", "b", "difference", "low", "high", "p", "n"])
    table.insert(6, "p_holm", holm(table["p"].to_numpy()))
    return table


def _check_columns(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    for name in columns:
        if name not in frame:
            raise ValueError(f"the table has no column {name!r}; it has {', '.join(map(str, frame))}")
    if frame.empty:
        raise ValueError("the table has no rows")
