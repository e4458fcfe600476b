"""A learning rate tuned per model, and the fresh runs that are reported.

    tuning = tune(base, rates=[...], store=store)                  validation only, tuning seeds
    rows   = run_all(fresh(tuning, seeds=range(3)), store=store)   test, once, on seeds never tuned on

Every model gets the same rates and the same number of trials. If the best rate lies on
the edge of the grid, the grid of that model is extended, and the extension is reported.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lmbench.records import ROW_COLUMNS, Records
from lmbench.run import Run
from lmbench.training.execute import run_all
from lmbench.training.plan import distinct_labels

TUNING_SEED = 1000  # first of the seeds that rates are chosen on; results are reported on others


@dataclass(frozen=True)
class Tuning:
    """Outcome of a learning-rate search."""

    base: tuple[Run, ...]
    table: pd.DataFrame
    """One row per model and rate: label, lr, mean valid nll (inf where diverged), n_seeds, chosen,
    on_edge, extended (rates added to the common grid)."""
    labels: tuple[str, ...]
    """Of the models, in the order of `base`."""
    trials: pd.DataFrame
    """One row per tuning run: label, config as dotted columns, device, nll; empty where a rate is given."""

    @property
    def rates(self) -> dict[str, float]:
        """Chosen learning rate per model label."""
        best = self.table[self.table["chosen"]]
        return dict(zip(best["label"], best["lr"], strict=True))


def tune(
    base: Sequence[Run],
    *,
    rates: Sequence[float],
    store: Records,
    n_seeds: int = 1,
    extensions: int = 2,
    labels: Sequence[str] | None = None,
    **execution: Any,
) -> Tuning:
    """Choose a learning rate per model on validation, with `n_seeds` tuning seeds.

    Args:
        rates: the common grid, in increasing order and a constant ratio.
        extensions: most rates that may be added beyond an edge, per model.
        labels: names of the models, such as those of the arms of an experiment; None tells them by
            their fields.
        execution: arguments of `run_all` (device, jobs, progress).

    Raises:
        ValueError: an empty grid, or models that share a label.
    """
    labels = distinct_labels(base) if labels is None else list(labels)
    if not len(rates) or len(set(labels)) < len(labels):
        raise ValueError(
            f"tuning needs rates and distinct models, got rates {list(rates)} and models {labels}"
        )
    if len(rates) == 1:  # a rate that is given, as by the published study, is not searched for
        given = [{"label": label, "lr": rates[0], "nll": math.nan, "chosen": True} for label in labels]
        table = pd.DataFrame(given).assign(n_seeds=0, on_edge=False, extended=0)
        return Tuning(tuple(base), table, tuple(labels), pd.DataFrame())
    # Rounded as the runs hold them, so that a row of the table finds its place in its grid.
    rates, seeds = sorted(map(_typable, rates)), [TUNING_SEED + i for i in range(n_seeds)]
    grids = {label: list(rates) for label in labels}
    ratio = (rates[-1] / rates[0]) ** (1 / (len(rates) - 1))
    for _ in range(extensions + 1):
        trials = {
            (label, lr, seed): _trial(run, lr, seed)
            for label, run in zip(labels, base, strict=True)
            for lr in grids[label]
            for seed in seeds
        }
        scored = _trials_table(trials, run_all(list(trials.values()), store=store, **execution))
        table = _tuning_table(scored, rates)
        grown = False
        for row in table[table["on_edge"] & (table["extended"] < extensions)].itertuples():
            beyond = row.lr * ratio if row.lr == max(grids[row.label]) else row.lr / ratio
            grids[row.label].append(_typable(beyond))
            grown = True
        if not grown:
            break
    return Tuning(tuple(base), table, tuple(labels), scored)


def _trial(run: Run, lr: float, seed: int) -> Run:
    """A tuning run: its test split stays untouched, and nothing is tracked.

    Where the last weights are reported it is validated at its end alone, so that the rate is
    chosen by those weights and not by the best on the way.
    """
    on_the_way = {"eval_every": None} if run.weights == "final" else {}
    return _with_rate(run, lr).replace(test=False, track=None, **on_the_way).with_seed(seed)


def _with_rate(run: Run, lr: float) -> Run:
    """The run at a learning rate."""
    return run.replace(optimizer=run.optimizer.replace(lr=_typable(lr)))


def _typable(lr: float) -> float:
    """A learning rate rounded so that a grid by ratio gives digests that can be typed."""
    return float(f"{lr:.6g}")


def _trials_table(trials: dict[tuple[str, float, int], Run], rows: pd.DataFrame) -> pd.DataFrame:
    """One row per tuning run: its config, and its best validation nll (the last where it has no other), inf
    where it diverged."""
    lost = rows.loc[rows["metric"] == "diverged", "run"]
    scored = (rows["split"] == "valid") & (rows["metric"] == "nll") & ~rows["run"].isin(lost)
    best = rows[scored].groupby("run")["value"].min()
    config = (
        rows.drop(columns=[name for name in ROW_COLUMNS if name in rows])
        .drop_duplicates("run")
        .set_index("run")
    )
    records = [
        config.loc[run.digest].to_dict() | {"label": label, "nll": best.get(run.digest, math.inf)}
        for (label, _, _), run in trials.items()
    ]
    return pd.DataFrame(records)


def _tuning_table(trials: pd.DataFrame, common: Sequence[float]) -> pd.DataFrame:
    """One row per (model, rate): mean best validation nll, with the chosen rate marked."""
    table = trials.rename(columns={"optimizer.lr": "lr"}).groupby(["label", "lr"], sort=False, as_index=False)
    # One seed that is lost loses the rate: a mean of the survivors would reward instability.
    table = table.agg(
        nll=("nll", lambda nll: nll.mean() if np.isfinite(nll).all() else math.inf),
        n_seeds=("init_seed", "size"),
    )
    by_label = table.groupby("label")
    table["chosen"] = table.index.isin(by_label["nll"].idxmin())
    edge = (table["lr"] == by_label["lr"].transform("min")) | (table["lr"] == by_label["lr"].transform("max"))
    table["on_edge"] = table["chosen"] & edge
    table["extended"] = by_label["lr"].transform("size") - len(common)
    if not np.isfinite(table.loc[table["chosen"], "nll"]).all():
        lost = table.loc[table["chosen"] & ~np.isfinite(table["nll"]), "label"].tolist()
        raise ValueError(f"every learning rate diverged for {', '.join(lost)}; lower the rates")
    return table


def fresh(tuning: Tuning, *, seeds: Sequence[int]) -> list[Run]:
    """The runs to report: the chosen rates on seeds that nothing was tuned on.

    Raises:
        ValueError: a seed that was tuned on.
    """
    named = zip(tuning.labels, tuning.base, strict=True)
    return [run for label, base in named for run in at_rate(base, tuning.rates[label], seeds=seeds)]


def at_rate(run: Run, lr: float, *, seeds: Sequence[int]) -> list[Run]:
    """A run at a learning rate, once for each fresh seed.

    Raises:
        ValueError: a seed that rates are chosen on.
    """
    if any(seed >= TUNING_SEED for seed in seeds):
        raise ValueError(f"seeds from {TUNING_SEED} on are for tuning; got {list(seeds)}")
    return [_with_rate(run, lr).with_seed(seed) for seed in seeds]
