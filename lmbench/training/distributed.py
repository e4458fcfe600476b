"""One run on several processes: data-parallel training under torchrun.

Each process, a rank, holds the whole model and takes its share of the rows of every batch.
DistributedDataParallel averages the gradients bucket by bucket while the backward pass is
still running, and every rank makes the same update of the same weights. Rank 0 alone takes
locks and writes checkpoints, folders and progress; what it decides is sent to the others as JSON.

N processes give the losses, gradients and scores of one, up to the order of sums. Dropout is
where they depart: a rank's share has masks of its own, so N processes with grad_accum M draw
what one process draws with grad_accum N M, and a run with dropout equals that on one process
in distribution only.

Source: Li et al. 2020 (PyTorch Distributed). Legend: R replica (one), B batch, T position.
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lmbench.errors import sentence
from lmbench.run import Run
from lmbench.tasks.base import Batch

T = TypeVar("T")
Scorer = Callable[[Batch], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Ranks:
    """The processes that train one run together, seen from one of them; alone if not told otherwise."""

    rank: int = 0
    n: int = 1
    nodes: int = 1
    """Machines that they run on."""

    @property
    def is_alone(self) -> bool:
        return self.n == 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that decides and writes."""
        return self.rank == 0

    def check(self, run: Run) -> None:
        """Raise ValueError where a run's batches cannot be shared out evenly."""
        parts = self.n * run.grad_accum
        if run.batch_size % parts:
            raise ValueError(
                f"batch_size = {run.batch_size} cannot be shared by {self.n} processes: it must be a "
                f"multiple of {parts}, the processes times grad_accum = {run.grad_accum}"
            )

    # ---------------------------------------------------------------- decisions

    def first(self, work: Callable[[], T]) -> T:
        """Call `work` on rank 0 alone; every rank gets what it returned, or stops with its error.

        Args:
            work: returns a plain JSON value.

        Raises:
            ValueError: on the other ranks, with the sentence of the error on rank 0.
        """
        if self.is_alone:
            return work()
        if not self.is_first:
            told = _broadcast_json(None)
            if told["error"] is not None:
                raise ValueError(f"rank 0 stopped: {told['error']}")
            return told["value"]
        try:
            value = work()
        except Exception as error:
            _broadcast_json({"error": sentence(error)})
            raise
        _broadcast_json({"error": None, "value": value})
        return value

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors, the same on every rank, with those of rank 0."""
        for tensor in tensors if not self.is_alone else ():
            dist.broadcast(tensor, src=0)

    def check_equal(self, weights: Tensor, *, step: int) -> None:
        """Compare a checksum of the weights of all ranks.

        Raises:
            RuntimeError: they differ, which only broken hardware or a mix of devices brings about.
        """
        if self.is_alone:
            return
        # A sum of bits as integers: exact, and the same in whatever order a device adds.
        mine = weights.contiguous().view(torch.int32).sum(dtype=torch.int64).reshape(1)
        of_each = [torch.empty_like(mine) for _ in range(self.n)]
        dist.all_gather(of_each, mine)
        other = [rank for rank, found in enumerate(of_each) if found != of_each[0]]
        if other:
            raise RuntimeError(
                f"after step {step} the weights of rank {other[0]} differ from those of rank 0: the "
                f"processes no longer train one model"
            )

    # ---------------------------------------------------------------- a step

    def wrap(self, module: nn.Module, *, device: torch.device) -> nn.Module:
        """The module with gradients that are averaged over the ranks by the end of a backward pass."""
        made = DistributedDataParallel(
            module,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
        # Dropout keys, which differ between ranks. As an argument it has another name in newer torch.
        made.broadcast_buffers = False
        return made

    def share(self, parts: int) -> range:
        """Which of `n * parts` consecutive parts of a batch are this rank's."""
        return range(self.rank * parts, (self.rank + 1) * parts)

    def averaging(
        self, one_pass: nn.Module, sum_RP: Tensor, *, at: int, of: range
    ) -> contextlib.AbstractContextManager[None]:
        """What the pass of part `at`, one of a rank's share, runs in, so that its gradients are averaged.

        Gradients are summed in float32 outside of the module, so the module averages those of the
        last part alone, and the sum of the earlier ones is averaged here.

        Args:
            one_pass: what `wrap` gave.
            sum_RP: of the gradients of the earlier parts.
        """
        if self.is_alone:
            return contextlib.nullcontext()
        if at != of[-1]:
            return one_pass.no_sync()
        if at != of[0]:
            self.average_(sum_RP)
        return contextlib.nullcontext()

    def average_(self, tensor: Tensor) -> None:
        """Replace a tensor by its mean over the ranks."""
        if not self.is_alone:
            dist.all_reduce(tensor)
            tensor.div_(self.n)

    # ---------------------------------------------------------------- scoring

    def in_turn(self, scorer: Scorer, *, dtype: torch.dtype) -> Scorer:
        """A scorer of the batches that fall to this rank; the scores of all others are zeros.

        Args:
            dtype: of the scores.
        """
        turn = itertools.count()

        def mine(batch: Batch) -> tuple[Tensor, Tensor]:
            if next(turn) % self.n == self.rank:
                return scorer(batch)
            nothing = batch.targets_BT.new_zeros((1, *batch.targets_BT.shape), dtype=dtype)
            return nothing, nothing

        return mine

    def summed(self, values: np.ndarray) -> np.ndarray:
        """The sum over the ranks."""
        if self.is_alone:
            return values
        total = torch.tensor(values)
        dist.all_reduce(total)
        return total.numpy()

    # ---------------------------------------------------------------- circumstances

    def env(self, env: dict[str, Any], *, device: torch.device) -> dict[str, Any]:
        """env.json of a run that all ranks trained: how many there were, and on how many devices.

        Processes on one machine's processor share that one device.
        """
        if self.is_alone:
            return env
        devices = self.n if device.type == "cuda" else self.nodes
        name = env["device"] if devices == 1 else f"{devices} x {env['device']}"
        return env | {"ranks": self.n, "device": name}


ALONE = Ranks()


def _broadcast_json(value: Any) -> Any:
    """A JSON value of rank 0 on every rank. torch's own broadcast of objects would pickle it."""
    body = np.frombuffer(json.dumps(value).encode(), dtype=np.uint8).copy()
    length = torch.tensor([len(body)])
    dist.broadcast(length, src=0)
    sent = torch.from_numpy(body) if dist.get_rank() == 0 else torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(sent, src=0)
    return json.loads(sent.numpy().tobytes())
