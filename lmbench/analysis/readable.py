"""Result tables for readers: titles with units, digits that the interval supports, three outputs.

`readable` turns the numbers of a result table into text; `styled` shows that text in a
notebook, `as_text` in a terminal. A mean is written with its interval, to the digit where
the interval's half-width has its second figure, the same in all rows of a table.
"""

import hashlib
import io
import math
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
    """Three figures and a power of ten: `2.21e13`."""
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def _three_figures(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


_FORMATS = {
    COSTS["parameters"]: lambda value: f"{value:,.0f}",
    COSTS["train_flops"]: format_power,
    COSTS["published_flops"]: format_power,
    COSTS["weights_bytes"]: lambda value: f"{format_si(value)}B" if value >= 1000 else f"{value:.0f} B",
    COSTS["peak_memory_bytes"]: lambda value: f"{format_si(value)}B",
    COSTS["train_seconds"]: _three_figures,
    COSTS["tokens_per_second"]: _three_figures,
    COSTS["inference_tokens_per_second"]: _three_figures,
    LR: lambda value: f"{value:g}",
}


def is_result(table: pd.DataFrame) -> bool:
    """Whether `table` has the columns of a result table (also after a round trip through CSV)."""
    return {"model", "n", LOW, HIGH} <= set(table.columns)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A result table as text: mean and interval in one column, units in the titles, blanks for missing.

    Any other table comes back as text with at most four significant figures.
    """
    if not is_result(table):
        return table.map(_plain)
    mean = table.columns[table.columns.get_loc("n") + 1]
    digits = max(
        (decimals(*pair) for pair in table.loc[table[LOW].notna(), [LOW, HIGH]].to_numpy()), default=3
    )
    out = pd.DataFrame(index=table.index)
    for name in table.columns.drop([LOW, HIGH]):
        if name == mean:
            rows = zip(table["n"], table[mean], table[LOW], table[HIGH], strict=True)
            out[mean + INTERVAL] = [
                f"{m:.{digits}f}" if pd.isna(n) else format_interval(m, low, high, digits=digits)
                for n, m, low, high in rows
            ]
        else:
            form = _FORMATS.get(name, _plain)
            out[name] = ["" if pd.isna(value) else form(value) for value in table[name]]
    # Values with a prefix name their own unit.
    return out.rename(columns={title: title.removesuffix(" (bytes)") for title in out.columns})


def _plain(value: Any) -> str:
    if pd.isna(value):
        return ""
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"


def is_reference(table: pd.DataFrame) -> pd.Series:
    """Which rows of a result table are reference predictors: those without a number of seeds."""
    return table["n"].isna() if is_result(table) else pd.Series(False, index=table.index)


def styled(table: pd.DataFrame, *, caption: str = "") -> Any:
    """The table for a notebook: numbers to the right, the best model bold, references grey in italics."""
    text, reference = readable(table), is_reference(table)
    best = table["rank"].eq(1).fillna(False) if is_result(table) else reference

    def row_style(row: pd.Series) -> list[str]:
        style = "color: #595959; font-style: italic" if reference[row.name] else ""
        return [style or ("font-weight: bold" if best[row.name] else "")] * len(row)

    numbers = [c for c in text.columns if c != text.columns[0]]
    shown = text.style.hide(axis="index").apply(row_style, axis=1)
    shown = shown.set_properties(**{"white-space": "nowrap"})
    shown = shown.set_properties(subset=numbers, **{"text-align": "right"})
    shown = shown.set_table_styles(
        [
            {"selector": "th", "props": "text-align: right; vertical-align: bottom"},
            {"selector": "th.col0, td.col0", "props": "text-align: left"},
            {"selector": "caption", "props": "caption-side: bottom; text-align: left"},
        ]
    )
    # The id is random otherwise, and an executed notebook would differ on every run.
    # A page holds many tables; equal names would make them share their row styles.
    name = hashlib.sha256((caption + text.to_csv()).encode()).hexdigest()[:8]
    shown = shown.set_uuid(f"lmbench_{name}")
    return shown.set_caption(caption) if caption else shown


def as_text(table: pd.DataFrame, *, width: int = 100, caption: str = "") -> str:
    """The table for a terminal of `width` characters; columns that do not fit follow below it."""
    text, reference = readable(table), is_reference(table)
    # As wide as the longest cell or word of the heading, so that only headings wrap; 3 apart.
    widths = {name: max(map(len, [*text[name], *name.split()])) for name in text.columns}
    first, *others = (wide + 3 for wide in widths.values())
    blocks: list[list[str]] = [[]]
    room = width - first
    for name, needed in zip(text.columns[1:], others, strict=True):
        if needed > room and blocks[-1]:
            blocks.append([])
            room = width - first
        blocks[-1].append(name)
        room -= needed
    parts = []
    for names in blocks:
        is_blank = (text[names] == "").all(axis=1)
        rows = text.loc[~is_blank, [text.columns[0], *names]]
        parts.append(_block(rows, reference[~is_blank], widths=widths))
    return "\n".join(parts) + (f"{caption}\n" if caption else "")


def _block(text: pd.DataFrame, reference: pd.Series, *, widths: dict[str, int]) -> str:
    """Columns that fit beside each other, the references under a blank line."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 1), pad_edge=False)
    for i, name in enumerate(text.columns):
        shown.add_column(name, justify="right" if i else "left", width=widths[name])
    starts = reference & ~reference.shift(fill_value=False)
    for row, is_start in zip(text.itertuples(index=False), starts, strict=True):
        if is_start and shown.row_count:
            shown.add_section()
        shown.add_row(*row)
    out = io.StringIO()
    # In a notebook rich would display the table itself instead of writing it.
    Console(file=out, width=1000, color_system=None, force_jupyter=False, highlight=False).print(shown)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n") + "\n"
