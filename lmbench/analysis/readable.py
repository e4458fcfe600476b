"""Tables for readers: titles with units, digits that the interval supports, three outputs.

`readable` turns the numbers of a table into text; `styled` shows that text in a notebook,
`as_text` in a terminal, `export.to_latex` in print. In a result table a mean is written
with its interval, to the same digit in all rows; in any other table every column has one
format (`formats`). Words stand left, numbers right, and long texts wrap.
"""

import hashlib
import io
import textwrap
from typing import Any, Literal

import pandas as pd

from lmbench.analysis.formats import (
    HIGH,
    INTERVAL,
    LOW,
    RESULT_FORMATS,
    column_format,
    decimals,
    format_interval,
    heading,
    is_number,
)

LONG = 40  # letters; a column with longer texts wraps
Kind = Literal["number", "text", "long"]


def is_result(table: pd.DataFrame) -> bool:
    """Whether `table` has the columns of a result table (also after a round trip through CSV)."""
    return {"model", "n", LOW, HIGH} <= set(table.columns)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table as text, with readable titles and blanks for what is missing.

    In a result table mean and interval stand in one column.
    """
    if not is_result(table):
        out = pd.DataFrame({heading(name): _written(table, name) for name in table}, index=table.index)
        if out.shape[1] < table.shape[1]:
            raise ValueError(f"two columns of a table have one title; they are {', '.join(map(str, table))}")
        return out
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
            out[name] = _written(table, name)
    # Values with a prefix name their own unit.
    return out.rename(columns={title: title.removesuffix(" (bytes)") for title in out.columns})


def _written(table: pd.DataFrame, name: str) -> list[str]:
    """One column as text."""
    if is_number(table[name]):
        result = RESULT_FORMATS.get(name) if is_result(table) else None
        form = result or column_format(table, name)
    else:
        form = _word
    return ["" if pd.isna(value) else form(value) for value in table[name]]


def _word(value: Any) -> str:
    return ("no", "yes")[value] if pd.api.types.is_bool(value) else str(value)


def kinds(table: pd.DataFrame) -> list[Kind]:
    """What the columns of `readable(table)` hold: numbers, words, or texts that are to wrap."""
    text = readable(table)
    if is_result(table):
        return ["text", *["number"] * (text.shape[1] - 1)]
    found: list[Kind] = []
    for name, title in zip(table, text, strict=True):
        is_long = text[title].map(len).max() > LONG
        found.append("number" if is_number(table[name]) else "long" if is_long else "text")
    return found


def is_reference(table: pd.DataFrame) -> pd.Series:
    """Which rows of a result table are reference predictors: those without a number of seeds."""
    return table["n"].isna() if is_result(table) else pd.Series(False, index=table.index)


_LOOKS = {
    "number": {"text-align": "right", "white-space": "nowrap"},
    "text": {"text-align": "left", "white-space": "nowrap"},
    "long": {"text-align": "left", "white-space": "normal", "min-width": "14rem", "max-width": "26rem"},
}
_CAPTION = "caption-side: bottom; text-align: left; white-space: normal; padding: 0.4rem 0; color: #595959"


def styled(table: pd.DataFrame, *, caption: str = "") -> Any:
    """The table for a notebook: the best model bold, references grey in italics, long texts wrapped."""
    table = table.reset_index(drop=True)  # of tables set below each other rows may share a label
    text, reference = readable(table), is_reference(table)
    best = table["rank"].eq(1).fillna(False) if is_result(table) else reference

    def row_style(row: pd.Series) -> list[str]:
        style = "color: #595959; font-style: italic" if reference[row.name] else ""
        return [style or ("font-weight: bold" if best[row.name] else "")] * len(row)

    shown = text.style.hide(axis="index").apply(row_style, axis=1)
    places = dict(zip(text.columns, kinds(table), strict=True))
    for kind, look in _LOOKS.items():
        names = [name for name, other in places.items() if other == kind]
        shown = shown.set_properties(subset=names, **look) if names else shown
    sides = {i: "right" if kind == "number" else "left" for i, kind in enumerate(places.values())}
    shown = shown.set_table_styles(
        [
            {"selector": "th", "props": "vertical-align: bottom"},
            *({"selector": f"th.col{i}", "props": f"text-align: {side}"} for i, side in sides.items()),
            {"selector": "caption", "props": _CAPTION},
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
    # As wide as the longest cell or word of the heading, so that only headings and texts wrap; 3 apart.
    widths = {name: max(map(len, [*text[name], *name.split()])) for name in text.columns}
    places = dict(zip(text.columns, kinds(table), strict=True))
    widths |= {name: LONG for name, kind in places.items() if kind == "long"}
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
        parts.append(_block(rows, reference[~is_blank], widths=widths, places=places))
    return "\n".join(parts) + (f"{textwrap.fill(caption, width)}\n" if caption else "")


def _block(
    text: pd.DataFrame, reference: pd.Series, *, widths: dict[str, int], places: dict[str, Kind]
) -> str:
    """Columns that fit beside each other, the references under a blank line."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 1), pad_edge=False)
    for name in text.columns:
        side = "right" if places[name] == "number" else "left"
        shown.add_column(name, justify=side, width=widths[name])
    starts = reference & ~reference.shift(fill_value=False)
    for row, is_start in zip(text.itertuples(index=False), starts, strict=True):
        if is_start and shown.row_count:
            shown.add_section()
        shown.add_row(*row)
    out = io.StringIO()
    # In a notebook rich would display the table itself instead of writing it.
    Console(file=out, width=1000, color_system=None, force_jupyter=False, highlight=False).print(shown)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n") + "\n"
