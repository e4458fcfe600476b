"""Titles and numbers as readers see them: units in headings, and one format for all of a column.

A mean is written to the digit where its interval's half-width has its second figure.
FLOPs are powers of ten, counts have thousands separators, p values have three decimals,
and any other column of fractions has the decimals that give its largest four figures.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import pandas as pd

METRICS = {
    "bits_per_byte": "bits per byte",
    "nll": "NLL (nats per token)",
    "perplexity": "perplexity (per token)",
    "accuracy": "accuracy (fraction)",
}
COSTS = {
    "parameters": "parameters",
    "train_flops": "training FLOPs",
    "published_flops": "FLOPs as published",
    "weights_bytes": "weights (bytes)",
    "train_seconds": "training time (s)",
    "tokens_per_second": "training tokens/s",
    "inference_tokens_per_second": "inference tokens/s",
    "peak_memory_bytes": "peak memory (bytes)",
}
ON_DEVICE = ("train_seconds", "tokens_per_second", "inference_tokens_per_second", "peak_memory_bytes")
LR, LOW, HIGH = "learning rate", "95% low", "95% high"
INTERVAL = " [95% t interval]"
HEADINGS = {
    "p_holm": "p (Holm)", "n_seeds": "seeds", "flops": "FLOPs", "lr": LR, "optimizer.lr": LR,
    "label": "model",
}  # fmt: skip
BOUNDS = (("low", "high"), (LOW, HIGH))


def format_interval(mean: float, low: float, high: float, *, digits: int | None = None) -> str:
    """`2.053 [2.021, 2.085]`; a single value, which has no interval, is `2.053 [n/a]`.

    Args:
        digits: decimals; None gives the half-width of the interval two significant figures.
    """
    if digits is None:
        digits = decimals(low, high)
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{mean:.{digits}f} [n/a]"
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def decimals(low: float, high: float) -> int:
    """Decimals (0 to 4) that give half of high - low two significant figures; 3 without an interval."""
    half = (high - low) / 2
    if not math.isfinite(half) or half <= 0:
        return 3
    return min(4, max(0, 1 - math.floor(math.log10(half))))


def format_si(value: float) -> str:
    """Three figures with an SI prefix: 1723140 is `1.72 M`, 1100000 is `1.10 M`, 950 is `950`."""
    for factor, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= 0.9995 * factor:
            return _three_figures(value / factor) + prefix
    return _three_figures(value)


def format_power(value: float) -> str:
    """Three figures and a power of ten: `2.21e13`; 0 is `0`, and infinity `inf`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def _three_figures(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def format_p(value: float) -> str:
    """`0.012`, and `< 0.001` below that."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


# The columns of result tables, by title.
RESULT_FORMATS: dict[str, Callable[[float], str]] = {
    COSTS["parameters"]: "{:,.0f}".format,
    COSTS["train_flops"]: format_power,
    COSTS["published_flops"]: format_power,
    COSTS["weights_bytes"]: lambda value: f"{format_si(value)}B" if value >= 1000 else f"{value:.0f} B",
    COSTS["peak_memory_bytes"]: lambda value: f"{format_si(value)}B",
    COSTS["train_seconds"]: _three_figures,
    COSTS["tokens_per_second"]: _three_figures,
    COSTS["inference_tokens_per_second"]: _three_figures,
    LR: "{:g}".format,
}


# ------------------------------------------------------------------ columns of any table


def heading(name: str) -> str:
    """The title of a column: `p_holm` is `p (Holm)`, `closed_form` is `closed form`."""
    name = str(name)
    known = METRICS | COSTS | HEADINGS
    return known[name] if name in known else name.replace("_", " ")


def is_number(column: pd.Series) -> bool:
    """Whether a column holds numbers; yes and no are words."""
    if pd.api.types.is_object_dtype(column):
        known = column.dropna()
        return len(known) > 0 and all(isinstance(v, Real) and not isinstance(v, bool) for v in known)
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def column_format(table: pd.DataFrame, name: str) -> Callable[[Any], str]:
    """How all numbers of one column of a table are written."""
    column, title = pd.to_numeric(table[name].dropna()).astype(float), heading(name)
    finite = column[column.abs() < math.inf]
    if "FLOPs" in title or name == "closed_form" or finite.abs().max() >= 1e12:
        return format_power
    if title == "p" or title.startswith("p ("):
        return format_p
    if title == LR:
        return "{:g}".format
    for low, high in BOUNDS:
        if {low, high} <= set(table) and (name in (low, high) or _has_interval(name)):
            pairs = table[[low, high]].dropna().to_numpy(float)
            return f"{{:.{max((decimals(*pair) for pair in pairs), default=3)}f}}".format
    if (finite % 1 == 0).all():
        return "{:,.0f}".format
    return _fractions(finite.abs())


def _has_interval(name: str) -> bool:
    """Whether a column is what the bounds beside it bound: a mean, a difference, a metric."""
    return name in ("mean", "difference") or any(title in name for title in METRICS.values())


def _fractions(sizes: pd.Series) -> Callable[[float], str]:
    """Four figures of the largest; three of each where the smallest would be lost."""
    digits = min(6, max(0, 3 - math.floor(math.log10(sizes.max()))))
    smallest = sizes[sizes > 0].min()
    return "{:.3g}".format if smallest < 10.0**-digits else f"{{:,.{digits}f}}".format
