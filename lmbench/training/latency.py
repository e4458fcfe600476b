"""Latency and memory of models as records of the store, with their device.

A measured time is read like any result afterwards, so a figure of latencies redraws on another
machine without measuring anything.
"""

from collections.abc import Sequence

import pandas as pd
import torch

from lmbench.measure.latency import check_grid, latencies
from lmbench.measure.memory import memory
from lmbench.models.base import ModelConfig
from lmbench.probes.device import Latency
from lmbench.records import Records
from lmbench.training.measured import measured_rows, of_one_device

LEVEL = "{batch_size}|{length}"  # how batch size and length are written in the rows' level column


def latency_rows(
    models: Sequence[ModelConfig],
    *,
    batch_sizes: Sequence[int],
    lengths: Sequence[int],
    store: Records,
    device: str | None = None,
    dtype: str = "float32",
    repeats: int = 15,
    warm_up: int = 3,
) -> pd.DataFrame:
    """Tidy rows of every model's record, measured once per store.

    The metrics are `prefill_seconds`, `decode_seconds` and `decode_uncached_seconds`, each also with
    `_low` and `_high`, at each batch size and length (`level`, "batch|length"), and at one text of
    the longest length, in bytes, `weights_bytes`, `train_peak_bytes`, `prefill_peak_bytes`,
    `state_bytes` and `state_one_bytes`.

    Args:
        device: a torch device, of which the times must be; None takes times that are there from wherever
            they were measured, and measures others on the default device.

    Raises:
        ValueError: sizes that a model cannot read, a read-only store that lacks a record, or records of
            another device, or of several.
    """
    asked = [
        Latency(
            model=model, batch_sizes=tuple(batch_sizes), lengths=tuple(lengths), dtype=dtype,
            repeats=repeats, warm_up=warm_up,
        )
        for model in models
    ]  # fmt: skip
    for one in asked:
        check_grid(one.model, batch_sizes=one.batch_sizes, lengths=one.lengths)
    parts = []
    for one in asked:
        how = {"what": "latency", "label": one.model.name, "store": store, "device": device}
        parts.append(
            measured_rows(
                one, **how, measure=lambda where, one=one: _timings(one, where) + _bytes(one, where)
            )
        )
    return of_one_device(pd.concat(parts, ignore_index=True), what="latency")


def _timings(asked: Latency, device: torch.device) -> list[dict[str, object]]:
    grid = {"batch_sizes": asked.batch_sizes, "lengths": asked.lengths}
    how = {"dtype": asked.dtype, "repeats": asked.repeats, "warm_up": asked.warm_up, "device": device}
    rows = []
    for kind, batch_size, length, seconds in latencies(asked.model, **grid, **how):
        fixed = {"level": LEVEL.format(batch_size=batch_size, length=length), "n": seconds.n}
        named = (("", seconds.median), ("_low", seconds.low), ("_high", seconds.high))
        rows += [fixed | {"metric": f"{kind}_seconds{end}", "value": value} for end, value in named]
    return rows


def _bytes(asked: Latency, device: torch.device) -> list[dict[str, object]]:
    found = memory(asked.model, batch_size=1, length=max(asked.lengths), device=device, dtype=asked.dtype)
    fixed = {"level": LEVEL.format(batch_size=1, length=found.length), "n": 1}
    names = ("weights", "train_peak", "prefill_peak", "state", "state_one")
    return [fixed | {"metric": f"{name}_bytes", "value": getattr(found, name)} for name in names]
