"""Loss against bytes, seconds and FLOPs: which arms nothing beats, each arm in the colour of its family.

Bytes are those of the packed file, and the loss is that of the model reloaded from it; seconds are
those of the fastest form that computes this very model. A form that rounds weights or activations again
(int8, bfloat16) has another loss, which is not the file's, and is left out. A front is made of means
over seeds, and for each arm the table says in how many seeds it lies on the front of that seed alone.
Costs are multiplicative: their axes are logarithmic and their means geometric.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lmbench.analysis.checks import refuse_mixed_devices, require
from lmbench.analysis.compression_speed import EXACT
from lmbench.analysis.distillation_arms import FAMILIES, family_of
from lmbench.analysis.intervals import finite
from lmbench.analysis.pareto import TOLERANCE, pareto_front
from lmbench.analysis.stats import summarise
from lmbench.analysis.words import in_digits, seeds
from lmbench.errors import unknown

LOSS, UNIT = "packed_bits_per_byte", "init_seed"
COSTS = {
    "bytes": "packed file (bytes)",
    "seconds": "seconds of a pass",
    "train_flops": "training FLOPs",
    "all_flops": "training FLOPs + teacher's passes",
    "train_seconds": "training time (s)",
}
LOSSES = {
    "packed_bits_per_byte": "bits per byte (reloaded)",
    "bits_per_byte": "bits per byte",
    "nll": "NLL (nats per token)",
}


def front_points(
    artifacts: pd.DataFrame,
    *,
    runs: pd.DataFrame | None = None,
    latency: pd.DataFrame | None = None,
    batch: int | None = None,
    teacher_free: Sequence[str] = (),
) -> pd.DataFrame:
    """One row for each arm and seed that has a packed file: its family, its loss and its costs.

    Args:
        artifacts: label, init_seed, bytes, packed_bits_per_byte.
        runs: label, init_seed and training costs of `COSTS`, where an arm was trained; one row each. Where
            all_flops is missing there was no teacher, and train_flops are all, with those of the optimizer
            where they are known: all_flops hold these too.
        latency: label, form, batch, seconds; of these the forms that are `EXACT`. An arm without times has
            none.
        batch: of the times; None takes the smallest that there is.

    Raises:
        ValueError: a column that is missing, no rows, times of several devices, or no such batch.
    """
    for column in ("label", UNIT, "bytes", LOSS):
        require(artifacts, column)
    points = artifacts[["label", UNIT, "bytes", LOSS]].copy()
    points.insert(0, "family", [family_of(label) for label in points["label"]])
    if runs is not None:
        names = ("train_flops", "optimizer_flops", "all_flops", "train_seconds", "device")
        known = [name for name in names if name in runs]
        refuse_mixed_devices(runs, known)
        costs = runs[["label", UNIT, *known]].drop_duplicates(["label", UNIT])
        if {"train_flops", "all_flops"} <= set(known):
            own = costs["train_flops"] + costs.get("optimizer_flops", 0.0)
            costs = costs.assign(all_flops=costs["all_flops"].fillna(own))
        points = points.merge(
            costs.drop(columns="optimizer_flops", errors="ignore"), on=["label", UNIT], how="left"
        )
    if latency is not None:
        exact = latency[latency["form"].isin(EXACT)]
        points["seconds"] = points["label"].map(fastest(exact, batch=batch)["seconds"])
    return points


def fastest(latency: pd.DataFrame, *, batch: int | None = None) -> pd.DataFrame:
    """The form in which each arm is fastest: form and seconds (geometric mean of its timings), by label.

    Raises:
        ValueError: a missing column, times of several devices, or a batch that was not timed.
    """
    for column in ("label", "form", "batch", "seconds"):
        require(latency, column)
    refuse_mixed_devices(latency.assign(train_seconds=latency["seconds"]), ["train_seconds"])
    batch = int(latency["batch"].min()) if batch is None else batch
    if batch not in set(latency["batch"]):
        raise ValueError(unknown("batch", str(batch), map(str, sorted(set(latency["batch"])))))
    timed = latency[latency["batch"] == batch]
    means = timed.groupby(["label", "form"], sort=False)["seconds"].agg(_geometric).reset_index()
    return means.sort_values("seconds", kind="stable").drop_duplicates("label").set_index("label")


def front_table(
    points: pd.DataFrame,
    *,
    costs: Sequence[str] = ("bytes", "seconds"),
    loss: str = LOSS,
    tolerance: float = TOLERANCE,
) -> pd.DataFrame:
    """One row an arm, by family: the loss with its interval and n, its costs, and which fronts it is on.

    Columns: label, family, n, mean, low, high, the costs, and for each cost `on the front of COST` with
    `seeds on it`; with several costs also `on all together`: no other arm is at least as good in loss and
    all costs and better in one. Arms that lack a cost are on no front of it.

    Raises:
        ValueError: no rows, a missing column, a loss that is not finite.
    """
    for column in ("label", UNIT, loss, *costs):
        require(points, column)
    table = summarise(points, by="label", value=loss).drop(columns="sd")
    table.insert(1, "family", [family_of(label) for label in table["label"]])
    for cost in costs:
        table[cost] = table["label"].map(points.groupby("label")[cost].agg(_geometric))
    for cost in costs:
        known = table[table[cost].notna()]
        front = pareto_front(known, cost=cost, loss="mean", tolerance=tolerance)["label"]
        table[f"on the front of {cost}"] = table["label"].isin(set(front))
        table[f"seeds on it ({cost})"] = _seeds_on_front(points, table, cost, loss, tolerance)
    if len(costs) > 1:
        table["on all together"] = _undominated(table[["mean", *costs]].to_numpy(float), tolerance)
    order = table["family"].map(FAMILIES.index)
    return table.iloc[order.argsort(kind="stable")].reset_index(drop=True)


def _seeds_on_front(
    points: pd.DataFrame, table: pd.DataFrame, cost: str, loss: str, tolerance: float
) -> list[int]:
    counts = dict.fromkeys(table["label"], 0)
    for _, rows in points[points[cost].notna()].groupby(UNIT):
        for label in pareto_front(rows, cost=cost, loss=loss, tolerance=tolerance)["label"]:
            counts[label] += 1
    return list(counts.values())


def _undominated(values: np.ndarray, tolerance: float) -> np.ndarray:
    """Rows (loss, costs...) that no row beats; the first column exactly, costs beyond the tolerance."""
    slack = np.array([1.0] + [1 + tolerance] * (values.shape[1] - 1))
    no_worse = (values[:, None] <= values * slack).all(-1)
    better = (values[:, None] * slack < values).any(-1)
    # A cost that is missing compares false: such a row beats none, and is not on the front either.
    return ~(no_worse & better).any(axis=0) & np.isfinite(values).all(axis=1)


def front_areas(
    points: pd.DataFrame, *, groups: Mapping[str, Sequence[str]], cost: str = "bytes", loss: str = LOSS
) -> pd.DataFrame:
    """How much of the plane each group of arms leaves behind it, for each seed; more is better.

    The area lies between a group's front and the corner of the worst loss and the highest cost of *all*
    points given, in powers of ten of the cost times the unit of the loss. Columns: label (of the group),
    init_seed, area; ready for `stats.paired_differences`.

    Raises:
        ValueError: a group without points, or a missing column.
    """
    for column in ("label", UNIT, loss, cost):
        require(points, column)
    members = {group: points[points["label"].isin(labels)] for group, labels in groups.items()}
    empty = [group for group, rows in members.items() if rows.empty]
    if empty:
        raise ValueError(f"group {empty[0]!r} has no points: {', '.join(groups[empty[0]])} were not run")
    worst, dearest = points[loss].max(), np.log10(points[cost].max())
    rows = []
    for group, part in members.items():
        for seed, own in part.groupby(UNIT):
            front = pareto_front(own, cost=cost, loss=loss, tolerance=0.0)
            edges = [*np.log10(front[cost]), dearest]
            rows.append((group, seed, float(np.diff(edges) @ (worst - front[loss].to_numpy(float)))))
    return pd.DataFrame(rows, columns=["label", UNIT, "area"])


def front_sentences(table: pd.DataFrame, *, unit: str = LOSSES[LOSS]) -> list[str]:
    """For each cost, who is on the front, from cheapest to dearest, with loss, interval and seeds."""
    said = []
    for column in table.columns[table.columns.str.startswith("on the front of ")]:
        cost = column.removeprefix("on the front of ")
        parts = []
        for row in table[table[column]].sort_values(cost).to_dict("records"):
            value, low, high = in_digits(row["mean"], row["low"], row["high"])
            spread = f"{low} to {high}, " if low else ""
            held = f"in {row[f'seeds on it ({cost})']} of {seeds(row['n'])}"
            parts.append(f"{row['label']} {value} ({spread}{held})")
        name = COSTS.get(cost, cost).partition(" (")[0]
        said.append(f"Front of loss and {name}, cheapest first, {unit}: {'; '.join(parts)}.")
    return said


def _geometric(values: pd.Series) -> float:
    """NaN where nothing is known."""
    known = values.dropna()
    if known.empty:
        return float("nan")
    if not (finite(known) > 0).all():
        raise ValueError(f"{values.name} = {known.min():g} is no cost; costs are above 0")
    return float(np.exp(np.log(known.astype(float)).mean()))
