"""What a fair comparison needs: equal budgets, a learning rate tuned per model, fresh seeds.

    base   = plan(models, task, equal="flops", budget=1e12, ...)   one Run per model
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

from lmbench.config import build, unknown
from lmbench.measure.budget import equal_parameters
from lmbench.measure.flops import parameters, published_flops, train_flops
from lmbench.models.base import ModelConfig
from lmbench.records import ROW_COLUMNS, Records, flatten
from lmbench.run import Run
from lmbench.tasks.base import TaskConfig
from lmbench.training.execute import fit_model, resolve_device, run_all
from lmbench.training.record import n_sequences
from lmbench.training.speed import seconds_per_step

EQUAL = ("flops", "tokens", "parameters", "bytes", "seconds", "epochs")
TUNING_SEED = 1000  # first of the seeds that rates are chosen on; results are reported on others
MIN_STEPS = 2  # fewer optimizer steps are no training


def plan(
    models: Sequence[ModelConfig],
    task: TaskConfig,
    *,
    equal: str,
    budget: float | Sequence[float],
    evaluations: int = 1,
    store: Records | None = None,
    device: str | None = None,
    **settings: Any,
) -> list[Run]:
    """One Run per model under an equal budget; learning rates and seeds are set later.

    Args:
        equal: "flops": every model trains for `budget` counted training FLOPs; "tokens": for
            `budget` targets; "parameters": the same, after all models were resized to the
            parameter count of the last one, which at one precision is also equal "bytes";
            "seconds": for `budget` seconds at the speed measured here; "epochs": for `budget`
            epochs of `epoch_windows`.
        budget: one number, or one per model (the published study's unequal epochs).
        evaluations: validations per run, equally spaced, the last at the end; with "epochs"
            there is one after each.
        store: keeps the measured speeds; only "seconds" needs it.
        device: where speed is measured; None is as in `run_all`.
        settings: further fields of `Run` (protocol, batch_size, schedule, ...).

    Raises:
        ValueError: unknown `equal`, budgets that do not match the models, or one too small.
    """
    if equal not in EQUAL:
        raise ValueError(unknown("budget", equal, EQUAL))
    budgets = list(budget) if isinstance(budget, Sequence) else [budget]
    budgets = budgets * len(models) if len(budgets) == 1 else budgets
    if len(budgets) != len(models):
        raise ValueError(f"budget lists {len(budgets)} values for {len(models)} models")
    if equal == "seconds" and store is None:
        raise ValueError("a budget of seconds needs a store, which keeps the measured speeds")
    fitted = [fit_model(model, task) for model in models]
    if equal in ("parameters", "bytes"):
        target = parameters(fitted[-1]).total
        fitted = [equal_parameters(model, target=target).config for model in fitted]
    runs = []
    for model, amount in zip(fitted, budgets, strict=True):
        draft = build(Run, {"model": model, "task": task, "steps": 1} | settings)
        if equal == "seconds":
            where = resolve_device(device)
            steps, per_epoch = round(amount / seconds_per_step(draft, store=store, device=where)), 0
        else:
            steps, per_epoch = _steps(draft, equal, amount)
        if steps < MIN_STEPS:
            raise ValueError(
                f"a budget of {amount:g} {equal} is {steps} steps of {model.name}; raise it or lower "
                "batch_size"
            )
        every = per_epoch if equal == "epochs" else math.ceil(steps / evaluations)
        runs.append(draft.replace(steps=steps, eval_every=every if every < steps else None))
    return runs


def _steps(draft: Run, equal: str, budget: float) -> tuple[int, int]:
    """Optimizer steps nearest to a budget, and steps in an epoch."""
    last_only = draft.protocol.kind == "last_token"
    if equal == "epochs":
        if draft.epoch_windows is None:
            raise ValueError("a budget of epochs needs epoch_windows, the number of windows in one")
        per_epoch = -(-draft.epoch_windows // draft.batch_size)
        return round(budget * per_epoch), per_epoch
    if equal == "flops":
        readout = "last" if last_only else "all"
        cost = train_flops(draft.model, readout=readout, sequences=draft.batch_size)
    else:
        cost = draft.batch_size * (1 if last_only else draft.model.seq_len)
    return round(budget / cost), 0


def plan_table(runs: Sequence[Run]) -> pd.DataFrame:
    """What each run will cost, before anything is trained: sizes, FLOPs counted and as published."""
    table = []
    for label, run in zip(distinct_labels(runs), runs, strict=True):
        last_only = run.protocol.kind == "last_token"
        readout, n_windows = "last" if last_only else "all", n_sequences(run, run.steps)
        n, targets = parameters(run.model).total, n_windows * (1 if last_only else run.model.seq_len)
        flops = train_flops(run.model, readout=readout, sequences=n_windows)
        table.append(
            {
                "model": label,
                "parameters": n,
                "steps": run.steps,
                "targets": targets,
                "FLOPs per target": flops / targets,
                "training FLOPs": flops,
                "FLOPs as published": published_flops(n, n_windows=n_windows, seq_len=run.model.seq_len),
            }
        )
    return pd.DataFrame(table)


@dataclass(frozen=True)
class Tuning:
    """Outcome of a learning-rate search."""

    base: tuple[Run, ...]
    table: pd.DataFrame
    """One row per model and rate: label, lr, mean valid nll (inf where diverged), n_seeds, chosen,
    on_edge, extended (rates added to the common grid)."""
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
    **execution: Any,
) -> Tuning:
    """Choose a learning rate per model on validation, with `n_seeds` tuning seeds.

    Args:
        rates: the common grid, in increasing order and a constant ratio.
        extensions: most rates that may be added beyond an edge, per model.
        execution: arguments of `run_all` (device, jobs, progress).

    Raises:
        ValueError: an empty grid, or models that share a label.
    """
    labels = distinct_labels(base)
    if not len(rates) or len(set(labels)) < len(labels):
        raise ValueError(
            f"tuning needs rates and distinct models, got rates {list(rates)} and models {labels}"
        )
    if len(rates) == 1:  # a rate that is given, as by the published study, is not searched for
        given = [{"label": label, "lr": rates[0], "nll": math.nan, "chosen": True} for label in labels]
        table = pd.DataFrame(given).assign(n_seeds=0, on_edge=False, extended=0)
        return Tuning(tuple(base), table, pd.DataFrame())
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
    return Tuning(tuple(base), table, scored)


def _trial(run: Run, lr: float, seed: int) -> Run:
    """A tuning run: its test split stays untouched."""
    return _with_rate(run, lr).replace(test=False).with_seed(seed)


def _with_rate(run: Run, lr: float) -> Run:
    """The run at a learning rate."""
    return run.replace(optimizer=run.optimizer.replace(lr=_typable(lr)))


def _typable(lr: float) -> float:
    """A learning rate rounded so that a grid by ratio gives digests that can be typed."""
    return float(f"{lr:.6g}")


def _trials_table(trials: dict[tuple[str, float, int], Run], rows: pd.DataFrame) -> pd.DataFrame:
    """One row per tuning run: its config, and its best validation nll, inf where it diverged."""
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
    if any(seed >= TUNING_SEED for seed in seeds):
        raise ValueError(f"seeds from {TUNING_SEED} on are for tuning; got {list(seeds)}")
    return [
        _with_rate(run, tuning.rates[label]).with_seed(seed)
        for label, run in zip(distinct_labels(tuning.base), tuning.base, strict=True)
        for seed in seeds
    ]


def distinct_labels(runs: Sequence[Run]) -> list[str]:
    """A name per run: its model's, with the fields that tell it from others of the same name."""
    names = [run.model.name for run in runs]
    plain = [flatten(run.to_dict()) for run in runs]
    labels = []
    for name, own in zip(names, plain, strict=True):
        others = [other for other_name, other in zip(names, plain, strict=True) if other_name == name]
        told = [key for key in own if any(other.get(key) != own[key] for other in others)]
        labels.append(name if not told else f"{name} ({', '.join(f'{key}={own[key]}' for key in told)})")
    return labels
