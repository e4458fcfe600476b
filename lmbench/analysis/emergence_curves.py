"""Capabilities during training: the score of each task and level between chance and the Bayes predictor.

A score rises between two known values, so each panel has the whole score ladder: chance, the shortcuts
that a model may take instead of solving the task, and the Bayes predictor. A curve that rests on a
shortcut's line has learned the shortcut.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lmbench.analysis import axes, chart, emergence_grid, style
from lmbench.analysis.checks import refuse_mixed_devices, require
from lmbench.analysis.curves import PROGRESS
from lmbench.analysis.emergence_grid import METRICS, Capability, Label
from lmbench.analysis.ladders import ENDS, normalise
from lmbench.analysis.stats import summarise
from lmbench.analysis.table import provenance
from lmbench.errors import unknown

BEYOND = 0.15
"""Of the way from chance to Bayes: how far a panel shows what lies beyond its ladder."""
_RUNG = {"color": style.GREY, "linestyle": (0, (1, 2)), "linewidth": 0.7}
_MARKERS = 5  # on a curve


def capability_curves(
    points: pd.DataFrame,
    ladder: pd.DataFrame,
    *,
    x: str = "step",
    metric: str = "score",
    threshold: float = 0.5,
    looks: Mapping[str, style.Look] | None = None,
) -> chart.Chart:
    """A panel for each task and level: means over seeds with t intervals, ladder and threshold.

    Args:
        points: tracked rows with run, label, step, task, level, metric, value and `x`; n (examples of a
            point) and device go into the caption where they are there.
        ladder: rows with task, level, metric, rung, value.
        x: of `curves.PROGRESS`, on a logarithmic axis.
        metric: "score", or its continuous twin "answer_nll", which falls where the score rises.
        threshold: of the normalised score, drawn in the units of the panel; 0 is chance and 1 Bayes.
        looks: of labels that are no models, such as arms; the others have their own.

    Raises:
        ValueError: no points of that metric, an x that is unknown or not above 0, a ladder that lacks a
            task and level, a threshold outside 0 ... 1, seconds of several devices.
    """
    if x not in PROGRESS:
        raise ValueError(unknown("x", x, PROGRESS))
    for column in ("run", "label", "step", "value", x):
        require(points, column)
    if not 0 < threshold < 1:
        raise ValueError(
            f"a threshold of the normalised score lies between 0 and 1, as 0.5; got {threshold:g}"
        )
    if x == "seconds":
        refuse_mixed_devices(points.assign(train_seconds=points["seconds"]), ["train_seconds"])
    every = emergence_grid.chosen(points, metric=metric)
    every = every.assign(level=every["level"].astype(str))
    normalise(every, ladder)  # says what the ladder lacks
    is_finite = np.isfinite(every["value"].astype(float))
    rows = every[is_finite]
    if rows.empty:
        raise ValueError(f"there are no finite points of {metric} to draw")
    keys = ["label", "task", "level", "step"]
    means = summarise(rows, by=keys, value="value")
    means = means.merge(rows.groupby(keys)[x].mean().rename("x").reset_index(), on=keys).sort_values(
        "step", kind="stable"
    )
    looks = style.looks(rows["label"], own=looks)
    with style.context():
        fig, panels = emergence_grid.grid(emergence_grid.capabilities(rows), sharey=False)
        axes.log_axis(next(iter(panels.values())), means["x"], is_power=x.endswith("flops"), max_labels=4)
        margins = {}
        for capability, ax in panels.items():
            rungs = _rungs(ladder, capability, metric)
            curves = emergence_grid.of(means, capability)
            _draw_curves(ax, curves, looks)
            margins[ax] = _draw_ladder(ax, rungs, threshold=threshold, curves=curves)
        emergence_grid.name_axes(panels, x=PROGRESS[x], y=METRICS.get(metric, metric))
        lines = [
            Line2D([], [], label="score ladder", **_RUNG),
            Line2D([], [], label=f"threshold {threshold:g}", **style.REFERENCE),
        ]
        chart.add_legend(fig, [*chart.legend_handles(looks), *lines])
        emergence_grid.label_margins(margins)
        text = _caption(
            rows, means, threshold=threshold, lost=every["run"][~is_finite].nunique(),
            is_cut=_is_cut(means, ladder, metric), x=x,
        )  # fmt: skip
        return chart.finish(fig, caption=text, alt=_alt(means, looks, ladder, metric=metric, x=x))


def _rungs(ladder: pd.DataFrame, capability: Capability, metric: str) -> dict[str, float]:
    own = emergence_grid.of(ladder, capability)
    own = own[own["metric"] == metric]
    return dict(zip(own["rung"], own["value"].astype(float), strict=True))


def _draw_curves(ax: Axes, curves: pd.DataFrame, looks: Mapping[str, style.Look]) -> None:
    """Each model's mean with its band; markers of different models at different places."""
    for i, (label, look) in enumerate(looks.items()):
        curve = curves[curves["label"] == label]
        every = max(1, len(curve) // _MARKERS)
        ax.plot(
            curve["x"], curve["mean"], color=look.color, linestyle=look.linestyle, linewidth=1.0,
            marker=look.marker, ms=2.8, markevery=((i * every) // max(1, len(looks)), every),
        )  # fmt: skip
        ax.fill_between(curve["x"], curve["low"], curve["high"], color=look.color, alpha=0.18, lw=0)


def _draw_ladder(
    ax: Axes, rungs: Mapping[str, float], *, threshold: float, curves: pd.DataFrame
) -> list[Label]:
    """The lines of a panel and its limits; returns the names of the rungs for its margin."""
    for value in rungs.values():
        ax.axhline(value, zorder=0.5, **_RUNG)
    chance, bayes = (rungs[end] for end in ENDS)
    ax.axhline(chance + threshold * (bayes - chance), zorder=0.6, **style.REFERENCE)
    low, high = _limits(rungs)
    low = max(low, min(*rungs.values(), curves["mean"].min()))
    high = min(high, max(*rungs.values(), curves["mean"].max()))
    pad = 0.05 * (high - low)
    ax.set_ylim(low - pad, high + pad)
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    return [Label(value, name.replace("_", " ")) for name, value in rungs.items()]


def _limits(rungs: Mapping[str, float]) -> tuple[float, float]:
    """Between which values a panel can show curves: the first steps may be far worse than chance."""
    low, high = min(rungs.values()), max(rungs.values())
    return low - BEYOND * (high - low), high + BEYOND * (high - low)


def _is_cut(means: pd.DataFrame, ladder: pd.DataFrame, metric: str) -> bool:
    for capability in emergence_grid.capabilities(means):
        low, high = _limits(_rungs(ladder, capability, metric))
        if not emergence_grid.of(means, capability)["mean"].between(low, high).all():
            return True
    return False


def _caption(
    rows: pd.DataFrame, means: pd.DataFrame, *, threshold: float, lost: int, is_cut: bool, x: str
) -> str:
    many = means["n"].max() > 1
    parts = [
        "Lines are means over seeds, bands their intervals." if many else "Lines are single runs.",
        f"The threshold is {threshold:g} of the way from chance to Bayes.",
        f"Curves are cut off where they are {BEYOND:.0%} of the ladder beyond it." * is_cut,
        emergence_grid.of_learning(x),
    ]
    if "n" in rows:
        few, many = int(rows["n"].min()), int(rows["n"].max())
        parts.append(
            f"Each point is scored on {few:,}" + (f" to {many:,}" if many > few else "") + " examples."
        )
    parts.append(
        f"{lost} runs diverged and end early." if lost > 1 else "1 run diverged and ends early." * lost
    )
    # A label may have different seeds in different tasks, so a run counts once in each of them.
    each = rows.drop_duplicates(["run", "task", "level"])
    parts.append(provenance(each, by=["label", "task", "level"]))
    return " ".join(filter(None, parts))


def _alt(
    means: pd.DataFrame, looks: Mapping[str, style.Look], ladder: pd.DataFrame, *, metric: str, x: str
) -> str:
    """The last mean of each model in each panel, between chance and Bayes."""
    parts = []
    for capability in emergence_grid.capabilities(means):
        rungs = _rungs(ladder, capability, metric)
        ends = emergence_grid.of(means, capability).groupby("label", sort=False)["mean"].last()
        said = ", ".join(f"{label} {ends[label]:.3g}" for label in looks if label in ends)
        between = f"chance {rungs['chance']:.3g}, Bayes {rungs['bayes']:.3g}"
        parts.append(f"{emergence_grid.title(capability)} ({between}): {said}")
    name = METRICS.get(metric, metric).replace("\n", " ")
    return f"{name} over {PROGRESS[x]}; at the end, {'; '.join(parts)}."
