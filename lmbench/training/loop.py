"""The training of a group of runs: steps, losses, validations, checkpoints, the final test.

Everything that can change a number comes from the runs; the arguments only say where and
how they are watched. The batch of a step is a pure function of (data_seed, step), weights
start from init_seed on the CPU whatever the device, dropout masks come from dropout_seed.
A group of one is a run trained alone.

Legend: R replica, P parameter, S step.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lmbench.measure.score import tokens_per_second
from lmbench.models.base import seeded
from lmbench.run import Evaluation, Run
from lmbench.tasks.base import TaskData, load_task
from lmbench.training.checkpoint import Checkpoint
from lmbench.training.distributed import ALONE, Ranks
from lmbench.training.program import Program
from lmbench.training.record import RunRecord, reset_peak_memory, weights_hash

LOG_POINTS = 50  # training-loss rows per run: enough for a curve, few enough to store thousands of runs
TIMED_EVALUATION_ROWS = 16  # sequences in the batch whose inference speed is recorded
log = logging.getLogger(__name__)


@dataclass
class Trained:
    """What a finished training leaves: its record, its weights and whether it diverged."""

    record: RunRecord
    best: dict[str, Tensor] = field(default_factory=dict)
    """Weights of the best validation, on the CPU."""
    final: dict[str, Tensor] = field(default_factory=dict)
    """Weights after the last step, on the CPU."""
    diverged_at: int | None = None


def check(run: Run, data: TaskData) -> None:
    """What only training can know of a run: its parts fit together.

    Raises:
        ValueError: naming the field.
    """
    if run.model.vocab_size != data.vocab_size:
        raise ValueError(
            f"model.vocab_size = {run.model.vocab_size}, but {run.task.caption} has "
            f"{data.vocab_size} token ids"
        )
    if run.batch_size % run.grad_accum:
        raise ValueError(f"grad_accum = {run.grad_accum} does not divide batch_size = {run.batch_size}")
    run.schedule.factors(run.steps)
    for split in ("valid", "test") if run.test else ("valid",):
        data.check_split(split, run.protocol, run.model.seq_len)


def train(run: Run, *, device: torch.device) -> Trained:
    """Train, validate and test one run."""
    return train_group([run], device=device)[0]


def train_group(
    runs: Sequence[Run],
    *,
    device: torch.device,
    jobs: int = 1,
    compiled: bool = False,
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[int], None] = lambda step: None,
    ranks: Ranks = ALONE,
) -> list[Trained]:
    """Train, validate and test runs that differ only in seeds and numbers of the optimizer.

    Args:
        device: where to train.
        jobs: how many programs share the device; only recorded.
        compiled: fuse kernels with torch.compile.
        checkpoint: where to go on from and what to write; None keeps nothing.
        on_step: called after optimizer steps with the number of steps done.
        ranks: the processes that train one run together. All but the first give no checkpoint, and
            what they return lacks weights and costs.
    """
    data = load_task(runs[0].task)
    for run in runs:
        check(run, data)
        ranks.check(run)
    reset_peak_memory(device)
    return _Training(runs, data, device, jobs, compiled, ranks).finish(checkpoint, on_step)


class _Clock:
    """Training seconds, without the evaluations in between."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self.started = device, 0.0, time.perf_counter()

    def pause(self) -> float:
        """Stop; returns the seconds trained so far."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds += time.perf_counter() - self.started
        return self.seconds

    def resume(self) -> None:
        self.started = time.perf_counter()


class _Training:
    """One group's program with the records of its runs."""

    def __init__(
        self,
        runs: Sequence[Run],
        data: TaskData,
        device: torch.device,
        jobs: int,
        compiled: bool,
        ranks: Ranks,
    ) -> None:
        self.runs, self.run, self.data, self.device = list(runs), runs[0], data, device
        self.program, self.ranks = Program(runs, device=device, compiled=compiled, ranks=ranks), ranks
        replicas = self.program.replicas
        self.trained = [
            Trained(
                RunRecord(
                    run,
                    replicas.state(at),
                    device,
                    layout_shapes=replicas.layout.shapes,
                    replicas=len(runs),
                    jobs=jobs,
                )
            )
            for at, run in enumerate(runs)
        ]
        for run, one in zip(runs, self.trained, strict=True):
            one.record.first_batch(data.stream(run, self.program.view).at(0))
            one.record.engine = self.program.engine
        self.logged = 0
        """Steps whose losses are in the records."""
        self.best_nll = [math.inf] * len(runs)
        self.best_RP = replicas.master_RP.clone()
        self.clock = _Clock(device)

    def finish(self, checkpoint: Checkpoint | None, on_step: Callable[[int], None]) -> list[Trained]:
        """All steps that are left, the final test, and the costs."""
        self._resume(checkpoint)
        self.clock.resume()
        while self.program.done < self.run.steps and any(self._alive()):
            self._advance(self._next_stop(), checkpoint, on_step)
            self._look()
        self._test()
        return self.trained

    def _alive(self) -> list[bool]:
        return [one.diverged_at is None for one in self.trained]

    # ---------------------------------------------------------------- steps

    def _next_stop(self) -> int:
        """The next step after which losses are read or the runs validated."""
        run, done = self.run, self.program.done
        every = [max(1, run.steps // LOG_POINTS)] + ([run.eval_every] if run.eval_every else [])
        return min([run.steps] + [done - done % n + n for n in every])

    def _advance(self, until: int, checkpoint: Checkpoint | None, on_step: Callable[[int], None]) -> None:
        # On a GPU steps are only queued: looking at each would wait for it.
        at_once = 1 if self.device.type == "cpu" else until - self.program.done
        while self.program.done < until:
            self.program.advance(at_once)
            on_step(self.program.done)
            if checkpoint is not None and self.program.done < until and checkpoint.is_due:
                self.clock.pause()
                self._save(checkpoint)
                self.clock.resume()
        if checkpoint is not None and until < self.run.steps and checkpoint.is_due:
            self._look()
            self.clock.pause()
            self._save(checkpoint)
            self.clock.resume()

    def _look(self) -> None:
        """Read the losses since the last look, and validate where it is time."""
        run, done = self.run, self.program.done
        if done == self.logged:
            return
        seconds = self.clock.pause()
        losses_SR = self.program.losses_SR[self.logged : done].cpu()
        for at, one in enumerate(self.trained):
            if one.diverged_at is None:
                one.diverged_at = first_bad(losses_SR[:, at], self.logged)
                one.record.loss(done, float(losses_SR[:, at].mean()), seconds)
                if one.diverged_at is not None:
                    one.record.diverged(one.diverged_at)
        self.logged = done
        if done == run.steps or (run.eval_every is not None and done % run.eval_every == 0):
            self._validate()
        self.clock.resume()

    def _validate(self) -> None:
        done = self.program.done
        for at, nll in self._score("valid", self.program.weights_RP).items():
            one = self.trained[at]
            if not math.isfinite(nll):  # the last update ruined the weights after a finite loss
                one.diverged_at = done
                one.record.diverged(done)
            elif nll < self.best_nll[at]:
                self.best_nll[at] = nll
                self.best_RP[at].copy_(self.program.weights_RP[at])

    def _score(self, split: str, weights_RP: Tensor) -> dict[int, float]:
        """Score a split, file the result as Evaluations of these weights; nll by replica."""
        run, nll = self.run, {}
        if not any(self._alive()):
            return nll
        self.ranks.check_equal(weights_RP, step=self.program.done)
        scored = self.program.scores(split, weights_RP=weights_RP, items=split == "test")
        on_cpu_RP = weights_RP.cpu()
        for at, (one, scores) in enumerate(zip(self.trained, scored, strict=True)):
            if one.diverged_at is not None:
                continue
            evaluation = Evaluation(
                weights=weights_hash(self.program.replicas.state(at, on_cpu_RP)),
                model=run.model,
                task=run.task,
                protocol=run.protocol,
                split=split,
                eval_seed=run.eval_seed,
            )
            one.record.scores(evaluation, self.program.done, scores)
            nll[at] = scores.metrics["nll"][0]
        return nll

    def _test(self) -> None:
        """The test of the weights that each run reports, its weights, and its costs."""
        run, replicas = self.run, self.program.replicas
        finals_RP = self.program.weights_RP
        if run.test:
            self._score("test", self.best_RP if run.weights == "best" else finals_RP)
        if not self.ranks.is_first:
            return
        speed = self._inference_speed()
        for at, one in enumerate(self.trained):
            if one.best or self.best_nll[at] < math.inf:
                one.best = replicas.state(at, self.best_RP)
            if one.diverged_at is None:
                one.final = replicas.state(at, finals_RP)
            one.record.close(self.data, inference_tokens_per_second=speed)

    def _inference_speed(self) -> float:
        """Of one replica by itself."""
        run, model = self.run, seeded(self.run.model, init_seed=0)
        model.load_state_dict(self.program.replicas.state(0))
        model = (model.double() if run.dtype == "float64" else model).to(self.device)
        one = run.replace(steps=1, batch_size=TIMED_EVALUATION_ROWS, epoch_windows=None, grad_accum=1)
        return tokens_per_second(model, self.data.stream(one, self.program.view).at(0))

    # ---------------------------------------------------------------- checkpoints

    def _save(self, checkpoint: Checkpoint) -> None:
        checkpoint.write(
            self.program.tensors() | {"best": self.best_RP},
            {
                "done": self.program.done,
                "logged": self.logged,
                "seconds": self.clock.seconds,
                "best_nll": [None if math.isinf(nll) else nll for nll in self.best_nll],
                "diverged_at": [one.diverged_at for one in self.trained],
                "records": [one.record.to_dict() for one in self.trained],
            },
        )

    def _resume(self, checkpoint: Checkpoint | None) -> None:
        """Go on from the checkpoint; other ranks go on from what the first one read."""
        tensors, rest = (None, None) if checkpoint is None else _read(checkpoint)
        rest = self.ranks.first(lambda: rest)
        if rest is None:
            return
        if tensors is not None:
            self.best_RP.copy_(tensors.pop("best"))
        self.ranks.spread_([self.best_RP])
        self.program.restore(tensors, done=rest["done"])
        self.logged, self.clock.seconds = rest["logged"], rest["seconds"]
        self.best_nll = [math.inf if nll is None else nll for nll in rest["best_nll"]]
        for one, bad, kept in zip(self.trained, rest["diverged_at"], rest["records"], strict=True):
            one.diverged_at = bad
            one.record.restore(kept)
        log.info("going on from step %d of %d", rest["done"], self.run.steps)


def _read(checkpoint: Checkpoint) -> tuple[dict[str, Tensor] | None, dict[str, Any] | None]:
    """A checkpoint, if there is one; one that cannot be trusted is named, and the group starts anew."""
    try:
        return checkpoint.read() or (None, None)
    except ValueError as error:
        log.warning("%s; training starts anew", error)
        checkpoint.remove()
        return None, None


def first_bad(losses_S: Tensor, offset: int) -> int | None:
    """1-based step of the first loss that is NaN or infinite."""
    bad = (~torch.isfinite(losses_S)).nonzero()
    return int(bad[0]) + offset + 1 if len(bad) else None
