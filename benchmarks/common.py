"""What all benchmarks share: the command line, paired timing, and the JSON line of a result.

A repeat times both sides one after the other and gives one ratio; the result is the median
of these ratios with their range. The order alternates from repeat to repeat, so that a
machine that slows down does not favour one side.
"""

import argparse
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from lmbench.home import commit
from lmbench.records import write_json
from lmbench.training.environment import device_name
from lmbench.training.execute import resolve_device


def parser(description: str, *, repeats: int) -> argparse.ArgumentParser:
    """The options that every benchmark has; `description` is its docstring."""
    made = argparse.ArgumentParser(description=description.partition("\n")[0])
    made.add_argument("--repeats", type=int, default=repeats, help="pairs of timings (default: %(default)s)")
    made.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    made.add_argument("--out", type=Path, help="folder for NAME-DEVICE.json")
    made.add_argument("--device", help="such as cpu or cuda (default: cuda where there is one)")
    made.add_argument("--threads", type=int, help="processor threads (default: all cores)")
    return made


def settle(options: argparse.Namespace) -> torch.device:
    """The device to measure on, with the number of threads set.

    Raises:
        ValueError: a device that this machine lacks, or fewer than one repeat or thread.
    """
    for name in ("repeats", "threads"):
        given = getattr(options, name)
        if given is not None and given < 1:
            raise ValueError(f"--{name} = {given} is not accepted; it must be at least 1")
    torch.set_num_threads(options.threads or os.cpu_count() or 1)
    return resolve_device(options.device)


# ------------------------------------------------------------------ timing


def seconds(work: Callable[[], Any], *, device: torch.device) -> float:
    """Wall seconds of one call, the device's queue empty before and after."""
    wait_for(device)
    start = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - start


def wait_for(device: torch.device) -> None:
    """Return when all that was sent to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def paired(
    ours: Callable[[], float], baseline: Callable[[], float], *, repeats: int
) -> tuple[list[float], list[float]]:
    """Call both sides `repeats` times, in turn and in alternating order; each call measures once."""
    measured: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats):
        for side in (0, 1) if repeat % 2 == 0 else (1, 0):
            measured[side].append((ours, baseline)[side]())
    return measured


# ------------------------------------------------------------------ results


def report(
    *,
    name: str,
    device: str,
    ours: Sequence[float],
    baseline: Sequence[float],
    unit: str,
    better: Literal["higher", "lower"],
    out: Path | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Print a result as one JSON line, keep it in `out` if given, and return it.

    Args:
        ours: one measurement per repeat.
        baseline: the measurements that they are paired with.
        better: whether larger or smaller measurements are better; a ratio above 1 always says
            that lmbench is better.
        more: further facts of this benchmark, as plain JSON values.

    Raises:
        ValueError: measurements that are not pairs of positive numbers.
    """
    if len(ours) != len(baseline) or not ours:
        raise ValueError(f"{name}: {len(ours)} measurements of ours and {len(baseline)} of the baseline")
    if min(*ours, *baseline) <= 0:
        raise ValueError(f"{name}: measurements must be above 0, got {min(*ours, *baseline)}")
    ratios = [a / b if better == "higher" else b / a for a, b in zip(ours, baseline, strict=True)]
    result = {
        "name": name,
        "device": device,
        "ours": statistics.median(ours),
        "baseline": statistics.median(baseline),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "unit": unit,
        "repeats": len(ours),
        "better": better,
        "ours_each": list(ours),
        "baseline_each": list(baseline),
    }
    result |= circumstances() | more
    print(json.dumps(result, allow_nan=False), flush=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / f"{name}-{slug(device)}.json", result)
    return result


def circumstances() -> dict[str, Any]:
    """What may change a speed: versions, threads, commit, and how busy the machine is."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "load_average": os.getloadavg()[0],
    }


def slug(device: str) -> str:
    """A device's name as part of a file name: `NVIDIA H200` is `nvidia-h200`."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def named(device: torch.device) -> str:
    """The name of a device as results carry it."""
    return device_name(device)
