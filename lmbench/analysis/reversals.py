"""Ranks under two budgets: which models change places, and whether that is more than noise.

A pair of models reverses when each budget decides its order, by the rule of `verdict`, and the
two orders are opposite. Where the means change places and one of the two is not decided, that
is all that can be said.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from lmbench.analysis import axes, chart, style
from lmbench.analysis.checks import require
from lmbench.analysis.formats import METRICS
from lmbench.analysis.stats import summarise
from lmbench.analysis.table import HIGHER_IS_BETTER, provenance
from lmbench.analysis.words import difference_in_words

ALPHA = 0.05
BUDGETS = {"flops": "FLOPs", "flops_per_token": "FLOPs per target", "tokens": "targets"}  # in words
REVERSED, OPEN = "reversed", "not decided"


def rank_table(runs: Mapping[str, pd.DataFrame], *, metric: str) -> pd.DataFrame:
    """Rank and mean of each model under each budget, by the first budget's ranks.

    Args:
        runs: two budgets' names to their per-run tables (`table.final_table`).

    Returns:
        Columns label, and for each budget "<name> rank", "<name> mean", "<name> low", "<name> high".

    Raises:
        ValueError: not two budgets, or budgets of different models.
    """
    parts = []
    for name, table in _two(runs).items():
        for column in ("label", metric):
            require(table, column)
        one = summarise(table, by="label", value=metric).set_index("label")
        one["rank"] = one["mean"].rank(ascending=metric not in HIGHER_IS_BETTER, method="min").astype(int)
        parts.append(one[["rank", "mean", "low", "high"]].add_prefix(f"{name} "))
    first, second = parts
    odd = sorted(first.index.symmetric_difference(second.index))
    if odd:
        raise ValueError(f"ranks need the same models under both budgets; {odd[0]} is under one only")
    return first.join(second).sort_values(first.columns[0], kind="stable").reset_index()


def reversals(pairs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The pairs whose means stand in another order under the second budget than under the first.

    Args:
        pairs: two budgets' names to their `stats.paired_differences`.

    Returns:
        Columns a, b (a is lower under the first budget), for each budget "<name> difference", low,
        high, p_holm, n, and decided: "reversed" or "not decided".

    Raises:
        ValueError: not two budgets, or budgets with different pairs.
    """
    (first, one), (second, other) = _two(pairs).items()
    keyed = {(row["a"], row["b"]): row for row in other.to_dict("records")}
    found = []
    for row in one.to_dict("records"):
        key, sign = (row["a"], row["b"]), 1 if row["difference"] <= 0 else -1
        if key not in keyed:
            raise ValueError(f"the pair {key[0]}, {key[1]} was compared under {first} but not under {second}")
        if np.sign(row["difference"]) * np.sign(keyed[key]["difference"]) >= 0:
            continue
        a, b = key[::sign]
        sides = {first: _turned(row, sign), second: _turned(keyed[key], sign)}
        decided = REVERSED if all(_is_decided(side) for side in sides.values()) else OPEN
        cells = {f"{name} {part}": value for name, side in sides.items() for part, value in side.items()}
        found.append({"a": a, "b": b} | cells | {"decided": decided})
    parts = [f"{name} {part}" for name in (first, second) for part in _PARTS]
    return pd.DataFrame(found, columns=["a", "b", *parts, "decided"])


_PARTS = ("difference", "low", "high", "p_holm", "n")


def _turned(row: dict, sign: int) -> dict:
    """The row of the pair in the other order, where sign is -1."""
    low, high = sorted((sign * row["low"], sign * row["high"]))
    return {**{part: row[part] for part in _PARTS}, "difference": sign * row["difference"]} | {
        "low": low,
        "high": high,
    }


def _is_decided(side: dict) -> bool:
    return side["p_holm"] < ALPHA and (side["low"] > 0 or side["high"] < 0)


