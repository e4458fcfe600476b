"""The generated reading of a comparison of costs: training, counters, generation, memory."""

import pandas as pd

from lmbench.analysis.checks import require
from lmbench.analysis.cost_tables import WORK, decode_table
from lmbench.analysis.formats import format_si


def cost_reading(
    costs: pd.DataFrame, counts: pd.DataFrame, latency: pd.DataFrame, memory: pd.DataFrame
) -> str:
    """Paragraphs about models of equal size.

    Args:
        costs: from `measure.cost.cost_table`.
        counts: from `disagreement_table`.
        latency: from `latency_table`.
        memory: from `memory_table`.
    """
    require(costs, "training FLOPs per token")
    parts = (training_words(costs), counter_words(counts), decode_words(latency), memory_words(memory))
    return "\n\n".join(parts)


def training_words(costs: pd.DataFrame) -> str:
    """Who is cheap and who is dear to train at this size."""
    flops = costs.set_index("model")["training FLOPs per token"]
    low, high = costs["parameters"].min(), costs["parameters"].max()
    if len(flops) == 1:
        cost = format_si(flops.iloc[0])
        return f"{flops.index[0]}, with {low:,} parameters, trains for {cost} FLOPs per token."
    first = (
        f"With {low:,} to {high:,} parameters, a token of training costs from {format_si(flops.min())} FLOPs "
        f"({flops.idxmin()}) to {format_si(flops.max())} ({flops.idxmax()}), "
        f"{_factor(flops.max() / flops.min())} times as many: equal parameters are not equal compute."
    )
    share = costs.set_index("model")["of them element-wise"] / flops
    if share.max() > 0:
        first += (
            f" Element-wise work is at most {100 * share.max():.1f}% of it ({share.idxmax()}), by closed "
            "forms; no counter of matrix products sees it."
        )
    return first


def _factor(value: float) -> str:
    """Two figures, and no power of ten: `0.86`, `8.4`, `194`."""
    return f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"


def counter_words(counts: pd.DataFrame) -> str:
    """How far other counters are off, and whether every difference has a name."""
    left = counts[counts["unexplained"] != 0]
    words = []
    for count in ("torch, CPU", "torch, meta device", "fvcore x 2", "6 N per token"):
        ratio = counts[counts["count"] == count].set_index("model")["ratio"]
        if ratio.empty:
            continue
        farthest = ratio.sub(1).abs().idxmax()
        if abs(ratio[farthest] - 1) < 1e-9:
            words.append(f"{count} agrees for every model")
        else:
            words.append(
                f"{count} counts {ratio.min():.2f} to {ratio.max():.2f} times the closed form "
                f"(farthest off: {farthest}, {ratio[farthest]:.2f})"
            )
    named = (
        "Every difference is split into named parts without a remainder."
        if left.empty
        else f"{len(left)} of {len(counts)} counts keep a remainder that no part explains."
    )
    text = "; ".join(words)
    return f"{text[:1].upper()}{text[1:]}. {named}"


def decode_words(latency: pd.DataFrame) -> str:
    """Who writes fastest, and what the cache is worth."""
    table = decode_table(latency).set_index("model")
    rate, gain = table["tokens/s, cached"], table["times faster by the cache"]
    prefill, context = table[f"{WORK['prefill']} (ms)"], int(table["context"].iloc[0])
    text = (
        f"At {context:,} tokens of context, one text at a time, {rate.idxmax()} writes fastest "
        f"({rate.max():,.0f} tokens per second) and {rate.idxmin()} slowest ({rate.min():,.0f}). "
        f"The context itself is read in {prefill.min():.3g} ms ({prefill.idxmin()}) to "
        f"{prefill.max():.3g} ms ({prefill.idxmax()})."
    )
    if len(table) > 1:
        text += (
            f" Without a cache a token takes {_factor(gain.min())} times as long ({gain.idxmin()}) to "
            f"{_factor(gain.max())} times ({gain.idxmax()})."
        )
    return f"{text} These are times of eager code on one device, not of an optimised server."


def memory_words(memory: pd.DataFrame) -> str:
    """Whose state grows with the text, and who needs the most for training."""
    table = memory.set_index("model")
    grown, peak = table["state per token"], table["training peak"]
    growing, constant = grown[grown > 0], list(grown[grown <= 0].index)
    parts = [
        f"A training pass over one text of {int(table['context'].max()):,} tokens needs from "
        f"{format_si(peak.min())}B ({peak.idxmin()}) to {format_si(peak.max())}B ({peak.idxmax()}) "
        "beside the weights."
    ]
    if len(growing):
        parts.append(
            f"What is remembered grows by up to {format_si(growing.max())}B a token ({growing.idxmax()}) for "
            f"{len(growing)} of {len(table)} models."
        )
    if constant:
        low, high = (format_si(value) for value in table.loc[constant, "state"].agg(["min", "max"]))
        parts.append(f"It stays as it is for {', '.join(constant)}: {low}B to {high}B.")
    return " ".join(parts)
