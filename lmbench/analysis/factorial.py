"""Two-level designs with paired seeds: effects of several factors at once, and what they are confused with.

Each seed runs every cell, so each seed gives its own estimate of every effect, and the interval is a t
interval over seeds. An effect is the mean of the cells on one side of its word minus the mean of the
others (Yates's scale): of one factor, the mean change that switching it on makes; of two, *half* of what
the second one's being on changes in the first one's effect. In a fraction, words that no cell tells
apart are aliases: their sum (with signs) is what is estimated, and the table names it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lmbench.analysis import axes, chart, style
from lmbench.analysis.checks import require
from lmbench.analysis.distillation_arms import FACTORS, factors_of
from lmbench.analysis.factorial_design import Design, design_of, name_of, sign
from lmbench.analysis.formats import METRICS
from lmbench.analysis.intervals import Estimate, finite, holm, t_interval
from lmbench.analysis.stats import summarise
from lmbench.analysis.verdict import Better
from lmbench.analysis.words import capital, difference_in_words, seeds
from lmbench.errors import unknown

ALPHA = 0.05
EFFECTS = ["effect", "aliases", "order", "difference", "low", "high", "p", "p_holm", "n"]


def effects(
    runs: pd.DataFrame,
    *,
    value: str = "bits_per_byte",
    unit: str = "init_seed",
    factors: Sequence[str] = FACTORS,
    order: int = 2,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Every effect that the cells can estimate, with its t interval over seeds.

    Args:
        runs: one row a run; arms that are no cells are left out.
        order: the family of Holm's correction: effects whose shortest word has at most so many factors.
            Those above it are listed without a p_holm.

    Returns:
        Columns effect, aliases (the other words, with signs), order, difference, low, high, p, p_holm, n.

    Raises:
        ValueError: a seed that lacks a cell or has it twice, a value that is not finite, or no design.
    """
    values, design = _values(runs, value=value, unit=unit, factors=factors)
    rows = []
    for alias in design.effects:
        sign_C = np.array([sign(alias.words[0], factors_of(name, factors=factors)) for name in values])
        found = _estimate(values.to_numpy() @ sign_C / (len(sign_C) / 2), confidence=confidence)
        others = zip(alias.words[1:], alias.signs[1:], strict=True)
        told = " ".join(("+ " if side > 0 else "− ") + name_of(word) for word, side in others)
        row = (name_of(alias.words[0]), told, len(alias.words[0]))
        rows.append((*row, found.value, found.low, found.high, found.p, math.nan, found.n))
    table = pd.DataFrame(rows, columns=EFFECTS)
    family = table["order"] <= order
    table.loc[family, "p_holm"] = holm(table.loc[family, "p"].to_numpy(float))
    return table


def superadditivity(
    runs: pd.DataFrame,
    *,
    value: str = "bits_per_byte",
    unit: str = "init_seed",
    factors: Sequence[str] = FACTORS,
    confidence: float = 0.95,
) -> Estimate:
    """What all factors together change, minus the sum of what each changes alone.

    With all cells it is y(all) - y(none) - sum_i (y(i) - y(none)). The half of four factors has no cell
    with one of them; there half of 3 (y(all) + y(none)) - sum of the six pairs is the same number if no
    interaction of three or four factors exists. 0 is additive; the unit is that of the value.

    Raises:
        ValueError: as `effects`, or a design of neither kind.
    """
    values, design = _values(runs, value=value, unit=unit, factors=factors)
    sizes = np.array([len(factors_of(name, factors=factors)) for name in values])
    k = len(design.factors)
    if not design.relation:
        weights = np.where(sizes == k, 1.0, 0.0) + np.where(sizes == 1, -1.0, 0.0)
        weights += np.where(sizes == 0, k - 1.0, 0.0)
    elif k == 4 and design.relation == ((design.factors, 1),):
        weights = np.where(sizes == 2, -0.5, 1.5)
    else:
        raise ValueError(f"{design} does not say what the factors do together; run all cells of it")
    return _estimate(values.to_numpy() @ weights, confidence=confidence)


def cell_table(
    runs: pd.DataFrame, *, value: str = "bits_per_byte", factors: Sequence[str] = FACTORS
) -> pd.DataFrame:
    """One row a cell: a column for each factor that says whether it is on, then n, mean, low, high."""
    on = {label: factors_of(label, factors=factors) for label in dict.fromkeys(runs["label"])}
    rows = runs[[on[label] is not None for label in runs["label"]]]
    means = summarise(rows, by="label", value=value)
    means = means.sort_values("label", key=lambda names: names.map(lambda name: len(on[name])), kind="stable")
    switches = {name: [name in on[label] for label in means["label"]] for name in factors}
    table = means[["n", "mean", "low", "high"]].assign(cell=means["label"], **switches)
    return table[["cell", *factors, "n", "mean", "low", "high"]].reset_index(drop=True)


