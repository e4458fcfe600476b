"""What checkpointing saves and costs: bytes held for the backward pass, FLOPs made twice, seconds a step.

Bytes and seconds depend on the device, so both are records of the store and are measured once.
Seconds are timed with several seeds, which is what their interval is over; a record holds one.
"""

from collections.abc import Sequence

import pandas as pd
import torch

from lmbench.measure.activations import activations
from lmbench.measure.flops import ledger
from lmbench.probes.device import Activations
from lmbench.records import Records
from lmbench.run import Run
from lmbench.training.costs import readout_of
from lmbench.training.execute import resolve_device
from lmbench.training.measured import measured_rows
from lmbench.training.speed import seconds_per_step

MODES = ("none", "step", "stack", "block")


def checkpointing_costs(
    run: Run, *, seeds: Sequence[int], store: Records, device: str | None = None
) -> pd.DataFrame:
    """One row for each way of checkpointing and seed, measured once per store.

    Args:
        run: a training of an integrator; its steps do not matter, its batch size does.
        seeds: as many timings.
        device: a torch device, of which the numbers must be; None is the default one.

    Returns:
        Columns checkpointing, init_seed, seconds (of a step), saved, logits, peak, gradients, state (bytes,
        see `measure.activations`), recomputed (FLOPs made twice, as a share of the forward pass), device.

    Raises:
        ValueError: a read-only store that lacks a record, or one that was measured on another device.
    """
    where, table = resolve_device(device), []
    for mode in MODES:
        one = run.replace(model=run.model.replace(checkpointing=mode))
        bill = ledger(one.model, readout=readout_of(one))
        held, measured_on = _held(one, store=store, device=where)
        for seed in seeds:
            seconds = seconds_per_step(one.with_seed(seed), store=store, device=where)
            row = {"checkpointing": mode, "init_seed": seed, "seconds": seconds} | held
            table.append(row | {"recomputed": bill.recompute / bill.forward, "device": measured_on})
    return pd.DataFrame(table)


def _held(run: Run, *, store: Records, device: torch.device) -> tuple[dict[str, int], str]:
    """Bytes by name, and where they were counted."""
    dtype = "bfloat16" if run.dtype == "bfloat16" else "float32"
    asked = Activations(model=run.model, batch_size=run.batch_size, dtype=dtype)

    def measure(device: torch.device) -> list[dict[str, object]]:
        held = activations(asked.model, batch_size=asked.batch_size, device=device, dtype=asked.dtype)
        return [{"metric": f"{name}_bytes", "value": value, "n": 1} for name, value in held._asdict().items()]

    how = {"what": "memory of activations", "label": run.model.name, "store": store, "device": str(device)}
    rows = measured_rows(asked, **how, measure=measure)
    values = rows.set_index("metric")["value"]
    held = {name.removesuffix("_bytes"): int(value) for name, value in values.items()}
    return held, rows["device"].iloc[0]
