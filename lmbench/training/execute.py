"""Executing a set of runs: what the store has is read, what it lacks is trained, once.

Several processes may be given overlapping sets: each run is trained by whoever takes its
lock first, in digest order and without waiting; runs that another process holds are
awaited at the end. Runs that differ only in seeds and numbers of the optimizer are one
group, trained by one program (see `grouping`).
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from lmbench.config import from_dict
from lmbench.errors import unknown
from lmbench.models.base import ModelConfig
from lmbench.progress import Progress
from lmbench.records import Records
from lmbench.run import Run
from lmbench.store import POLL_S, Store
from lmbench.tasks.base import TaskConfig, load_task
from lmbench.training.check import check
from lmbench.training.checkpoint import interrupted
from lmbench.training.distributed import ALONE, Ranks
from lmbench.training.filing import (
    CHECKPOINT_SECONDS,
    KEEP_WEIGHTS_MB,
    Heartbeat,
    How,
    check_teachers,
    train_into,
)
from lmbench.training.grouping import groups
from lmbench.training.teachers import teachers_of

log = logging.getLogger(__name__)


def fit_model(model: ModelConfig, task: TaskConfig) -> ModelConfig:
    """The model with the task's vocabulary."""
    return model.replace(vocab_size=load_task(task).vocab_size)


def default_device() -> torch.device:
    """CUDA where there is one, else the CPU. (MPS must be asked for: its kernels are not all there.)"""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_device(name: str | None) -> torch.device:
    """The device of a name; None or "" is the default one.

    Raises:
        ValueError: no such kind of device, or none of it on this machine.
    """
    if not name:
        return default_device()
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(unknown("device", name, ("cpu", "cuda", "cuda:0", "mps"))) from None
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device.type, False):
        here = ", ".join(kind for kind, is_here in present.items() if is_here)
        raise ValueError(f"device {name!r} is not on this machine; it has {here}")
    return device


def run_all(
    runs: Sequence[Run],
    *,
    store: Records,
    device: str | None = None,
    jobs: int = 1,
    progress: bool = True,
    keep_weights_mb: float = KEEP_WEIGHTS_MB,
    group: int | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ranks: Ranks = ALONE,
) -> pd.DataFrame:
    """Train the runs that the store lacks and return the rows of all of them.

    Args:
        store: a `Store`, or a read-only `Reference`, which must hold every run.
        device: a torch device; None takes CUDA where there is one, else the CPU.
        jobs: processes that train at the same time, on the one device.
        keep_weights_mb: weights up to this size are kept beside the results.
        group: most runs that one program trains side by side; None is 1 on a CPU, and what fits
            into memory on a GPU.
        checkpoint_seconds: between two checkpoints; the same call goes on from the last.
        ranks: the processes that make this same call to train the runs together, one after the
            other; they must all see the store.

    Raises:
        ValueError: a run whose parts do not fit, one that a read-only store lacks, or a number below
            the least that makes sense; nothing has been trained then.
    """
    _at_least(1, jobs=jobs, group=1 if group is None else group)
    _at_least(0, checkpoint_seconds=checkpoint_seconds)
    if not ranks.is_alone and jobs > 1:
        raise ValueError(
            f"jobs = {jobs} is not accepted under torchrun, whose processes train one run at a time"
        )
    wanted = {run.digest: run for run in runs}
    missing = ranks.first(lambda: [digest for digest in sorted(wanted) if not store.has(digest)])
    if missing and not isinstance(store, Store):
        raise ValueError(
            f"the reference results {store.root} lack {len(missing)} of {len(wanted)} runs, first "
            f"{missing[0]} ({wanted[missing[0]].model.name}); run with store=local to train them"
        )
    for digest in missing:  # before anything is trained: a run that cannot be must not cost the others
        check(wanted[digest], load_task(wanted[digest].task))
    taught = teachers_of([wanted[digest] for digest in missing])
    if taught:  # first: the others learn from their weights
        again = {"device": device, "jobs": jobs, "progress": progress, "group": group, "ranks": ranks}
        again |= {"keep_weights_mb": math.inf, "checkpoint_seconds": checkpoint_seconds}
        run_all(list(taught.values()), store=store, **again)
        check_teachers(taught, store)
    if missing:
        how = How(resolve_device(device), keep_weights_mb, checkpoint_seconds, jobs=jobs, ranks=ranks)
        _train_missing(wanted, {d: wanted[d] for d in missing}, store, how, group, progress)
        ranks.first(lambda: str(store.write_index()))
    return store.frame([run.digest for run in runs])


