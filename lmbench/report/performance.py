"""The performance results of a project as one table, each beside the target that was set for it.

`results/reference/performance/` holds one JSON file per benchmark and device, as the scripts
of `benchmarks/` write them: `ours` and `baseline` are medians over repeats, a ratio compares
the two within one repeat, and above 1 it says that lmbench is better.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lmbench.home import results

Result = Mapping[str, Any]
NUMBERS = ("ours", "baseline", "ratio", "ratio_min", "ratio_max")
WORDS = ("name", "device", "unit")
NOT_ASKED = "not asked here"
CAPTION = (
    "Speed of lmbench beside the plain loop that it replaces: medians over repeats; the ratio, which is "
    "above 1 where lmbench is better, is the median of the ratios within a repeat, with their range. "
    "≥ marks a baseline that missed its goal and counts only as far as it came."
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a benchmark is to reach."""

    title: str
    """The benchmark in words."""
    says: str = ""
    """The target in words; empty where there is none."""
    met: Callable[[Result], bool] = lambda result: True
    where: str = ""
    """Part of the name of the device that the target is set for; empty is any."""


def _at_most(key: str, limit: float) -> Callable[[Result], bool]:
    return lambda result: _largest(result, key) <= limit


def _largest(result: Result, key: str) -> float:
    """The largest size of a further key, a number or a list of them; infinite where it is missing."""
    value = result.get(key)
    values = value if isinstance(value, list) else [value]
    return max((abs(v) if isinstance(v, int | float) else math.inf for v in values), default=math.inf)


TARGETS = {
    "stacked_runs": Target(
        title="training 64 runs of the study's transformer, all together",
        says="at least 34 Mtok/s",
        met=lambda result: result["ours"] >= 34,
        where="H200",
    ),
    "single_run": Target(
        title="training one run of the study's transformer",
        says="at least 12 Mtok/s",
        met=lambda result: result["ours"] >= 12,
        where="H200",
    ),
    "time_to_quality_gpu": Target(
        title="process start to 1.4697 nats on Tiny Shakespeare",
        says="at most 12 s, training after the first step at most 3 s",
        met=lambda result: result["ours"] <= 12 and _at_most("ours_seconds", 3)(result),
        where="H200",
    ),
    "best_within_budget": Target(
        title="best loss within the FLOPs of nanoGPT's recipe",
        says="at most 1.43 nats",
        met=lambda result: result["ours"] <= 1.43,
    ),
    "cpu_training": Target(
        title="training nanoGPT's CPU configuration",
        says="at least 1.6 times, loss within 0.01 nats",
        met=lambda result: result["ratio"] >= 1.6 and _at_most("nll_difference", 0.01)(result),
    ),
    "cpu_time_to_quality": Target(
        title="CPU training to 1.88 nats on Tiny Shakespeare",
        says="at most 1/4 of the time",
        met=lambda result: result["ratio"] >= 4,
    ),
    "evaluation": Target(
        title="scoring a whole split by sliding window",
        says="at least 10 times, equal to 1e-5",
        met=lambda result: result["ratio"] >= 10 and _at_most("difference_to_naive", 1e-5)(result),
    ),
    "generation": Target(
        title="generating examples of chain level 1",
        says="every level of every task at least 100 thousand/s",
        met=lambda result: result.get("slowest", 0) >= 100,
    ),
    "reading_runs": Target(
        title="reading the rows of 10,000 runs", says="at most 2 s", met=lambda result: result["ours"] <= 2
    ),
    "two_gpus": Target(
        title="training 86M parameters on two GPUs instead of one",
        says="at least 1.8 times",
        met=lambda result: result["ratio"] >= 1.8,
        where="H200",
    ),
    "notebook_start": Target(
        title="starting a smoke notebook", says="at most 4 s", met=lambda result: result["ours"] <= 4
    ),
    "selective_scan": Target(
        title="both passes of the selective scan",
        says="gradients equal to 1e-4",
        met=_at_most("gradients_apart", 1e-4),
    ),
    "stacked_runs_dropout": Target(title="training 64 runs of the study's transformer, dropout 0.1"),
    "single_run_dropout": Target(title="training one run of the study's transformer, dropout 0.1"),
}


def performance_folder() -> Path | None:
    """Where a project keeps its performance results; None outside a project."""
    try:
        return results() / "reference" / "performance"
    except ValueError:
        return None  # a report on folders from elsewhere needs no project


def performance_table(folder: Path | None) -> pd.DataFrame | None:
    """One row per result, in the order of `TARGETS`, as text; None where there are none.

    Raises:
        ValueError: a file that holds no performance result.
    """
    found = [_read(path) for path in sorted(folder.glob("*.json"))] if folder is not None else []
    if not found:
        return None
    order = list(TARGETS)
    found.sort(key=lambda result: order.index(result["name"]) if result["name"] in TARGETS else len(order))
    return pd.DataFrame([_row(result) for result in found])


def _row(result: Result) -> dict[str, str]:
    target = TARGETS.get(result["name"], Target(title=result["name"].replace("_", " ")))
    low, high = (_figures(result[key]) for key in ("ratio_min", "ratio_max"))
    # A time to a target that the baseline missed was longer; a best loss has no target to miss.
    bound = "≥ " if result["unit"] == "s" and False in result.get("baseline_reached", []) else ""
    verdict = ("no", "yes")[target.met(result)] if target.says else ""
    return {
        "what": target.title,
        "lmbench": _figures(result["ours"]),
        "baseline": bound + _figures(result["baseline"]),
        "unit": result["unit"],
        "ratio [range]": f"{bound}{_figures(result['ratio'])} [{low}, {high}]",
        "repeats": str(result["repeats"]),
        "target": target.says,
        "met": NOT_ASKED if target.says and target.where not in result["device"] else verdict,
        "device": result["device"],
    }


def _figures(value: float) -> str:
    """Four figures, without a power of ten: `26.50`, `0.8123`, `12,340`."""
    if value == 0:
        return "0"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def _read(path: Path) -> Result:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a performance result: it is no JSON ({error})") from None
    if not isinstance(result, dict):
        raise ValueError(f"{path} is not a performance result: it holds no JSON object")
    for key in (*WORDS, *NUMBERS, "repeats"):
        if key not in result:
            raise ValueError(f"{path} is not a performance result: {key!r} is missing")
    wrong = [key for key in WORDS if not isinstance(result[key], str) or not result[key]]
    wrong += [key for key in NUMBERS if not _is_positive(result[key])]
    wrong += [] if isinstance(result["repeats"], int) and result["repeats"] >= 1 else ["repeats"]
    if wrong:
        raise ValueError(f"{path} is not a performance result: {wrong[0]} = {result[wrong[0]]!r}")
    if not result["ratio_min"] <= result["ratio"] <= result["ratio_max"]:
        raise ValueError(
            f"{path} is not a performance result: ratio = {result['ratio']} lies outside of "
            f"[{result['ratio_min']}, {result['ratio_max']}]"
        )
    return result


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0
