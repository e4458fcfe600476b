"""Whether what is seen at one threshold and one metric survives the others: the mirage test as a figure.

Emergence is said to be a matter of the metric (Schaeffer et al. 2023, "Are emergent abilities of large
language models a mirage?"). So the median onset is drawn over all thresholds, for the score and for
its continuous twin, the answer's negative log-likelihood. Where curves cross, the ranking of models
depends on the threshold; where one metric's curve is steep and the other's is not from any foot on, the
jump may be the metric's own.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from lmbench.analysis import axes, chart, emergence_grid, style
from lmbench.analysis.checks import require
from lmbench.analysis.curves import PROGRESS
from lmbench.analysis.emergence_grid import METRICS, Capability
from lmbench.analysis.onset import UNITS, onsets
from lmbench.analysis.survival import median_interval, turnbull
from lmbench.errors import unknown

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TWINS = ("score", "answer_nll")
_LINES = ("-", (0, (3, 1.5)))
"""Of the first metric and of the second; models differ by colour and marker here."""
_EVERY = 2  # thresholds from marker to marker
_BESIDE, _BETWEEN = 6.0, 3.0  # points right of a panel: its first column of arrows, and from one to the next
_KEYS = ["task", "level", "metric", "label", "threshold"]


class Median(NamedTuple):
    """The evaluations (lower, upper] between which half of the runs have got there; or beyond `lower`."""

    lower: float
    upper: float
    """inf where half of them never do, and `lower` is then the last evaluation."""


def threshold_panel(
    points: pd.DataFrame,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    unit: str = "step",
    metrics: Sequence[str] = TWINS,
) -> chart.Chart:
    """Median onset at each threshold, a panel for each task and level, a colour for each model.

    Training is the x axis, as in every figure of emergence, so a curve is the median run's rise, and
    a steep one is a jump. Where half of the runs never get there, the curve ends, and an arrow in the margin
    stands at the first threshold that they do not reach.

    Args:
        points: rows of `ladders.normalise`, also with run, label, init_seed, step and `unit`.
        metrics: drawn in full, and dashed with hollow markers.

    Raises:
        ValueError: as `onset.onsets`; an unknown unit or metric, or more than two metrics.
    """
    if unit not in UNITS:
        raise ValueError(unknown("unit", unit, UNITS))
    if not 0 < len(metrics) <= len(_LINES):
        raise ValueError(f"metrics has {len(metrics)} names; a threshold panel tells 1 or 2 apart")
    require(points, "label")
    rows = pd.concat([emergence_grid.chosen(points, metric=metric) for metric in metrics])
    found = onsets(rows, thresholds=thresholds, units=[unit])
    known = medians(found)
    looks = style.looks(rows["label"])
    times = np.array([[x.lower, x.upper] for x in known.values()])
    times = times[np.isfinite(times) & (times > 0)]
    with style.context():
        fig, panels = emergence_grid.grid(emergence_grid.capabilities(rows), sharey=True)
        axes.log_axis(
            next(iter(panels.values())),
            pd.Series(times, name=unit),
            is_power=unit.endswith("flops"),
            max_labels=4,
        )
        for capability, ax in panels.items():
            _draw_panel(ax, capability, known, looks, metrics=metrics)
            ax.set_ylim(0, 1)
            ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        emergence_grid.name_axes(
            panels, x=f"median onset ({PROGRESS[unit]})", y="threshold\n(chance 0, Bayes 1)"
        )
        chart.add_legend(fig, [*chart.legend_handles(looks, lines=False), *_metric_handles(metrics)])
        is_censored = any(math.isinf(x.upper) for x in known.values())
        return chart.finish(
            fig,
            caption=_caption(found, unit=unit, is_censored=is_censored),
            alt=_alt(found, known, looks, unit=unit),
        )


def medians(found: pd.DataFrame) -> dict[tuple[str, str, str, str, float], Median]:
    """The median onset by (task, level, metric, label, threshold), from rows of one unit."""
    known = {}
    for key, runs in found.groupby(_KEYS, sort=False, observed=True):
        lower, upper = median_interval(turnbull(runs["lower"], runs["upper"]))
        is_known = math.isfinite(upper)
        task, level, *rest = key
        known[str(task), str(level), *rest] = Median(
            lower if is_known else float(runs["last"].max()), upper if is_known else math.inf
        )
    return known


def _draw_panel(
    ax: Axes,
    capability: Capability,
    known: Mapping[tuple, Median],
    looks: Mapping[str, style.Look],
    *,
    metrics: Sequence[str],
) -> None:
    """The curves of one capability, those of models a little apart, and a column of the margin for each."""
    thresholds = sorted({key[-1] for key in known})
    gap = min(np.diff(thresholds), default=0.1)
    for j, (metric, line) in enumerate(zip(metrics, _LINES, strict=False)):
        for i, (label, look) in enumerate(looks.items()):
            up = 0.35 * gap * ((i + 0.5) / len(looks) - 0.5)
            keys = {at: (*capability, metric, label, at) for at in thresholds}
            own = {at + up: known[key] for at, key in keys.items() if key in known}
            how = {"color": look.color, "marker": look.marker, "linestyle": line}
            how["mfc"] = look.color if line == _LINES[0] else "white"
            _draw_curve(ax, own, how)
            # An onset only ever comes later at a higher threshold, so the first not reached ends the curve.
            missed = [at for at, key in keys.items() if key in known and math.isinf(known[key].upper)]
            if missed:
                _draw_arrow(ax, missed[0], column=len(metrics) * i + j, how=how)


def _draw_arrow(ax: Axes, y: float, *, column: int, how: dict) -> None:
    """An arrow in the margin at its own threshold; apart to the side, for a height would be a threshold."""
    beside = ScaledTranslation((_BESIDE + _BETWEEN * column) / 72, 0, ax.figure.dpi_scale_trans)
    at = blended_transform_factory(ax.transAxes, ax.transData) + beside
    ax.plot(
        [1.0], [y], **how | {"marker": ">", "linestyle": ""}, ms=3.6, mew=0.7, transform=at, clip_on=False,
        scalex=False, scaley=False,
    )  # fmt: skip


def _draw_curve(ax: Axes, own: Mapping[float, Median], how: dict) -> None:
    """The medians that are known."""
    reached = {y: m for y, m in own.items() if math.isfinite(m.upper)}
    left = ax.get_xlim()[0]
    for y, m in reached.items():
        ax.plot([max(m.lower, left), m.upper], [y, y], color=how["color"], lw=0.5, alpha=0.6, marker="")
    x = [math.sqrt(max(m.lower, left) * m.upper) for m in reached.values()]
    ax.plot(x, list(reached), **how, linewidth=0.9, ms=2.8, mew=0.7, markevery=_EVERY)


def _metric_handles(metrics: Sequence[str]) -> list[Line2D]:
    return [
        Line2D([], [], color=style.INK, linestyle=line, marker="o", ms=3.2, mfc=fill, label=_name(metric))
        for metric, line, fill in zip(metrics, _LINES, (style.INK, "white"), strict=False)
    ]


def _name(metric: str) -> str:
    return METRICS.get(metric, metric).partition("\n")[0]


def _caption(found: pd.DataFrame, *, unit: str, is_censored: bool) -> str:
    counts = found.drop_duplicates(["run", "task", "level"]).groupby(["label", "task", "level"]).size()
    parts = [
        "Median over runs of the time from which the normalised metric is at or above the threshold for good "
        "(Turnbull's estimate); bars: the evaluations between which it lies, no confidence interval.",
        "Arrows beside a panel: the first threshold that half of the runs do not reach, a column for each "
        "model and metric." * is_censored,
        emergence_grid.of_learning(unit),
        f"{emergence_grid.seeds(counts)}.",
    ]
    return " ".join(filter(None, parts))


def _alt(
    found: pd.DataFrame, known: Mapping[tuple, Median], looks: Mapping[str, style.Look], *, unit: str
) -> str:
    """Medians at the threshold next to one half."""
    at = min(found["threshold"].unique(), key=lambda threshold: (abs(threshold - 0.5), threshold))
    parts = []
    for capability in emergence_grid.capabilities(found):
        for metric in dict.fromkeys(found["metric"]):
            each = {label: known.get((*capability, metric, label, at)) for label in looks}
            said = [
                f"{label} not by {m.lower:.4g}" if math.isinf(m.upper) else f"{label} by {m.upper:.4g}"
                for label, m in each.items()
                if m
            ]
            if said:
                parts.append(f"{emergence_grid.title(capability)}, {_name(metric)}: {', '.join(said)}")
    return f"Median onset against the threshold; at {at:g} ({PROGRESS[unit]}): {'; '.join(parts)}."
