"""Figures of answering: milliseconds against the context, tokens per second against the batch.

Tables come from `cost_tables.latency_table`. Both axes are logarithmic, ticks stand where something
was measured, and thin bars are the range of the repeats.
"""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lmbench.analysis import axes, chart, style
from lmbench.analysis.checks import require
from lmbench.analysis.cost_tables import WORK, measured_where


def latency_panel(latency: pd.DataFrame) -> chart.Chart:
    """Milliseconds against tokens of context, of one text: prefill, a token with a cache, and without.

    Args:
        latency: from `latency_table`.
    """
    require(latency, "ms")
    batch = latency["batch"].min()
    table = latency[latency["batch"] == batch]
    looks = style.looks(table["model"])
    with style.context():
        fig, axs = chart.new(width=style.PAGE_WIDTH, height=3.0, panels=len(WORK))
        for ax, work in zip(axs, WORK.values(), strict=True):
            _lines(ax, table[table["work"] == work], looks, x="context", y="ms")
            ax.set_xlabel(f"tokens of context\n({work})")
        _log_y(axs[0])
        axs[0].set_ylabel("time (ms)")
        chart.add_legend(fig, chart.legend_handles(looks))
        longest = table[table["context"] == table["context"].max()]
        said = "; ".join(
            f"{model} " + ", ".join(f"{row.ms:.3g} ms {row.work}" for row in rows.itertuples())
            for model, rows in longest.groupby("model", sort=False)
        )
        texts = "One text" if batch == 1 else f"{batch} texts"
        return chart.finish(
            fig,
            caption=f"{texts} at a time. {measured_where(table)}",
            alt=f"At {table['context'].max():,} tokens of context: {said}.",
        )


def throughput(latency: pd.DataFrame) -> chart.Chart:
    """Tokens per second of cached generation against texts written together, at the longest context.

    Args:
        latency: from `latency_table`.
    """
    require(latency, "tokens_per_second")
    context = latency["context"].max()
    table = latency[(latency["context"] == context) & (latency["work"] == WORK["decode"])]
    table = table.assign(
        rate=table["tokens_per_second"],
        low=1e3 * table["batch"] / table["high"],
        high=1e3 * table["batch"] / table["low"],
    )
    looks = style.looks(table["model"])
    with style.context():
        fig, (ax,) = chart.new(width=style.PAGE_WIDTH * 0.62, height=3.0)
        _lines(ax, table, looks, x="batch", y="rate")
        _log_y(ax)
        ax.set_xlabel("texts at a time")
        ax.set_ylabel("tokens per second, cached")
        chart.add_legend(fig, chart.legend_handles(looks))
        best = table.sort_values("rate").drop_duplicates("model", keep="last")
        said = ", ".join(f"{row.model} {row.rate:,.0f}" for row in best.itertuples())
        return chart.finish(
            fig,
            caption=f"At {context:,} tokens of context. {measured_where(table)}",
            alt=f"Most tokens per second: {said}.",
        )


def _lines(ax: Axes, table: pd.DataFrame, looks: Mapping[str, style.Look], *, x: str, y: str) -> None:
    """A line a model with the range of its repeats."""
    for model, look in looks.items():
        own = table[table["model"] == model].sort_values(x)
        bars = [own[y] - own["low"], own["high"] - own[y]]
        ax.errorbar(
            own[x], own[y], yerr=bars, color=look.color, marker=look.marker, ls=look.linestyle, lw=0.9,
            ms=3.5, elinewidth=0.5,
        )  # fmt: skip
    axes.log_axis(ax, table[x].rename(x))
    # Only these were measured, so they and no round numbers are the ticks.
    measured = sorted(table[x].unique())
    ax.set_xticks(measured, [f"{value:,}" for value in measured])
    ax.set_xticks([], minor=True)


def _log_y(ax: Axes) -> None:
    """A logarithmic y axis in plain numbers."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0,)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
