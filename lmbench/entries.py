"""Entries: records as rows of a table, and the data frame that many of them make.

An entry holds a record's digest, the stamp of its folder (`folders.stamp`), its run.json
and env.json, the names, types and values of what is the same in all its rows
(`records.fixed_columns`), and each column of its rows as a list. A thousand entries become
one data frame in a fraction of the time that a thousand data frames take to concatenate.
"""

import functools
import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lmbench.records import ROW_COLUMNS, fixed_columns

SHARED = 65_536  # rows of a piece of text that repeats
_TYPES = {"str": pa.large_string(), "int64": pa.int64(), "float64": pa.float64()}
ENTRY = pa.schema(
    [(name, pa.large_string()) for name in ("run", "stamp", "record", "names", "fixed")]
    + [(name, pa.list_(_TYPES[kind])) for name, kind in ROW_COLUMNS.items()]
)
IN_FRAMES = ["names", "fixed", *ROW_COLUMNS]  # what `to_frame` needs of an entry


def entry(digest: str, *, stamp: str | None, record: dict[str, Any], rows: pd.DataFrame) -> pa.Table | None:
    """One record as an entry; None where only the folder can tell what it holds.

    That is a record without rows, with other columns than usual, or without a stamp.
    """
    fixed = fixed_columns(digest, record)
    if stamp is None or rows.empty or list(rows.dtypes.items()) != _usual_types():
        return None
    if not all(_is_plain(value) for value in fixed.values()):
        return None
    names = [[name, type(value).__name__] for name, value in fixed.items() if name not in ROW_COLUMNS]
    values = {"run": digest, "stamp": stamp, "record": json.dumps(record), "names": json.dumps(names)}
    values["fixed"] = json.dumps([fixed[name] for name, _ in names])
    values = {name: [value] for name, value in values.items()}
    for name, kind in ROW_COLUMNS.items():
        column = pa.array(rows[name], type=_TYPES[kind])
        values[name] = pa.ListArray.from_arrays(pa.array([0, len(rows)], type=pa.int32()), column)
    return pa.table(values, schema=ENTRY)


@functools.cache
def _usual_types() -> list[tuple[str, Any]]:
    return [(name, pd.Series(dtype=kind).dtype) for name, kind in ROW_COLUMNS.items()]


def _is_plain(value: Any) -> bool:
    is_wide = isinstance(value, int) and not -(2**63) <= value < 2**63
    return value is None or (isinstance(value, str | int | float | bool) and not is_wide)


def to_frame(entries: pa.Table) -> pd.DataFrame:
    """What `Records.frame` gives for these records, in the order of the entries."""
    rows = pa.table({name: pc.list_flatten(entries[name]) for name in ROW_COLUMNS}).to_pandas()
    counts = pc.list_value_length(entries["value"]).to_numpy()
    fixed = _one_row_each(entries["names"].to_pylist(), entries["fixed"].to_pylist())
    return pd.concat([rows, _repeated(fixed, counts).set_axis(rows.index)], axis=1)


def _one_row_each(names: list[str], fixed: list[str]) -> pd.DataFrame:
    """One row per record, with the columns and types that its rows have in `Records.frame`.

    There a table per record is concatenated, which takes minutes for many; records whose columns have
    the same names and types give the same result when they are put into one table first.
    """
    alike: dict[str, list[int]] = {}
    for i, shape in enumerate(names):
        alike.setdefault(shape, []).append(i)
    tables = []
    for shape, members in alike.items():
        values = json.loads(f"[{','.join(fixed[i] for i in members)}]")
        columns = zip(json.loads(shape), zip(*values, strict=True), strict=True)
        tables.append(pd.DataFrame({name: list(column) for (name, _), column in columns}, index=members))
    return pd.concat(tables).sort_index()


def _repeated(fixed: pd.DataFrame, counts: np.ndarray) -> pd.DataFrame:
    """Each row as often as its count says; a text that is the same in all of them is kept once."""
    constant = [name for name, column in fixed.items() if _is_constant_text(column)]
    table, n = fixed.drop(columns=constant).take(np.repeat(np.arange(len(fixed)), counts)), counts.sum()
    for name in constant:
        text = pa.scalar(fixed[name].iloc[0], pa.large_string())
        piece = pa.repeat(text, min(n, SHARED))
        pieces = pa.chunked_array([piece] * (n // SHARED) + [piece.slice(0, n % SHARED)])
        # Constants come in the order of the columns, so those to the left are in place.
        table.insert(fixed.columns.get_loc(name), name, fixed[name].dtype.__from_arrow__(pieces))
    return table


def _is_constant_text(column: pd.Series) -> bool:
    return isinstance(column.dtype, pd.StringDtype) and bool((column == column.iloc[0]).all())
