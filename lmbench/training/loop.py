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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lmbench.run import Run
from lmbench.tasks.base import TaskData, load_task
from lmbench.training.capabilities import check_tracker
from lmbench.training.checkpoint import Checkpoint
from lmbench.training.distributed import ALONE, Ranks
from lmbench.training.environment import reset_peak_memory
from lmbench.training.outcome import Trained, begin, close, first_bad, score, track
from lmbench.training.program import BLOCK, Program
from lmbench.training.replicas import objective_of
from lmbench.training.teachers import teachers_of

LOG_POINTS = 50  # training-loss rows per run: enough for a curve, few enough to store thousands of runs
log = logging.getLogger(__name__)


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
    for method in run.methods:
        method.check(run)
    objective_of(run.methods)
    if run.track is not None:
        check_tracker(run, data)
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
    teachers: Mapping[str, dict[str, Tensor]] | None = None,
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
        teachers: weights of the runs that methods read, by digest.

    Raises:
        ValueError: a run whose parts do not fit, or a teacher without weights.
    """
    data = load_task(runs[0].task)
    for run in runs:
        check(run, data)
        ranks.check(run)
    for digest, teacher in teachers_of(runs).items():
        if digest not in (teachers or {}):
            raise ValueError(
                f"run {runs[0].digest} learns from {teacher.model.name} {digest}, which is not there"
            )
    reset_peak_memory(device)
    return _Training(runs, data, device, jobs, compiled, ranks, teachers).finish(checkpoint, on_step)


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
        teachers: Mapping[str, dict[str, Tensor]] | None,
    ) -> None:
        self.runs, self.run, self.data, self.device = list(runs), runs[0], data, device
        how = {"device": device, "compiled": compiled, "ranks": ranks, "teachers": teachers}
        self.program, self.ranks = Program(runs, **how), ranks
        self.trained = begin(self.program, jobs=jobs)
        self.logged = 0
        """Steps whose losses are in the records."""
        self.best_nll = [math.inf] * len(runs)
        self.best_RP = self.program.weights_RP.clone()
        self.tracked = [] if self.run.track is None else self.run.track.grid(self.run.steps)
        """Steps after which capabilities are scored."""
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
        ahead = [step for step in self.tracked if step > done]
        return min([run.steps, *ahead[:1]] + [done - done % n + n for n in every])

    def _advance(self, until: int, checkpoint: Checkpoint | None, on_step: Callable[[int], None]) -> None:
        while self.program.done < until:
            self.program.advance(self._at_once(until))
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

    def _at_once(self, until: int) -> int:
        """Steps to take before looking up: on a GPU they are only queued, and looking waits for them."""
        done = self.program.done
        return 1 if self.device.type == "cpu" else min(until - done, BLOCK - done % BLOCK)

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
                terms_K = self.program.terms_SRK[self.logged : done, at].mean(dim=0).tolist()
                one.record.terms(done, dict(zip(self.program.terms, terms_K, strict=True)))
                if one.diverged_at is not None:
                    one.record.diverged(one.diverged_at)
        self.logged = done
        if done == run.steps or (run.eval_every is not None and done % run.eval_every == 0):
            self._validate()
        if done in self.tracked and any(self._alive()):
            self.ranks.check_equal(self.program.weights_RP, step=done)
            self._lose_bad(track(self.program, self.trained))
        self.clock.resume()

    def _validate(self) -> None:
        found = self._score("valid", self.program.weights_RP)
        self._lose_bad(found)
        for at, nll in found.items():
            # The best of what is computed in the end: weights of an earlier stage are those of another map.
            if nll < self.best_nll[at] and self.program.is_last_stage:
                self.best_nll[at] = nll
                self.best_RP[at].copy_(self.program.weights_RP[at])

    def _lose_bad(self, nll: Mapping[int, float]) -> None:
        """A run whose score is not finite has diverged: its last update ruined it after a finite loss."""
        for at, value in nll.items():
            one = self.trained[at]
            if not math.isfinite(value) and one.diverged_at is None:
                one.diverged_at = self.program.done
                one.record.diverged(self.program.done)

    def _score(self, split: str, weights_RP: Tensor) -> dict[int, float]:
        if any(self._alive()):
            self.ranks.check_equal(weights_RP, step=self.program.done)
        return score(self.program, self.trained, split, weights_RP=weights_RP)

    def _test(self) -> None:
        """The test of the weights that each run reports, its weights, and its costs."""
        is_best = self.run.weights == "best"
        if self.run.test:
            self._score("test", self.best_RP if is_best else self.program.weights_RP)
        if self.ranks.is_first:
            has_best = [nll < math.inf for nll in self.best_nll]
            close(self.program, self.trained, best_RP=self.best_RP, has_best=has_best)

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
        self.ranks.broadcast_([self.best_RP])
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