def effect_sentences(
    table: pd.DataFrame, *, unit: str, better: Better = "lower", confidence: float = 0.95
) -> list[str]:
    """One sentence for each effect of the family, in the order of the table."""
    said = []
    for row in table[table["order"] <= _family_order(table)].itertuples():
        name = row.effect if not row.aliases else f"{row.effect} (together with {row.aliases.lstrip('+ ')})"
        numbers = difference_in_words(
            row.difference, row.low, row.high, row.p_holm, row.n, unit=unit, confidence=confidence
        )
        gain = (row.difference < 0) == (better == "lower")
        if not is_decided(row):
            verb = "is not decided"
        elif row.order == 1:
            verb = "improves the score on average" if gain else "worsens the score on average"
        else:
            verb = "go better together than one by one" if gain else "go worse together than one by one"
        what = "half the difference of differences is " if row.order == 2 else ""
        said.append(f"{name} {verb}: {what}{numbers}.")
    return said


def is_decided(row: Any) -> bool:
    """Whether an effect's interval leaves zero out and its p (Holm's in the family) is below 0.05."""
    p = row.p if math.isnan(row.p_holm) else row.p_holm
    return bool((row.low > 0 or row.high < 0) and p < ALPHA)


def effects_panel(
    table: pd.DataFrame, *, metric: str = "bits_per_byte", split: str = "test", design: object = ""
) -> chart.Chart:
    """Forest plot of the effects, one line each with its interval; filled where the sign is decided.

    Args:
        table: from `effects`.
        metric: what the effects are differences of; only named.
        design: what the cells were, for the caption; a `Design` says it.

    Raises:
        ValueError: no effects.
    """
    require(table, "effect")
    name, rows = METRICS.get(metric, metric), table.reset_index(drop=True)
    with style.context():
        fig, (ax,) = chart.new(width=style.COLUMN_WIDTH, height=0.75 + 0.24 * len(rows))
        ax.axvline(0, color=style.GREY, lw=0.8, zorder=0.5)
        for place, row in zip(rows.index, rows.itertuples(), strict=True):
            bar = axes.errors(rows.loc[[place]].rename(columns={"difference": "mean"}))
            is_filled = is_decided(row) and not math.isnan(row.p_holm)
            look = {"color": style.INK, "marker": "o", "mfc": style.INK if is_filled else "white"}
            ax.errorbar(row.difference, place, xerr=bar, **look, **axes.ERROR_BAR)
        names = [f"{row.effect}\n{row.aliases}".strip() for row in rows.itertuples()]
        ax.set_yticks(rows.index, names, linespacing=1.0)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.locator_params(axis="x", nbins=5)
        ax.set_xlabel(f"effect on {split} {name}")
        _write_p_values(ax, rows["p_holm"])
        tested = int(rows["p_holm"].notna().sum())
        caption = (
            f"Effects with 95% t intervals over {seeds(rows['n'].min())}; filled: p < {ALPHA} (Holm, "
            f"{tested} effects). That of two factors is half the change that one makes in the other's."
        )
        said = "; ".join(f"{row.effect} {row.difference:.3g}" for row in rows.itertuples())
        source = f" {capital(str(design))}." if str(design) else ""
        return chart.finish(fig, caption=caption + source, alt=f"Effects on {name}: {said}.")


def _family_order(table: pd.DataFrame) -> int:
    tested = table[table["p_holm"].notna()]
    return int(tested["order"].max()) if len(tested) else int(table["order"].max())


def _values(
    runs: pd.DataFrame, *, value: str, unit: str, factors: Sequence[str]
) -> tuple[pd.DataFrame, Design]:
    """Seeds by cells of the design."""
    for name in ("label", unit, value):
        if name not in runs:
            raise ValueError(unknown("column", name, runs.columns))
    design = design_of(runs["label"], factors=factors)
    rows = runs[runs["label"].isin(design.cells)]
    twice = rows[rows.duplicated(["label", unit])]
    if len(twice):
        first = twice.iloc[0]
        raise ValueError(f"cell {first['label']!r} has {unit} {first[unit]} twice; keep one row a {unit}")
    finite(rows[value], where=f" of {value} in the cells of the design")
    wide = rows.pivot(index=unit, columns="label", values=value)[list(design.cells)]
    lacking = wide.isna().stack()
    if lacking.any():
        seed, name = lacking[lacking].index[0]
        raise ValueError(f"cell {name!r} has no {unit} {seed}; every {unit} must have all cells")
    return wide.astype(float), design


def _estimate(x: np.ndarray, *, confidence: float) -> Estimate:
    if len(x) > 1:
        return t_interval(x, confidence=confidence)
    return Estimate(float(x.mean()), math.nan, math.nan, math.nan, len(x), math.nan)


def _write_p_values(ax: Any, p_values: pd.Series) -> None:
    for place, p in enumerate(p_values):
        said = "" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
        ax.text(1.03, place, said, transform=ax.get_yaxis_transform(), va="center", size=style.SMALL)
    ax.text(1.03, 1.0, "p (Holm)", transform=ax.transAxes, va="bottom", size=style.SMALL, color=style.GREY)
