"""Numbers that depend on the machine, as records of the store: measured once, with their device.

A speed, a latency or a count of bytes is read like any result afterwards, so a table or figure of
them is made again on another machine without measuring anything.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch

from lmbench.asked import read_or_make
from lmbench.config import Config
from lmbench.records import ROW_COLUMNS, Records, no_items
from lmbench.store import Store
from lmbench.training.environment import device_name, environment
from lmbench.training.execute import resolve_device
from lmbench.training.record import describe


def measured_rows(
    asked: Config,
    *,
    what: str,
    label: str,
    store: Records,
    device: str | None,
    measure: Callable[[torch.device], list[Mapping[str, Any]]],
) -> pd.DataFrame:
    """Tidy rows of a measurement, made now if the store lacks it.

    Args:
        asked: the record's config.
        what: is measured, for messages, such as "speed".
        label: of the record, its model's name.
        device: a torch device, which a record in a store that can measure must be of; None takes what
            is there, whose rows name their device, and measures what is lacking on the default device.
        measure: gives the rows on a device; columns that they leave out are 0 or empty.

    Raises:
        ValueError: a read-only store that lacks the record, or one that was measured on another device.
    """

    def make(asked: Config, store: Store) -> None:
        where = resolve_device(device)
        env = environment(where)
        file_rows(asked, lambda: list(map(dict, measure(where))), label=label, store=store, env=env)

    rows = read_or_make(asked, what=f"the {what} of {label}", store=store, make=make)
    if device is not None and isinstance(store, Store):
        measured_on, here = rows["device"].iloc[0], device_name(resolve_device(device))
        if measured_on != here:
            raise ValueError(
                f"the {what} of {label} in {store.root} was measured on {measured_on!r}, and this is "
                f"{here!r}; delete {store.folder(asked.digest)} to measure it here"
            )
    return rows


def of_one_device(rows: pd.DataFrame, *, what: str) -> pd.DataFrame:
    """The rows, of which none may be compared with one of another device.

    Raises:
        ValueError: rows of several devices.
    """
    devices = sorted(rows["device"].unique()) if len(rows) else []
    if len(devices) > 1:
        raise ValueError(
            f"the {what} in this store was measured on several devices ({', '.join(devices)}), and times of "
            "one are not those of another; measure all on one, in a store of its own"
        )
    return rows


def file_rows(
    asked: Config,
    rows: Callable[[], list[dict[str, Any]]],
    *,
    label: str,
    store: Store,
    env: Mapping[str, Any],
) -> None:
    """Make the rows of a record and file them under its lock, unless another process makes the same.

    Args:
        rows: called once the record is this process's to make, when its folder is there for files that
            belong to it; columns left out are 0 or empty.
    """
    with store.claim(asked.digest) as folder:
        if folder is None:
            return
        fixed = dict.fromkeys(ROW_COLUMNS, 0) | dict.fromkeys(("evaluation", "split", "task", "level"), "")
        store.finish(
            asked.digest,
            run=describe(asked, label=label),
            env=dict(env),
            rows=pd.DataFrame([fixed | row for row in rows()]),
            items=no_items(),
        )
