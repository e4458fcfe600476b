"""Figures of training: loss over its course, and loss against the learning rate."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lmbench.analysis import axes, chart, style
from lmbench.analysis.checks import refuse_mixed_devices, require
from lmbench.analysis.formats import METRICS
from lmbench.analysis.references import References, reference_values
from lmbench.analysis.table import provenance
from lmbench.errors import unknown

PROGRESS = {
    "flops": "training FLOPs",
    "active_flops": "training FLOPs of the units in use",
    "step": "optimizer step",
    "tokens": "training targets",
    "seconds": "training time (s)",
}


def training_curves(
    rows: pd.DataFrame,
    *,
    x: str = "flops",
    metric: str = "bits_per_byte",
    splits: Sequence[str] = ("valid",),
    references: References = None,
    ceiling: float | None = None,
) -> chart.Chart:
    """Loss during training: mean over seeds with a band of the t interval.

    Args:
        rows: tidy rows of runs (`Store.frame`), with columns label, step, split, metric, value and `x`.
        x: "flops", "tokens" or "seconds" (log axis; what lies at 0 is left out) or "step" (linear).
        splits: the first is drawn in full, the others thin, pale and without a band.
        ceiling: loss of a uniform guess; what lies above it is cut off, unless all does. None shows
            all. The first steps of a run can be ten times worse than chance and would flatten the rest.

    Raises:
        ValueError: no finite rows of that metric and split, or seconds of several devices.
    """
    from lmbench.analysis.stats import summarise

    if x not in PROGRESS:
        raise ValueError(unknown("x", x, PROGRESS))
    require(rows, "label")
    if x == "seconds":
        refuse_mixed_devices(rows.assign(train_seconds=rows["seconds"]), ["train_seconds"])
    # Training records its own mean loss, which is a mean NLL per target.
    rows = rows.assign(metric=rows["metric"].replace("loss", "nll"))
    lost = set(rows["run"][rows["metric"] == "diverged"])
    rows = rows[(rows["metric"] == metric) & rows["split"].isin(splits) & ((rows[x] > 0) | (x == "step"))]
    is_finite = np.isfinite(rows["value"].astype(float))
    lost |= set(rows["run"][~is_finite])
    rows = rows[is_finite]
    if rows.empty:
        raise ValueError(
            f"there are no rows of {metric} on {' or '.join(splits)} to draw"
            + (f"; {len(lost)} runs diverged" if lost else "")
        )
    looks = style.looks(rows["label"])
    keys = ["label", "split", "step"]
    points = summarise(rows, by=keys, value="value").merge(rows.groupby(keys)[x].mean().rename("x"), on=keys)
    points = points.sort_values("step")
    with style.context():
        fig, (ax,) = chart.new(width=style.width_for(len(looks)), height=2.5)
        for (label, split), curve in points.groupby(["label", "split"], sort=False):
            look, main = looks[label], split == splits[0]
            weight = {"lw": 1.3, "marker": look.marker, "ms": 3.2} if main else {"lw": 0.7, "alpha": 0.55}
            every = max(1, len(curve) // 6)
            ax.plot(
                curve["x"],
                curve["mean"],
                color=look.color,
                linestyle=look.linestyle,
                markevery=every,
                **weight,
            )
            if main:
                ax.fill_between(curve["x"], curve["low"], curve["high"], color=look.color, alpha=0.18, lw=0)
        if x != "step":
            axes.log_axis(ax, points["x"], is_power=x.endswith("flops"))
        ax.set_xlabel(PROGRESS[x])
        ax.set_ylabel(f"{splits[0]} {METRICS.get(metric, metric)}")
        chart.add_legend(fig, chart.legend_handles(looks))
        main = points[points["split"] == splits[0]]
        shown = axes.value_range(main, points["mean"])
        is_cut = ceiling is not None and shown["low"] < ceiling < shown["high"]
        values = reference_values(references, metric=metric, is_short=True)
        axes.show_references([ax], values, **shown, ceiling=ceiling if is_cut else None)
        others = f" Thin lines: {' and '.join(splits[1:])}." if len(splits) > 1 else ""
        others += f" Losses above {ceiling:.3g}, a uniform guess, are cut off." if is_cut else ""
        others += f" {len(lost)} diverged and end early." if lost else ""
        source = provenance(rows.drop_duplicates("run"), by=["label"])
        caption = f"Lines are means over seeds, bands their intervals.{others} {source}"
        ends = main.groupby("label", sort=False).last()["mean"]
        said = ", ".join(f"{label} {ends[label]:.3g}" for label in looks)
        return chart.finish(
            fig,
            caption=caption,
            alt=f"{splits[0]} {METRICS.get(metric, metric)} over {PROGRESS[x]}; at the end: {said}.",
        )


def tuning_curves(
    table: pd.DataFrame,
    *,
    metric: str = "bits_per_byte",
    rate: str = "optimizer.lr",
    chosen: Mapping[str, float] | None = None,
    split: str = "valid",
) -> chart.Chart:
    """Loss against learning rate, a line a model, the chosen rate ringed; crosses above diverged.

    Args:
        table: one row per tuning run, columns label, `rate`, `metric`.
        chosen: label to rate; left out, the rate of the lowest mean.

    Raises:
        ValueError: no runs, no such column, a chosen rate that was not tried.
    """
    from lmbench.analysis.stats import summarise

    for column in ("label", rate, metric):
        require(table, column)
    finite = table[np.isfinite(table[metric].astype(float))]
    if finite.empty:
        raise ValueError(f"every run of the sweep diverged: {metric} is nowhere finite")
    points = summarise(finite, by=["label", rate], value=metric).sort_values(rate)
    lowest = points.loc[points.groupby("label")["mean"].idxmin()].set_index("label")[rate]
    chosen = dict(lowest) if chosen is None else dict(chosen)
    looks = style.looks(table["label"])
    with style.context():
        fig, (ax,) = chart.new(width=style.width_for(len(looks)), height=2.4)
        n_rows = 0
        for label, look in looks.items():
            curve = points[points["label"] == label].set_index(rate)
            ax.errorbar(
                curve.index, curve["mean"], yerr=axes.errors(curve), **look._asdict(), **axes.ERROR_BAR
            )
            if label in chosen and chosen[label] not in curve.index:
                raise ValueError(
                    unknown(
                        f"learning rate of {label}", f"{chosen[label]:g}", map("{:g}".format, curve.index)
                    )
                )
            if label in chosen:
                ax.plot(
                    chosen[label],
                    curve.loc[chosen[label], "mean"],
                    "o",
                    ms=10,
                    mfc="none",
                    mec=look.color,
                    mew=1.1,
                )
            lost = sorted(set(table[table["label"] == label][rate]) - set(curve.index))
            if lost:
                # Above the axes, where no data are; a row for each model that lost some.
                n_rows += 1
                ax.plot(
                    lost, [0.98 + 0.05 * n_rows] * len(lost), "x", color=look.color, ms=5, clip_on=False,
                    transform=ax.get_xaxis_transform(),
                )  # fmt: skip
        axes.log_axis(ax, table[rate], is_power=True)
        ax.set_xlabel("learning rate")
        ax.set_ylabel(f"{split} {METRICS.get(metric, metric)}")
        ax.margins(y=0.12)
        chart.add_legend(fig, chart.legend_handles(looks))
        lost = " Crosses above: diverged." if len(finite) < len(table) else ""
        caption = f"Rings mark the chosen rates.{lost} {provenance(table, by=['label', rate])}"
        said = ", ".join(f"{label} {chosen[label]:g}" for label in looks if label in chosen)
        return chart.finish(fig, caption=caption, alt=f"{metric} against learning rate; chosen: {said}.")
