"""How long an optimizer step takes here: what an equal-time comparison is planned with.

The measured speed is a record of the store, so that a plan gives the same steps when it is
made again, and a committed comparison can be redrawn on another machine.
"""

import statistics
import time

import torch

from lmbench.probes.device import Speed
from lmbench.records import Records
from lmbench.run import Run
from lmbench.training.grouping import is_compiled
from lmbench.training.measured import measured_rows
from lmbench.training.program import Program

WARM_UP_STEPS = 5  # a graph is captured at the fourth
TIMED_STEPS = 15


def seconds_per_step(run: Run, *, store: Records, device: torch.device) -> float:
    """Median seconds of one optimizer step of a run, measured once per store.

    Raises:
        ValueError: a read-only store that lacks it, or a speed measured on another device.
    """
    asked = Speed(run=run.replace(steps=1, eval_every=None))

    def measure(device: torch.device) -> list[dict[str, object]]:
        timed = run.replace(steps=WARM_UP_STEPS + TIMED_STEPS, schedule="constant", eval_every=None)
        value = _time_steps(timed, device)
        return [{"task": run.task.kind, "metric": "seconds_per_step", "value": value, "n": TIMED_STEPS}]

    how = {"what": "speed", "label": run.model.name, "store": store, "device": str(device)}
    return float(measured_rows(asked, **how, measure=measure)["value"].iloc[0])


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
