"""Figures of cost: where FLOPs are spent, what other counters make of them, latency and memory.

Tables come from `measure.cost`, `measure.disagreement` and `cost_tables`. Costs are multiplicative,
so their axes are logarithmic; bars of FLOPs start at 0. Every model has its colour and marker
(`style`), and where models are rows, its name beside it.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from lmbench.analysis import axes, chart, style
from lmbench.analysis.checks import require
from lmbench.analysis.cost_latency import latency_panel, throughput
from lmbench.analysis.formats import format_si
from lmbench.errors import unknown

__all__ = ["counts_panel", "latency_panel", "ledger_bars", "memory_panel", "throughput"]

ROW_HEIGHT = 0.17  # inches for one model
# What a term of the ledger does, by its name; a name that is not here is "other".
CLASSES = {
    "maps of the mixer": (
        "projections", "input products", "recurrent products", "gates", "selection", "router",
    ),
    "positions with each other": ("attention", "linear attention", "state readout"),
    "position-wise maps": ("feedforward", "hidden", "window", "context", "iterations"),
    "embedding and heads": ("embedding", "head", "exit heads"),
}  # fmt: skip
ELEMENTWISE, OTHER = "element by element", "other products"
_FILLS = {
    "maps of the mixer": ("#0173b2", ""),
    "positions with each other": ("#de8f05", "////"),
    "position-wise maps": ("#a6cee3", ""),
    "embedding and heads": ("#4d4d4d", ""),
    OTHER: ("#d0d0d0", "...."),
    ELEMENTWISE: ("#d55e00", "xxxx"),
}
COUNTS = ("torch, CPU", "torch, meta device", "fvcore x 2", "6 N per token")
MEMORY = {
    "training peak": "training peak",
    "prefill peak": "prefill peak",
    "state": "state after the context",
}


def ledger_bars(ledger: pd.DataFrame, *, parameters: str = "") -> chart.Chart:
    """Forward FLOPs per token of each model, stacked by what they are spent on.

    Args:
        ledger: from `measure.cost.ledger_table`.
        parameters: what the models have in common, for the caption, such as "430,785 parameters each".
    """
    require(ledger, "forward FLOPs per token")
    table = ledger.assign(spent=[_class(row) for row in ledger.to_dict("records")])
    models = list(dict.fromkeys(table["model"]))
    spent = table.pivot_table(
        index="model", columns="spent", values="forward FLOPs per token", aggfunc="sum", fill_value=0.0
    ).loc[models]
    shown = [name for name in _FILLS if name in spent]
    with style.context():
        fig, (ax,) = chart.new(width=style.PAGE_WIDTH, height=0.9 + ROW_HEIGHT * len(models))
        left = pd.Series(0.0, index=models)
        for name in shown:
            color, hatch = _FILLS[name]
            ax.barh(
                models,
                spent[name],
                left=left,
                color=color,
                hatch=hatch,
                edgecolor="white",
                lw=0.4,
                height=0.72,
            )
            left += spent[name]
        ax.invert_yaxis()
        ax.margins(y=0.02)
        ax.set_xlabel("forward FLOPs per token (2 per multiply-add)")
        ax.xaxis.set_major_formatter(FuncFormatter(_short))
        handles = [
            Patch(facecolor=_FILLS[name][0], hatch=_FILLS[name][1], edgecolor="white", label=name)
            for name in shown
        ]
        fig.legend(handles=handles, loc="outside upper center", ncols=3, borderaxespad=0.2, columnspacing=1.4)
        caption = "Closed forms over a full context, all pairs of attention counted. "
        caption += f"{len(models)} models" + (f", {parameters}." if parameters else ".")
        totals = ", ".join(f"{name} {format_si(left[name])}" for name in models)
        return chart.finish(fig, caption=caption, alt=f"Forward FLOPs per token by part; totals: {totals}.")


def _short(value: float, _: int) -> str:
    digits, _, prefix = format_si(value).partition(" ")
    return f"{float(digits.replace(',', '')):g}{prefix}"  # a tick is a round number: 20k, not 20.0 k


def _class(row: Mapping[str, object]) -> str:
    if row["element-wise"]:
        return ELEMENTWISE
    return next((name for name, terms in CLASSES.items() if row["term"] in terms), OTHER)


def counts_panel(counts: pd.DataFrame, *, shown: Sequence[str] = COUNTS) -> chart.Chart:
    """What other counters say, as a multiple of the closed form of the same passes: a panel a counter.

    Args:
        counts: from `disagreement_table`.

    Raises:
        ValueError: no rows, or a count that the table lacks.
    """
    require(counts, "ratio")
    for name in shown:
        if name not in set(counts["count"]):
            raise ValueError(unknown("count", name, counts["count"].unique()))
    panels = {name: counts[counts["count"] == name].set_index("model")["ratio"] for name in shown}
    every = pd.concat([*panels.values(), pd.Series([1.0])]).rename("ratio")
    named = ", ".join(f"{name} {part.min():.2f} to {part.max():.2f}" for name, part in panels.items())
    unexplained = int((counts["unexplained"] != 0).sum())
    caption = (
        f"Multiples of the closed form over the same passes, {counts['model'].nunique()} models; 1 (line) "
        f"agrees. Differences that named parts leave unexplained: {unexplained} of {len(counts)}."
    )
    return _rows(
        panels,
        titles={name: f"{name}\n/ closed form" for name in shown},
        values={name: every for name in shown},
        caption=caption,
        alt=f"Counts divided by the closed form: {named}.",
        line=1.0,
    )


def memory_panel(memory: pd.DataFrame) -> chart.Chart:
    """Bytes of each model: at the peak of a training pass, of a prefill, and remembered for the next token.

    Args:
        memory: from `memory_table`.
    """
    require(memory, "state")
    table = memory.set_index("model")
    context, n = memory["context"].max(), len(memory)
    named = "; ".join(
        f"{name} " + ", ".join(f"{format_si(row[key])}B {MEMORY[key]}" for key in MEMORY)
        for name, row in table.iterrows()
    )
    caption = (
        f"One text of {context:,} tokens, {n} models; peaks are bytes beside the weights, "
        "counted tensor by tensor. Training includes the gradients."
    )
    return _rows(
        {key: table[key] for key in MEMORY},
        titles={key: f"{name} (bytes)" for key, name in MEMORY.items()},
        values={key: table[key] for key in MEMORY},
        caption=caption,
        alt=f"Bytes of each model: {named}.",
    )


def _rows(
    panels: Mapping[str, pd.Series],
    *,
    titles: Mapping[str, str],
    values: Mapping[str, pd.Series],
    caption: str,
    alt: str,
    line: float | None = None,
) -> chart.Chart:
    """Models as rows, one panel a quantity, one marker a model."""
    models = list(next(iter(panels.values())).index)
    looks = style.looks(models)
    with style.context():
        fig, axs = chart.new(
            width=style.PAGE_WIDTH, height=0.75 + ROW_HEIGHT * len(models), panels=len(panels)
        )
        for ax, (key, column) in zip(axs, panels.items(), strict=True):
            if line is not None:
                ax.axvline(line, color=style.GREY, lw=0.8, zorder=0.5)
            for place, model in enumerate(models):
                look = looks[model]
                ax.plot(
                    column[model], place, color=look.color, marker=look.marker, linestyle="", clip_on=False
                )
            axes.log_axis(ax, values[key], max_labels=4)
            ax.set_xlabel(titles[key])
            ax.grid(axis="y", color=style.PALE, lw=0.4)
            ax.set_axisbelow(True)
        axs[0].set_yticks(range(len(models)), models)
        axs[0].set_ylim(len(models) - 0.4, -0.6)
        return chart.finish(fig, caption=caption, alt=alt)
