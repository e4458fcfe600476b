"""What the times to a target say, in sentences generated from the numbers.

A comparison is decided when the interval of the ratio, or its bound where seeds never reached
the target, lies wholly on one side of 1, Holm's p is below 1 - confidence, and nothing makes
the difference meaningless (a shared device, validations too far apart). Otherwise the
sentence says that it is not decided, and why.
"""

import math
from typing import Any

import pandas as pd

from lmbench.analysis.formats import format_power, format_si
from lmbench.analysis.time_to_quality import COSTS, Spent, spent
from lmbench.analysis.words import p_value, percent, seeds

UNITS = {"seconds": " s"} | {cost: f" {name}" for cost, name in COSTS.items() if cost != "seconds"}


def crossing_reading(
    crossed: pd.DataFrame,
    ratios: pd.DataFrame,
    *,
    target: float,
    unit: str = "nats",
    confidence: float = 0.95,
) -> str:
    """The paragraphs under the table: each recipe, each comparison, and how the numbers were taken.

    Args:
        crossed: from `time_to_quality.crossings`.
        ratios: from `time_to_quality.crossing_ratios`; may be empty.
        unit: of the target.
    """
    groups = list(crossed.groupby("label", sort=False))
    each = [_recipe(label, runs, f"{target:g} {unit}", confidence) for label, runs in groups]
    paragraphs = [" ".join(each)]
    if len(ratios):
        comparisons = ratios.to_dict("records")
        said = [_comparison(row, crossed, confidence) for row in comparisons]
        said.append(f"Holm's correction covers all {len(comparisons)} comparisons.")
        if any(is_decided(row, confidence=confidence) for row in comparisons):
            said.append("What would have refuted each that is decided: the same on the other side of 1.")
        paragraphs.append(" ".join(said))
    return "\n\n".join([*paragraphs, f"{_resolution(groups)} {_circumstances(groups)}"])


def is_decided(row: dict[str, Any], *, confidence: float = 0.95) -> bool:
    """Whether a row of `crossing_ratios` says which recipe needs less."""
    # NaN compares false, so what is not known decides nothing.
    aside = row["high"] < 1 or row["low"] > 1 or (row["known"] == "point" and row["ratio"] != 1)
    return bool(not row["objection"] and aside and row["p_holm"] < round(1 - confidence, 12))


def _recipe(label: str, runs: pd.DataFrame, target: str, confidence: float) -> str:
    costs = {cost: spent(runs, cost, confidence=confidence) for cost in COSTS}
    start = f"{label} reached {target} in {runs['reached'].sum()} of {len(runs)} runs"
    if not runs["reached"].all():
        bounds = ", ".join(amount(known.low, cost) for cost, known in costs.items())
        said = f"{start}; with the missing ones counted at all that they spent, the mean lies above {bounds}."
        missed = runs[~runs["reached"] & runs["best"].notna()]
        if len(missed):
            when, whole = (amount(missed[name].mean(), "seconds") for name in ("best_seconds", "seconds"))
            said += (
                f" Their lowest loss, {missed['best'].mean():.4f} on average, came after {when} of {whole}."
            )
        return said
    said = ", ".join(_amount(known, cost) for cost, known in costs.items())
    kind = (
        f"geometric means, {percent(confidence)} intervals" if len(runs) > 1 else "one seed has no interval"
    )
    if len(runs) > 1 and runs["step"].nunique() == 1:
        kind += "; all seeds at the same validation"
    return f"{start}: after {said} ({kind})."


def _amount(known: Spent, cost: str) -> str:
    """`12.3 s [11.0, 13.9]`."""
    if math.isnan(known.low):  # one seed, or all alike
        return amount(known.mean, cost)
    low, high = (amount(end, cost).removesuffix(UNITS[cost]) for end in (known.low, known.high))
    return f"{amount(known.mean, cost)} [{low}, {high}]"


def amount(value: float, cost: str) -> str:
    """One cost with its unit: `12.3 s`, `1.23e15 FLOPs`, `9.83 M targets`."""
    seconds = "{:#.3g}".format if value < 99.95 else "{:,.0f}".format
    return {"seconds": seconds, "flops": format_power, "tokens": format_si}[cost](value) + UNITS[cost]


def _comparison(row: dict[str, Any], crossed: pd.DataFrame, confidence: float) -> str:
    a, b, cost = row["a"], row["b"], row["cost"]
    numbers = _ratio_in_words(row, crossed, confidence)
    if not is_decided(row, confidence=confidence):
        return (
            f"Whether {a} or {b} needs fewer {cost} is not decided ({numbers}): {_reason(row, confidence)}."
        )
    ratio = f"{row['ratio']:.3g}"
    if row["known"] == "bound":
        ratio = f"at most {row['high']:.3g}" if row["high"] < 1 else f"at least {row['low']:.3g}"
    return f"{a} needs {ratio} times the {cost} of {b} ({numbers})."


def _ratio_in_words(row: dict[str, Any], crossed: pd.DataFrame, confidence: float) -> str:
    p = f"Holm's {p_value(row['p_holm'])}"
    tested = f", log-rank test with {p}" if not math.isnan(row["p_holm"]) else ""
    if row["known"] in ("bound", "nothing"):
        counts = crossed.groupby("label")["reached"].agg(["sum", "size"])
        each = [
            f"{counts['sum'][name]} of {counts['size'][name]} runs of {name}" for name in (row["a"], row["b"])
        ]
        return f"{' and '.join(each)} reached the target{tested}"
    if row["known"] == "interval" and not math.isnan(row["low"]):
        tested = f", {percent(confidence)} interval {row['low']:.3g} to {row['high']:.3g}, {p}"
    return f"ratio {row['ratio']:.3g}{tested}, {seeds(row['n'])}"


def _reason(row: dict[str, Any], confidence: float) -> str:
    if row["n"] < 2:
        return f"it takes at least 2 seeds, got {row['n']}"
    if row["known"] == "nothing":
        return "both have seeds that never got there"
    if row["known"] == "bound" and not (row["high"] < 1 or row["low"] > 1):
        return "what the others spent leaves either possible"
    if row["objection"]:
        return row["objection"]
    if row["low"] <= 1 <= row["high"]:
        return "the interval holds 1"
    return f"the adjusted p is not below {round(1 - confidence, 12):g}"


def _resolution(groups: list[tuple[str, pd.DataFrame]]) -> str:
    """How far before its crossing a run was last seen above the target."""
    parts = []
    for label, runs in groups:
        known = runs[runs["reached"]]
        if len(known):
            parts.append(f"{100 * (1 - known['before_step'] / known['step']).max():.0f}% earlier for {label}")
    found = f", and the one before it lies up to {', '.join(parts)}" if parts else ""
    return f"A time is that of the first validation at or below the target{found}."


def _circumstances(groups: list[tuple[str, pd.DataFrame]]) -> str:
    """What seconds and FLOPs are made of."""
    devices = sorted({device for _, runs in groups for device in runs.get("device", pd.Series()).dropna()})
    where = f" on {' and '.join(devices)}" if devices else ""
    shares = ", ".join(f"{100 * runs['optimizer_share'].mean():.1f}% for {label}" for label, runs in groups)
    most = max(runs["jobs"].fillna(1).max() if "jobs" in runs else 1 for _, runs in groups)
    shared = f" Up to {most:.0f} runs shared the device, and its seconds." if most > 1 else ""
    return (
        f"Seconds are those of training{where}, kernels compiled on the way included, validations and the "
        f"start of the process left out.{shared} FLOPs count the optimizer's matrix and element-wise "
        f"operations too ({shares})."
    )
