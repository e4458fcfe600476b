"""Scoring finished weights again: another split, task or protocol, without training.

The result is an `Evaluation`, filed under its own digest and never computed twice. The
test of a training run is one too; asking for it again finds it in the run's own rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file

from lmbench.asked import config_of, read_or_make
from lmbench.config import Config, from_dict
from lmbench.measure.score import evaluate, mean_effort
from lmbench.methods.base import Method
from lmbench.methods.equipment import equipped, in_force
from lmbench.models.base import LanguageModel, ModelConfig, seeded
from lmbench.records import Records
from lmbench.run import Evaluation, Run
from lmbench.store import Store
from lmbench.tasks.base import Batch, View, load_task
from lmbench.training.environment import environment
from lmbench.training.execute import resolve_device
from lmbench.training.hashes import weights_hash
from lmbench.training.record import RunRecord, describe
from lmbench.training.teachers import stream_of


@dataclass(frozen=True)
class Loaded:
    """A finished run with its weights."""

    run: Run
    model: LanguageModel
    weights: str
    """sha256 of the weights."""


def load_run(
    digest: str,
    *,
    store: Store,
    device: torch.device,
    model: ModelConfig | None = None,
    methods: Sequence[Method] | None = None,
) -> Loaded:
    """Rebuild a run's model with the weights that it reports.

    Args:
        model: what computes with them, where it is not the run's own.
        methods: what computes with them beside the model; None is what was in force at the run's end.

    Raises:
        ValueError: unknown run, a run without weights, or a model that they do not fit.
    """
    run = config_of(digest, store=store)
    state = load_file(store.weights(digest))
    held = in_force(run.methods, step=run.steps, steps=run.steps) if methods is None else methods
    built = seeded(model or run.model, init_seed=run.init_seed)
    shapes = {name: tuple(value.shape) for name, value in built.named_parameters()}
    odd = sorted(name for name, value in state.items() if shapes.get(name) != tuple(value.shape))
    odd += sorted(shapes.keys() - state.keys())
    if odd:
        raise ValueError(
            f"the weights of run {digest} do not fit {(model or run.model).name}: {odd[0]} is not the same"
        )
    built.load_state_dict(state, strict=False)
    if held:
        seen = _seen(run, max(method.calibration_batches for method in held))
        built = equipped(model or run.model, dict(built.named_parameters()), methods=held, batches=seen)
    return Loaded(run=run, model=built.to(device), weights=weights_hash(state))


def _seen(run: Run, n: int) -> Iterator[Batch]:
    """The first batches of a run's training, for methods that look at data after it."""
    view = View(seq_len=run.model.seq_len, is_window=run.model.is_window, device=torch.device("cpu"))
    data = load_task(run.task)
    # A selection that needs the weights of a reference is not made again for this: then of all the text.
    asks = any(method.teachers and method.objective() is None for method in run.methods)
    stream = data.stream(run, view) if asks else stream_of(run, data, view)
    return (stream.at(step) for step in range(n))


def evaluate_run(
    digest: str,
    *,
    store: Records,
    split: str = "test",
    task: Config | None = None,
    protocol: Config | None = None,
    model: ModelConfig | None = None,
    methods: Sequence[Method] | None = None,
    eval_seed: int | None = None,
    device: str | None = None,
) -> pd.DataFrame:
    """Rows of one Evaluation of a finished run; what is None is as in the run.

    Args:
        store: a `Store`, or a read-only `Reference`, which must hold the evaluation.
        model: computes something else with the same weights: fewer iterations, an earlier exit. What
            the pass took (`LanguageModel.effort`) stands among the rows where it depends on the text.
        methods: computes with the weights beside the model, in place of what was in force at the run's end:
            another width, a quantisation after training.

    Raises:
        ValueError: unknown run, a run without weights, a model with other weights, a task whose
            vocabulary is not the model's, one whose text overlaps what the model was trained on, or a
            read-only store that lacks the evaluation.
    """
    record = store.record(digest)
    run = from_dict("run", record["run"]["config"])
    other = task is not None and task != run.task
    if other:
        run.task.refuse_leak(task, split=split)
    evaluation = Evaluation(
        weights=_reported(digest, record, store),
        model=model or run.model,
        task=task or run.task,
        protocol=protocol or run.protocol,
        methods=in_force(run.methods, step=run.steps, steps=run.steps) if methods is None else tuple(methods),
        split=split,
        eval_seed=run.eval_seed if eval_seed is None else eval_seed,
        trained_on=run.task if other else None,
    )
    known = store.frame([digest])
    if evaluation.digest in set(known["evaluation"]):
        return known[known["evaluation"] == evaluation.digest].reset_index(drop=True)
    what = (
        f"the {split} scores of run {digest} on {evaluation.task.caption}; run with store=local to score it"
    )
    make = partial(_evaluate_into, digest=digest, model=model, device=device)
    return read_or_make(evaluation, what=what, store=store, make=make)


def _reported(digest: str, record: Mapping[str, Any], store: Records) -> str:
    """Hash of the weights that a run reports: as its record says, or of the file where it is an older one."""
    said = record["env"].get("hashes", {}).get("weights")
    if said is None and isinstance(store, Store):
        return weights_hash(load_file(store.weights(digest)))
    if said is None:
        raise ValueError(f"the record of run {digest} in {store.root} does not say which weights it reports")
    return said


def _evaluate_into(
    evaluation: Evaluation, store: Store, *, digest: str, model: ModelConfig | None, device: str | None
) -> None:
    """Score and file one Evaluation of a run under its lock."""
    where = resolve_device(device)
    loaded = load_run(digest, store=store, device=where, model=model, methods=evaluation.methods)
    learned = load_task(loaded.run.task)
    data = evaluation.task.load_like(learned) if evaluation.trained_on else learned
    if data.vocab_size != evaluation.model.vocab_size:
        raise ValueError(
            f"the model has {evaluation.model.vocab_size} token ids, but {evaluation.task.caption} has "
            f"{data.vocab_size}"
        )
    view = View(seq_len=evaluation.model.seq_len, is_window=evaluation.model.is_window, device=where)
    with store.claim(evaluation.digest) as folder:
        if folder is None:
            return  # another process makes it
        how = {"split": evaluation.split, "protocol": evaluation.protocol, "view": view}
        how["eval_seed"] = evaluation.eval_seed
        scores = evaluate(loaded.model, data, **how)
        effort = mean_effort(loaded.model, data, **how)
        scores = replace(scores, metrics=scores.metrics | effort)
        record = RunRecord(
            loaded.run.replace(task=evaluation.task), dict(loaded.model.named_parameters()), where
        )
        record.scores(evaluation, loaded.run.steps, scores)
        if evaluation.split == "test":
            record.last_step = loaded.run.steps
            record.certify(data, loaded.run.task, eval_seed=evaluation.eval_seed)
        store.finish(
            evaluation.digest,
            run=describe(evaluation, label=evaluation.model.name),
            env=environment(where) | {"engine": "plain", "hashes": {"weights": loaded.weights}},
            rows=pd.DataFrame(record.rows),
            items=scores.items.assign(evaluation=evaluation.digest, split=evaluation.split),
        )
