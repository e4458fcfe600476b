"""The forest of comparisons: how many times earlier each model is than a reference, capability by capability.

A row is a comparison of `earlier_table`. It shows no more than the comparison's sentence says: a
hollow marker where the order is not decided, an arrow where an interval has no end in view, a bound
where a median was not reached, and words where no run of either got there; a forest longer than a page
leaves those out, and its caption says so.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lmbench.analysis import axes, chart, emergence_grid, style
from lmbench.analysis.checks import require
from lmbench.analysis.earlier_words import UNIT
from lmbench.analysis.emergence_doubts import decided_otherwise
from lmbench.analysis.emergence_grid import METRICS, TINY
from lmbench.analysis.emergence_words import Drawn, shown
from lmbench.analysis.words import percent
from lmbench.errors import unknown

COLUMNS = (
    "a", "b", "task", "level", "metric", "threshold", "unit", "ratio", "low", "high", "method", "bound",
    "n_a", "n_b", "emerged_a", "emerged_b", "restricted", "restricted_low", "restricted_high",
    "confidence", "decided", "primary", "depends_on_metric",
)  # fmt: skip
FAR = 6.0
"""Factor beyond the outermost ratio at which intervals are cut off; an arrow says that they go on."""
_ROW = 0.135  # inches
MOST_ROWS = 60  # on a page
_NUMBERS, _COUNTS = 9.0, 114.0  # points right of the panel, of its two columns of text


def ratio_panel(
    table: pd.DataFrame,
    *,
    reference: str | None = None,
    unit: str = "step",
    threshold: float = 0.5,
    metric: str = "score",
    looks: Mapping[str, style.Look] | None = None,
) -> chart.Chart:
    """Times earlier than the reference with intervals, a row for each task, level and model.

    Args:
        table: from `earlier_table(onsets, reference=...)`; other units, thresholds and metrics may be
            in it.
        reference: the b of the rows to draw; may be left out where there is only one.
        looks: of labels that are no models, such as arms; the others have their own.

    Raises:
        ValueError: a missing column, a unit, threshold or metric that the table does not have, a
            reference that is no b, or none where there are several.
    """
    rows = _against(table, reference, metric=metric, unit=unit, threshold=threshold)
    reference = rows["b"].iloc[0]
    looks = style.looks(rows["a"], own=looks)
    kept = _reached(rows)
    known = {name: _ordered(kept, name, looks) for name in emergence_grid.capabilities(kept)}
    drawn = [(row, shown(row)) for own in known.values() for row in own]
    turned = decided_otherwise(table, rows)
    with style.context():
        fig, (ax,) = chart.new(width=style.PAGE_WIDTH, height=0.65 + _ROW * (len(known) + len(drawn)))
        _set_limits(ax, [found for _, found in drawn])
        names, headings, left = [], [], iter(drawn)
        for capability, own in known.items():
            ax.axhline(len(names) - 0.5, color=style.PALE, lw=0.5, zorder=0.3)
            headings.append(len(names))
            names.append(emergence_grid.title(capability))
            for row, found in itertools.islice(left, len(own)):
                mark = " §" * ((row["a"], row["task"], row["level"]) in turned)
                _draw_row(ax, len(names), row, found, looks[row["a"]], mark=mark)
                names.append(row["a"])
        _write_names(ax, names, headings, confidence=float(rows["confidence"].iloc[0]), reference=reference)
        ax.axvline(1, zorder=0.4, **style.REFERENCE)
        either = " or g" * any(x.text[0] in "≥≤" for _, x in drawn)
        ax.set_xlabel(f"times earlier than {reference} (ratio of medians{either}, in {UNIT.get(unit, unit)})")
        text = _caption(rows, [found for _, found in drawn], ax.get_xlim(), threshold=threshold)
        left_out = _left_out(rows, kept)
        other = "§: another verdict in FLOPs, adjusted alike." * bool(turned)
        text = " ".join(filter(None, (text, other, emergence_grid.of_learning(unit), left_out)))
        each = (
            f"{x['a']} in {x['task']} level {x['level']} {found.text}, {x['decided']}" for x, found in drawn
        )
        said = "; ".join(each)
        alt = f"Times earlier than {reference} in {UNIT.get(unit, unit)}: {said}. {left_out}".strip()
        return chart.finish(fig, caption=text, alt=alt)


def _against(table: pd.DataFrame, reference: str | None, **where: object) -> pd.DataFrame:
    """The rows to draw, all against one reference."""
    for column in COLUMNS:
        require(table, column)
    rows = emergence_grid.chosen(table, **where)
    others = list(dict.fromkeys(rows["b"]))
    if reference is None and len(others) > 1:
        raise ValueError(f"ratios have one reference, the table has {', '.join(others)}; name one of them")
    reference = others[0] if reference is None else reference
    if reference not in others:
        raise ValueError(unknown("reference", reference, others))
    return rows[rows["b"] == reference]


def _reached(rows: pd.DataFrame) -> pd.DataFrame:
    """All rows, or of more than a page those that a run of either side reached."""
    kept = rows[rows["decided"] != "not reached"]
    is_long = len(rows) + len(emergence_grid.capabilities(rows)) > MOST_ROWS
    return kept if is_long and len(kept) else rows


def _left_out(rows: pd.DataFrame, kept: pd.DataFrame) -> str:
    """What a forest does not show, for its caption."""
    if len(kept) == len(rows):
        return ""
    drawn = set(emergence_grid.capabilities(kept))
    wholly = [emergence_grid.title(name) for name in emergence_grid.capabilities(rows) if name not in drawn]
    where = f", among them all of {'; '.join(wholly)}" if wholly else ""
    return f"{len(rows) - len(kept)} rows that no run of either reached are left out{where}."


def _ordered(rows: pd.DataFrame, capability: tuple[str, str], looks: dict[str, style.Look]) -> list[dict]:
    own = {row["a"]: row for row in emergence_grid.of(rows, capability).to_dict("records")}
    return [own[label] for label in looks if label in own]


def _set_limits(ax: Axes, drawn: list[Drawn]) -> None:
    """An axis that holds 1, every ratio that is finite, and intervals as far as `FAR` beyond them."""
    ratios = [x.ratio for x in drawn if 0 < x.ratio < math.inf]
    ratios += [
        end for x in drawn if not 0 < x.ratio < math.inf for end in (x.low, x.high) if 0 < end < math.inf
    ]
    inner = np.array([1.0, *ratios])
    ends = np.array([end for x in drawn for end in (x.low, x.high) if 0 < end < math.inf])
    held = ends[(ends >= inner.min() / FAR) & (ends <= inner.max() * FAR)]
    # Room for the arrow of an interval that goes on.
    beyond = [inner.min() / 2] * any(x.low < held.min(initial=1.0) for x in drawn)
    beyond += [inner.max() * 2] * any(x.high > held.max(initial=1.0) for x in drawn)
    axes.log_axis(ax, pd.Series([*inner, *held, *beyond], name="ratio"))


def _draw_row(
    ax: Axes, place: int, row: dict[str, Any], drawn: Drawn, look: style.Look, *, mark: str
) -> None:
    """Interval, marker and words of one comparison."""
    said = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "va": "center",
        "size": TINY,
    }
    counts = f"{row['emerged_a']}/{row['n_a']}, {row['emerged_b']}/{row['n_b']}{mark}"
    for text, at in ((drawn.text, _NUMBERS), (counts, _COUNTS)):
        ax.annotate(text, (1.0, place), xytext=(at, 0), annotation_clip=False, **said)
    if math.isnan(drawn.low):
        return
    left, right = ax.get_xlim()
    low, high = max(drawn.low, left), min(drawn.high, right)
    ax.plot([low, high], [place, place], color=look.color, lw=0.9, marker="", linestyle="-")
    axes.goes_on(ax, place, low=drawn.low, high=drawn.high, color=look.color)
    if left <= drawn.ratio <= right:
        fill = look.color if row["decided"] in ("earlier", "later") else "white"
        ax.plot(
            drawn.ratio, place, marker=look.marker, color=look.color, mfc=fill, mew=0.9, ms=4, linestyle=""
        )


def _write_names(
    ax: Axes, names: list[str], headings: list[int], *, confidence: float, reference: str
) -> None:
    """Rows' names left of the panel, and what its columns of text are above it."""
    ax.set_yticks(range(len(names)), names)
    for place, text in enumerate(ax.get_yticklabels()):
        if place in headings:
            text.set(size=style.SMALL, color=style.INK, fontweight="bold")
        else:
            text.set(size=TINY, color=style.GREY)
    ax.tick_params(axis="y", length=0, pad=6)  # an arrow at the edge needs room
    ax.set_ylim(len(names) - 0.3, -0.7)
    above = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "va": "center",
        "size": TINY,
    }
    for text, at in (
        (f"ratio [{percent(confidence)} interval]", _NUMBERS),
        (f"emerged, {reference}", _COUNTS),
    ):
        ax.annotate(text, (1.0, 0), xytext=(at, 0), annotation_clip=False, color=style.GREY, **above)


