"""Exit curves of stored runs, as records of the store: scored once, read and drawn anywhere."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd

from lmbench.asked import read_or_make
from lmbench.measure.early_exit import exit_curve
from lmbench.models.early_exit import EarlyExit
from lmbench.probes.scores import ExitCurve
from lmbench.records import Records
from lmbench.store import Store
from lmbench.tasks.base import View, load_task
from lmbench.training.environment import environment
from lmbench.training.execute import resolve_device
from lmbench.training.measured import file_rows
from lmbench.training.rescore import load_run

LEVEL = "{policy}|{setting:g}"  # how a point of the curve is written in the rows' level column


def exit_curves(
    digests: Sequence[str], *, store: Records, split: str = "valid", device: str | None = None
) -> pd.DataFrame:
    """One row for each run and point of its curve; see `measure.early_exit.exit_curve`.

    Columns: run (that was trained), label, policy ("threshold" or "depth"), setting, nll, blocks, flops,
    n (targets).

    Raises:
        ValueError: an unknown run, one without weights or of a model without exits, or a read-only store
            that lacks a curve.
    """
    parts, make = [], partial(_score_into, device=device)
    for digest in dict.fromkeys(digests):
        asked = ExitCurve(run=digest, split=split)
        rows = read_or_make(asked, what=f"the exit curve of run {digest}", store=store, make=make)
        parts.append(_points(rows).assign(run=digest))
    columns = ["run", "label", "policy", "setting", "nll", "blocks", "flops", "n"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _points(rows: pd.DataFrame) -> pd.DataFrame:
    """The tidy rows of one curve as a row for each of its points."""
    n = rows[rows["metric"] == "nll"].set_index("level")["n"]
    table = rows.pivot(index="level", columns="metric", values="value").loc[n.index]
    policies = [level.split("|") for level in table.index]
    table = table.assign(
        policy=[policy for policy, _ in policies],
        setting=[float(setting) for _, setting in policies],
        label=rows["label"].iloc[0],
        n=n,
    )
    return table.reset_index(drop=True)


def _score_into(asked: ExitCurve, store: Store, *, device: str | None) -> None:
    """Score and file one curve under its lock."""
    where = resolve_device(device)
    loaded = load_run(asked.run, store=store, device=where)
    run, model = loaded.run, loaded.model
    if not isinstance(model, EarlyExit):
        raise ValueError(f"run {asked.run} is of model {run.model.kind!r}; exit curves need 'early_exit'")

    def rows() -> list[dict[str, Any]]:
        curve = exit_curve(
            model,
            run.model,
            load_task(run.task),
            split=asked.split,
            protocol=run.protocol,
            view=View(seq_len=run.model.seq_len, is_window=run.model.is_window, device=where),
            thresholds=asked.thresholds,
            eval_seed=run.eval_seed,
        )
        fixed = {"evaluation": asked.digest, "split": asked.split, "task": run.task.kind, "step": run.steps}
        return [
            fixed
            | {"level": LEVEL.format(**point), "metric": metric}
            | {"value": point[metric], "n": point["targets" if metric == "nll" else "tokens"]}
            for point in curve.to_dict("records")
            for metric in ("nll", "blocks", "flops")
        ]

    env = environment(where) | {"hashes": {"weights": loaded.weights}}
    file_rows(asked, rows, label=run.model.name, store=store, env=env)
