"""How long an optimizer step takes here: what an equal-time comparison is planned with.

The measured speed is a record of the store, so that a plan gives the same steps when it is
made again, and a committed comparison can be redrawn on another machine.
"""

import statistics
import time

import pandas as pd
import torch

from lmbench.records import ROW_COLUMNS, Records, no_items
from lmbench.run import Run, Speed
from lmbench.store import Store
from lmbench.training.grouping import is_compiled
from lmbench.training.program import Program
from lmbench.training.record import describe, device_name, environment

WARM_UP_STEPS = 5  # a graph is captured at the fourth
TIMED_STEPS = 15


def seconds_per_step(run: Run, *, store: Records, device: torch.device) -> float:
    """Median seconds of one optimizer step of a run, measured once per store.

    Raises:
        ValueError: a read-only store that lacks it, or a speed measured on another device.
    """
    asked = Speed(run=run.replace(steps=1, eval_every=None))
    if not store.has(asked.digest):
        if not isinstance(store, Store):
            raise ValueError(f"the reference results {store.root} lack the speed of {run.model.name}")
        store.ensure(asked.digest, lambda: _measure(asked, store, device))
    rows = store.frame([asked.digest])
    measured_on = rows["device"].iloc[0]
    if isinstance(store, Store) and measured_on != device_name(device):
        raise ValueError(
            f"the speed of {run.model.name} in {store.root} was measured on {measured_on!r}, and this is "
            f"{device_name(device)!r}; delete {store.folder(asked.digest)} to measure it here"
        )
    return float(rows["value"].iloc[0])


def _measure(asked: Speed, store: Store, device: torch.device) -> None:
    value = _time_steps(asked.run.replace(steps=WARM_UP_STEPS + TIMED_STEPS, schedule="constant"), device)
    row = dict.fromkeys(ROW_COLUMNS, 0) | {"evaluation": "", "split": "", "task": asked.run.task.kind}
    row |= {"level": "", "metric": "seconds_per_step", "value": value, "n": TIMED_STEPS}
    with store.claim(asked.digest) as folder:
        if folder is None:
            return  # another process measures the same
        store.finish(
            asked.digest,
            run=describe(asked, label=asked.run.model.name),
            env=environment(device),
            rows=pd.DataFrame([row]),
            items=no_items(),
        )


def _time_steps(run: Run, device: torch.device) -> float:
    """Train a few steps for their time alone."""
    program, seconds = Program([run], device=device, compiled=is_compiled(run, 1, device=device)), []
    for _ in range(run.steps):
        start = time.perf_counter()
        program.advance(1)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM_UP_STEPS:])
