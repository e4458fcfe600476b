"""Figure of the fronts: loss against each cost, every arm in the colour and marker of its family."""

import math
from collections.abc import Mapping, Sequence

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
_LINE, _DIGIT, _MARKER = 8.0, 5.0, 5.0  # points: height of a number, width of a digit, size of a marker
_NEAR = 9.0  # points from its marker, beyond which a number has a leader
_PLACES = [
    (radius * math.sin(math.radians(angle)), -radius * math.cos(math.radians(angle)))
    for radius in (8.0, 11.0, *range(16, 100, 6))
    for angle in (0, 180, 45, -45, 135, -135, 90, -90, 20, -20, 160, -160)
]
"""Where a number may stand beside its marker, in points: near ones first, below before above."""


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
        note: ends the caption: the corpus, and the device of the times.

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
        line = Line2D([], [], color=style.PALE, lw=2.0, label="front")
        looks = {family: LOOKS[family] for family in families}
        chart.add_legend(fig, [*chart.legend_handles(looks, lines=False), line])
        fig.draw_without_rendering()  # places beside markers depend on the final size of the axes
        for ax, cost in zip(panels, costs, strict=True):
            on_it = table[table[f"on the front of {cost}"]].sort_values(cost)
            _number(ax, on_it, cost, numbers, table[table[cost].notna()])
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


def _number(
    ax: Axes, front: pd.DataFrame, cost: str, numbers: Mapping[str, int], points: pd.DataFrame
) -> None:
    """Numbers beside the markers of a front, at the nearest free place; one further off has a leader.

    A free place lies within the axes and holds no other number and no marker or interval of an arm.
    """
    scale = 72 / ax.figure.dpi
    box = ax.get_window_extent()
    room = (box.x0 * scale, box.x1 * scale, box.y0 * scale, box.y1 * scale)
    taken = []
    for row in points.to_dict("records"):
        ends = [row["mean"]] * 2 if math.isnan(row["low"]) else [row["low"], row["high"]]
        (x, bottom), (_, top) = ax.transData.transform([(row[cost], end) for end in ends]) * scale
        taken.append((x, (bottom + top) / 2, _MARKER, top - bottom + _MARKER))
    for row in front.to_dict("records"):
        text = str(numbers[row["label"]])
        x, y = ax.transData.transform((row[cost], row["mean"])) * scale
        size = (_DIGIT * len(text), _LINE)
        dx, dy = next((at for at in _PLACES if _is_free(x + at[0], y + at[1], size, taken, room)), _PLACES[0])
        taken.append((x + dx, y + dy, *size))
        leader = {"arrowstyle": "-", "lw": 0.6, "color": style.INK, "shrinkA": 0, "shrinkB": 1}
        ax.annotate(
            text, (row[cost], row["mean"]), xytext=(dx, dy), va="center", ha="center",
            textcoords="offset points", size=style.SMALL,
            arrowprops=leader if math.hypot(dx, dy) > _NEAR else None,
        )  # fmt: skip


def _is_free(
    x: float, y: float, size: tuple[float, float], taken: list[tuple[float, ...]], room: tuple[float, ...]
) -> bool:
    """Whether a box around x, y lies in the room and on nothing that is taken; all in points."""
    half_x, half_y = size[0] / 2, size[1] / 2
    left, right, bottom, top = room
    if not (left < x - half_x and x + half_x < right and bottom < y - half_y and y + half_y < top):
        return False
    return all(
        abs(x - a) >= half_x + wide / 2 or abs(y - b) >= half_y + tall / 2 for a, b, wide, tall in taken
    )
