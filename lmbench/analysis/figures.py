"""One function a figure: a DataFrame in, a `Chart` out, nothing written and nothing shown.

Tables of runs (`table.final_table`) have one row a run; every mean is over their seeds, and
its interval is the t interval. The caption, generated from the table, gives n, corpus,
protocol, scored bytes and device. Costs and learning rates are multiplicative, so their
axes are logarithmic; losses are not. Losses are better when lower.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lmbench.analysis import axes, chart, style
from lmbench.analysis.checks import refuse_mixed_devices, require
from lmbench.analysis.comparisons import paired_differences, sweep_panel
from lmbench.analysis.crossing_panel import crossing_panel
from lmbench.analysis.curves import training_curves, tuning_curves
from lmbench.analysis.exits import exit_panel
from lmbench.analysis.formats import COSTS, METRICS
from lmbench.analysis.references import References, reference_values
from lmbench.analysis.reversals import rank_panel
from lmbench.analysis.table import HIGHER_IS_BETTER, provenance

__all__ = [
    "budget_panel",
    "crossing_panel",
    "exit_panel",
    "loss_against",
    "paired_differences",
    "rank_panel",
    "sweep_panel",
    "training_curves",
    "tuning_curves",
]

MARKERS = "Markers are means over seeds, small dots single runs. "
BUDGETS = ("train_flops", "parameters", "weights_bytes", "train_seconds")
_FRONT = {"color": style.PALE, "lw": 2.0}
_RING = {"marker": "o", "linestyle": "", "ms": 10, "mfc": "none", "mew": 2.0}


def loss_against(
    table: pd.DataFrame,
    *,
    cost: str = "train_flops",
    metric: str = "bits_per_byte",
    references: References = None,
    split: str = "test",
) -> chart.Chart:
    """Loss against one cost: a point a model with its interval, its seeds, and the Pareto front.

    Args:
        table: one row per run, columns label, `metric`, `cost`.
        cost: of `COSTS`, such as "train_flops", "parameters", "weights_bytes", "train_seconds".
        references: predictor names to values of `metric`, drawn as dashed lines; or the predictors' table.

    Raises:
        ValueError: no runs, no such column, or times of several devices.
    """
    return _against(
        table, [cost], metric=metric, references=references, split=split, width=style.COLUMN_WIDTH
    )


def budget_panel(
    table: pd.DataFrame,
    *,
    costs: Sequence[str] = BUDGETS,
    metric: str = "bits_per_byte",
    references: References = None,
    split: str = "test",
) -> chart.Chart:
    """`loss_against` for several costs side by side on one loss axis, a page wide."""
    return _against(
        table, list(costs), metric=metric, references=references, split=split, width=style.PAGE_WIDTH
    )


def _against(
    table: pd.DataFrame, costs: list[str], *, metric: str, references: References, split: str, width: float
) -> chart.Chart:
    from lmbench.analysis.pareto import pareto_front
    from lmbench.analysis.stats import summarise

    for column in ("label", metric, *costs):
        require(table, column)
    refuse_mixed_devices(table, costs)
    points = summarise(table, by="label", value=metric).set_index("label")
    points = points.join(table.groupby("label")[costs].mean())
    looks, sign = style.looks(points.index), -1 if metric in HIGHER_IS_BETTER else 1
    with style.context():
        fig, panels = chart.new(width=width, height=2.5, panels=len(costs))
        fronts = []
        for ax, cost in zip(panels, costs, strict=True):
            front = pareto_front(points.assign(loss=sign * points["mean"]), cost=cost, loss="loss")
            fronts.append(front)
            ax.step(front[cost], front["mean"], where="post", zorder=0.8, **_FRONT)
            if len(front) == 1:  # a line of one point would not be seen
                ax.plot(front[cost], front["mean"], zorder=0.8, **_FRONT | _RING)
            _draw_points(ax, table, points, looks, cost=cost, metric=metric)
            max_labels = 5 if len(costs) == 1 else 3
            axes.log_axis(ax, table[cost], is_power=cost.endswith("flops"), max_labels=max_labels)
            ax.set_xlabel(COSTS.get(cost, cost))
        name = METRICS.get(metric, metric)
        panels[0].set_ylabel(f"{split} {name}")
        ring = _RING | {"ms": 6.5} if any(len(front) == 1 for front in fronts) else {}
        line = {"linestyle": "-" if any(len(front) > 1 for front in fronts) else ""}
        front_handle = Line2D([], [], label="Pareto front", **_FRONT | ring | line)
        chart.add_legend(fig, [*chart.legend_handles(looks, lines=False), front_handle])
        values = reference_values(references, metric=metric, is_short=True)
        axes.show_references(panels, values, **axes.value_range(points, table[metric]))
        means = ", ".join(f"{label} {points.loc[label, 'mean']:.3g}" for label in looks)
        against = ", ".join(COSTS.get(cost, cost) for cost in costs)
        return chart.finish(
            fig,
            caption=(MARKERS if points["n"].max() > 1 else "") + provenance(table, by=["label"]),
            alt=f"{split} {name} against {against}; means: {means}.",
        )


def _draw_points(
    ax: Axes,
    table: pd.DataFrame,
    points: pd.DataFrame,
    looks: Mapping[str, style.Look],
    *,
    cost: str,
    metric: str,
) -> None:
    """Each model's runs as dots and their mean as a marker with its interval."""
    for label, look in looks.items():
        runs, point = table[table["label"] == label], points.loc[[label]]
        ax.plot(runs[cost], runs[metric], ".", ms=3, alpha=0.5, color=look.color, mec="none")
        bars = {"yerr": axes.errors(point), "linestyle": "", **axes.ERROR_BAR}
        ax.errorbar(point[cost], point["mean"], color=look.color, marker=look.marker, **bars)
