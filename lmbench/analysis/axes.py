"""What stands in the axes of several figures: logarithmic ticks, error bars, reference lines.

Reference predictors are horizontal lines with their names in the right margin, moved
apart where they would overlap.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from lmbench.analysis import style
from lmbench.analysis.formats import format_si

ERROR_BAR = {"capsize": 2.0, "capthick": 0.8, "elinewidth": 0.8}
FAR = 0.2
"""Of the range of means, beyond which intervals are cut off."""
_GAP, _CHARACTER = 0.01, 0.022
"""Of a panel's axis: between two labels, and the width of a character of them."""


def log_axis(ax: Axes, values: pd.Series, *, is_power: bool = False, max_labels: int = 5) -> None:
    """A logarithmic x axis around `values`, with few labels: powers of ten, or SI prefixes.

    It spans at least a factor of 5, so that models of one budget do not look far apart, and so
    that at least two of 1, 2, 5, 10 lie on it.

    Raises:
        ValueError: a value at or below 0.
    """
    low, high = float(values.min()), float(values.max())
    if not low > 0:
        raise ValueError(f"{values.name} = {low:g} cannot stand on a logarithmic axis; it must be above 0")
    middle, half = np.sqrt(low * high), max(np.sqrt(high / low) * 1.25, np.sqrt(5.0) * 1.001)
    low, high = middle / half, middle * half
    powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    # Denser labels first; with many decades, every second or third power and so on.
    choices = [np.outer(10.0**powers, subs).ravel() for subs in ([1, 2, 5], [1, 3])]
    choices += [10.0 ** powers[powers % every == 0] for every in range(1, 100)]
    shown = ([tick for tick in ticks if low <= tick <= high] for ticks in choices)
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.xaxis.set_major_locator(FixedLocator(next(ticks for ticks in shown if len(ticks) <= max_labels)))
    ax.xaxis.set_minor_locator(FixedLocator(np.outer(10.0**powers, np.arange(1, 10)).ravel()))
    ax.xaxis.set_major_formatter(FuncFormatter(_power_label if is_power else _si_label))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _power_label(value: float, _: int) -> str:
    exponent = int(np.floor(np.log10(value) + 1e-9))
    digit = round(value / 10.0**exponent)
    return rf"$10^{{{exponent}}}$" if digit == 1 else rf"${digit}{{\times}}10^{{{exponent}}}$"


def _si_label(value: float, _: int) -> str:
    digits, _, prefix = format_si(value).partition(" ")
    return f"{float(digits):g}{prefix}"  # a tick is a round number: 2M, not 2.00M


def errors(points: pd.DataFrame) -> np.ndarray:
    """Lengths of the error bars below and above `mean`; none where there is a single seed."""
    return np.array([points["mean"] - points["low"], points["high"] - points["mean"]])


def value_range(points: pd.DataFrame, *values: pd.Series) -> dict[str, float]:
    """`low` and `high` over means, intervals and single values, whichever exist."""
    parts = [*values, *(points[name] for name in ("mean", "low", "high") if name in points)]
    every = np.concatenate([np.asarray(part, dtype=float) for part in parts])
    return {"low": float(np.nanmin(every)), "high": float(np.nanmax(every))}


