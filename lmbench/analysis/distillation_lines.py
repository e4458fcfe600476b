"""Lines of a sweep's figure: a look for each method or level, points with intervals, dashed levels.

A method keeps its colour in all figures; levels of a number go from dark to light in their order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lmbench.analysis import axes, style
from lmbench.analysis.distillation_arms import HARD, SMALL, TEACHER

METHODS = {
    "qat": style.Look("#0173b2", "o", "-"),
    "ptq absmax": style.Look("#de8f05", "s", (0, (5, 2))),
    "ptq mse": style.Look("#029e73", "^", (0, (6, 2, 1.5, 2))),
    "gptq": style.Look("#d55e00", "D", (0, (1.5, 1.5))),
    "ptq": style.Look("#ca9161", "v", (0, (5, 2))),
    "equal bytes": style.Look("#cc78bc", "P", (0, (3, 1.5))),
}
"""Of each way to quantise; others take a place by their name."""
_ORDERED = ("#222222", "#0173b2", "#56b4e9", "#de8f05", "#ca9161", "#d55e00", "#cc78bc")
_ORDERED_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LEVELS = {HARD: (0, (4, 2.5)), SMALL: (0, (1, 1.5)), TEACHER: (0, (6, 2, 1.5, 2))}
_ASIDE = 0.025  # of an octave (or of alpha) between two lines, so that no interval hides another


def sweep_looks(points: pd.DataFrame, by: str) -> dict[str, style.Look]:
    """Methods by name; numbers by their order, from dark to light.

    Args:
        points: with the column line, the value of `by` as text.
    """
    names = list(dict.fromkeys(points["line"]))
    if by != "method":
        ordered = sorted(names, key=float) if all(map(_is_number, names)) else names
        return {
            name: style.Look(_ORDERED[at % 7], _ORDERED_MARKERS[at % 7], "-")
            for at, name in enumerate(ordered)
        }
    if names == [""]:
        return {"": style.Look(style.INK, "o", "-")}
    known = {name: METHODS[name] for name in METHODS if name in names}
    return known | style.looks(name for name in names if name not in METHODS)


def draw_lines(ax: Axes, points: pd.DataFrame, looks: Mapping[str, style.Look], *, setting: str) -> None:
    """A line for each look through its means, side by side, with intervals.

    Args:
        points: line, the setting, mean, low, high; by rising level.
    """
    for at, (name, look) in enumerate(looks.items()):
        line = points[points["line"] == name]
        bars = {"yerr": axes.errors(line), "ms": 3.8, **axes.ERROR_BAR}
        aside = _ASIDE * (at - (len(looks) - 1) / 2)
        x = line[setting] + aside if setting == "alpha" else line[setting] * 2**aside
        ax.errorbar(x, line["mean"], color=look.color, marker=look.marker, ls=look.linestyle, **bars)


def line_handles(looks: Mapping[str, style.Look], by: str) -> list[Line2D]:
    """An entry of the legend for each line."""
    return [
        Line2D(
            [], [], color=look.color, marker=look.marker, ls=look.linestyle,
            label=name if by == "method" else f"{by} = {name}",
        )
        for name, look in looks.items()
    ]  # fmt: skip


def draw_levels(
    ax: Axes,
    runs: pd.DataFrame,
    levels: Sequence[str],
    metric: str,
    *,
    within: pd.DataFrame | None,
) -> None:
    """A dashed line at the mean of each of these arms that was run.

    Args:
        within: points (mean), above all of which no line is drawn; None draws all.
    """
    for label in _run(runs, levels):
        mean = float(np.mean(runs[metric][runs["label"] == label]))
        if within is None or mean <= within["mean"].max():
            ax.axhline(mean, zorder=0.5, **_level(label))


def level_handles(runs: pd.DataFrame, levels: Sequence[str]) -> list[Line2D]:
    """An entry of the legend for each of these arms that was run."""
    return [Line2D([], [], **_level(label), label=label) for label in _run(runs, levels)]


def _run(runs: pd.DataFrame, levels: Sequence[str]) -> list[str]:
    return [label for label in levels if label in set(runs["label"])]


def _level(label: str) -> dict[str, Any]:
    return {"color": style.GREY, "ls": _LEVELS.get(label, "-"), "lw": 0.9}


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
