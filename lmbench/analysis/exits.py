"""Models that stop early: loss against executed FLOPs, beside every token stopped at one depth."""

import pandas as pd
from matplotlib.lines import Line2D

from lmbench.analysis import axes, chart, style
from lmbench.analysis.checks import require
from lmbench.analysis.stats import paired_differences, summarise
from lmbench.analysis.verdict import judge

POLICIES = {"threshold": "stopped by confidence", "depth": "all stopped at one depth"}


def exit_panel(curves: pd.DataFrame) -> chart.Chart:
    """Loss against executed forward FLOPs for a token, a line for each way of stopping.

    Args:
        curves: from `training.exits.exit_curves`, with the runs of one model.

    Raises:
        ValueError: no curves, or those of several models.
    """
    points = _points(curves)
    with style.context():
        fig, (ax,) = chart.new(width=style.COLUMN_WIDTH, height=2.4)
        looks = {
            "threshold": {"color": style.INK, "marker": "o", "linestyle": "-"},
            "depth": {"color": style.GREY, "marker": "s", "linestyle": (0, (4, 2))},
        }
        for policy, look in looks.items():
            line = points[points["policy"] == policy].sort_values("flops")
            ax.errorbar(line["flops"], line["mean"], yerr=axes.errors(line), ms=4, **axes.ERROR_BAR, **look)
        axes.log_axis(ax, points["flops"], is_power=True)
        ax.set_xlabel("executed forward FLOPs for a token")
        ax.set_ylabel("valid NLL (nats per token)")
        chart.add_legend(fig, [Line2D([], [], label=POLICIES[name], **look) for name, look in looks.items()])
        n = int(points["n"].min())
        label = curves["label"].iloc[0]
        caption = f"{label}: means over n = {n} seeds with 95% t intervals. Heads that are asked are counted."
        said = "; ".join(f"{row.policy} {row.setting:g}: {row.mean:.3g}" for row in points.itertuples())
        return chart.finish(fig, caption=caption, alt=f"Loss against executed FLOPs: {said}.")


def exit_reading(curves: pd.DataFrame) -> str:
    """Whether confidence buys anything: each depth against the best threshold that costs no more.

    Raises:
        ValueError: as `exit_panel`.
    """
    points, pairs = _points(curves), []
    # At 1 no token stops, which is the last depth by another name.
    thresholds = points[(points["policy"] == "threshold") & (points["setting"] < 1)]
    for depth in points[points["policy"] == "depth"].to_dict("records"):
        within = thresholds[thresholds["flops"] <= depth["flops"]]
        if not within.empty:
            pairs.append((within.loc[within["mean"].idxmin(), "point"], depth["point"]))
    if not pairs:
        return "Every threshold costs more than every fixed depth: testing the confidence takes a whole head."
    named = curves.assign(point=_names(curves))
    table = paired_differences(named, group="point", unit="run", value="nll", pairs=pairs)
    claim = "stopping by confidence beats one depth for all at no more executed FLOPs"
    return judge(claim, table, unit="nats per token").text


def _points(curves: pd.DataFrame) -> pd.DataFrame:
    """Means over runs of each point, with the mean FLOPs that it executes."""
    for column in ("label", "policy", "setting", "nll", "flops"):
        require(curves, column)
    labels = sorted(set(curves["label"]))
    if len(labels) != 1:
        raise ValueError(f"exit curves are drawn for one model at a time, got {', '.join(labels) or 'none'}")
    named = curves.assign(point=_names(curves))
    keys = ["point", "policy", "setting"]
    return summarise(named, by=keys, value="nll").merge(
        named.groupby(keys)["flops"].mean().reset_index(), on=keys
    )


def _names(curves: pd.DataFrame) -> pd.Series:
    return curves["policy"] + " " + curves["setting"].map("{:g}".format)
