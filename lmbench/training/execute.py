"""Executing a set of runs: what the store has is read, what it lacks is trained, once.

Several processes may be given overlapping sets: each run is trained by whoever takes its
lock first, in digest order and without waiting; runs that another process holds are
awaited at the end. This is the place where a faster engine takes over whole groups.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save as serialize

from lmbench.config import from_dict, unknown
from lmbench.models.base import ModelConfig
from lmbench.progress import Progress
from lmbench.records import Records, write_atomically
from lmbench.run import Run
from lmbench.store import POLL_S, Store
from lmbench.tasks.base import TaskConfig, load_task
from lmbench.training.loop import Trained, train
from lmbench.training.record import weights_hash

KEEP_WEIGHTS_MB = 64.0  # larger weights are not kept unless asked for
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
) -> pd.DataFrame:
    """Train the runs that the store lacks and return the rows of all of them.

    Args:
        store: a `Store`, or a read-only `Reference`, which must hold every run.
        device: a torch device; None takes CUDA where there is one, else the CPU.
        jobs: processes that train at the same time, on the one device.
        keep_weights_mb: weights up to this size are kept beside the results.

    Raises:
        ValueError: a run whose parts do not fit, or one that a read-only store lacks.
    """
    wanted = {run.digest: run for run in runs}
    missing = [digest for digest in sorted(wanted) if not store.has(digest)]
    if missing and not isinstance(store, Store):
        raise ValueError(
            f"the reference results {store.root} lack {len(missing)} of {len(wanted)} runs, first "
            f"{missing[0]} ({wanted[missing[0]].model.name}); run with store=local to train them"
        )
    if missing:
        where = resolve_device(device)
        _train_missing({d: wanted[d] for d in missing}, store, where, jobs, progress, keep_weights_mb)
        store.write_index()
    return store.frame([run.digest for run in runs])


def _train_missing(
    todo: dict[str, Run], store: Store, device: torch.device, jobs: int, progress: bool, keep_mb: float
) -> None:
    total, waiting_since = len(todo), None
    with Progress(total, "runs", show=progress) as bar:
        while todo:
            before = len(todo)
            if jobs > 1 and before > 1:
                _pass_parallel(todo, store, device, jobs, keep_mb, bar, total)
            else:
                _pass_serial(todo, store, device, keep_mb, bar, total)
            if len(todo) == before:  # all that is left is held by other processes
                held = next(iter(todo))
                if waiting_since is None:
                    waiting_since = time.monotonic()
                    log.info("waiting for run %s, held by %s", held, store.owner(held))
                bar.update(total - len(todo), f"waiting for {store.owner(held)}")
                time.sleep(POLL_S)


def _pass_serial(
    todo: dict[str, Run], store: Store, device: torch.device, keep_mb: float, bar: Progress, total: int
) -> None:
    """Train, one after the other, every run whose lock is free."""
    for digest, run in list(todo.items()):
        done, label = total - len(todo), describe_run(run)
        heartbeat = _Heartbeat(store, digest)

        def on_step(step: int, run: Run = run, done: int = done, label: str = label) -> None:
            bar.update(done + step / run.steps, f"{label}, step {step}/{run.steps}")

        with heartbeat:
            if train_into(run, store, device, keep_mb, on_step):
                del todo[digest]


def _pass_parallel(
    todo: dict[str, Run],
    store: Store,
    device: torch.device,
    jobs: int,
    keep_mb: float,
    bar: Progress,
    total: int,
) -> None:
    """The same in `jobs` processes, each with its share of the processor's threads."""
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    jobs = min(jobs, len(todo))
    threads = max(1, torch.get_num_threads() // jobs)
    work = (
        delayed(_train_in_worker)(run.to_dict(), str(store.root), str(device), threads, jobs, keep_mb)
        for run in list(todo.values())  # todo shrinks while results come in
    )
    try:
        for digest in Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(work):
            if digest is not None:
                label = describe_run(todo.pop(digest))
                bar.update(total - len(todo), f"finished {label}")
    except BaseException:  # also Ctrl-C: the workers were killed in the middle of their runs
        get_reusable_executor().shutdown(wait=True, kill_workers=True)
        for digest in todo:
            with store.lock(digest) as mine:
                if mine:
                    store.discard(digest)
        raise


def _train_in_worker(
    data: dict, root: str, device: str, threads: int, jobs: int, keep_mb: float
) -> str | None:
    """One run in a worker process; its digest, or None where another process holds it."""
    torch.set_num_threads(threads)
    run, store = from_dict("run", data), Store(Path(root))
    with _Heartbeat(store, run.digest):
        took = train_into(run, store, torch.device(device), keep_mb, lambda step: Progress.beat(), jobs=jobs)
    return run.digest if took else None


def train_into(
    run: Run,
    store: Store,
    device: torch.device,
    keep_mb: float,
    on_step: Callable[[int], None],
    *,
    jobs: int = 1,
) -> bool:
    """Train one run into its folder under its lock; False where another process holds the lock."""
    with store.claim(run.digest) as folder:
        if folder is None:
            return store.has(run.digest)
        trained = train(run, device=device, jobs=jobs, on_step=on_step)
        save_weights(trained, folder, keep_mb)
        record = trained.record
        store.finish(
            run.digest,
            run=record.run_json(),
            env=record.env_json(),
            rows=pd.DataFrame(record.rows),
            items=record.items_frame(),
        )
    return True


def save_weights(trained: Trained, folder: Path, keep_mb: float) -> None:
    """final.safetensors, and best.safetensors where the best validation was an earlier one."""
    for name, state in (("final", trained.final), ("best", trained.best)):
        size_mb = sum(v.numel() * v.element_size() for v in state.values()) / 1e6
        same = name == "best" and trained.final and weights_hash(state) == weights_hash(trained.final)
        if state and size_mb <= keep_mb and not same:
            write_atomically(folder / f"{name}.safetensors", serialize(state))


def describe_run(run: Run) -> str:
    """A few words for a progress line."""
    return f"{run.model.name}, learning rate {run.optimizer.lr:g}, seed {run.init_seed}"


class _Heartbeat:
    """While inside, long loops keep touching the owner file of a lock."""

    def __init__(self, store: Store, digest: str) -> None:
        self._beat = lambda: store.heartbeat(digest)

    def __enter__(self) -> None:
        Progress.beats.append(self._beat)

    def __exit__(self, *rest: object) -> None:
        Progress.beats.remove(self._beat)