def _caption(
    rows: pd.DataFrame, drawn: Iterable[Drawn], limits: tuple[float, float], *, threshold: float
) -> str:
    first, drawn = rows.iloc[0], list(drawn)
    name = METRICS.get(first["metric"], first["metric"]).partition("\n")[0]
    family = "Holm's" if rows["primary"].all() else "Benjamini and Hochberg's"
    goes_on = any(x.low < limits[0] or x.high > limits[1] for x in drawn)
    parts = [
        f"Medians of {first['b']} over those of the row, {name} at {threshold:g}, with "
        f"{percent(float(first['confidence']))} intervals; right of 1 the row is earlier. Beside them, "
        f"runs that emerged of the row and of {first['b']}.",
        f"Filled markers are decided after {family} adjustment, hollow ones are not.",
        "Arrows: the interval goes on." * goes_on,
        "≥ and ≤: a median was not reached; the marker is g, the ratio of restricted geometric means, and "
        "the bound the end of its interval." * any(x.text[0] in "≥≤" for x in drawn),
        "Fitted: a median was not reached and is extrapolated." * any(x.text[0] == "f" for x in drawn),
        "Fitted 0 or ∞: there is an interval and no marker."
        * any(x.text.startswith(("fitted 0 ", "fitted ∞")) for x in drawn),
        "†: score and answer NLL do not say the same." * any(x.text[-1] == "†" for x in drawn),
        f"{emergence_grid.seeds([*rows['n_a'], *rows['n_b']])} each.",
    ]
    return " ".join(filter(None, parts))
