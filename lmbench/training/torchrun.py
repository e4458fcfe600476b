"""Joining the processes that torchrun started; a process of everyday use stays alone.

torchrun tells each process its place by environment variables (RANK, WORLD_SIZE, LOCAL_RANK,
LOCAL_WORLD_SIZE); without them nothing here changes anything. See `distributed` for what
the processes then do together.
"""

import contextlib
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist

from lmbench.training.distributed import ALONE, Ranks

GONE = "closed by peer"  # in what gloo says of a process that has ended


def is_launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def own_device(device: torch.device) -> torch.device:
    """The device of this process, of the kind that was asked for.

    Raises:
        ValueError: under torchrun, a device that processes cannot share, or fewer GPUs than processes.
    """
    if not is_launched() or device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ValueError(f"device {device.type!r} cannot train under torchrun; it must be cpu or cuda")
    if device.index is not None:
        raise ValueError(
            f"device '{device}' is one GPU; under torchrun it must be cuda, and each process takes its own"
        )
    here, present = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if here > present:
        raise ValueError(f"--nproc-per-node = {here}, but this machine has {present} GPUs")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun started, for as long as the block; ALONE where it started none.

    Args:
        device: of this process, see `own_device`.

    Raises:
        ConnectionError: another of them stopped.
    """
    if not is_launched():
        yield ALONE
        return
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.set_device(device)
    # Decisions travel over gloo whatever the device: it notices at once when a process is gone.
    dist.init_process_group("cpu:gloo,cuda:nccl" if is_cuda else "gloo")
    n, here = dist.get_world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    is_whole = False
    try:
        yield Ranks(rank=dist.get_rank(), n=n, nodes=-(-n // here))
        is_whole = True
    except RuntimeError as error:
        if GONE not in str(error):
            raise
        raise ConnectionError("another process of this run stopped; its own message says why") from error
    finally:
        # NCCL would wait here for ranks that may never come; the end of a failed process frees it too.
        if is_whole or not is_cuda:
            dist.destroy_process_group()
