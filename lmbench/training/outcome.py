"""What a group's training leaves of each run: its record, its weights, its scores, whether it diverged.

Legend: R replica, P parameter, S step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lmbench.config import Config
from lmbench.measure.score import tokens_per_second
from lmbench.methods.equipment import equipped, in_force
from lmbench.run import Evaluation, Run
from lmbench.tasks.base import load_task
from lmbench.training.capabilities import tracked_task
from lmbench.training.hashes import weights_hash
from lmbench.training.program import Program
from lmbench.training.record import RunRecord

TIMED_EVALUATION_ROWS = 16  # sequences in the batch whose inference speed is recorded


@dataclass
class Trained:
    """What a finished training leaves: its record, its weights and whether it diverged."""

    record: RunRecord
    best: dict[str, Tensor] = field(default_factory=dict)
    """Weights of the best validation, on the CPU."""
    final: dict[str, Tensor] = field(default_factory=dict)
    """Weights after the last step, on the CPU."""
    diverged_at: int | None = None


def begin(program: Program, *, jobs: int) -> list[Trained]:
    """Records of a program's runs before their first step."""
    replicas, begun = program.replicas, []
    for at, run in enumerate(program.runs):
        record = RunRecord(
            run,
            program.kept.plain(at),
            program.device,
            layout_shapes=replicas.layout.shapes,
            replicas=len(program.runs),
            jobs=jobs,
        )
        record.first_batch(program.streams[at].at(0))
        record.engine = program.execution.engine
        begun.append(Trained(record))
    return begun


def score(
    program: Program, trained: Sequence[Trained], split: str, *, weights_RP: Tensor
) -> dict[int, float]:
    """Score a split, file the result as Evaluations of these weights; nll by replica alive."""
    nll: dict[int, float] = {}
    if all(one.diverged_at is not None for one in trained):
        return nll
    scored = program.scores(split, weights_RP=weights_RP, items=split == "test")
    on_cpu_RP = weights_RP.cpu()
    for at, (one, scores) in enumerate(zip(trained, scored, strict=True)):
        if one.diverged_at is not None:
            continue
        weights = weights_hash(program.kept.state(at, on_cpu_RP))
        one.record.scores(_evaluation(program, weights, split=split), program.done, scores)
        nll[at] = scores.metrics["nll"][0]
    return nll


def track(program: Program, trained: Sequence[Trained]) -> dict[int, float]:
    """Score the levels of the tracker's point at this step; nll of all of them by replica."""
    run, nll = program.run, {}
    tracked = tracked_task(run, point=run.track.grid(run.steps).index(program.done))
    scored = program.scores("valid", weights_RP=program.weights_RP, data=load_task(tracked))
    on_cpu_RP = program.weights_RP.cpu()
    for at, (one, scores) in enumerate(zip(trained, scored, strict=True)):
        nll[at] = scores.metrics["nll"][0]
        if one.diverged_at is None and math.isfinite(nll[at]):
            weights = weights_hash(program.kept.state(at, on_cpu_RP))
            evaluation = _evaluation(program, weights, split="valid", task=tracked)
            one.record.tracked(evaluation, program.done, scores)
    return nll


def _evaluation(program: Program, weights: str, *, split: str, task: Config | None = None) -> Evaluation:
    """The config of a scoring of a replica's weights as they are now; None is the run's own task."""
    run = program.run
    return Evaluation(
        weights=weights,
        model=program.execution.scored_model(program.done),
        task=task or run.task,
        protocol=run.protocol,
        methods=in_force(run.methods, step=program.done, steps=run.steps),
        split=split,
        eval_seed=run.eval_seed,
        trained_on=None if task is None or task == run.task else run.task,
    )


def close(program: Program, trained: Sequence[Trained], *, best_RP: Tensor, has_best: Sequence[bool]) -> None:
    """Weights and costs of each run, after its test."""
    speed = _inference_speed(program)
    for at, one in enumerate(trained):
        if has_best[at]:
            one.best = program.kept.state(at, best_RP)
        if one.diverged_at is None:
            one.final = program.kept.state(at, program.weights_RP)
        is_best = bool(one.best) and program.run.weights == "best"
        reported = one.best if is_best else one.final
        if reported:
            one.record.hashes["weights"] = weights_hash(reported)
        report = program.kept.report(at, best_RP if is_best else program.weights_RP) if reported else {}
        for method in one.record.run.methods:
            report |= method.told(one.record.run, weights=program.weights_read)
        one.record.close(program.data, inference_tokens_per_second=speed, report=report)


def _inference_speed(program: Program) -> float:
    """Of one replica by itself."""
    run = program.run
    held = in_force(run.methods, step=program.done, steps=run.steps)
    model = equipped(run.model, program.kept.state(0), methods=held)
    model = (model.double() if run.dtype == "float64" else model).to(program.device)
    one: Run = run.replace(steps=1, batch_size=TIMED_EVALUATION_ROWS, epoch_windows=None, grad_accum=1)
    return tokens_per_second(model, program.data.stream(one, program.view).at(0))  # any batch will do


def first_bad(losses_S: Tensor, offset: int) -> int | None:
    """1-based step of the first loss that is NaN or infinite."""
    bad = (~torch.isfinite(losses_S)).nonzero()
    return int(bad[0]) + offset + 1 if len(bad) else None
