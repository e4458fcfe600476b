"""Tables, JSON and messages: what all commands write with."""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

WIDE = 160  # columns of a table that goes to a file or a pipe, which has no width of its own


def console(*, stderr: bool = False) -> Console:
    """Standard output or standard error as they are now (tests and notebooks replace them)."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else WIDE)


def write_json(value: Any) -> None:
    """`value` on standard output, and nothing else; numbers that JSON does not have become null."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, default=str, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
    """Rows under bold headings; numbers to the right."""
    rows = [list(row) for row in rows]
    shown = Table(box=None, title=title or None, title_justify="left", header_style="bold", pad_edge=False)
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        shown.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=i == 0)
    for row in rows:
        shown.add_row(*(text(value) for value in row))
    console().print(shown, markup=False)


def text(value: Any) -> str:
    """A value as a cell: at most 6 significant digits, thousands apart, nothing for None."""
    if value is None or value != value:  # NaN alone differs from itself
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1000 else f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={text(item)}" for key, item in value.items())
    return str(value)


def line(message: str) -> None:
    """One line on standard output, as it is."""
    console().print(message, markup=False, soft_wrap=True)


def complain(message: str) -> None:
    """One line on standard error, as it is."""
    console(stderr=True).print(f"lmbench: {message}", markup=False, soft_wrap=True)
