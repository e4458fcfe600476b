"""What a table of runs must hold before it is shown: rows, its columns, one device for its times."""

import pandas as pd

from lmbench.analysis.formats import ON_DEVICE
from lmbench.errors import unknown


def require(table: pd.DataFrame, column: str) -> None:
    """Raise ValueError unless `table` has rows and the column."""
    refuse_empty(table, "the table")
    if column not in table:
        raise ValueError(unknown("column", column, table.columns))


def refuse_mixed_devices(table: pd.DataFrame, columns: list[str]) -> None:
    """Raise ValueError if a column that depends on the machine holds values of several devices.

    How many runs shared the device is no reason: captions say it (`table.provenance`).
    """
    timed = [name for name in columns if name in ON_DEVICE]
    devices = sorted(table["device"].dropna().unique()) if timed and "device" in table else []
    if len(devices) > 1:
        raise ValueError(
            f"{' and '.join(timed)} cannot be compared over several devices ({', '.join(devices)}); "
            "keep the rows of one device or drop these columns"
        )


def refuse_empty(table: pd.DataFrame, what: str) -> None:
    """Raise ValueError if the table has no rows."""
    if table.empty:
        raise ValueError(f"{what} is empty: there are no finished runs to show")


def refuse_mixed(table: pd.DataFrame, column: str) -> None:
    """Raise ValueError if a label has several values of a column that is there."""
    if column not in table:
        return
    kinds = table.groupby("label")[column].unique()
    mixed = kinds[kinds.map(len) > 1]
    if len(mixed):
        values = ", ".join(f"{v:g}" for v in sorted(mixed.iloc[0]))
        raise ValueError(
            f"label {mixed.index[0]!r} mixes runs of different {column} ({values}); give each its own label"
        )
