"""What a host does beside its GPU: operations on tensors of a model's size, best on few threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Measured with 64 cores beside an H200: training five pruned replicas of half a million weights for
# 300 steps, of which the GPU needs 1.2 s, took 23 s with 64 threads; copying, cloning and masking
# single matrices took most of it. With 4 threads 1,000 steps of such groups took 10 s on average.
HOST_THREADS = 4
_whole: list[int] = []


@contextmanager
def few_threads(device: torch.device) -> Iterator[None]:
    """Inside, torch's operations on the host take at most HOST_THREADS if another device computes."""
    before = torch.get_num_threads()
    _whole.append(before)
    if device.type != "cpu":
        torch.set_num_threads(min(before, HOST_THREADS))
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _whole.pop()


def threads() -> int:
    """The process's share of the processor, for work that is no operation of torch."""
    return _whole[0] if _whole else torch.get_num_threads()
