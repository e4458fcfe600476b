"""The training of a group of runs: from the first step, or the last checkpoint, to the final test.

Everything that can change a number comes from the runs; the arguments only say where and
how they are watched. The batch of a step is a pure function of (data_seed, step), weights
start from init_seed on the CPU whatever the device, dropout masks come from dropout_seed.
A group of one is a run trained alone.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lmbench.run import Run
from lmbench.tasks.base import load_task
from lmbench.training.check import check
from lmbench.training.checkpoint import Checkpoint
from lmbench.training.distributed import ALONE, Ranks
from lmbench.training.draws import BLOCK
from lmbench.training.environment import reset_peak_memory
from lmbench.training.outcome import Trained
from lmbench.training.program import Program
from lmbench.training.teachers import teachers_of
from lmbench.training.watch import Watch

log = logging.getLogger(__name__)


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
    program = Program(runs, device=device, compiled=compiled, ranks=ranks, teachers=teachers)
    return _Training(program, jobs=jobs).finish(checkpoint, on_step)


class _Training:
    """One group's program, and the watch over it."""

    def __init__(self, program: Program, *, jobs: int) -> None:
        self.program, self.run, self.ranks = program, program.run, program.ranks
        self.watch = Watch(program, jobs=jobs)
        self.clock = self.watch.clock

    def finish(self, checkpoint: Checkpoint | None, on_step: Callable[[int], None]) -> list[Trained]:
        """All steps that are left, the final test, and the costs."""
        self._resume(checkpoint)
        self.clock.resume()
        while self.program.done < self.run.steps and self.watch.is_any_alive:
            self._advance(self.watch.next_stop(), checkpoint, on_step)
            self.watch.look()
        self.watch.test()
        return self.watch.trained

    def _advance(self, until: int, checkpoint: Checkpoint | None, on_step: Callable[[int], None]) -> None:
        while self.program.done < until:
            self.program.advance(self._at_once(until))
            on_step(self.program.done)
            if checkpoint is not None and self.program.done < until and checkpoint.is_due:
                self._save(checkpoint)
        if checkpoint is not None and until < self.run.steps and checkpoint.is_due:
            self.watch.look()
            self._save(checkpoint)

    def _at_once(self, until: int) -> int:
        """Steps to take before looking up: on a GPU they are only queued, and looking waits for them."""
        done = self.program.done
        return 1 if self.program.device.type == "cpu" else min(until - done, BLOCK - done % BLOCK)

    def _save(self, checkpoint: Checkpoint) -> None:
        self.clock.pause()
        tensors = self.program.tensors() | {"best": self.watch.best_RP}
        checkpoint.write(tensors, {"done": self.program.done} | self.watch.to_dict())
        self.clock.resume()

    def _resume(self, checkpoint: Checkpoint | None) -> None:
        """Go on from the checkpoint; other ranks go on from what the first one read."""
        tensors, rest = (None, None) if checkpoint is None else _read(checkpoint)
        rest = self.ranks.first(lambda: rest)
        if rest is None:
            return
        if tensors is not None:
            self.watch.best_RP.copy_(tensors.pop("best"))
        self.ranks.broadcast_([self.watch.best_RP])
        self.program.restore(tensors, done=rest["done"])
        self.watch.restore(rest)
        log.info("going on from step %d of %d", rest["done"], self.run.steps)


def _read(checkpoint: Checkpoint) -> tuple[dict[str, Tensor] | None, dict[str, Any] | None]:
    """A checkpoint, if there is one; one that cannot be trusted is named, and the group starts anew."""
    try:
        return checkpoint.read() or (None, None)
    except ValueError as error:
        log.warning("%s; training starts anew", error)
        checkpoint.remove()
        return None, None
