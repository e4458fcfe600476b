"""Figures of comparisons: differences between models with intervals, and sweeps of one factor."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from lmbench.analysis import axes, chart, style
from lmbench.analysis.checks import require
from lmbench.analysis.formats import METRICS
from lmbench.analysis.stats import family_of, with_the_best
from lmbench.analysis.table import HIGHER_IS_BETTER, provenance

ALPHA = 0.05  # of the decided signs; the intervals are its complement
FACTORS = {
    "model.seq_len": "context (tokens)", "model.d_model": "model width", "model.d_ff": "feed-forward width",
    "model.n_head": "attention heads", "model.n_layer": "layers", "model.positions": "position encoding",
    "steps": "optimizer steps", "batch_size": "sequences per step",
}  # fmt: skip
# Regimes are not models: they have their own looks, from black to light grey.
_REGIMES = (
    {"color": "#111111", "marker": "o", "linestyle": "-"},
    {"color": "#6a6a6a", "marker": "s", "linestyle": (0, (5, 2))},
    {"color": "#a3a3a3", "marker": "^", "linestyle": (0, (1, 1.2))},
)


def paired_differences(
    table: pd.DataFrame,
    *,
    metric: str = "bits_per_byte",
    split: str = "test",
    runs: pd.DataFrame | None = None,
) -> chart.Chart:
    """Forest plot: one line a pair, its mean difference and interval; left of zero the first is lower.

    Of many pairs those of the best group are drawn, and the caption says so.

    A marker is filled where the sign is decided, as in the sentences of `verdict`: the interval leaves
    zero out and Holm's p, where there is one, is below 0.05.

    Args:
        table: from `stats.paired_differences`: a, b, difference, low, high, n, and p_holm where tested.
        metric: what was compared; only named.
        runs: the per-run table that was compared, which names corpus and protocol in the caption.

    Raises:
        ValueError: no pairs, or a column that is missing.
    """
    for column in ("a", "b", "difference", "low", "high", "n"):
        require(table, column)
    better = "higher" if metric in HIGHER_IS_BETTER else "lower"
    table, n_pairs = with_the_best(table, better=better).reset_index(drop=True), len(table)
    pairs = [(str(a), str(b)) for a, b in zip(table["a"], table["b"], strict=True)]
    # Long names stand on two lines, or they would leave no room for the differences.
    is_long = max(len(a) + len(b) for a, b in pairs) > 28
    is_tested = "p_holm" in table
    with style.context():
        fig, (ax,) = chart.new(
            width=style.COLUMN_WIDTH, height=0.75 + (0.32 if is_long else 0.2) * len(table)
        )
        ax.axvline(0, color=style.GREY, lw=0.8, zorder=0.5)
        for place, row in table.iterrows():
            is_decided = (row["low"] > 0 or row["high"] < 0) and not (is_tested and row["p_holm"] >= ALPHA)
            bar = axes.errors(pd.DataFrame([row]).rename(columns={"difference": "mean"}))
            fill = style.INK if is_decided else "white"
            ax.errorbar(
                row["difference"], place, xerr=bar, color=style.INK, marker="o", mfc=fill, **axes.ERROR_BAR
            )
        ax.set_yticks(
            range(len(table)), [("{}\n− {}" if is_long else "{} − {}").format(*pair) for pair in pairs]
        )
        ax.set_ylim(len(table) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.locator_params(axis="x", nbins=5)
        ax.set_xlabel(f"difference in {split} {METRICS.get(metric, metric)}")
        if is_tested:
            _write_p_values(ax, table["p_holm"])
        n = table["n"].min() if table["n"].nunique() == 1 else f"{table['n'].min()} to {table['n'].max()}"
        filled = (
            f"p < {ALPHA} (Holm, {family_of(table)} comparisons)"
            if is_tested
            else "the interval leaves zero out"
        )
        part = f"; of {n_pairs} pairs those of the best are drawn" if len(table) < n_pairs else ""
        source = "" if runs is None else " " + _without_n(provenance(runs, by=["label"]))
        caption = (
            f"Mean paired differences with 95% t intervals, n = {n} pairs of seeds{part}; "
            f"filled: {filled}.{source}"
        )
        said = "; ".join(f"{row.a} minus {row.b}: {row.difference:.3g}" for row in table.itertuples())
        return chart.finish(
            fig, caption=caption, alt=f"Paired differences in {METRICS.get(metric, metric)}: {said}."
        )


def _write_p_values(ax: Any, p_values: pd.Series) -> None:
    for place, p in enumerate(p_values):
        said = "n/a" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
        ax.text(1.03, place, said, transform=ax.get_yaxis_transform(), va="center", size=style.SMALL)
    ax.text(1.03, 1.0, "p (Holm)", transform=ax.transAxes, va="bottom", size=style.SMALL, color=style.GREY)


def _without_n(text: str) -> str:
    return text.partition("; ")[2]


def sweep_panel(
    table: pd.DataFrame,
    factor: str,
    *,
    metric: str = "nll",
    by: str = "protocol.kind",
    published: Mapping[Any, float] | None = None,
    published_in: str = "last_token",
    split: str = "test",
) -> chart.Chart:
    """Value against the levels of one factor, a line a regime; published values are hollow diamonds.

    Args:
        table: one row per run, columns `factor`, `by`, `metric`.
        factor: a config column such as "model.n_layer"; numbers are sorted, names keep their order.
        by: column that tells at most three ways of training apart.
        published: level to published value of one seed.
        published_in: the way of training in which it was published.

    Raises:
        ValueError: no runs, no such column, a published level that the table lacks, too many regimes.
    """
    from lmbench.analysis.stats import summarise

    for column in (factor, by, metric):
        require(table, column)
    levels = list(dict.fromkeys(table[factor]))
    is_number = pd.api.types.is_numeric_dtype(table[factor])
    levels = sorted(levels) if is_number else levels
    places = {level: i for i, level in enumerate(levels)}
    lost = [level for level in published or {} if level not in places]
    if lost:
        raise ValueError(f"published value for {factor} = {lost[0]!r}, which was not run; levels: {levels}")
    points = summarise(table, by=[by, factor], value=metric)
    regimes = list(dict.fromkeys(points[by]))
    if len(regimes) > len(_REGIMES):
        raise ValueError(f"{by} has {len(regimes)} values; a sweep figure shows at most {len(_REGIMES)}")
    # Side by side, so that one regime's interval does not hide the other's.
    shifts = {regime: 0.09 * (i - (len(regimes) - 1) / 2) for i, regime in enumerate(regimes)}
    with style.context():
        fig, (ax,) = chart.new(width=style.COLUMN_WIDTH, height=2.4)
        handles = []
        for regime, look in zip(regimes, _REGIMES, strict=False):
            curve = points[points[by] == regime].sort_values(factor, key=lambda c: c.map(places))
            x = curve[factor].map(places) + shifts[regime]
            ax.errorbar(x, curve["mean"], yerr=axes.errors(curve), **axes.ERROR_BAR, **look)
            handles.append(Line2D([], [], **look, label=str(regime)))
        if published:
            hollow = {"linestyle": "", "marker": "D", "ms": 5.5, "mfc": "none", "mec": "#D55E00", "mew": 1.1}
            at = [places[level] + shifts.get(published_in, 0.0) for level in published]
            ax.plot(at, list(published.values()), zorder=3, **hollow)
            handles.append(Line2D([], [], label="as published (1 seed)", **hollow))
        ax.set_xticks(range(len(levels)), [f"{level:g}" if is_number else str(level) for level in levels])
        ax.set_xlim(-0.4, len(levels) - 0.6)
        ax.margins(y=0.12)
        ax.set_xlabel(FACTORS.get(factor, factor.rpartition(".")[2].replace("_", " ")))
        ax.set_ylabel(f"{split} {METRICS.get(metric, metric)}")
        chart.add_legend(fig, handles)
        said = "; ".join(f"{row[by]} {row[factor]}: {row['mean']:.3g}" for row in points.to_dict("records"))
        caption = f"Means over seeds. {provenance(table, by=[by, factor])}"
        return chart.finish(fig, caption=caption, alt=f"{metric} by {factor}: {said}.")
