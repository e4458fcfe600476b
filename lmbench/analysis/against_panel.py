"""A figure of a score along what the tests vary: a panel a task, a line a model, the ladder in grey."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lmbench.analysis import axes, chart, style
from lmbench.analysis.against import against
from lmbench.analysis.ladders import divergence_note
from lmbench.analysis.words import percent, seeds

METRICS = {"score": "score", "answer_nll": "answer NLL (nats)", "nll": "NLL (nats per target)"}
_RUNGS = {"chance": (0, (1, 1.5)), "bayes": "-"}
_NAMES = {"bayes": "Bayes"}
_SHORTCUTS = ((0, (4, 2.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1)), (0, (8, 2)))
_GREY = {"color": style.GREY, "lw": 0.8}


def curve_panel(
    rows: pd.DataFrame,
    *,
    x: Mapping[str, float],
    x_name: str,
    ladder: pd.DataFrame | None = None,
    metric: str = "score",
    trained_to: float | None = None,
    is_log: bool = False,
    confidence: float = 0.95,
) -> chart.Chart:
    """The metric against what the tests vary: a panel a task, a line a model, the ladder in grey.

    Args:
        rows, x, ladder, metric: as `against.against`.
        x_name: label of the x axis with its unit, such as "shots" or "length (symbols)".
        trained_to: largest x that training showed, up to which the panel is shaded; None shades nothing.
        is_log: whether x is multiplicative; it must then be above 0.

    Raises:
        ValueError: as there, or an x of 0 or less on a logarithmic axis.
    """
    points = against(rows, x=x, ladder=ladder, metric=metric, confidence=confidence)
    if is_log and not (points["x"] > 0).all():
        raise ValueError(
            f"{x_name} = {points['x'].min():g} cannot stand on a logarithmic axis; it must be above 0"
        )
    looks, tasks = style.looks(points["label"]), list(dict.fromkeys(points["task"]))
    rungs = _rungs(ladder, points, metric=metric)
    shortcuts = [name for name in dict.fromkeys(rungs["rung"]) if name not in _RUNGS]
    styles = _RUNGS | {name: _SHORTCUTS[at % len(_SHORTCUTS)] for at, name in enumerate(shortcuts)}
    with style.context():
        width = style.width_for(len(looks)) if len(tasks) == 1 else style.PAGE_WIDTH
        fig, panels = chart.new(width=width, height=2.5, panels=len(tasks))
        for ax, task in zip(panels, tasks, strict=True):
            _draw_curves(ax, points[points["task"] == task], looks)
            for name, line in rungs[rungs["task"] == task].groupby("rung", sort=False):
                ax.plot(line["x"], line["value"], ls=styles[name], zorder=0.5, **_GREY)
            axes.measured_ticks(ax, sorted(set(points["x"])), is_log=is_log)
            if trained_to is not None:
                ax.axvspan(ax.get_xlim()[0], trained_to, color=style.PALE, alpha=0.35, lw=0, zorder=0)
            ax.set_xlabel(x_name)
            if len(tasks) > 1:
                ax.set_title(task)
        panels[0].set_ylabel(METRICS.get(metric, metric))
        shown = [name for name in styles if name in set(rungs["rung"])]
        named = {name: _NAMES.get(name, name.replace("_", " ")) for name in shown}
        lines = [Line2D([], [], ls=styles[name], label=text, **_GREY) for name, text in named.items()]
        chart.add_legend(fig, [*chart.legend_handles(looks), *lines])
        shaded = "" if trained_to is None else f" Shaded: seen in training, up to {trained_to:g}."
        said = "; ".join(
            f"{task} {label} " + ", ".join(f"{row.mean:.3g} at {row.x:g}" for row in part.itertuples())
            for (task, label), part in points.groupby(["task", "label"], sort=False)
        )
        return chart.finish(
            fig,
            caption=means_caption(points["n"], confidence) + shaded + divergence_note(rows),
            alt=f"{METRICS.get(metric, metric)} against {x_name}: {said}.",
        )


def _draw_curves(ax: Axes, points: pd.DataFrame, looks: Mapping[str, style.Look]) -> None:
    for label, look in looks.items():
        line = points[points["label"] == label]
        bars = {"yerr": axes.errors(line), "ms": 3.6, **axes.ERROR_BAR}
        ax.errorbar(line["x"], line["mean"], color=look.color, marker=look.marker, ls=look.linestyle, **bars)


def _rungs(ladder: pd.DataFrame | None, points: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """The ladder at the points: task, rung, x, value."""
    if ladder is None:
        return pd.DataFrame(columns=["task", "rung", "x", "value"])
    places = points[["task", "level", "x"]].drop_duplicates()
    rows = ladder[ladder["metric"] == metric].astype({"level": str})
    return rows.merge(places, on=["task", "level"]).sort_values("x", kind="stable")


def means_caption(n: pd.Series, confidence: float) -> str:
    """What markers and bars are, with the number of seeds; `n` has one entry a marker."""
    counts = sorted(set(n.astype(int)))
    told = seeds(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    bars = f", bars their {percent(confidence)} t intervals" if counts[-1] > 1 else ", without intervals"
    return f"Markers are means over {told}{bars}."
