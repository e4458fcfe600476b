"""Equal budgets: one Run per model, before anything is trained.

    base = plan(models, task, equal="flops", budget=1e12, ...)

What is equal may be counted training FLOPs, those of the units in use, training targets, parameters,
bytes, measured seconds or epochs. `plan_table` says what each run will cost.
"""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from lmbench.errors import unknown
from lmbench.measure.budget import equal_flops, equal_parameters, flops_per_token
from lmbench.measure.flops import parameters, published_flops
from lmbench.models.base import ModelConfig
from lmbench.records import Records, flatten
from lmbench.run import Run
from lmbench.tasks.base import TaskConfig
from lmbench.training.capabilities import tracker_flops
from lmbench.training.costs import mean_flops, n_sequences, run_flops
from lmbench.training.execute import fit_model, resolve_device
from lmbench.training.speed import seconds_per_step

EQUAL = ("flops", "active_flops", "tokens", "parameters", "flops_per_token", "bytes", "seconds", "epochs")
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
        equal: "flops": every model trains for `budget` counted training FLOPs; "active_flops": for as
            many of the units in use, which are fewer where methods mask the others; "tokens": for
            `budget` targets; "parameters": the same, after all models were resized to the
            parameter count of the last one, which at one precision is also equal "bytes";
            "flops_per_token": the same, resized to the training FLOPs per target of the last one, so
            that with the targets all FLOPs are equal;
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
    if equal == "flops_per_token":
        target = flops_per_token(fitted[-1])
        fitted = [equal_flops(model, target_per_token=target).config for model in fitted]
    runs = []
    for model, amount in zip(fitted, budgets, strict=True):
        draft = Run(**({"model": model, "task": task, "steps": 1} | settings))
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
    if equal in ("flops", "active_flops"):
        cost = mean_flops(draft, is_active=equal == "active_flops")
    else:
        cost = draft.batch_size * (1 if last_only else draft.model.seq_len)
    return round(budget / cost), 0


def plan_table(runs: Sequence[Run]) -> pd.DataFrame:
    """What each run will cost, before anything is trained: sizes, FLOPs counted and as published.

    Where capabilities are tracked, also the FLOPs of that as a share of the training's.
    """
    table = []
    for label, run in zip(distinct_labels(runs), runs, strict=True):
        last_only = run.protocol.kind == "last_token"
        n_windows = n_sequences(run, run.steps)
        n, targets = parameters(run.model).total, n_windows * (1 if last_only else run.model.seq_len)
        flops = run_flops(run, run.steps)
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
            | ({} if run.track is None else {"tracking / training": tracker_flops(run) / flops})
        )
    return pd.DataFrame(table)


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
