"""Figure of the fronts: loss against each cost, every arm in the colour and marker of its family."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lmbench.analysis import axes, chart, style
from lmbench.analysis.distillation_arms import FAMILIES
from lmbench.analysis.fronts import COSTS, LOSS, LOSSES, front_sentences, front_table
from lmbench.analysis.words import percent, seeds

_COLOURS = (
    style.INK, "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#56b4e9", "#882255",
    style.GREY,
)  # fmt: skip
_MARKERS = ("*", "s", "o", "D", "^", "v", "P", "X", "<", "h")
LOOKS = {
    family: style.Look(colour, marker, "")
    for family, colour, marker in zip(FAMILIES, _COLOURS, _MARKERS, strict=True)
}
"""Of each family, the same in every figure."""
_BELOW, _LINE, _DIGIT = 3.0, 8.0, 5.0  # points: of a number below its marker, its height, and a digit's width


def front_panel(
    points: pd.DataFrame,
    *,
    costs: Sequence[str] = ("bytes", "seconds"),
    loss: str = LOSS,
    note: str = "",
    confidence: float = 0.95,
) -> chart.Chart:
    """Loss against each cost on a log axis: a marker an arm with its interval, and the front.

    Numbers beside markers name the arms on a panel's front; the caption lists them.

    Args:
        points: from `front_points`.
        note: ends the caption, such as the device of the times.

    Raises:
        ValueError: as `front_table`, or a cost at or below 0.
    """
    table = front_table(points, costs=costs, loss=loss)
    families = [family for family in FAMILIES if family in set(table["family"])]
    on_any = table[[f"on the front of {cost}" for cost in costs]].any(axis=1)
    numbers = {label: at for at, label in enumerate(table[on_any].sort_values(costs[0])["label"], start=1)}
    with style.context():
        fig, panels = chart.new(width=style.PAGE_WIDTH, height=2.9, panels=len(costs))
        for ax, cost in zip(panels, costs, strict=True):
            known = table[table[cost].notna()]
            _draw_front(ax, known, cost)
            axes.log_axis(ax, known[cost], is_power=cost.endswith("flops"))
            ax.set_xlabel(COSTS.get(cost, cost))
        panels[0].set_ylabel(LOSSES.get(loss, loss))
        panels[0].margins(y=0.1)
        for ax, cost in zip(panels, costs, strict=True):
            _number(ax, table[table[f"on the front of {cost}"]].sort_values(cost), cost, numbers)
        line = Line2D([], [], color=style.PALE, lw=2.0, label="front")
        looks = {family: LOOKS[family] for family in families}
        chart.add_legend(fig, [*chart.legend_handles(looks, lines=False), line])
        counts = sorted(set(table["n"].astype(int)))
        told = seeds(counts[-1]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
        bars = f", bars {percent(confidence)} t intervals" if counts[-1] > 1 else ""
        named = ", ".join(f"{number} {label}" for label, number in numbers.items())
        caption = f"Means over {told}{bars}. On a front: {named}."
        return chart.finish(
            fig, caption=f"{caption} {note}".strip(), alt=" ".join(front_sentences(table, unit=loss))
        )


def _draw_front(ax: Axes, table: pd.DataFrame, cost: str) -> None:
    front = table[table[f"on the front of {cost}"]].sort_values(cost)
    ax.step(front[cost], front["mean"], where="post", color=style.PALE, lw=2.0, zorder=0.8)
    for family, rows in table.groupby("family", sort=False):
        look = LOOKS[family]
        bars = {"yerr": axes.errors(rows), "linestyle": "", **axes.ERROR_BAR}
        ax.errorbar(rows[cost], rows["mean"], color=look.color, marker=look.marker, alpha=0.9, **bars)


def _number(ax: Axes, front: pd.DataFrame, cost: str, numbers: Mapping[str, int]) -> None:
    """Numbers below the markers of a front; one that would lie upon another goes further down."""
    ax.get_ylim()  # margins are applied when limits are read, and places below depend on them
    points, placed = 72 / ax.figure.dpi, []
    for row in front.to_dict("records"):
        text, bottom = str(numbers[row["label"]]), row["mean"] if np.isnan(row["low"]) else row["low"]
        x, y = ax.transData.transform((row[cost], bottom)) * points
        width, drop = _DIGIT * len(text), _BELOW
        while any(
            abs(x - left) < (width + wide) / 2 and abs(y - drop - top) < _LINE for left, top, wide in placed
        ):
            drop += _LINE / 2
        placed.append((x, y - drop, width))
        ax.annotate(
            text, (row[cost], bottom), xytext=(0, -drop), va="top", ha="center",
            textcoords="offset points", size=style.SMALL,
        )  # fmt: skip
    lowest = min((top for _, top, _ in placed), default=np.inf) - 3 * _LINE  # the layout may still shrink
    under = ax.transData.inverted().transform((0, lowest / points))[1]
    ax.set_ylim(bottom=min(under, ax.get_ylim()[0]))
