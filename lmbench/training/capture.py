"""CUDA graphs: a function of tensors at fixed addresses, launched as one.

A small model's step is hundreds of kernels of a few microseconds, and launching each from
Python takes longer than running it. A captured graph launches them all at once.
"""

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lmbench.tasks.base import IGNORE, Batch

WARM_UP = 3  # calls before capture: kernels load, workspaces and gradients are allocated
log = logging.getLogger(__name__)


class Captured:
    """Calls `body`, which must read and write tensors that stay where they are.

    The first calls run as they are, on a side stream, as capture wants; then the body is
    captured, and each later call replays it. On a CPU the body is simply called.
    """

    def __init__(self, body: Callable[[], Any], *, device: torch.device) -> None:
        self.body, self.device = body, device
        self._calls, self._graph, self._result = 0, None, None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self) -> Any:
        """What the body returns; of a replayed graph, the same tensors with new values."""
        if self._stream is None:
            return self.body()
        if self._graph is None and self._calls == WARM_UP:
            torch.cuda.synchronize(self.device)
            self._graph = torch.cuda.CUDAGraph()
            with _no_collection(), torch.cuda.graph(self._graph, stream=self._stream):
                self._result = self.body()
            log.debug("captured a graph of %s", self.body)
        if self._graph is not None:
            self._graph.replay()
            return self._result
        self._calls += 1
        here = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            result = self.body()
        here.wait_stream(self._stream)
        return result


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect garbage now and not inside: a finished run's graph that is freed inside spoils the capture."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class CapturedScorer:
    """A scorer of batches that copies each into tensors of one shape and replays a graph for it.

    Args:
        scorer: from a batch to tensors.
    """

    def __init__(self, scorer: Callable[[Batch], Any], *, device: torch.device) -> None:
        self.scorer, self.device = scorer, device
        self._by_shape: dict[tuple, tuple[Batch, Captured]] = {}

    def __call__(self, batch: Batch) -> Any:
        """As `scorer(batch)`; a batch of more rows than all before it makes a new graph."""
        key = tuple(None if value is None else value.shape[1] for value in vars(batch).values())
        rows = len(batch.tokens_BT)
        if key not in self._by_shape or rows > len(self._by_shape[key][0].tokens_BT):
            held = Batch(**{name: _copy(value) for name, value in vars(batch).items()})
            self._by_shape[key] = held, Captured(lambda: self.scorer(held), device=self.device)
        held, captured = self._by_shape[key]
        for name, place in vars(held).items():
            if place is not None:
                place[:rows].copy_(getattr(batch, name))
        held.targets_BT[rows:] = IGNORE
        return tuple(result[:, :rows].clone() for result in captured())


def _copy(value: torch.Tensor | None) -> torch.Tensor | None:
    return None if value is None else value.clone()


def free_memory(device: torch.device) -> None:
    """Give back what finished programs and graphs held: they refer to each other."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
