"""Panels of capabilities: a grid with one for each task and level, and labels beside each panel.

A capability is a task at a level. Panels share the axis of training, so that what comes first
is seen at a glance. Names and counts stand right of a panel, moved apart where they would
overlap: inside it they would lie on the curves.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from lmbench.analysis import axes, chart, style
from lmbench.analysis.checks import require
from lmbench.analysis.earlier import check_known, is_value

Capability = tuple[str, str]
"""Task and level."""
METRICS = {"score": "score", "answer_nll": "answer NLL\n(nats per example)"}
"""Of a capability, as axes name them."""
TINY = 6.0  # points, of labels beside a panel
_LEAD, _MARKER = 7.0, 6.5  # points from a panel to its labels, and for a marker before one
_MOST = 3  # panels beside each other; with four, labels leave no room for curves
_LOWEST, _TALLEST = 1.25, 1.6  # inches of a row
_PAGE, _LEGEND = 8.4, 0.45  # inches for all rows, and for the legend above them


class Label(NamedTuple):
    """A text beside a panel, at a height of its y axis; with the marker of a model where it is one's."""

    y: float
    text: str
    color: str = style.GREY
    marker: Any = None


def capabilities(table: pd.DataFrame) -> list[Capability]:
    """Tasks and levels of a table, in order of first appearance."""
    for column in ("task", "level"):
        require(table, column)
    named = table[["task", "level"]].drop_duplicates().astype(str)
    return list(dict.fromkeys(named.itertuples(index=False, name=None)))


def of(table: pd.DataFrame, capability: Capability) -> pd.DataFrame:
    """The rows of one capability."""
    return table[(table["task"].astype(str) == capability[0]) & (table["level"].astype(str) == capability[1])]


def chosen(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    """The rows that have these values in these columns.

    Raises:
        ValueError: no rows, a column or value that the table does not have.
    """
    for name, value in values.items():
        require(table, name)
        check_known(table, name, value)
        table = table[is_value(table[name], value)]
    # Each value may be there without all of them being there together.
    if table.empty:
        wanted = ", ".join(f"{name} = {value}" for name, value in values.items())
        raise ValueError(f"there are no rows of {wanted} together")
    return table


def of_learning(unit: str) -> str:
    """What a caption says of seconds: `emergence.tracked` leaves out capturing and compiling a step."""
    return "Seconds are those of learning, without start-up." * (unit == "seconds")


def title(capability: Capability) -> str:
    """`chain, level 0`."""
    return "{}, level {}".format(*capability)


def grid(shown: Iterable[Capability], *, sharey: bool) -> tuple[chart.Chart, dict[Capability, Axes]]:
    """A page with a titled panel for each capability on one x axis; a column if there is only one."""
    shown = list(shown)
    rows = -(-len(shown) // _MOST)
    columns = -(-len(shown) // rows)
    width = style.COLUMN_WIDTH if len(shown) == 1 else style.PAGE_WIDTH
    height = rows * min(_TALLEST, max(_LOWEST, _PAGE / rows)) + _LEGEND
    fig = chart.Chart(figsize=(width, height), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.04, hspace=0.03)
    cells = fig.subplots(rows, columns, sharex=True, sharey=sharey, squeeze=False)
    panels = dict(zip(shown, cells.flat, strict=False))
    for cell in cells.flat[len(shown) :]:
        cell.remove()
    for capability, ax in panels.items():
        ax.set_title(title(capability), loc="left", pad=3)
    return fig, panels


def name_axes(panels: Mapping[Capability, Axes], *, x: str, y: str) -> None:
    """Write both axes' names, x below the lowest panel of each column and y left of each row."""
    cells = {ax.get_subplotspec().rowspan.start: [] for ax in panels.values()}
    for ax in panels.values():
        cells[ax.get_subplotspec().rowspan.start].append(ax)
    for ax in panels.values():
        spec = ax.get_subplotspec()
        below = cells.get(spec.rowspan.start + 1, [])
        if not any(other.get_subplotspec().colspan == spec.colspan for other in below):
            ax.set_xlabel(x)
            ax.tick_params(axis="x", labelbottom=True)
        if spec.colspan.start == 0:
            ax.set_ylabel(y)


def label_margins(labels: Mapping[Axes, list[Label]]) -> None:
    """Write labels right of their panels, apart, in the order of their heights.

    Call it when limits, axes' names and the legend are there: what room there is depends on them.
    """
    written = {}
    for ax, own in labels.items():
        # Of equal heights the first comes highest, as in the legend.
        own = sorted(reversed(own), key=lambda label: label.y)
        written[ax] = own, [_write(ax, label) for label in own]
    if not written:
        return
    fig = next(iter(written)).figure
    fig.draw_without_rendering()
    for ax, (own, texts) in written.items():
        bottom, top = ax.get_ylim()
        gap = 1.15 * TINY / 72 / (ax.get_position().height * fig.get_figheight())
        true = np.clip([(label.y - bottom) / (top - bottom) for label in own], 0.0, 1.0)
        ends = axes.spread(true, gap=gap, low=0.0, high=1.0)
        for label, text, start, end in zip(own, texts, true, ends, strict=True):
            text.xy = (1.0, end)
            _lead(ax, label, start, end)


def _write(ax: Axes, label: Label) -> Annotation:
    """The label's text, at no height yet."""
    beside = _LEAD + (_MARKER if label.marker is not None else 0.0)
    return ax.annotate(
        label.text, xy=(1.0, 0.5), xycoords="axes fraction", xytext=(beside + 1.0, 0.0), color=label.color,
        textcoords="offset points", va="center", size=TINY, annotation_clip=False,
    )  # fmt: skip


def _lead(ax: Axes, label: Label, start: float, end: float) -> None:
    """A line from the edge of the panel to its label, and the label's marker."""
    point = 1 / 72 / (ax.get_position().width * ax.figure.get_figwidth())
    how = {
        "transform": ax.transAxes,
        "clip_on": False,
        "scalex": False,
        "scaley": False,
        "color": label.color,
    }
    ax.plot([1.0, 1.0 + _LEAD * point], [start, end], linewidth=0.4, marker="", linestyle="-", **how)
    if label.marker is not None:
        at = 1.0 + (_LEAD + _MARKER / 2) * point
        ax.plot([at], [end], linestyle="", marker=label.marker, ms=3.2, **how)


def seeds(counts: Iterable[int]) -> str:
    """`n = 10 seeds`, `n = 3 to 10 seeds`."""
    few, many = min(counts := list(counts)), max(counts)
    return f"n = {few}" + (f" to {many}" if many > few else "") + f" seed{'s' * (many != 1)}"
