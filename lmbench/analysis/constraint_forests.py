"""Forest plots of ratios: how many times less to a target loss, and whether arms are equal.

A ratio's axis is logarithmic, and what is claimed stands on it in the line of what was
measured. Equality is drawn against its margin: an interval inside the shaded band is equal.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lmbench.analysis import axes, chart, style
from lmbench.analysis.checks import require
from lmbench.analysis.claims import claim
from lmbench.analysis.constraint_arms import RACED
from lmbench.analysis.constraint_schedule import COUNTED
from lmbench.analysis.formats import METRICS
from lmbench.analysis.replication import half_of
from lmbench.analysis.table import provenance
from lmbench.analysis.words import percent

CLAIMED = {"FLOPs": claim("A3").claimed, "seconds": claim("A4").claimed}
"""Of a cost, how many times less."""
# Colours that no arm has.
COSTS: dict[str, dict[str, Any]] = {
    "targets": {"color": style.INK, "marker": "o"},
    "FLOPs": {"color": "#7b5aa6", "marker": "s"},
    "seconds": {"color": "#8a8a2a", "marker": "^"},
}
MOST = 12
"""Pairs that a page holds."""
_CLAIM = {"marker": "D", "ms": 5.5, "mfc": "none", "mec": style.GREY, "mew": 1.1, "linestyle": ""}
_HALF = {"marker": "|", "ms": 9, "mec": style.GREY, "mew": 1.1, "linestyle": ""}
_SHADE = {"color": style.PALE, "alpha": 0.5, "lw": 0, "zorder": 0.1}


def ratio_panel(ratios: pd.DataFrame, *, runs: pd.DataFrame) -> chart.Chart:
    """How many times less each arm spends to reach the other's final loss, beside what is claimed.

    A filled marker is decided: its interval leaves 1 out. An arrow to the left is the upper bound of an arm
    that did not get there with every seed. The claim stands beside the arms that it is of. Of more than
    `MOST` pairs those of a claim are drawn and others with which some seed got there, most of them first,
    and the caption says so.

    Args:
        ratios: from `constraint_costs.cost_ratios`.
        runs: the per-run table, which names corpus and device in the caption.

    Raises:
        ValueError: no ratios.
    """
    for column in ("a", "b", "cost", "ratio", "low", "high", "known", "reached"):
        require(ratios, column)
    ratios, left = _most_telling(ratios)
    pairs = list(dict.fromkeys(zip(ratios["a"], ratios["b"], strict=True)))
    with style.context():
        fig, (ax,) = chart.new(width=style.PAGE_WIDTH, height=0.9 + 0.46 * len(pairs))
        ax.axvline(1, color=style.GREY, lw=0.8, zorder=0.5)
        shown = [1.0, 2.0]
        for row in ratios.to_dict("records"):
            place = pairs.index((row["a"], row["b"])) + 0.23 * (list(COSTS).index(row["cost"]) - 1)
            shown += _draw_ratio(ax, row, place)
        ax.set_yticks(range(len(pairs)), [f"{a}\nagainst {b}" for a, b in pairs])
        ax.set_ylim(len(pairs) - 0.45, -0.55)
        for place in range(1, len(pairs)):
            ax.axhline(place - 0.5, color=style.PALE, lw=0.5, zorder=0.1)
        axes.log_axis(ax, pd.Series(shown, name="ratio"), max_labels=9)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.set_xlabel("times less to the same loss (right of 1: cheaper)")
        handles = [Line2D([], [], linestyle="", label=COUNTED[cost], **look) for cost, look in COSTS.items()]
        handles += [
            Line2D([], [], label="claimed", **_CLAIM),
            Line2D([], [], label="half of it (log)", **_HALF),
        ]
        chart.add_legend(fig, handles)
        return chart.finish(fig, caption=_ratio_caption(ratios, runs, left=left), alt=f"{_said(ratios)}.")


def _most_telling(ratios: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The rows of at most `MOST` pairs, in the order given, and how many pairs are left out."""
    reached = ratios.groupby(["a", "b"], sort=False)["reached"].max()
    ranked = sorted(reached.index, key=lambda pair: (pair[0] not in RACED, -reached[pair]))
    if len(ranked) > MOST:
        ranked = [pair for pair in ranked if pair[0] in RACED or reached[pair]][:MOST]
    rows = ratios[[pair in ranked for pair in zip(ratios["a"], ratios["b"], strict=True)]]
    return rows, len(reached) - len(ranked)


