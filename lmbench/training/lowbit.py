"""Wall-clock of finished runs in every form of low-precision or sparse inference, as records of the store.

What is timed is the plain model with the weights that a run reports: masked and quantised as they were
exported, without the rounding that imitates few bits in training, since here real kernels do it. Beside
the seconds stand the multiply-adds of weights that are not zero, which is the arithmetic claim, and why
a form does not exist.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from lmbench.measure.latency import check_grid
from lmbench.measure.lowbit import Arithmetic, arithmetic, convert, wall_clock
from lmbench.measure.lowbit_kernels import FORMS
from lmbench.methods.base import Method
from lmbench.methods.equipment import equipped, exported
from lmbench.models.base import LanguageModel
from lmbench.probes.device import LowBit
from lmbench.records import Records
from lmbench.store import Store
from lmbench.training.measured import measured_rows, of_one_device
from lmbench.training.rescore import load_run

BASELINE = "float32"
LEVEL = "{batch}|{form}|{reason}"  # how the rows' level column is written
METRICS = {"seconds": "seconds", "seconds_low": "low", "seconds_high": "high", "linear_bytes": "linear_bytes"}
COLUMNS = ["run", "label", "init_seed", "device", "form", "batch", "length", *METRICS.values(), "n"]
COLUMNS += ["macs", "nonzero_macs", "times_fewer", "times_faster", "reason"]


def low_bit_rows(
    digests: Sequence[str],
    *,
    store: Records,
    batch_sizes: Sequence[int] = (1, 64),
    length: int | None = None,
    repeats: int = 15,
    warm_up: int = 3,
    methods: Sequence[Method] = (),
    device: str | None = None,
) -> pd.DataFrame:
    """One row for each run, form of `measure.lowbit_kernels.FORMS` and batch size, measured once a store.

    Columns: run, label, init_seed, device, form, batch, length (tokens of a text), seconds (median of a
    forward pass over the batch), low, high (the range of the repeats), linear_bytes (weights of the
    linear maps as this form keeps them), n (repeats), macs and nonzero_macs (multiply-adds of the
    linear maps per token), times_fewer (the first over the second: the arithmetic claim; NaN for a model
    that calls no linear map), times_faster (than the same run in float32 at this batch size),
    reason ("" where the form exists; else seconds are NaN).

    Args:
        digests: of finished runs.
        methods: applied to the weights first, such as a quantisation after training.
        length: None is the context of each run's model.
        device: a torch device, of which the times must be; None takes times that are there from wherever
            they were measured, and measures others on the default device.

    Raises:
        ValueError: an unknown run or one without weights, sizes that a model cannot read, a
            read-only store that lacks a record, or records of another device, or of several.
    """
    how = {"batch_sizes": tuple(batch_sizes), "length": length, "repeats": repeats, "warm_up": warm_up}
    parts = [pd.DataFrame(columns=COLUMNS)]
    for digest in dict.fromkeys(digests):
        run = store.record(digest)["run"]
        asked = LowBit(run=digest, methods=tuple(methods), **how)
        rows = measured_rows(
            asked,
            what="low-precision inference",
            label=run["label"],
            store=store,
            device=device,
            measure=lambda where, asked=asked: _measure(asked, store, where),
        )
        parts.append(_table(rows).assign(run=digest, init_seed=run["config"]["init_seed"]))
    table = pd.concat(parts[1:] or parts, ignore_index=True)[COLUMNS]
    return of_one_device(table, what="low-precision inference")


def _measure(asked: LowBit, store: Store, device: torch.device) -> list[Mapping[str, Any]]:
    """Tidy rows of one run."""
    loaded = load_run(asked.run, store=store, device=torch.device("cpu"), methods=asked.methods)
    config = loaded.run.model
    length = asked.length or config.seq_len
    check_grid(config, batch_sizes=asked.batch_sizes, lengths=[length])
    model = equipped(config, exported(loaded.model, config)).to(device).eval()
    counted = arithmetic(model, _tokens(1, length, device))
    made = [_row("macs", value=counted.dense), _row("nonzero_macs", value=counted.nonzero)]
    made.append(_row("length", value=length))
    for batch_size in asked.batch_sizes:
        made += _timings(model, counted, asked, batch_size=batch_size, length=length, device=device)
    return made


def _timings(
    model: LanguageModel,
    counted: Arithmetic,
    asked: LowBit,
    *,
    batch_size: int,
    length: int,
    device: torch.device,
) -> list[Mapping[str, Any]]:
    """Rows of all forms at one batch size; whether a kernel takes a shape is asked at that size."""
    tokens_BT = _tokens(batch_size, length, device)
    variants = {form: convert(model, form=form, tokens_BT=tokens_BT) for form in FORMS}
    how = {"repeats": asked.repeats, "warm_up": asked.warm_up, "batch_sizes": [batch_size], "length": length}
    timed = wall_clock(variants, baseline=BASELINE, counted={BASELINE: counted}, **how)
    made = []
    for row in timed.to_dict("records"):
        level = LEVEL.format(batch=batch_size, form=row["form"], reason=row["reason"])
        if row["reason"]:
            made.append(_row("unavailable", level=level, value=1, n=0))
            continue
        values = row["seconds"], row["low"], row["high"], row["linear weights, bytes"]
        made += [
            _row(name, level=level, value=value, n=int(row["n"]))
            for name, value in zip(METRICS, values, strict=True)
        ]
    return made


def _row(metric: str, *, value: float, level: str = "", n: int = 1) -> Mapping[str, Any]:
    return {"metric": metric, "level": level, "value": float(value), "n": n}


def _tokens(batch_size: int, length: int, device: torch.device) -> torch.Tensor:
    return torch.zeros(batch_size, length, dtype=torch.long, device=device)


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    """The tidy rows of one run as a row for each form and batch size."""
    whole = rows[rows["level"] == ""].set_index("metric")["value"]
    parts = rows[rows["level"] != ""]
    levels = list(dict.fromkeys(parts["level"]))
    wide = parts.pivot(index="level", columns="metric", values="value").reindex(levels)
    wide = wide.reindex(columns=list(METRICS)).rename(columns=METRICS).rename_axis(columns=None)
    batch, form, reason = zip(*(level.split("|", 2) for level in levels), strict=True)
    table = wide.assign(form=form, batch=[int(size) for size in batch], reason=reason)
    table["n"] = parts.groupby("level")["n"].first().reindex(levels)
    table = table.assign(
        label=rows["label"].iloc[0], device=rows["device"].iloc[0], length=int(whole["length"])
    )
    table = table.assign(macs=int(whole["macs"]), nonzero_macs=int(whole["nonzero_macs"]))
    claim = table["macs"] / table["nonzero_macs"].clip(lower=1)
    table["times_fewer"] = claim.where(table["macs"] > 0)
    base = table[table["form"] == BASELINE].set_index("batch")["seconds"]
    table["times_faster"] = table["batch"].map(base) / table["seconds"]
    return table.reset_index(drop=True)
