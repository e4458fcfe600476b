"""Which runs train side by side: those that differ only in seeds and in numbers of the optimizer.

Each run of a group ends as it would alone (weights, batches and dropout masks are its own), so
grouping is a matter of speed: on a GPU a stack of small models costs little more than one; on
a CPU it gains nothing, and runs are trained one at a time unless asked otherwise.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from lmbench.config import digest_of
from lmbench.run import Run
from lmbench.training.capture import free_memory
from lmbench.training.costs import run_flops
from lmbench.training.host import few_threads
from lmbench.training.program import Program

LARGEST = 64  # replicas: more gain nothing on the devices measured, and delay the first result
USED = 0.85  # share of the free memory that a group may fill; the rest is for evaluation batches
# FLOPs above which a group is compiled. That takes 10 to 25 s and doubles the speed of a captured
# graph of plain kernels, which on an H200 runs at 20 (one run) to 50 TFLOP/s (64 runs).
COMPILED_ABOVE = 2e15
log = logging.getLogger(__name__)
_BYTES: dict[tuple[str, str], tuple[int, int]] = {}


def key(run: Run) -> str:
    """Equal for runs that one program can train side by side."""
    shape = run.canonical()
    for name in ("init_seed", "data_seed", "dropout_seed"):
        shape.pop(name, None)
    scalars = sorted(run.optimizer.scalars())
    shape["optimizer"] = {k: v for k, v in shape["optimizer"].items() if k not in scalars}
    return digest_of([shape, scalars])


def alone(run: Run) -> str:
    """Why a run cannot be stacked; empty where it can."""
    reasons = [run.model.alone, *(method.alone for method in run.methods)]
    return "; ".join(reason for reason in reasons if reason)


def groups(
    runs: Mapping[str, Run],
    *,
    device: torch.device,
    size: int | None = None,
    jobs: int = 1,
    kept: Sequence[Sequence[str]] = (),
) -> list[list[str]]:
    """Digests in groups, in the order of their first member.

    Args:
        runs: by digest.
        size: most replicas of a group; None is 1 on a CPU, and what fits into memory on a GPU.
        jobs: programs that will share a GPU's memory.
        kept: groups that were interrupted and go on with their membership.
    """
    made = [list(members) for members in kept]
    taken = {digest for members in made for digest in members}
    is_stacked = device.type == "cuda" if size is None else size > 1
    alike: dict[str, list[str]] = defaultdict(list)
    for digest, run in runs.items():
        if digest in taken:
            continue
        reason = alone(run)
        if reason and is_stacked:
            log.info("run %s (%s) is trained alone: %s", digest, run.model.name, reason)
        alike[digest if reason else key(run)].append(digest)
    for members in alike.values():
        most = size or largest(runs[members[0]], len(members), device=device, jobs=jobs)
        made += [members[at : at + most] for at in range(0, len(members), most)]
    return made


def largest(run: Run, wanted: int, *, device: torch.device, jobs: int = 1) -> int:
    """Replicas of a run that fit into a device's free memory, at most `wanted` and LARGEST.

    Args:
        jobs: programs that will share the memory.
    """
    if device.type != "cuda" or wanted == 1:
        return 1
    kind = (key(run), str(device))
    if kind not in _BYTES:  # groups are formed anew at each look at runs that another process holds
        _BYTES[kind] = _replica_bytes(run, device)
    (each, scoring), (free, _) = _BYTES[kind], torch.cuda.mem_get_info(device)
    fits = max(1, int((USED * free / jobs - scoring) / max(each, 1)))
    log.info(
        "%s takes %.0f MB a replica and %.0f MB to score, %d fit",
        run.model.name,
        each / 1e6,
        scoring / 1e6,
        fits,
    )
    return min(wanted, LARGEST, fits)


def _replica_bytes(run: Run, device: torch.device) -> tuple[int, int]:
    """Peak bytes of a training step of a run alone, and of scoring, whose batches shrink as R grows."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    with few_threads(device):
        program = Program([run.replace(steps=1, schedule="constant")], device=device)
    program.advance(1)
    torch.cuda.synchronize(device)
    each = torch.cuda.max_memory_allocated(device) - before
    held = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    program.score_first("valid")
    torch.cuda.synchronize(device)
    scoring = torch.cuda.max_memory_allocated(device) - held
    del program
    free_memory(device)
    return each, scoring


def is_compiled(run: Run, replicas: int, *, device: torch.device) -> bool:
    """Whether a group is long enough for compilation to pay; decided by counted FLOPs alone."""
    return device.type == "cuda" and run_flops(run, run.steps) * replicas > COMPILED_ABOVE