def limits_of_means(means: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> tuple[float, float]:
    """Limits of an axis of means whose widest intervals are cut off: they would squeeze all else.

    An interval is held as far as `FAR` of the means' range beyond them; `goes_on` marks the others.
    """
    means = means[np.isfinite(means)]
    room = FAR * max(float(np.ptp(means)), 1e-9)
    low, high = float(means.min()) - room, float(means.max()) + room
    ends = np.concatenate([means, lows[lows >= low], highs[highs <= high]])
    margin = 0.05 * max(float(np.ptp(ends)), 1e-9)
    low = low if (lows < low).any() else float(ends.min()) - margin
    return low, high if (highs > high).any() else float(ends.max()) + margin


def goes_on(ax: Axes, place: float, *, low: float, high: float, color: str) -> bool:
    """Arrows at the edges of a horizontal axis that an interval passes; whether it passes one."""
    left, right = ax.get_xlim()
    passed = [
        (edge, arrow)
        for edge, arrow, is_past in ((left, "<", low < left), (right, ">", high > right))
        if is_past
    ]
    for edge, arrow in passed:
        ax.plot(edge, place, marker=arrow, ms=3.5, color=color, linestyle="", clip_on=False)
    return bool(passed)


# ------------------------------------------------------------------ reference lines


def show_references(
    panels: list[Axes],
    references: Mapping[str, float],
    *,
    low: float,
    high: float,
    ceiling: float | None = None,
    digits: int = 2,
) -> None:
    """Dashed lines at the reference values over all panels, labelled right of the last panel.

    The y axis covers the data's range `low`..`high` and every reference below it. References far
    above it would squeeze the data, so they are named at the upper edge with an arrow instead.
    With a `ceiling` the axis ends there.
    """
    high = high if ceiling is None else min(high, ceiling)
    span = max(high - low, 0.05 * abs(high), 1e-9)
    limit = high + 0.6 * span if ceiling is None else ceiling
    inside = [value for value in references.values() if value <= limit]
    bottom, top = min([low, *inside]), max([high, *inside])
    pad = 0.06 * (top - bottom) + 0.02 * span
    for ax in panels:
        ax.set_ylim(bottom - pad, top + pad if ceiling is None else ceiling)
        for value in inside:
            ax.axhline(value, zorder=0.5, **style.REFERENCE)
    named = sorted(references.items(), key=lambda item: item[1])
    texts = [f"{value:.{digits}f} {name}" + (" ↑" if value > top else "") for name, value in named]
    _label_margin(panels[-1], [value for _, value in named], texts)


def _label_margin(ax: Axes, values: list[float], texts: list[str]) -> None:
    """Write `texts` right of the axes at the heights of `values`, apart, with leader lines."""
    if not values:
        return
    bottom, top = ax.get_ylim()
    written = [
        ax.text(1.06, 0.5, text, transform=ax.transAxes, va="center", size=style.SMALL, color=style.GREY)
        for text in texts
    ]
    # The axes' height is known only once everything that takes room has been placed.
    ax.figure.draw_without_rendering()
    gap = 1.2 * style.SMALL / 72 / (ax.get_position().height * ax.figure.get_figheight())
    true = np.clip((np.array(values) - bottom) / (top - bottom), 0.0, 1.0)
    for text, start, end in zip(written, true, spread(true, gap=gap, low=0.0, high=1.0), strict=True):
        text.set_y(end)
        ax.plot(
            [1.005, 1.02, 1.035, 1.05], [start, start, end, end], transform=ax.transAxes, clip_on=False,
            color=style.GREY, linewidth=0.5, marker="", linestyle="-", scalex=False, scaley=False,
        )  # fmt: skip


def spread(positions: np.ndarray, *, gap: float, low: float, high: float) -> np.ndarray:
    """The nearest positions (least squares) in [low, high] that keep the order and are `gap` apart.

    With z_i = y_i - i * gap the demand y_(i+1) >= y_i + gap is that z increases, so this is an
    isotonic regression, and cutting its solution off at the bounds keeps it optimal. `positions`
    must be sorted. Where there is not enough room the gap shrinks to what fits.
    """
    from scipy.optimize import isotonic_regression

    n = len(positions)
    if n > 1:
        gap = min(gap, (high - low) / (n - 1))
    steps = gap * np.arange(n)
    moved = isotonic_regression(np.asarray(positions, dtype=float) - steps).x
    return np.clip(moved, low, high - steps[-1]) + steps


def measured_ticks(ax: Axes, ticks: Sequence[float], *, is_log: bool) -> None:
    """Label the x axis where something was measured, and nowhere else; a log axis has base 2.

    Where two labels would touch, the second tick has none.
    """
    if is_log:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    labels = _apart(ticks, is_log=is_log)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: labels.get(value, "")))


def _apart(ticks: Sequence[float], *, is_log: bool) -> dict[float, str]:
    """Labels of ascending ticks that leave room for each other on an axis of a panel."""
    places = np.log2(ticks) if is_log else np.asarray(ticks, dtype=float)
    kept: dict[float, str] = {}
    last, text = -math.inf, ""
    for tick, place in zip(ticks, (places - places[0]) / max(places[-1] - places[0], 1e-12), strict=True):
        label = f"{tick:g}"
        if place - last > _GAP + _CHARACTER * (len(text) + len(label)) / 2:
            kept[tick], last, text = label, place, label
    return kept
