"""Calibration of stored runs, as records of the store: scored once, read and drawn anywhere.

A model's probabilities are those that it gives to the answers of a level (`choices`) where the answer
stands, made to sum to 1; what it gives to other symbols is reported as "outside". One reading of the
symbols gives the exact posterior, where the task states one.

Legend: N example, B batch, T position, V answer, S symbol of the vocabulary.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from lmbench.asked import read_or_make
from lmbench.config import Config
from lmbench.measure.calibration import calibration, reliability, top_label
from lmbench.measure.probability_scores import risk_coverage
from lmbench.measure.score import true_float32
from lmbench.models.base import LanguageModel
from lmbench.probes.scores import Calibration
from lmbench.progress import Progress
from lmbench.records import Records
from lmbench.store import Store
from lmbench.tasks.base import IGNORE, TaskData, View, load_task
from lmbench.tasks.examples import parse
from lmbench.tasks.reports import Reports
from lmbench.tasks.symbols import PAD, SYMBOLS
from lmbench.tasks.synthetic import SyntheticTask
from lmbench.training.environment import environment
from lmbench.training.execute import resolve_device
from lmbench.training.measured import file_rows
from lmbench.training.rescore import load_run

COVERAGES = 20  # points of a risk-coverage curve
POINT = "{metric}@{point:g}"  # how a point of a curve is written in the rows' metric column
COLUMNS = ["run", "label", "task", "level", "metric", "point", "value", "n"]


def calibrations(
    digests: Sequence[str],
    *,
    store: Records,
    tasks: Sequence[SyntheticTask],
    split: str = "test",
    device: str | None = None,
) -> pd.DataFrame:
    """One row for each run, level and score; see `measure.calibration.calibration`.

    Columns: run (that was trained), label, task, level, metric, point, value, n (examples). Scores have no
    point (NaN). Curves have: bin_confidence and bin_accuracy at the bin's number, n of the bin; risk and
    bayes_risk (the error rate of the most confident) at the coverage.

    Raises:
        ValueError: an unknown run, one without weights or of another vocabulary or with too short a
            context, a task that is not scored by one answer token, or a read-only store that lacks a record.
    """
    parts = [pd.DataFrame(columns=COLUMNS)]
    for digest in digests:
        for task in tasks:
            asked = Calibration(run=digest, task=task, split=split)
            what = f"the calibration of run {digest} on {task.caption}"
            rows = read_or_make(asked, what=what, store=store, make=partial(_score_into, device=device))
            parts.append(_points(rows).assign(run=digest))
    return pd.concat(parts[1:] or parts, ignore_index=True)[COLUMNS]


def _points(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose metric is written without its point, which stands beside it."""
    named = rows["metric"].str.partition("@")
    return rows.assign(metric=named[0], point=pd.to_numeric(named[2]))


def answer_probabilities(
    model: LanguageModel,
    task: SyntheticTask,
    *,
    data: TaskData,
    protocol: Config,
    asked: Calibration,
    view: View,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """What a model and the posterior make of each example of a split.

    Returns:
        (N, V) probabilities over the choices, (N,) places of the answers among them, (N, V) exact
        posteriors or None where the task states none, and (N,) probability of all other symbols.

    Raises:
        ValueError: a task with answers of several tokens, or several ways of writing an example.
    """
    choices = task.choices()
    if len(choices) != 1 or task.rewrites != 1:
        raise ValueError(
            f"{task.caption} has answers of {len(choices)} tokens in {task.rewrites} writings; this needs "
            "1 token in 1 writing"
        )
    data.check_split(asked.split, protocol, view.seq_len)
    probability_NS, target_N, posterior_NV = [], [], []
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), true_float32():
            for batch in data.eval_batches(asked.split, protocol, view, eval_seed=asked.eval_seed):
                logits_BTS = model(batch.tokens_BT, batch.context_BK, readout="all").logits_BTV
                is_scored_BT = batch.targets_BT != IGNORE
                probability_NS.append(logits_BTS[is_scored_BT].double().softmax(-1).cpu().numpy())
                target_N.append(batch.targets_BT[is_scored_BT].cpu().numpy())
                if isinstance(task, Reports):
                    posterior_NV += _posteriors(task, batch.tokens_BT.cpu().numpy())
                Progress.beat()
    finally:
        model.train(was_training)
    all_NS, target_N = np.concatenate(probability_NS), np.concatenate(target_N)
    inside_NV = all_NS[:, choices[0]]
    total_N1 = inside_NV.sum(axis=1, keepdims=True)
    outcome_N = np.array([choices[0].index(target) for target in target_N])
    return (
        inside_NV / total_N1,
        outcome_N,
        np.array(posterior_NV) if posterior_NV else None,
        1 - total_N1[:, 0],
    )


def _posteriors(task: Reports, tokens_BT: np.ndarray) -> list[list[float]]:
    """Read the symbols of each example, which end where the answer is asked for."""
    rows = [[SYMBOLS[token] for token in row if token != PAD] for row in tokens_BT]
    read = (parse(row, surface=task.surface) for row in rows)
    return [task.posterior(body, query) for body, query, _ in read]


def _scores(
    probability_NV: np.ndarray, outcome_N: np.ndarray, posterior_NV: np.ndarray | None, outside_N: np.ndarray
) -> list[tuple[str, float, int]]:
    """(metric, value, n) of all scores and points of curves."""
    n, top = len(outcome_N), top_label(probability_NV, outcome_N)
    scores = calibration(probability_NV, outcome_N, posterior_NV=posterior_NV)
    out = [(name, value, n) for name, value in scores.items()] + [("outside", float(outside_N.mean()), n)]
    for at, (confidence, accuracy, count) in enumerate(zip(*reliability(*top), strict=True)):
        out.append((POINT.format(metric="bin_confidence", point=at), float(confidence), int(count)))
        out.append((POINT.format(metric="bin_accuracy", point=at), float(accuracy), int(count)))
    curves = {"risk": risk_coverage(*top)}
    if posterior_NV is not None:
        curves["bayes_risk"] = risk_coverage(*top_label(posterior_NV, outcome_N))
    for name, risk_N in curves.items():
        for part in range(1, COVERAGES + 1):
            most = max(1, n * part // COVERAGES)
            out.append((POINT.format(metric=name, point=part / COVERAGES), float(risk_N[most - 1]), most))
    return out


def _score_into(asked: Calibration, store: Store, *, device: str | None) -> None:
    """Score and file one calibration under its lock."""
    where = resolve_device(device)
    loaded = load_run(asked.run, store=store, device=where)
    run, task = loaded.run, asked.task
    if not isinstance(task, SyntheticTask):
        raise ValueError(f"task {task.kind!r} has no choices of answers; calibration is of synthetic tasks")
    data = task.load_like(load_task(run.task))
    view = View(seq_len=run.model.seq_len, is_window=run.model.is_window, device=where)

    def rows() -> list[dict[str, Any]]:
        how = {"data": data, "protocol": run.protocol, "asked": asked, "view": view}
        found = answer_probabilities(loaded.model, task, **how)
        fixed = {"evaluation": asked.digest, "split": asked.split, "step": run.steps}
        fixed |= {"task": task.kind, "level": task.level_name}
        return [fixed | {"metric": metric, "value": value, "n": n} for metric, value, n in _scores(*found)]

    env = environment(where) | {"hashes": {"weights": loaded.weights}}
    file_rows(asked, rows, label=run.model.name, store=store, env=env)
