"""Quality against iterations: what early stopping saves, and what training with fewer would have saved.

Three ways lead to fewer iterations: weights trained with T iterations and cut off after t,
the same weights with a rule that stops each token by itself, and weights that were trained
with t. The last is the honest competitor: it saves in training too. Scores of the first two come from
`training.integrator_scores`, those of the third from the runs themselves.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy

from lmbench.analysis import axes, chart, style
from lmbench.analysis.checks import require
from lmbench.analysis.formats import METRICS
from lmbench.analysis.stats import paired_differences, summarise
from lmbench.analysis.table import provenance

TRAINED = "trained with"
NAMES = {
    TRAINED: "trained with t iterations",
    "cut off": "trained with T, cut off after t",
    "stopping": "trained with T, each token stops",
    "published rule": "trained with T, published rule",
}
"""Way as in the column `how`, and in the words of a legend; T is what the base was trained with."""
_LOOKS: dict[str, dict[str, Any]] = {
    TRAINED: {"color": style.INK, "marker": "o", "linestyle": "-"},
    "cut off": {"color": style.GREY, "marker": "s", "linestyle": (0, (5, 2))},
    "stopping": {"color": "#d55e00", "marker": "^", "linestyle": (0, (1.5, 1.5))},
    "published rule": {"color": "#0173b2", "marker": "D", "linestyle": ""},
}
APART = 3.0  # points between the intervals of two ways, which would hide each other
HEADROOM = 1.5  # of the range of what was trained: a cell cut off far too early would flatten it


def iteration_runs(scores: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Scores of finished weights and runs with other iterations in one table, a row a seed and way.

    Args:
        scores: from `iteration_scores`, of the base's runs.
        runs: from `table.final_table`, the base and the same with fewer iterations.
    """
    require(scores, "how")
    require(runs, "model.n_iteration")
    n = runs["model.n_iteration"].astype(float)
    trained = runs.assign(how=TRAINED, setting=n, iterations=n, of_batch=n, at_most=n)
    shared = [name for name in scores if name in trained]
    return pd.concat([trained[shared], scores[shared]], ignore_index=True)


def iteration_table(every: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """One row a way and setting.

    Args:
        every: from `iteration_runs`.

    Returns:
        Columns how, setting, iterations (mean per position), of_batch (what a batch waits for), mean
        (of the metric), low, high, n.
    """
    by = ["how", "setting"]
    out = summarise(every, by=by, value=metric)
    took = every.groupby(by, sort=False)[["iterations", "of_batch"]].mean().reset_index()
    return out.merge(took, on=by)[[*by, "iterations", "of_batch", "mean", "low", "high", "n"]]


def iteration_pairs(every: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """Paired differences, one family: stopping against all iterations, and cutting off against training so.

    Returns:
        As `stats.paired_differences`; seeds pair weights of one initial seed.
    """
    named = every.assign(way=[_way(row.how, row.setting) for row in every.itertuples()])
    full = _way("cut off", float(every["at_most"][every["how"] == "stopping"].max()))
    known = list(dict.fromkeys(named["way"]))
    pairs = [(way, full) for way in known if way.startswith(("stopping", "published rule"))]
    for n in sorted(set(every["setting"][every["how"] == TRAINED])):
        cut, own = _way("cut off", n), _way(TRAINED, n)
        pairs += [(cut, own)] * (cut in known and cut != full)
    return paired_differences(named, group="way", unit="init_seed", value=metric, pairs=pairs)


def _way(how: str, setting: float) -> str:
    joint = {TRAINED: "", "cut off": " after"}.get(how, " at")
    return f"{how}{joint} {setting:g}"


def iterations_panel(
    every: pd.DataFrame, *, metric: str, runs: pd.DataFrame, shown: Sequence[str] = tuple(NAMES)
) -> chart.Chart:
    """Loss against mean iterations per position, a line a way, with t intervals over seeds.

    Args:
        every: from `iteration_runs`.
        runs: the per-run table, which names corpus and device in the caption.
    """
    table = iteration_table(every, metric=metric)
    table = table[table["how"].isin(shown)]
    # What was trained, and what stops, sets the scale.
    main = table[table["how"] != "cut off"]
    low, high = main[["mean", "low"]].min(axis=None), main[["mean", "high"]].max(axis=None)
    low = min(low, table["mean"].min())
    ceiling = low + HEADROOM * max(high - low, 1e-3)
    pad, hidden = 0.06 * (ceiling - low), table[table["mean"] > ceiling]
    bottom = np.fmin(low, table["low"][table["mean"] <= ceiling].min()) - pad
    top = ceiling if len(hidden) else np.fmax(high, table[["mean", "high"]].max(axis=None)) + pad
    with style.context():
        fig, (ax,) = chart.new(width=style.COLUMN_WIDTH, height=2.6)
        handles = []
        for i, (how, points) in enumerate(table.groupby("how", sort=False)):
            points, look = points.sort_values("iterations"), _LOOKS[str(how)]
            place = {"transform": offset_copy(ax.transData, fig, x=APART * (i - 1.5), units="points")}
            bars = axes.errors(points)
            ax.errorbar(points["iterations"], points["mean"], yerr=bars, **place, **axes.ERROR_BAR, **look)
            handles.append(Line2D([], [], label=NAMES[str(how)], **look))
        ax.set_ylim(bottom, top)
        ax.set_xlim(-0.3, table["iterations"].max() + 0.3)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("mean iterations per position")
        ax.set_ylabel(f"test {METRICS.get(metric, metric)}")
        chart.add_legend(fig, handles)
        off = "; ".join(f"{row.how} {row.setting:g}: {row.mean:.3g}" for row in hidden.itertuples())
        parts = [f"T = {every['at_most'][every['how'] == 'stopping'].max():g}."]
        parts += [f"Above the frame: {off}."] * bool(off)
        parts.append(provenance(runs, by=["label"]))
        said = "; ".join(
            f"{row.how} {row.setting:g}: {row.iterations:.2f} iterations, {row.mean:.4g}"
            for row in table.itertuples()
        )
        return chart.finish(fig, caption=" ".join(parts), alt=f"{metric} against iterations: {said}.")
