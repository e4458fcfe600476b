"""Tables: from tidy rows to one row a run, and from runs to the table that a study reports.

`final_table` picks each run's last value of every metric. `result_table` has one row a
model label with its seeds, mean and interval, costs, learning rate and rank, and below
them the reference predictors. It holds numbers; the module `readable` turns them into
text. Times and memory depend on the machine, so a table that has them refuses to mix
devices. `caption` says where the numbers come from.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmbench.analysis.checks import refuse_empty, refuse_mixed, refuse_mixed_devices, require
from lmbench.analysis.formats import COSTS, HIGH, LOW, LR, METRICS
from lmbench.analysis.references import References, reference_values
from lmbench.errors import unknown
from lmbench.records import ROW_COLUMNS

HIGHER_IS_BETTER = ("accuracy",)
REPORTED_COSTS = (
    "parameters",
    "train_flops",
    "published_flops",
    "weights_bytes",
    "train_seconds",
    "tokens_per_second",
)


def final_table(frame: pd.DataFrame, *, split: str = "test") -> pd.DataFrame:
    """Pivot tidy rows into one row per run: its metrics on `split`, its costs, its config.

    A run counts with the weights that it reports. On validation those are the ones of lowest NLL
    where the run asked for the best weights (`weights`); otherwise the last value counts. A run that
    diverged keeps its row, with `diverged` the step and no metrics. (Tasks with several levels give
    one row per run, task and level.)

    Raises:
        ValueError: no rows, or none on that split.
    """
    refuse_empty(frame, "the table of rows")
    scores = frame[frame["split"] == split]
    if scores.empty:
        raise ValueError(unknown("split", split, set(frame["split"]) - {""}))
    if split == "valid" and "weights" in frame:
        scores = scores[~_is_after_best(scores)]
    lost = frame[frame["metric"] == "diverged"].groupby("run")["value"].max().rename("diverged")
    scores = scores[~scores["run"].isin(lost.index)]
    wide = _last_values(scores, ["run", "task", "level"]).reset_index(["task", "level"])
    costs = _last_values(frame[frame["split"] == ""], ["run"])
    fixed = [c for c in frame.columns if c not in ROW_COLUMNS and c != "run"]
    config = frame.drop_duplicates("run").set_index("run")[fixed]
    # All runs stay, in their order: one without scores is seen to be missing, not silently left out.
    return config.join(lost).join(wide).join(costs).reset_index()


def _is_after_best(scores: pd.DataFrame) -> pd.Series:
    """Which rows of runs that report their best weights come after the step of the lowest NLL."""
    nll = scores[(scores["metric"] == "nll") & (scores["weights"] == "best")]
    best = nll.sort_values(["value", "step"], kind="stable").drop_duplicates("run").set_index("run")["step"]
    return scores["step"] > scores["run"].map(best).fillna(np.inf)


def _last_values(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    last = rows.sort_values("step", kind="stable").drop_duplicates([*keys, "metric"], keep="last")
    return last.pivot(index=keys, columns="metric", values="value").rename_axis(columns=None)


def result_table(
    per_run: pd.DataFrame,
    *,
    references: References = None,
    metric: str = "bits_per_byte",
    split: str = "test",
    costs: Sequence[str] = REPORTED_COSTS,
) -> pd.DataFrame:
    """One row per model label, best first, then one per reference predictor, best first.

    Args:
        per_run: from `final_table`.
        references: predictor names to values, or a table with columns predictor and `metric`.
        split: what `per_run` was made from; only named in the title of the metric's column.
        costs: of `formats.COSTS`; those that `per_run` lacks are left out.

    Returns:
        Columns model, n, the metric's mean, 95% low, 95% high (t interval over seeds), the costs
        that `per_run` has, learning rate, rank. n and rank are missing for references.

    Raises:
        ValueError: no runs, no such metric, several devices, or a label that mixes different
            model sizes or learning rates.
    """
    from lmbench.analysis.stats import summarise

    require(per_run, metric)
    costs = [name for name in costs if name in per_run and per_run[name].notna().any()]
    refuse_mixed_devices(per_run, costs)
    for column in ("parameters", "optimizer.lr"):
        refuse_mixed(per_run, column)
    title = f"{split} {METRICS.get(metric, metric)}"
    rows = summarise(per_run, by="label", value=metric).rename(
        columns={"label": "model", "mean": title, "low": LOW, "high": HIGH}
    )[["model", "n", title, LOW, HIGH]]
    groups = per_run.groupby("label")
    for name in costs:
        rows[COSTS[name]] = rows["model"].map(groups[name].mean())
    if "optimizer.lr" in per_run:
        rows[LR] = rows["model"].map(groups["optimizer.lr"].first())
    ascending = metric not in HIGHER_IS_BETTER
    rows = rows.sort_values([title, "model"], ascending=[ascending, True])
    rows["rank"] = rows[title].rank(method="min", ascending=ascending)
    known = sorted(reference_values(references, metric=metric).items(), key=lambda item: item[1])
    below = pd.DataFrame(known, columns=["model", title]) if known else None
    out = rows if below is None else pd.concat([rows, below])
    return out.astype({"n": "Int64", "rank": "Int64"}).reset_index(drop=True)


# ------------------------------------------------------------------ captions


def caption(runs: pd.DataFrame, *, by: list[str], rates: int | pd.DataFrame | None = None) -> str:
    """What stands below a result table: where its numbers come from, and how its rates were chosen.

    Args:
        runs: the per-run table behind the results, from `final_table`.
        by: columns whose values make one row of the results, such as ["label"].
        rates: how many learning rates each model could choose from, or the table of a `Tuning`, whose
            grids differ where some were extended; None or 1 says nothing.
    """
    text = provenance(runs, by=by)
    if isinstance(rates, pd.DataFrame):
        told, most = _range(rates.groupby("label", sort=False).size())
    else:
        told, most = f"{rates}", rates or 1
    if most < 2:
        return text
    return f"{text[:-1]}; learning rate chosen among {told} per model on validation."


def edge_note(tuning: pd.DataFrame) -> str:
    """Which models took the highest or lowest rate that was tried for them; "" where none did.

    Args:
        tuning: the table of a `Tuning`.
    """
    at = tuning[tuning["chosen"] & tuning["on_edge"]]
    if at.empty:
        return ""
    named = ", ".join(f"{row.label} ({row.lr:g})" for row in at.itertuples())
    return (
        f"The search of learning rates ended at its edge for {named}: beyond it a rate may be better, and so "
        "may they be."
    )


def provenance(table: pd.DataFrame, *, by: list[str]) -> str:
    """Where numbers come from: seeds, interval, corpus, protocol, scored bytes, device and its sharing."""
    counts = table.groupby(by, observed=True).size()
    n, _ = _range(counts)
    parts = [f"n = {n} seed{'s' * (n != '1')}" + (", 95% t intervals" if counts.max() > 1 else "")]
    parts += [_listed(table, "task.corpus", "{}"), _listed(table, "task.tokenizer.kind", "{} tokens")]
    if "task.substitute" in table and (table["task.substitute"] == "valid").any():
        parts.append("train = first 90% of valid and valid = its last 10%")
    parts += [_listed(table, "task.train_tokens", "first {} training tokens")]
    parts += [_listed(table, "protocol.kind", "protocol {}")]
    parts += [_listed(table, "protocol.eval_bytes", "first {} bytes of each split scored")]
    parts += [_listed(table, "device", "{}")]
    # Seconds of runs that shared a device are not those of a run that has it alone.
    jobs, most = _range(table["jobs"].fillna(1)) if "jobs" in table else ("1", 1)
    parts += [f"{jobs} runs at a time" if most > 1 else ""]
    return "; ".join(part for part in parts if part) + "."


def _range(values: pd.Series) -> tuple[str, int]:
    """`3`, or `1 to 3`, and the highest."""
    low, high = int(values.min()), int(values.max())
    return (f"{low}" if low == high else f"{low} to {high}"), high


def _listed(table: pd.DataFrame, column: str, words: str) -> str:
    values = list(dict.fromkeys(table[column].dropna())) if column in table else []
    shown = [
        f"{v:,.0f}" if isinstance(v, int | float | np.number) else str(v).rstrip("/").rpartition("/")[2]
        for v in values
    ]
    return words.format(" and ".join(shown)) if shown else ""