def _draw_ratio(ax: Axes, row: dict[str, Any], place: float) -> list[float]:
    """One ratio with its claim; returns what the axis must hold."""
    look, ends = COSTS[row["cost"]], []
    if row["cost"] in CLAIMED and row["a"] in RACED:
        claimed = CLAIMED[row["cost"]]
        ax.plot(claimed, place, zorder=1, **_CLAIM)
        ax.plot(half_of(claimed), place, zorder=1, **_HALF)
        ends += [claimed, half_of(claimed)]
    if row["known"] == "bound":
        if math.isfinite(row["high"]) and row["high"] > 0:
            ax.plot(row["high"], place, marker="<", ms=6, mfc="white", mec=look["color"], linestyle="")
            ends.append(row["high"])
        return ends
    decided = not row["objection"] and (row["low"] > 1 or row["high"] < 1)
    ax.plot(
        row["ratio"], place, linestyle="", ms=5, mfc=look["color"] if decided else "white", zorder=3, **look
    )
    ends.append(row["ratio"])
    if row["low"] > 0 and math.isfinite(row["high"]):
        ax.plot([row["low"], row["high"]], [place, place], color=look["color"], lw=1.0, zorder=2)
        ends += [row["low"], row["high"]]
    return ends


def _ratio_caption(ratios: pd.DataFrame, runs: pd.DataFrame, *, left: int) -> str:
    parts = [
        "Geometric means over paired seeds with 95% t intervals that count the gaps between validations; "
        "filled: the interval leaves 1 out."
    ]
    if (ratios["known"] == "bound").any():
        parts.append("Open arrows: not every seed got there, an upper bound.")
    unbounded = ratios[(ratios["known"] == "interval") & ~((ratios["low"] > 0) & np.isfinite(ratios["high"]))]
    if len(unbounded):
        parts.append("Markers without a bar have no interval on both sides.")
    objections = [text for text in dict.fromkeys(ratios["objection"]) if text]
    parts += [f"Open: {text}." for text in objections]
    if left:
        parts.append(
            "Drawn are the claims' pairs and others with which some seed got there; "
            f"{left} more are in the table."
        )
    shown = runs[runs["label"].isin({*ratios["a"], *ratios["b"]})]
    return " ".join([*parts, provenance(shown, by=["label"])])


def _said(ratios: pd.DataFrame) -> str:
    each = [
        f"{row.a} against {row.b}, {row.cost} "
        + (f"at most {row.high:.3g}" if row.known == "bound" else f"{row.ratio:.3g}")
        for row in ratios.itertuples()
    ]
    return f"Times less to the same loss: {'; '.join(each)}"


def equivalence_panel(
    table: pd.DataFrame, *, runs: pd.DataFrame, metric: str = "bits_per_byte"
) -> chart.Chart:
    """How far each arm lies from another, in percent, with the margin inside of which they are equal.

    Args:
        table: from `equivalence.equivalences`, with one margin.
        runs: the per-run table, which names corpus and device in the caption.

    Raises:
        ValueError: no pairs, or several margins.
    """
    for column in ("a", "b", "ratio", "low", "high", "margin", "confidence"):
        require(table, column)
    if table["margin"].nunique() > 1:
        raise ValueError(
            f"one figure shows one margin, got {', '.join(map('{:g}'.format, set(table['margin'])))}"
        )
    table, margin = table.reset_index(drop=True), float(table["margin"].iloc[0])
    with style.context():
        fig, (ax,) = chart.new(width=style.PAGE_WIDTH, height=0.75 + 0.3 * len(table))
        ax.axvspan(100 * (1 / (1 + margin) - 1), 100 * margin, **_SHADE)
        ax.axvline(0, color=style.GREY, lw=0.8, zorder=0.5)
        for place, row in table.iterrows():
            fill = "white" if row["decided"] == "not decided" else style.INK
            low, high = (100 * (row[name] - 1) for name in ("low", "high"))
            ax.plot([low, high], [place, place], color=style.INK, lw=1.0, marker="|", ms=4)
            ax.plot(100 * (row["ratio"] - 1), place, marker="o", color=style.INK, mfc=fill)
            ax.text(
                1.02, place, row["decided"], transform=ax.get_yaxis_transform(), va="center", size=style.SMALL
            )
        ax.set_yticks(
            range(len(table)), [f"{a} against\n{b}" for a, b in zip(table["a"], table["b"], strict=True)]
        )
        ax.set_ylim(len(table) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.set_xlabel(f"difference in {METRICS.get(metric, metric)} (%; left of 0: the first is lower)")
        shown = runs[runs["label"].isin({*table["a"], *table["b"]})]
        caption = (
            f"Paired ratios with {percent(table['confidence'].iloc[0])} t intervals, which are those of two "
            f"one-sided tests; shaded: within {percent(margin)}, which counts as equal; filled: decided. "
            f"{provenance(shown, by=['label']).replace(', 95% t intervals', '')}"
        )
        said = "; ".join(f"{row.a} to {row.b} {row.ratio:.4g}, {row.decided}" for row in table.itertuples())
        return chart.finish(fig, caption=caption, alt=f"Ratios of {metric}: {said}.")
