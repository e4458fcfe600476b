"""What steps read that a host has to draw: window starts or examples, and the keys of dropout.

A captured step cannot wait for Python. So the draws of a block of steps are made at once and copied to
the device, always into the same tensors, and each step takes its row of them by the count of steps that
lies there too. What is drawn is a function of the runs and the step: a block can be drawn anew.

Legend: R replica, C step of a block, M micro-batch, D dropout.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from lmbench.layers.dropout import dropout_keys
from lmbench.run import Run
from lmbench.tasks.base import Stream
from lmbench.training.host import threads

BLOCK = 256  # steps whose draws travel to the device at once


class Draws:
    """The draws of a group's runs, a block of steps at a time.

    Args:
        streams: of the batches, one for each run.
        micro: micro-batches of a step, those of all processes.
        sites: places of dropout.
    """

    def __init__(
        self, runs: Sequence[Run], streams: Sequence[Stream], *, micro: int, sites: int, device: torch.device
    ) -> None:
        self.runs, self.streams, self.micro, self.sites = list(runs), list(streams), micro, sites
        self.steps, self.device = runs[0].steps, device
        self.block: dict[str, Tensor] = {}
        """(C, R, ...) by what the streams call it, and "dropout" (C, R, M, D)."""
        self._is_stale = True  # the block holds the draws of other steps

    def forget(self) -> None:
        """Draw anew before the next step, whichever it is."""
        self._is_stale = True

    def prepare(self, done: int) -> None:
        """Hold what the step after `done` steps reads; on most steps there is nothing to do."""
        if done % BLOCK == 0 or self._is_stale:
            self._refill(done - done % BLOCK)

    def row(self, count: Tensor) -> dict[str, Tensor]:
        """The draws of one step.

        Args:
            count: (1,) steps before it.
        """
        return {name: value.index_select(0, count % BLOCK)[0] for name, value in self.block.items()}

    def _refill(self, first: int) -> None:
        """Draw what the steps of this block read, into the same tensors each time."""
        count = min(BLOCK, self.steps - first)
        # Generating examples takes as long as learning them, and numpy works without the lock.
        with ThreadPoolExecutor(min(len(self.streams), threads())) as pool:
            drawn = list(pool.map(lambda stream: stream.index(first, count), self.streams))
        fresh = {name: np.stack([one[name] for one in drawn], axis=1) for name in drawn[0]}
        fresh["dropout"] = dropout_keys(
            [run.dropout_seed for run in self.runs],
            first=first,
            count=count,
            micro=self.micro,
            sites=self.sites,
        )
        for name, value in fresh.items():
            if name not in self.block:
                shape = (min(BLOCK, self.steps), *value.shape[1:])
                self.block[name] = torch.zeros(shape, dtype=torch.from_numpy(value).dtype, device=self.device)
            self.block[name][:count].copy_(torch.from_numpy(value))
        self._is_stale = False
