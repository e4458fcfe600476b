"""Figures of the distillation study: sweeps of bits, density and temperature, promises, and sizes.

One row a run in, a `Chart` out; a marker is a mean over seeds and its bar the t interval. Bits, density,
temperature and ratios are multiplicative, so their axes are logarithmic; losses are not.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lmbench.analysis import axes, chart, style
from lmbench.analysis.against_panel import means_caption
from lmbench.analysis.checks import require
from lmbench.analysis.distillation_arms import FAMILIES, HARD, SMALL, TEACHER, family_of, with_settings
from lmbench.analysis.formats import METRICS
from lmbench.analysis.front_panel import LOOKS
from lmbench.analysis.stats import summarise
from lmbench.analysis.table import provenance

AXES = {
    "bits": "bits of a weight",
    "density": "density (share of weights kept)",
    "tau": "temperature",
    "alpha": "alpha (share of the targets)",
}
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
    looks = _looks(points, by)
    with style.context():
        fig, (ax,) = chart.new(width=style.COLUMN_WIDTH, height=2.5)
        handles = []
        for at, (name, look) in enumerate(looks.items()):
            line = points[points["line"] == name]
            bars = {"yerr": axes.errors(line), "ms": 3.8, **axes.ERROR_BAR}
            drawn = {"color": look.color, "marker": look.marker, "ls": look.linestyle}
            # Side by side, so that no interval hides another.
            aside = 0.025 * (at - (len(looks) - 1) / 2)
            x = line[setting] + aside if setting == "alpha" else line[setting] * 2**aside
            ax.errorbar(x, line["mean"], **drawn, **bars)
            handles.append(Line2D([], [], **drawn, label=_line_name(by, name)))
        handles += _draw_levels(ax, runs, levels, metric)
        axes.measured_ticks(ax, sorted(set(points[setting])), is_log=setting != "alpha")
        ax.set_xlabel(AXES.get(setting, setting))
        ax.set_ylabel(f"{split} {METRICS.get(metric, metric)}")
        ax.margins(y=0.1)
        chart.add_legend(fig, [handle for handle in handles if handle.get_label()] or handles)
        said = "; ".join(
            f"{row.line} {getattr(row, setting):g}: {row.mean:.3g}" for row in points.itertuples()
        )
        source = provenance(rows, by=["label"]).partition("; ")[2]
        return chart.finish(
            fig,
            caption=f"{means_caption(points['n'], 0.95)} {source}".strip(),
            alt=f"{metric} against {AXES.get(setting, setting)}: {said}.",
        )


def promise_panel(promises: pd.DataFrame) -> chart.Chart:
    """What was claimed, counted and measured, in times less, on one log axis: a line a promise.

    Args:
        promises: from `compression_speed.promise_table`: what, kind (claimed, counted or measured), how,
            ratio, low, high.

    Raises:
        ValueError: no promises, or an unknown column.
    """
    for column in ("what", "kind", "how", "ratio", "low", "high"):
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
        caption = "Ratios to the dense student in float32; bars are 95% intervals over seeds or timings."
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
        edge = max(1.0, float(100 * off.abs().max()) * 1.15)
        ax.set_ylim(-edge, edge)
        ax.set_xlabel("predicted file (bytes)")
        ax.set_ylabel("packed less predicted (%)")
        chart.add_legend(fig, chart.legend_handles({name: LOOKS[name] for name in families}, lines=False))
        worst = f"The furthest is {off.loc[off.abs().idxmax()]:+.1%} off.".replace("-", "−")
        caption = f"{len(rows)} packed files. {worst}"
        return chart.finish(fig, caption=caption, alt=f"Packed against predicted bytes. {worst}")


def _looks(points: pd.DataFrame, by: str) -> dict[str, style.Look]:
    """Methods by name; numbers by their order, from dark to light."""
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


def _line_name(by: str, name: str) -> str:
    return name if by == "method" else f"{by} = {name}"


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _draw_levels(ax: Axes, runs: pd.DataFrame, levels: Sequence[str], metric: str) -> list[Line2D]:
    handles = []
    for label in (label for label in levels if label in set(runs["label"])):
        look = {"color": style.GREY, "ls": _LEVELS.get(label, "-"), "lw": 0.9}
        ax.axhline(float(np.mean(runs[metric][runs["label"] == label])), zorder=0.5, **look)
        handles.append(Line2D([], [], **look, label=label))
    return handles
