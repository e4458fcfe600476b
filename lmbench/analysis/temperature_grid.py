"""Whether temperature and the balance of hard and soft targets matter: the grid, and a test of each.

Settings share their seeds, which are blocks: the F test compares how far the levels' means lie apart with
how far seeds disagree about them (a randomised block design, levels averaged over what else is in the
grid). It asks whether a setting matters at all, so no best one is picked before it is tested.
"""

import math
from typing import NamedTuple

import pandas as pd
from scipy import stats

from lmbench.analysis.checks import require
from lmbench.analysis.distillation_arms import HARD, with_settings
from lmbench.analysis.intervals import finite, holm
from lmbench.analysis.stats import paired_differences, summarise
from lmbench.analysis.words import seeds

NAMES = {"tau": "temperature", "alpha": "share of the targets", "power": "power of the temperature"}


class BlockTest(NamedTuple):
    """The F test of levels against their disagreement over seeds."""

    f: float
    p: float
    spread: float
    """Highest less lowest mean of a level."""
    best: float
    """The level of the lowest mean."""
    levels: int
    n: int


def block_test(runs: pd.DataFrame, *, setting: str, value: str, unit: str = "init_seed") -> BlockTest:
    """Test that the levels of a setting have one mean; p is NaN with one seed.

    Args:
        runs: one row a run, with the setting as a column and the same runs at each of its levels.

    Raises:
        ValueError: fewer than 2 levels, a value that is not finite, or a seed that lacks a level.
    """
    for column in (setting, unit, value):
        require(runs, column)
    finite(runs[value], where=f" of {value}")
    table = runs.pivot_table(index=unit, columns=setting, values=value)
    if table.shape[1] < 2:
        raise ValueError(f"{setting} has {table.shape[1]} level; a test needs at least 2")
    if table.isna().any(axis=None):
        seed, level = table.isna().stack().idxmax()
        raise ValueError(f"{unit} {seed} has no run at {setting} {level:g}; every seed needs all levels")
    n, k = table.shape
    means = table.mean()
    spread, best = float(means.max() - means.min()), float(means.idxmin())
    if n < 2:
        return BlockTest(math.nan, math.nan, spread, best, k, n)
    rest = table.sub(means, axis=1).sub(table.mean(axis=1), axis=0) + means.mean()
    between = n * ((means - means.mean()) ** 2).sum() / (k - 1)
    within = (rest**2).to_numpy().sum() / ((k - 1) * (n - 1))
    f = float(between / within) if within > 0 else math.inf if between > 0 else 0.0
    return BlockTest(f, float(stats.f.sf(f, k - 1, (k - 1) * (n - 1))), spread, best, k, n)


def grid_table(runs: pd.DataFrame, *, metric: str = "bits_per_byte", base: str = HARD) -> pd.DataFrame:
    """One row for each temperature and alpha that was run: its loss, and what it changes against the base.

    Columns: the settings, n, mean, and difference, low, high, p_holm against the base in pairs of seeds,
    which are left out where the base was not run.

    Raises:
        ValueError: no arm that sets a temperature or alpha.
    """
    rows = _grid(runs)
    names = [name for name in NAMES if name in rows]
    table = summarise(rows, by=["label", *names], value=metric)[["label", *names, "n", "mean"]]
    if base in set(runs["label"]):
        both = pd.concat([rows, runs[runs["label"] == base]])
        pairs = [(label, base) for label in table["label"]]
        found = paired_differences(both, group="label", unit="init_seed", value=metric, pairs=pairs)
        table = table.join(found[["difference", "low", "high", "p_holm"]])
    return table.drop(columns="label").sort_values(names, kind="stable").reset_index(drop=True)


def grid_tests(runs: pd.DataFrame, *, metric: str = "bits_per_byte") -> pd.DataFrame:
    """One row for each setting of the grid with several levels: its F test, and how far they lie apart.

    The test of a setting takes the values of the others at which all of its levels were run. Columns:
    setting, levels, best (level, over the others), best arm (of the whole grid), spread, f, p, p_holm, n.

    Raises:
        ValueError: no arm that sets a temperature or alpha.
    """
    rows, found = _grid(runs), []
    names = [name for name in NAMES if name in rows]
    best = rows.groupby("label", sort=False)[metric].mean().idxmin()
    for name in names:
        balanced = _balanced(rows, name, [other for other in names if other != name])
        if balanced[name].nunique() > 1:
            test = block_test(balanced, setting=name, value=metric)
            found.append((NAMES[name], test.levels, test.best, best, test.spread, test.f, test.p, test.n))
    table = pd.DataFrame(found, columns=["setting", "levels", "best", "best arm", "spread", "f", "p", "n"])
    table.insert(7, "p_holm", holm(table["p"].to_numpy(float)))
    return table


def grid_sentences(tests: pd.DataFrame, *, unit: str, alpha: float = 0.05) -> list[str]:
    """One sentence for each setting: whether its levels differ, by how much, and the test."""
    said = []
    for row in tests.rename(columns={"best arm": "best_arm"}).itertuples():
        what = "changes the loss" if row.p_holm < alpha else "is not shown to change the loss"
        p = f"F = {row.f:.3g}, Holm's p {'< 0.001' if row.p_holm < 0.001 else f'= {row.p_holm:.3f}'}"
        test = f"{p}, {seeds(row.n)}" if row.n > 1 else "no test with 1 seed"
        said.append(
            f"The {row.setting} {what}: its {row.levels} levels lie {row.spread:.3g} {unit} apart, the "
            f"lowest mean over the other settings is at {row.best:g}, and the best arm of all is "
            f"{row.best_arm} ({test})."
        )
    return said


def _grid(runs: pd.DataFrame) -> pd.DataFrame:
    rows = with_settings(runs)
    rows = rows[[{"tau", "alpha"} & set(label.replace("=", " ").split()) != set() for label in rows["label"]]]
    if rows.empty:
        raise ValueError("no arm sets a temperature or alpha, as 'tau=2 alpha=0.5' does")
    return rows


def _balanced(rows: pd.DataFrame, name: str, others: list[str]) -> pd.DataFrame:
    """The rows at those values of the other settings where every level of this one was run."""
    if not others:
        return rows
    wanted = rows[name].nunique()
    counts = rows.groupby(others, dropna=False)[name].transform("nunique")
    return rows[(counts == wanted) & rows[name].notna()]
