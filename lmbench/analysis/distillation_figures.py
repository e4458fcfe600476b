"""Figures of the distillation study: sweeps of bits, density and temperature, promises, and sizes.

One row a run in, a `Chart` out; a marker is a mean over seeds and its bar the t interval. Bits, density,
temperature and ratios are multiplicative, so their axes are logarithmic; losses are not.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lmbench.analysis import axes, chart, style
from lmbench.analysis.against_panel import means_caption
from lmbench.analysis.checks import require
from lmbench.analysis.distillation_arms import (
    FAMILIES,
    HARD,
    SMALL,
    TEACHER,
    family_of,
    rounding_note,
    with_settings,
)
from lmbench.analysis.distillation_lines import (
    draw_levels,
    draw_lines,
    level_handles,
    line_handles,
    sweep_looks,
)
from lmbench.analysis.formats import METRICS
from lmbench.analysis.front_panel import LOOKS
from lmbench.analysis.intervals import t_interval
from lmbench.analysis.stats import summarise
from lmbench.analysis.table import provenance
from lmbench.analysis.words import capital, seeds

AXES = {
    "bits": "bits of a weight",
    "density": "density (share of weights kept)",
    "tau": "temperature",
    "alpha": "alpha (share of the targets)",
}
NEAR = {"bits": 3}
"""Levels from which on a sweep has a second panel: below them a loss is far above all others."""
_KINDS = {"claimed": ("D", "white"), "counted": ("s", style.GREY), "measured": ("o", style.INK)}


def sweep_panel(
    runs: pd.DataFrame,
    *,
    setting: str = "bits",
    metric: str = "bits_per_byte",
    by: str = "method",
    levels: Sequence[str] = (HARD, SMALL, TEACHER),
    split: str = "test",
) -> chart.Chart:
    """Loss against one setting of the arms' names, a line for each value of another; levels are dashed.

    Args:
        runs: label, init_seed, metric; arms are named such as `bits=4 qat`.
        setting: of `AXES`; its axis is logarithmic, alpha's linear.
        by: what tells lines apart: method, or another setting such as alpha.
        levels: arms drawn as horizontal lines where they were run.

    Raises:
        ValueError: no arm that sets it, or a value that is not finite.
    """
    for column in ("label", metric):
        require(runs, column)
    rows = with_settings(runs)
    if setting not in rows or rows[setting].notna().sum() == 0:
        raise ValueError(f"no arm sets {setting}; arms: {', '.join(dict.fromkeys(runs['label']))}")
    rows = rows[rows[setting].notna()]
    lines = rows[by].fillna("") if by in rows else pd.Series("", index=rows.index)
    rows = rows.assign(line=lines.map(lambda value: f"{value:g}" if isinstance(value, float) else str(value)))
    points = summarise(rows, by=["line", setting], value=metric).sort_values(setting)
    near = points[points[setting] >= NEAR.get(setting, math.inf)]
    has_near = near[setting].nunique() > 1 and len(near) < len(points)
    looks = sweep_looks(points, by)
    with style.context():
        fig, panels = _panels(2 if has_near else 1)
        for ax, shown in zip(panels, (points, near), strict=False):
            draw_lines(ax, shown, looks, setting=setting)
            draw_levels(ax, runs, levels, metric, within=near if ax is not panels[0] else None)
            axes.measured_ticks(ax, sorted(set(shown[setting])), is_log=setting != "alpha")
            ax.set_xlabel(AXES.get(setting, setting))
            ax.margins(y=0.1)
        panels[0].set_ylabel(f"{split} {METRICS.get(metric, metric)}")
        handles = [*line_handles(looks, by), *level_handles(runs, levels)]
        chart.add_legend(fig, [handle for handle in handles if handle.get_label()] or handles)
        said = "; ".join(
            f"{row.line} {getattr(row, setting):g}: {row.mean:.3g}" for row in points.itertuples()
        )
        source = provenance(rows, by=["label"]).partition("; ")[2]
        right = f"Right: from {NEAR[setting]:g} {setting} on, with an axis of its own." if has_near else ""
        told = [means_caption(points["n"], 0.95), right, sweep_note(rows["label"], setting), source]
        alt = f"{metric} against {AXES.get(setting, setting)}: {said}."
        return chart.finish(fig, caption=" ".join(filter(None, told)), alt=alt)


def _panels(n: int) -> tuple[chart.Chart, list[Axes]]:
    """One panel, or several with an axis of the loss each: at few bits it would squeeze all else."""
    width = style.COLUMN_WIDTH if n == 1 else style.PAGE_WIDTH * 0.85
    fig, (first,) = chart.new(width=width, height=2.5)
    places = fig.add_gridspec(1, n)
    first.set_subplotspec(places[0])
    return fig, [first, *(fig.add_subplot(places[at]) for at in range(1, n))]


def sweep_note(labels: Iterable[str], setting: str) -> str:
    """What a caption has to say of a sweep beside its numbers; "" where nothing."""
    note = rounding_note(labels) if setting == "bits" else ""
    return f"{capital(note)}." if note else ""


def promise_panel(promises: pd.DataFrame, *, note: str = "") -> chart.Chart:
    """What was claimed, counted and measured, in times less, on one log axis: a line a promise.

    Args:
        promises: from `compression_speed.promise_table`: what, kind (claimed, counted or measured), how,
            ratio, low, high, n.
        note: ends the caption, such as `compression_speed.times_note`.

    Raises:
        ValueError: no promises, or an unknown column.
    """
    for column in ("what", "kind", "how", "ratio", "low", "high", "n"):
        require(promises, column)
    rows = promises.reset_index(drop=True)
    names = [f"{row.what}: {row.how}" for row in rows.itertuples()]
    is_first = ~rows["what"].duplicated()
    ticks = [name if first else row for name, row, first in zip(names, rows["how"], is_first, strict=True)]
    with style.context():
        fig, (ax,) = chart.new(width=style.PAGE_WIDTH * 0.72, height=0.7 + 0.19 * len(rows))
        ax.axvline(1, color=style.GREY, lw=0.8, zorder=0.5)
        for place, row in rows.iterrows():
            marker, fill = _KINDS[row["kind"]]
            bar = axes.errors(pd.DataFrame([row]).rename(columns={"ratio": "mean"}).astype({"mean": float}))
            look = {"color": style.INK, "marker": marker, "mfc": fill, "ms": 5}
            ax.errorbar(row["ratio"], place, xerr=bar.astype(float), **look, **axes.ERROR_BAR)
        shown = pd.concat([rows["ratio"], rows["low"], rows["high"], pd.Series([1.0])]).dropna()
        axes.log_axis(ax, shown[np.isfinite(shown) & (shown > 0)], max_labels=8)
        ax.set_yticks(range(len(rows)), ticks)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        for what in rows["what"].drop_duplicates().index[1:]:
            ax.axhline(what - 0.5, color=style.PALE, lw=0.6, zorder=0.4)
        ax.spines["left"].set_visible(False)
        ax.set_xlabel("times less (1 is no change)")
        handles = [
            Line2D([], [], ls="", color=style.INK, marker=marker, mfc=fill, ms=5, label=kind)
            for kind, (marker, fill) in _KINDS.items()
        ]
        chart.add_legend(fig, handles)
        said = "; ".join(
            f"{name} {ratio:.3g} ({kind})"
            for name, ratio, kind in zip(names, rows["ratio"], rows["kind"], strict=True)
        )
        n = sorted(set(rows.loc[rows["kind"] == "measured", "n"].astype(int)))
        told = "" if not n else f"{n[0]}" if len(n) == 1 else f"{n[0]} to {n[-1]}"
        bars = f"; bars are 95% intervals over n = {told} seeds or timings" if told else ""
        caption = f"Ratios to the dense student in float32{bars}. {note}".strip()
        return chart.finish(fig, caption=caption, alt=f"Times less: {said}.")


def size_panel(artifacts: pd.DataFrame) -> chart.Chart:
    """Packed against predicted bytes, one marker a file in the colour of its family, around the diagonal.

    Raises:
        ValueError: no files, or a missing column.
    """
    for column in ("label", "bytes", "predicted_bytes"):
        require(artifacts, column)
    rows = artifacts.assign(family=[family_of(label) for label in artifacts["label"]])
    families = [family for family in FAMILIES if family in set(rows["family"])]
    off = rows["bytes"] / rows["predicted_bytes"] - 1
    with style.context():
        fig, (ax,) = chart.new(width=style.COLUMN_WIDTH, height=2.4)
        ax.axhline(0, **style.REFERENCE)
        for family in families:
            own = rows["family"] == family
            look = LOOKS[family]
            ax.plot(
                rows["predicted_bytes"][own], 100 * off[own], ls="", marker=look.marker, color=look.color,
                ms=4, alpha=0.8,
            )  # fmt: skip
        axes.log_axis(ax, rows["predicted_bytes"], max_labels=4)
        # The line of no difference, the files, and little else.
        low, high = min(0.0, float(100 * off.min())), max(0.0, float(100 * off.max()))
        room = max(0.5, 0.08 * (high - low))
        ax.set_ylim(low - room, high + room)
        ax.set_xlabel("predicted file (bytes)")
        ax.set_ylabel("packed less predicted (%)")
        chart.add_legend(fig, chart.legend_handles({name: LOOKS[name] for name in families}, lines=False))
        worst = f"The furthest is {off.loc[off.abs().idxmax()]:+.1%} off.".replace("-", "−")
        caption = f"{_files_in_words(rows, off)} {worst}"
        return chart.finish(fig, caption=caption, alt=f"Packed against predicted bytes. {worst}")


def _files_in_words(rows: pd.DataFrame, off: pd.Series) -> str:
    """How many files of how many arms and seeds, and how wide the intervals of arms are."""
    arms = [part for _, part in off.groupby(rows["label"])]
    counts = [len(part) for part in arms]
    told = seeds(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)} seeds"
    known = [t_interval(part) for part in arms if len(part) > 1]
    half = max(((found.high - found.low) / 2 for found in known), default=0.0)
    bars = f" 95% t intervals of an arm's mean are at most ±{100 * half:.2g} points." if known else ""
    return f"n = {len(rows)} packed files of {len(arms)} arms, {told} each, one marker a file.{bars}"