def reversal_reading(table: pd.DataFrame, *, pairs: int, metric: str) -> str:
    """Sentences about `reversals`.

    Args:
        pairs: how many pairs were compared under each budget.
    """
    first, second = [c.removesuffix(" difference") for c in table.columns if c.endswith(" difference")]
    unit = METRICS.get(metric, metric)
    decided = table[table["decided"] == REVERSED]
    opening = (
        f"Of {pairs} pairs, {len(table)} stand in another order under equal {_words(second)} than under "
        f"equal {_words(first)}; {len(decided)} of these reversals are decided under both budgets."
    )
    sentences = [opening]
    for row in decided.to_dict("records"):
        numbers = [
            difference_in_words(*(row[f"{name} {part}"] for part in _PARTS), unit=unit, confidence=1 - ALPHA)
            for name in (first, second)
        ]
        # Differences are a - b, so a negative one means that a is lower.
        ahead, behind = (row["a"], row["b"])
        sentences.append(
            f"{ahead} is lower than {behind} under equal {_words(first)}, {numbers[0]}, and higher under "
            f"equal {_words(second)}, {numbers[1]}."
        )
    rest = [f"{row['a']} and {row['b']}" for row in table.to_dict("records") if row["decided"] == OPEN]
    if rest:
        sentences.append(f"Their means change places, but not by more than noise: {'; '.join(rest)}.")
    return " ".join(sentences)


def rank_panel(runs: Mapping[str, pd.DataFrame], *, metric: str) -> chart.Chart:
    """A line for each model: its mean with its interval under the first budget (filled) and the second.

    Models stand in the order of the first budget, so a hollow marker out of line is a model that
    changes places.

    Raises:
        ValueError: as `rank_table`.
    """
    table, names = rank_table(runs, metric=metric), list(runs)
    looks = style.looks(table["label"])
    with style.context():
        fig, (ax,) = chart.new(width=style.COLUMN_WIDTH, height=0.9 + 0.22 * len(table))
        ends = (
            np.concatenate([table[f"{name} {part}"] for name in names]) for part in ("mean", "low", "high")
        )
        ax.set_xlim(axes.limits_of_means(*ends))
        is_cut = False
        for place, row in enumerate(table.to_dict("records")):
            color, marker, _ = looks[row["label"]]
            for name, shift, fill in zip(names, (-0.13, 0.13), (color, "white"), strict=True):
                mean, low, high = (row[f"{name} {part}"] for part in ("mean", "low", "high"))
                bar = np.array([[mean - low], [high - mean]])
                how = {"color": color, "marker": marker, "mfc": fill, "mew": 1.0, "ms": 4.5}
                ax.errorbar(mean, place + shift, xerr=bar, linestyle="", **axes.ERROR_BAR, **how)
                is_cut |= axes.goes_on(ax, place + shift, low=low, high=high, color=color)
        ranks = [f"{row[f'{names[0]} rank']}, {row[f'{names[1]} rank']}" for row in table.to_dict("records")]
        labels = [f"{label} ({rank})" for label, rank in zip(table["label"], ranks, strict=True)]
        ax.set_yticks(range(len(table)), labels)
        ax.set_ylim(len(table) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel(f"test {METRICS.get(metric, metric)}")
        plain = {"linestyle": "", "marker": "o", "color": style.INK, "ms": 4.5}
        handles = [
            Line2D([], [], mfc=fill, label=f"equal {_words(name)}", **plain)
            for name, fill in zip(names, (style.INK, "white"), strict=True)
        ]
        chart.add_legend(fig, handles)
        caption = (
            "Means with 95% t intervals under both budgets, in the order of the first; in brackets the two "
            f"ranks. {'Arrows: the interval goes on. ' if is_cut else ''}"
            f"{provenance(runs[names[0]], by=['label'])}"
        )
        said = "; ".join(f"{label} {rank}" for label, rank in zip(table["label"], ranks, strict=True))
        alt = f"Ranks under equal {_words(names[0])} and equal {_words(names[1])}: {said}."
        return chart.finish(fig, caption=caption, alt=alt)


def _words(budget: str) -> str:
    return BUDGETS.get(budget, budget)


def _two(tables: Mapping[str, pd.DataFrame]) -> Mapping[str, pd.DataFrame]:
    if len(tables) != 2:
        raise ValueError(f"ranks are compared between 2 budgets, got {len(tables)}")
    return tables
