"""What is seen of a group while it trains: losses, validations, points of the tracker, the final test.

What a look finds goes into the records of the runs, and the best weights are kept. A run whose loss or
score is no longer finite has diverged: that is recorded, and it is scored no more. The clock of training
stands still meanwhile, because how often one looks must not count.

Legend: R replica, P parameter, S step, K term of the objective.
"""

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lmbench.training.outcome import begin, close, first_bad, score, track
from lmbench.training.program import Program

LOG_POINTS = 50  # training-loss rows per run: enough for a curve, few enough to store thousands of runs


class Clock:
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


class Watch:
    """Looks at a program and keeps the records of its runs.

    Args:
        jobs: how many programs share the device; only recorded.
    """

    def __init__(self, program: Program, *, jobs: int) -> None:
        self.program, self.run, self.ranks = program, program.run, program.ranks
        self.trained = begin(program, jobs=jobs)
        self.logged = 0
        """Steps whose losses are in the records."""
        self.best_nll = [math.inf] * len(program.runs)
        self.best_RP = program.weights_RP.clone()
        self.tracked = [] if self.run.track is None else self.run.track.grid(self.run.steps)
        """Steps after which capabilities are scored."""
        self.clock = Clock(program.device)

    @property
    def is_any_alive(self) -> bool:
        """Whether a run has not diverged yet."""
        return any(one.diverged_at is None for one in self.trained)

    def next_stop(self) -> int:
        """The next step after which losses are read or the runs validated."""
        run, done = self.run, self.program.done
        every = [max(1, run.steps // LOG_POINTS)] + ([run.eval_every] if run.eval_every else [])
        ahead = [step for step in self.tracked if step > done]
        return min([run.steps, *ahead[:1]] + [done - done % n + n for n in every])

    def look(self) -> None:
        """Read the losses since the last look, and validate where it is time."""
        run, done = self.run, self.program.done
        if done == self.logged:
            return
        self._read_losses(self.clock.pause())
        if done == run.steps or (run.eval_every is not None and done % run.eval_every == 0):
            self._validate()
        if done in self.tracked and self.is_any_alive:
            self.ranks.check_equal(self.program.weights_RP, step=done)
            self._lose_bad(track(self.program, self.trained))
        self.clock.resume()

    def test(self) -> None:
        """The test of the weights that each run reports, its weights, and its costs."""
        is_best = self.run.weights == "best"
        if self.run.test:
            self._score("test", self.best_RP if is_best else self.program.weights_RP)
        if self.ranks.is_first:
            has_best = [nll < math.inf for nll in self.best_nll]
            close(self.program, self.trained, best_RP=self.best_RP, has_best=has_best)

    # ---------------------------------------------------------------- what a look finds

    def _read_losses(self, seconds: float) -> None:
        done = self.program.done
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

    def _validate(self) -> None:
        found = self._score("valid", self.program.weights_RP)
        self._lose_bad(found)
        is_last_stage = self.program.execution.is_last_stage(self.program.done)
        for at, nll in found.items():
            # The best of what is computed in the end: weights of an earlier stage are those of another map.
            if nll < self.best_nll[at] and is_last_stage:
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
        if self.is_any_alive:
            self.ranks.check_equal(weights_RP, step=self.program.done)
        return score(self.program, self.trained, split, weights_RP=weights_RP)

    # ---------------------------------------------------------------- what a checkpoint keeps of it

    def to_dict(self) -> dict[str, Any]:
        """All that was seen, as plain JSON values; the best weights are beside it."""
        return {
            "logged": self.logged,
            "seconds": self.clock.seconds,
            "best_nll": [None if math.isinf(nll) else nll for nll in self.best_nll],
            "diverged_at": [one.diverged_at for one in self.trained],
            "records": [one.record.to_dict() for one in self.trained],
        }

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from what `to_dict` gave."""
        self.logged, self.clock.seconds = kept["logged"], kept["seconds"]
        self.best_nll = [math.inf if nll is None else nll for nll in kept["best_nll"]]
        for one, bad, record in zip(self.trained, kept["diverged_at"], kept["records"], strict=True):
            one.diverged_at = bad
            one.record.restore(record)
