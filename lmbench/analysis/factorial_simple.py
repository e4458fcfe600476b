"""Simple effects: what a factor does where another one is off, and where it is on.

The effect of a factor over a whole design is the mean of these two, and of opposite ones it tells nothing.
An interaction of two factors is half the difference of them (Yates's scale), so where one is decided its
reading gives both. In half of a design they are confused with products of the other factors, which are named.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lmbench.analysis.distillation_arms import FACTORS, factors_of
from lmbench.analysis.factorial import is_decided
from lmbench.analysis.factorial_design import Design, design_of, name_of, sign, words_of
from lmbench.analysis.intervals import Estimate, holm, t_interval
from lmbench.analysis.pairing import seed_table
from lmbench.analysis.words import in_digits, seeds
from lmbench.errors import unknown

COLUMNS = ["effect", "given", "is_on", "aliases", "difference", "low", "high", "p", "p_holm", "n"]


def simple_effects(
    runs: pd.DataFrame,
    *,
    factor: str,
    given: str,
    value: str = "bits_per_byte",
    factors: Sequence[str] = FACTORS,
) -> pd.DataFrame:
    """The mean change that switching a factor on makes, without the given one and with it, over seeds.

    Args:
        runs: one row a run with label, init_seed and the value; arms that are no cells are left out.

    Returns:
        Two rows: effect, given, is_on (whether the given one is), aliases, difference, low, high, p, p_holm
        (over both), n. With one seed there is no interval.

    Raises:
        ValueError: no design, or one without these two factors.
    """
    design = design_of(runs["label"], factors=factors)
    for name in (factor, given):
        if name not in design.factors:
            raise ValueError(unknown("factor of the design", name, design.factors))
    values = seed_table(runs, design.cells, value=value)
    rows = []
    for is_on in (False, True):
        cells = [name for name in design.cells if (given in factors_of(name, factors=factors)) == is_on]
        has = [name for name in cells if factor in factors_of(name, factors=factors)]
        rest = [name for name in cells if name not in has]
        found = _estimate(values[has].mean(axis=1) - values[rest].mean(axis=1))
        told = _aliases(design, cells, factor=factor, given=given, factors=factors)
        rows.append((factor, given, is_on, told, *found[:4], float("nan"), found.n))
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.assign(p_holm=holm(table["p"].to_numpy(float)))


def simple_in_words(table: pd.DataFrame, *, unit: str = "") -> str:
    """`KD without P −0.085 bits per byte (95% interval −0.092 to −0.078, 5 seeds), with P +0.006 (...)`."""
    parts = []
    for row in table.itertuples():
        value, low, high = in_digits(row.difference, row.low, row.high, signed=True)
        spread = f"95% interval {low} to {high}, " if low else ""
        name = f"{row.effect} without {row.given}" if not row.is_on else f"with {row.given}"
        alias = f", confused with {row.aliases}" if row.aliases else ""
        parts.append(f"{name} {value}{' ' * bool(unit)}{unit} ({spread}{seeds(row.n)}{alias})")
    return ", ".join(parts)


def simple_sentences(
    runs: pd.DataFrame, effects: pd.DataFrame, *, unit: str, value: str = "bits_per_byte"
) -> list[str]:
    """For each decided interaction of two factors, a sentence with both simple effects of its second one.

    Args:
        effects: from `factorial.effects` of the same runs.
    """
    design = design_of(runs["label"])
    said = []
    for row in effects[(effects["order"] == 2) & (effects["aliases"] == "")].itertuples():
        given, factor = row.effect.split("×")
        if is_decided(row) and {given, factor} <= set(design.factors):
            table = simple_effects(runs, factor=factor, given=given, value=value)
            said.append(f"{row.effect} apart: {simple_in_words(table, unit=unit)}.")
    return said


def _aliases(design: Design, cells: Sequence[str], *, factor: str, given: str, factors: Sequence[str]) -> str:
    """Products that have the factor's sign, or its opposite, in all of these cells."""
    on = [factors_of(name, factors=factors) for name in cells]
    others = words_of([name for name in design.factors if name != given])
    return " and ".join(
        name_of(word)
        for word in others
        if word != (factor,) and len({sign(word, point) * sign((factor,), point) for point in on}) == 1
    )


def _estimate(x: Any) -> Estimate:
    nan = float("nan")
    return t_interval(x) if len(x) > 1 else Estimate(float(x.mean()), nan, nan, nan, len(x), nan)
