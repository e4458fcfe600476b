"""One set of weights at several widths: as scheduled, cut to a fixed constraint, and in full.

Weights that were trained under a schedule hold several models, nested. Which of them is meant
by "the model" decides both its quality and its size, so all are shown.
"""

import pandas as pd
from matplotlib.lines import Line2D

from lmbench.analysis import axes, chart, style
from lmbench.analysis.checks import require
from lmbench.analysis.formats import METRICS
from lmbench.analysis.stats import summarise
from lmbench.analysis.table import provenance

WIDTHS = {
    "scheduled": {"marker": "o", "color": style.INK},
    "C=0.5": {"marker": "s", "color": "#d55e00"},
    "C=0.3": {"marker": "^", "color": "#029e73"},
    "full": {"marker": "D", "color": "#0173b2"},
}


def widths_table(widths: pd.DataFrame, *, metric: str = "bits_per_byte") -> pd.DataFrame:
    """One row an arm and width: arm, width, parameters in use where known, the mean, low, high, n."""
    for column in ("label", "width", metric):
        require(widths, column)
    out = summarise(widths, by=["label", "width"], value=metric)
    if "parameters" in widths:
        used = widths.groupby(["label", "width"], sort=False)["parameters"].mean().reset_index()
        out = out.merge(used, on=["label", "width"])
    kept = ["label", "width", *(["parameters"] if "parameters" in out else []), "mean", "low", "high", "n"]
    return out[kept].rename(columns={"label": "arm"})


def widths_panel(widths: pd.DataFrame, *, runs: pd.DataFrame, metric: str = "bits_per_byte") -> chart.Chart:
    """Each arm's finished weights at every width: the trade that a single number hides.

    Args:
        widths: label, init_seed, width and the metric.
        runs: the per-run table, which names corpus and device in the caption.
    """
    table = widths_table(widths, metric=metric)
    arms, kinds = list(dict.fromkeys(table["arm"])), list(dict.fromkeys(table["width"]))
    looks = {kind: WIDTHS.get(kind, {"marker": "X", "color": style.GREY}) for kind in kinds}
    with style.context():
        fig, (ax,) = chart.new(width=style.PAGE_WIDTH, height=0.8 + 0.34 * len(arms))
        for i, kind in enumerate(kinds):
            shift = 0.16 * (i - (len(kinds) - 1) / 2)
            for row in table[table["width"] == kind].to_dict("records"):
                place = arms.index(row["arm"]) + shift
                bar = axes.errors(pd.DataFrame([row]))
                ax.errorbar(row["mean"], place, xerr=bar, linestyle="", **looks[kind], **axes.ERROR_BAR)
        ax.set_yticks(range(len(arms)), arms)
        ax.set_ylim(len(arms) - 0.4, -0.6)
        for place in range(1, len(arms)):
            ax.axhline(place - 0.5, color=style.PALE, lw=0.5, zorder=0.1)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.set_xlabel(METRICS.get(metric, metric))
        handles = [
            Line2D([], [], linestyle="", label=f"width: {kind}", **look) for kind, look in looks.items()
        ]
        chart.add_legend(fig, handles)
        said = "; ".join(f"{row.arm} at {row.width} {row.mean:.4g}" for row in table.itertuples())
        caption = (
            "Scheduled: the width at the end of training; C=0.5: what the claims call the model; full: all "
            f"units. {provenance(runs[runs['label'].isin(arms)], by=['label'])}"
        )
        return chart.finish(fig, caption=caption, alt=f"{metric} by arm and width: {said}.")
