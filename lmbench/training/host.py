"""What a host does beside its GPU: operations on tensors of a model's size, best on few threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Measured with 64 cores beside an H200: building, checking and filing five pruned replicas of half a
# million weights took 17 s with 64 threads, most of it in waking them.
HOST_THREADS = 4


@contextmanager
def few_threads(device: torch.device) -> Iterator[None]:
    """Inside, torch's operations on the host take at most HOST_THREADS if another device computes."""
    before = torch.get_num_threads()
    if device.type != "cpu":
        torch.set_num_threads(min(before, HOST_THREADS))
    try:
        yield
    finally:
        torch.set_num_threads(before)
