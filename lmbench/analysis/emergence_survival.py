"""The figure of onsets as survival data: the share of runs that have not got there yet.

An onset is known as an interval between two evaluations, and a run that never got there is known to
need more than its budget. Turnbull's estimate of the share of runs that are still without the
capability uses both, where a mean over the runs that emerged would be too early.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from lmbench.analysis import axes, chart, emergence_grid, style
from lmbench.analysis.checks import require
from lmbench.analysis.curves import PROGRESS
from lmbench.analysis.emergence_grid import METRICS, Label
from lmbench.analysis.survival import turnbull

ONSET = ("run", "label", "task", "level", "metric", "threshold", "unit", "lower", "upper", "last")
_BOX = {"alpha": 0.22, "lw": 0, "zorder": 0.8}
_TICK = {"marker": "|", "ms": 6, "mew": 1.1, "linestyle": "", "zorder": 3}


def survival_curves(
    onsets: pd.DataFrame, *, unit: str = "step", threshold: float = 0.5, metric: str = "score"
) -> chart.Chart:
    """The share of runs that have not yet shown a capability, a panel for each task and level.

    A curve falls where an onset ends the interval in which it lies; the box before it is where
    the estimate is not defined. Ticks are runs that were followed no further. Beside a panel stand
    the runs that emerged, of all.

    Args:
        onsets: rows of `onset.onsets`.

    Raises:
        ValueError: a missing column, a unit, threshold or metric that the onsets do not have.
    """
    for column in ONSET:
        require(onsets, column)
    rows = emergence_grid.chosen(onsets, metric=metric, unit=unit, threshold=threshold)
    looks = style.looks(rows["label"])
    times = pd.concat([rows["lower"], rows["upper"], rows["last"]])
    times = times[(times > 0) & np.isfinite(times)]
    if times.empty:
        raise ValueError(f"no run has an evaluation of {metric} above 0 {unit}, so there is no time to draw")
    with style.context():
        fig, panels = emergence_grid.grid(emergence_grid.capabilities(rows), sharey=True)
        axes.log_axis(
            next(iter(panels.values())), times.rename(unit), is_power=unit.endswith("flops"), max_labels=4
        )
        margins = {}
        for capability, ax in panels.items():
            own = emergence_grid.of(rows, capability)
            margins[ax] = [
                _draw_survival(ax, own[own["label"] == label], look)
                for label, look in looks.items()
                if (own["label"] == label).any()
            ]
            ax.set_ylim(-0.05, 1.05)
            ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        emergence_grid.name_axes(panels, x=PROGRESS.get(unit, unit), y="runs without it\n(share)")
        chart.add_legend(fig, [*chart.legend_handles(looks), *_extra_handles(rows)])
        emergence_grid.label_margins(margins)
        return chart.finish(fig, caption=_caption(rows, threshold, metric, unit), alt=_alt(rows, looks, unit))


def _draw_survival(ax: Axes, runs: pd.DataFrame, look: style.Look) -> Label:
    """The curve of one model; returns what stands beside it."""
    curve = turnbull(runs["lower"], runs["upper"])
    # What has no mass is no step, and what lies beyond the last evaluation is not drawn.
    falls = curve[(curve["mass"] > 1e-6) & np.isfinite(curve["upper"])]
    before = np.r_[1.0, falls["survival"].to_numpy()][:-1]
    left = ax.get_xlim()[0]
    for low, high, top, bottom in zip(falls["lower"], falls["upper"], before, falls["survival"], strict=True):
        low = max(low, left)
        ax.add_patch(Rectangle((low, bottom), high - low, top - bottom, color=look.color, **_BOX))
    end = float(falls["survival"].iloc[-1]) if len(falls) else 1.0
    x, y = [left, *falls["upper"]], [1.0, *falls["survival"]]
    censored = runs.loc[np.isinf(runs["upper"]), "lower"].to_numpy(float)
    if len(censored):
        x, y = [*x, max(censored.max(), x[-1])], [*y, end]
    ax.plot(x, y, drawstyle="steps-post", color=look.color, linestyle=look.linestyle, linewidth=1.1)
    # A run that diverged before its first evaluation was followed to 0, which has no place here.
    seen = censored[censored > left]
    at = np.searchsorted(falls["upper"].to_numpy(), seen, side="right")
    ax.plot(seen, np.r_[1.0, falls["survival"]][at], color=look.color, **_TICK)
    emerged = int(np.isfinite(runs["upper"]).sum())
    return Label(end, f"{emerged}/{len(runs)}", look.color, look.marker)


def _extra_handles(rows: pd.DataFrame) -> list[Line2D | Patch]:
    """What boxes and ticks are, where the figure has them."""
    handles = [Patch(label="time not known", color=style.GREY, alpha=_BOX["alpha"], lw=0)]
    if np.isinf(rows["upper"]).any():
        handles.append(Line2D([], [], label="censored run", color=style.GREY, **_TICK))
    return handles


def _caption(rows: pd.DataFrame, threshold: float, metric: str, unit: str) -> str:
    counts = rows.groupby(["label", "task", "level"], observed=True).size()
    name = METRICS.get(metric, metric).partition("\n")[0]
    return (
        f"Turnbull's estimate of the share of runs whose normalised {name} is not yet at or above "
        f"{threshold:g} for good; beside each panel, runs that emerged of all. "
        f"{emergence_grid.seeds(counts)}; "
        f"boxes reach from the last evaluation below to the first above. {emergence_grid.of_learning(unit)}"
    ).rstrip()


def _alt(rows: pd.DataFrame, looks: Mapping[str, style.Look], unit: str) -> str:
    parts = []
    for capability in emergence_grid.capabilities(rows):
        own = emergence_grid.of(rows, capability)
        runs = {label: own[own["label"] == label] for label in looks if (own["label"] == label).any()}
        said = [f"{label} {int(np.isfinite(x['upper']).sum())} of {len(x)}" for label, x in runs.items()]
        parts.append(f"{emergence_grid.title(capability)}: {', '.join(said)}")
    return f"Share of runs without a capability over {PROGRESS.get(unit, unit)}; emerged: {'; '.join(parts)}."