def _at_least(least: int, **numbers: float) -> None:
    for name, value in numbers.items():
        if value < least:
            raise ValueError(f"{name} = {value} is not accepted: at least {least}")


def _train_missing(
    wanted: dict[str, Run], todo: dict[str, Run], store: Store, how: How, group: int | None, progress: bool
) -> None:
    """Train all of `todo`, the runs of `wanted` that the store lacks, until none is left."""
    total, waiting_since = len(todo), None
    alone = how.ranks.is_alone
    with Progress(total, "runs", show=progress and how.ranks.is_first) as bar:
        while todo:
            before = len(todo)
            kept = interrupted(store.checkpoints, wanted, store.has) if alone else ()
            digests = groups(todo, device=how.device, size=group if alone else 1, jobs=how.jobs, kept=kept)
            made = [[wanted[digest] for digest in members] for members in digests]
            if how.jobs > 1 and len(made) > 1:
                _pass_parallel(made, todo, store, how, bar, total)
            else:
                _pass_serial(made, todo, store, how, bar, total)
            if len(todo) == before:  # all that is left is held by other processes
                held = next(iter(todo))
                if waiting_since is None:
                    waiting_since = time.monotonic()
                    log.info("waiting for run %s, held by %s", held, store.owner(held))
                bar.update(total - len(todo), f"waiting for {store.owner(held)}")
                time.sleep(POLL_S)


def _pass_serial(
    made: list[list[Run]], todo: dict[str, Run], store: Store, how: How, bar: Progress, total: int
) -> None:
    """Train, one after the other, every group whose locks are free."""
    for runs in made:
        done = total - len(todo)

        def on_step(step: int, runs: list[Run] = runs, done: int = done) -> None:
            share = step / runs[0].steps
            bar.update(done + len(runs) * share, f"{describe(runs)}, step {step}/{runs[0].steps}")

        with Heartbeat(store, [run.digest for run in runs]):
            for digest in train_into(runs, store, how, on_step):
                todo.pop(digest, None)


def _pass_parallel(
    made: list[list[Run]], todo: dict[str, Run], store: Store, how: How, bar: Progress, total: int
) -> None:
    """The same in several processes, each with its share of the processor's threads."""
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    jobs = min(how.jobs, len(made))
    threads = max(1, torch.get_num_threads() // jobs)
    how = replace(how, jobs=jobs)
    work = (
        delayed(_train_in_worker)([run.to_dict() for run in runs], store.root, how, threads) for runs in made
    )
    try:
        for finished in Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(work):
            for digest in finished:
                run = todo.pop(digest, None)
                if run is not None:
                    bar.update(total - len(todo), f"finished {describe([run])}")
    except BaseException:  # also Ctrl-C: the workers were killed in the middle of their runs
        get_reusable_executor().shutdown(wait=True, kill_workers=True)
        for digest in todo:
            with store.lock(digest) as mine:
                if mine:
                    store.discard(digest)
        raise


def _train_in_worker(data: list[dict], root: Path, how: How, threads: int) -> list[str]:
    """One group in a worker process; the digests that are finished."""
    torch.set_num_threads(threads)
    runs, store = [from_dict("run", one) for one in data], Store(root)
    with Heartbeat(store, [run.digest for run in runs]):
        return train_into(runs, store, how, lambda step: Progress.beat())


def describe(runs: Sequence[Run]) -> str:
    """A few words for a progress line."""
    run = runs[0]
    if len(runs) > 1:
        return f"{run.model.name}, {len(runs)} runs side by side"
    return f"{run.model.name}, learning rate {run.optimizer.lr:g}, seed {run.init_seed}"
