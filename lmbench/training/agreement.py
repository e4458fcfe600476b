"""Agreement of stored runs with their teachers, as records of the store: scored once, read anywhere.

Both models read the same batches, those of the student's context and protocol, so a teacher must be able
to read as many tokens, and ids must mean the same to both.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch

from lmbench.asked import config_of, read_or_make
from lmbench.config import Config
from lmbench.measure.agreement import agreement
from lmbench.methods.base import Method
from lmbench.probes.scores import Agreement
from lmbench.records import Records
from lmbench.run import Run
from lmbench.store import Store
from lmbench.tasks.base import TaskData, View, load_task
from lmbench.tasks.synthetic import SyntheticTask
from lmbench.tasks.text_data import TextData
from lmbench.training.environment import environment
from lmbench.training.execute import resolve_device
from lmbench.training.measured import file_rows
from lmbench.training.rescore import load_run

COLUMNS = ["student", "teacher", "label", "init_seed", "task", "level", "split", "metric", "value", "n"]


def agreements(
    pairs: Sequence[tuple[str, str]],
    *,
    store: Records,
    split: str = "test",
    task: Config | None = None,
    methods: Sequence[Method] | None = None,
    eval_seed: int = 0,
    alpha: float = 0.5,
    temperature: float = 1.0,
    device: str | None = None,
) -> pd.DataFrame:
    """One row for each pair and measure; see `measure.agreement.agreement`.

    Columns: student, teacher (digests), label and init_seed (of the student), task, level, split, metric,
    value, n (tokens, or rows for approximation_ratio_sequence).

    Args:
        pairs: digests (student, teacher) of finished runs.
        store: a `Store`, or a read-only `Reference`, which must hold the records.
        task: what is scored; None is each student's own.
        methods: computes with the student's weights; None is what was in force at the run's end. With a
            run as its own teacher: what a quantisation after training changed.
        alpha: share of the cross entropy in the published approximation ratio, temperature its other half.

    Raises:
        ValueError: an unknown run or one without weights, another vocabulary, a teacher with a shorter
            context or that was trained on the text, a split without targets, or a read-only store that
            lacks a record.
    """
    how = {"task": task, "split": split, "eval_seed": eval_seed, "alpha": alpha, "temperature": temperature}
    how |= {"methods": None if methods is None else tuple(methods)}
    parts = [pd.DataFrame(columns=COLUMNS)]
    for student, teacher in pairs:
        asked = Agreement(student=student, teacher=teacher, **how)
        what = f"the agreement of run {student} with {teacher} on {split}"
        rows = read_or_make(asked, what=what, store=store, make=partial(_score_into, device=device))
        seed = config_of(student, store=store).init_seed
        parts.append(rows.assign(student=student, teacher=teacher, init_seed=seed))
    return pd.concat(parts[1:] or parts, ignore_index=True)[COLUMNS]


def _score_into(asked: Agreement, store: Store, *, device: str | None) -> None:
    """Score and file one pair under its lock."""
    where = resolve_device(device)
    student = load_run(asked.student, store=store, device=where, methods=asked.methods)
    teacher = load_run(asked.teacher, store=store, device=where)
    run = student.run
    data = _common_data(asked, run, teacher.run)
    view = _common_view(run, teacher.run, where)
    data.check_split(asked.split, run.protocol, view.seq_len)
    task = asked.task or run.task

    def rows() -> list[dict[str, Any]]:
        how = {"split": asked.split, "protocol": run.protocol, "view": view, "eval_seed": asked.eval_seed}
        how |= {"alpha": asked.alpha, "temperature": asked.temperature}
        found = agreement(student.model, teacher.model, data, **how)
        fixed = {"evaluation": asked.digest, "split": asked.split, "step": run.steps, "task": task.kind}
        fixed |= {"level": task.level_name if isinstance(task, SyntheticTask) else ""}
        return [fixed | {"metric": name, "value": value, "n": n} for name, (value, n) in found.items()]

    env = environment(where) | {"hashes": {"weights": student.weights, "teacher": teacher.weights}}
    file_rows(asked, rows, label=run.model.name, store=store, env=env)


def _common_data(asked: Agreement, student: Run, teacher: Run) -> TaskData:
    """What is scored, after making sure that both models may be scored on it and know its ids."""
    learned, task = load_task(student.task), asked.task or student.task
    for run in (student, teacher):
        if run.task != task:
            run.task.refuse_leak(task, split=asked.split)
    if teacher.task != student.task and _ids(load_task(teacher.task)) != _ids(learned):
        raise ValueError(
            f"the student {asked.student} learned {student.task.caption} and the teacher {asked.teacher} "
            f"{teacher.task.caption}, whose vocabularies differ; agreement needs one vocabulary"
        )
    return learned if task == student.task else task.load_like(learned)


def _ids(data: TaskData) -> tuple[Any, ...]:
    """What ids mean: the entries of a text's vocabulary; all other tasks of one size share theirs."""
    return tuple(data.tokenizer.vocabulary) if isinstance(data, TextData) else (data.vocab_size,)


def _common_view(student: Run, teacher: Run, device: torch.device) -> View:
    """The student's context, which the teacher must be able to read."""
    has, needs = teacher.model.seq_len, student.model.seq_len
    is_window = student.model.is_window or teacher.model.is_window
    if has < needs or (is_window and has != needs):
        least = "exactly" if is_window else "at least"
        raise ValueError(
            f"the teacher's seq_len = {has} is not accepted: the student reads {needs} tokens, so {least} "
            "that many are needed to give both the same"
        )
    return View(seq_len=needs, is_window=is_window, device=device)
