"""All comparisons of onsets as one table, adjusted as families, and what it says of a promise."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from lmbench.analysis.checks import require
from lmbench.analysis.earlier import COLUMNS, KEYS, check_known, earlier, is_value
from lmbench.analysis.earlier_words import UNIT, Earlier, amount, sentence, times
from lmbench.analysis.intervals import holm
from lmbench.analysis.words import capital, p_value, percent, seeds
from lmbench.errors import unknown

Promise = Literal["refuted", "consistent", "exceeded", "not decided"]


def earlier_table(
    onsets: pd.DataFrame,
    *,
    reference: str | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    units: Sequence[str] | None = None,
    thresholds: Sequence[float] | None = None,
    metrics: Sequence[str] | None = None,
    primary_unit: str = "step",
    primary_threshold: float = 0.5,
    paired: bool = False,
    confidence: float = 0.95,
    permutations: int = 9999,
) -> pd.DataFrame:
    """Every comparison of every task and level that both labels of a pair were scored on.

    The score at `primary_threshold` in `primary_unit` is the primary family: what was asked
    before looking, adjusted by Holm. All the rest is explored: Benjamini and Hochberg's q.

    Args:
        reference: compare every other label (as a) with this one (as b).
        pairs: compare these (a, b) only. With neither, all pairs in order of appearance.
        units: of the onsets, all by default, like `thresholds` and `metrics`.

    Returns:
        One row a comparison: the fields of `Earlier` (`decided` and `sentence` by the adjusted p), then
        primary, p_holm, q, and depends_on_metric: whether score and answer_nll, each by its own
        interval, say different things; None where one of them is missing.

    Raises:
        ValueError: as `earlier`; a reference or pair that is no label, nothing to compare.
    """
    for column in COLUMNS:
        require(onsets, column)
    chosen = _pairs(list(dict.fromkeys(onsets["label"])), reference, pairs)
    kept = {"unit": units, "threshold": thresholds, "metric": metrics}
    for name, values in kept.items():
        for value in values or ():
            check_known(onsets, name, value)
        if values is not None:
            onsets = onsets[np.any([is_value(onsets[name], value) for value in values], axis=0)]
    options = {"paired": paired, "confidence": confidence, "permutations": permutations}
    rows = [
        dataclasses.asdict(earlier(group, a, b, **dict(zip(KEYS, key, strict=True)), **options))
        for key, group in onsets.groupby(list(KEYS), sort=False)
        for a, b in chosen
        if {a, b} <= set(group["label"])
    ]
    if not rows:
        raise ValueError("no task and level has onsets of both labels of a pair, so nothing can be compared")
    table = pd.DataFrame(rows)
    is_primary = (table["metric"] == "score") & (table["unit"] == primary_unit)
    table["primary"] = is_primary & np.isclose(table["threshold"], primary_threshold)
    return _adjusted(table, alpha=round(1 - confidence, 12))


def _adjusted(table: pd.DataFrame, *, alpha: float) -> pd.DataFrame:
    """The table with both families adjusted, decisions by them, and what depends on the metric."""
    own, primary, p = table["decided"].copy(), table["primary"].to_numpy(), table["p"].to_numpy(float)
    table["p_holm"] = table["q"] = math.nan
    table.loc[primary, "p_holm"] = holm(p[primary])
    if not primary.all():
        # A test that could not be made counts in the family, as in Holm's.
        q = stats.false_discovery_control(np.where(np.isnan(p), 1.0, p)[~primary])
        table.loc[~primary, "q"] = np.where(np.isnan(p[~primary]), math.nan, q)
    adjusted = table["p_holm"].fillna(table["q"])
    table["decided"] = own.where((adjusted < alpha) | (own == "not reached"), "not decided")
    sizes = {True: int(primary.sum()), False: int((~primary).sum())}
    for place in table.index[table["decided"] != own]:
        table.loc[place, "sentence"] = _taken_back(table.loc[place].to_dict(), sizes)
    said = own.groupby([table[name] for name in ("a", "b", *KEYS)], sort=False).first().to_dict()
    depends = []
    for key in table[["a", "b", *KEYS]].itertuples(index=False, name=None):
        twins = [said.get((*key[:4], metric, *key[5:])) for metric in ("score", "answer_nll")]
        depends.append(None if None in twins else twins[0] != twins[1])
    table["depends_on_metric"] = pd.Series(depends, index=table.index, dtype=object)
    return table


def _taken_back(row: dict[str, Any], sizes: dict[bool, int]) -> str:
    """The sentence of a comparison that its own p decides and the adjusted one does not."""
    name, p = ("Holm's p", row["p_holm"]) if row["primary"] else ("Benjamini and Hochberg's q", row["q"])
    reason = f"{p_value(p).replace('p', name, 1)} over {sizes[bool(row['primary'])]:,} comparisons"
    fields = {field.name: row[field.name] for field in dataclasses.fields(Earlier)}
    return sentence(Earlier(**fields), taken_back=reason)


def judge_promise(low: float, high: float, *, adjusted_p: float, claimed: float, alpha: float) -> Promise:
    """What an interval of the ratio says of a promised one."""
    if high < claimed:
        return "refuted"
    if low > claimed:
        return "exceeded"
    return "consistent" if low > 1 and adjusted_p < alpha else "not decided"


def claim_sentence(table: pd.DataFrame, claimed_ratio: float) -> str:
    """What the rows of `earlier_table` say of a promise such as "7.3 times earlier".

    Refuted: the interval lies below the promise. Consistent: it holds the promise and not 1, also
    after the adjustment for the family. Exceeded: it lies above. Else not decided.

    Raises:
        ValueError: no rows, or a promise of no more than 1 times.
    """
    if not claimed_ratio > 1:
        raise ValueError(f"claimed_ratio is {claimed_ratio:g}; a promise of 'times earlier' is above 1")
    if table.empty:
        raise ValueError("the promise needs at least 1 comparison to be judged by, got 0")
    adjusted = table["p_holm"].fillna(table["q"])
    parts, found = [], []
    for row, p in zip(table.itertuples(), adjusted, strict=True):
        promise = judge_promise(
            row.low, row.high, adjusted_p=p, claimed=claimed_ratio, alpha=round(1 - row.confidence, 12)
        )
        found.append(promise)
        where = (
            f"{row.a} against {row.b} in {row.task} level {row.level} ({row.metric} at {row.threshold:g}, "
        )
        value, low, high = times(row.ratio, row.low, row.high)
        what = (
            f"no run of either got there by {amount(row.latest, row.unit)}"
            if row.decided == "not reached"
            else f"{value} times, {percent(row.confidence)} interval {low} to {high}, "
            f"{row.n_a} and {seeds(row.n_b)}"
        )
        dependent = "; metric-dependent" if row.depends_on_metric is True else ""
        parts.append(f"{promise} for {where}{UNIT.get(row.unit, row.unit)}): {what}{dependent}")
    counts = ", ".join(f"{found.count(x)} {x}" for x in dict.fromkeys(found))
    each = ". ".join(map(capital, parts))
    return f"The promise of {claimed_ratio:g} times earlier: {counts}. {each}."


def _pairs(
    labels: list[str], reference: str | None, pairs: Sequence[tuple[str, str]] | None
) -> list[tuple[str, str]]:
    for name in [*([] if reference is None else [reference]), *itertools.chain(*(pairs or ()))]:
        if name not in labels:
            raise ValueError(unknown("label", name, labels))
    if pairs is not None:
        return list(pairs)
    if reference is not None:
        return [(name, reference) for name in labels if name != reference]
    return list(itertools.combinations(labels, 2))
