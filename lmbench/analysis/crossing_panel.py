"""The figure of a race to a target loss: validation loss against seconds, FLOPs and targets."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import offset_copy

from lmbench.analysis import axes, chart, style
from lmbench.analysis.crossing_reading import amount
from lmbench.analysis.curves import PROGRESS
from lmbench.analysis.formats import METRICS
from lmbench.analysis.table import provenance
from lmbench.analysis.time_to_quality import COSTS, crossings, spent, with_optimizer

APART = 5.0  # points between the intervals of two recipes, which would hide each other on one line
CEILING = 1.35  # times the target: the first steps, far above it, would flatten what is compared
_RUN = {"lw": 0.8, "alpha": 0.65, "marker": ""}
_CENSORED = {"marker": ">", "mfc": "white"}


def crossing_panel(rows: pd.DataFrame, *, target: float, metric: str = "nll") -> chart.Chart:
    """Validation loss of every run against each cost, and where the target is first reached.

    At the dashed line of the target stands each recipe's geometric mean with its t interval; where
    a seed never reached it, an open arrow at the lower bound of the mean.

    Args:
        rows: tidy rows of runs with validations along the way, columns label, init_seed, `COSTS`.

    Raises:
        ValueError: no such rows, or seconds of several devices.
    """
    crossed = crossings(rows, target=target, metric=metric)
    rows = with_optimizer(rows)
    valid = rows[(rows["split"] == "valid") & (rows["metric"] == metric) & np.isfinite(rows["value"])]
    low, high = min(valid["value"].min(), target), max(valid["value"].max(), target)
    ceiling = CEILING * target if low < CEILING * target < high else None
    shown = valid[valid["value"] <= ceiling] if ceiling else valid
    looks = style.looks(crossed["label"])
    with style.context():
        fig, panels = chart.new(width=style.PAGE_WIDTH, height=2.5, panels=len(COSTS))
        for ax, cost in zip(panels, COSTS, strict=True):
            for (label, _), run in valid.groupby(["label", "run"], sort=False):
                run = run.sort_values("step")
                ax.plot(run[cost], run["value"], color=looks[label].color, ls=looks[label].linestyle, **_RUN)
            ends = _draw_crossings(ax, crossed, looks, cost=cost, target=target)
            axes.log_axis(ax, pd.concat([shown[cost], ends]), is_power=cost == "flops", max_labels=4)
            ax.set_xlabel(PROGRESS[cost])
        panels[0].set_ylabel(f"valid {METRICS.get(metric, metric)}")
        chart.add_legend(fig, chart.legend_handles(looks))
        digits = len(f"{target:g}".partition(".")[2])
        line = {"low": low, "high": high, "ceiling": ceiling, "digits": digits}
        axes.show_references(panels, {"target": target}, **line)
        text = _caption(rows, crossed, looks, target=target, ceiling=ceiling)
        return chart.finish(fig, caption=text, alt=_alt(crossed, looks, target=target, metric=metric))


def _draw_crossings(
    ax: Axes, crossed: pd.DataFrame, looks: Mapping[str, style.Look], *, cost: str, target: float
) -> pd.Series:
    """Each recipe's marker at the line of the target; returns what the x axis must hold for them."""
    ends = []
    for i, (label, look) in enumerate(looks.items()):
        known = spent(crossed[crossed["label"] == label], cost)
        up = APART * ((len(looks) - 1) / 2 - i)
        place = {"transform": offset_copy(ax.transData, ax.figure, y=up, units="points"), "zorder": 3}
        if math.isinf(known.high):
            ax.plot(known.low, target, color=look.color, **_CENSORED, **place)
            ends.append(known.low)
            continue
        bars = (
            {} if math.isnan(known.low) else {"xerr": [[known.mean - known.low], [known.high - known.mean]]}
        )
        bars |= {"color": look.color, "marker": look.marker, "mec": "white", "mew": 0.5, "ms": 5.5}
        ax.errorbar(known.mean, target, linestyle="", **bars, **place, **axes.ERROR_BAR)
        ends += [end for end in known if not math.isnan(end)]
    return pd.Series(ends, name=cost)


def _caption(
    rows: pd.DataFrame,
    crossed: pd.DataFrame,
    looks: Mapping[str, style.Look],
    *,
    target: float,
    ceiling: float | None,
) -> str:
    counts = crossed.groupby("label")["reached"].agg(["sum", "size"])
    reached = ", ".join(f"{label} {counts['sum'][label]} of {counts['size'][label]}" for label in looks)
    parts = [
        "Lines are single runs at their validations; markers at the dashed line are geometric means over "
        "seeds of the first validation at or below it, with t intervals on the log scale.",
        "Open arrows: not every seed reached it, a lower bound." * (not crossed["reached"].all()),
        f"Reached {target:g}: {reached}.",
        f"Losses above {ceiling:.3g} are cut off." if ceiling else "",
        "FLOPs include the optimizer's.",
    ]
    if "jobs" in crossed and crossed["jobs"].fillna(1).max() > 1:
        parts.append("Runs shared the device, so seconds are not those of lone runs.")
    return " ".join([*filter(None, parts), provenance(rows.drop_duplicates("run"), by=["label"])])


def _alt(crossed: pd.DataFrame, looks: Mapping[str, style.Look], *, target: float, metric: str) -> str:
    parts = []
    for label in looks:
        runs = crossed[crossed["label"] == label]
        known = [(spent(runs, cost), cost) for cost in COSTS]
        parts.append(
            f"{label} after "
            + ", ".join(
                f"more than {amount(found.low, cost)}" if math.isinf(found.high) else amount(found.mean, cost)
                for found, cost in known
            )
        )
    against = ", ".join(PROGRESS[cost] for cost in COSTS)
    reached = "; ".join(parts)
    return f"Validation {METRICS.get(metric, metric)} against {against}; {target:g} is reached by {reached}."
