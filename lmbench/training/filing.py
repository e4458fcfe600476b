"""Training a group of runs into the folders of a store, under locks, checkpointed, filed when whole.

A run's folder is believed only once it is complete (see `store`), and its lock is held from
before the first step until then; so whatever ends a process, what it leaves is a checkpoint
and folders that nobody reads.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialize

from lmbench.progress import Progress
from lmbench.records import write_atomically
from lmbench.run import Run
from lmbench.store import Store
from lmbench.training.capture import free_memory
from lmbench.training.checkpoint import Checkpoint
from lmbench.training.distributed import ALONE, Ranks
from lmbench.training.environment import device_name
from lmbench.training.grouping import is_compiled
from lmbench.training.hashes import weights_hash
from lmbench.training.host import few_threads
from lmbench.training.loop import train_group
from lmbench.training.outcome import Trained
from lmbench.training.teachers import teachers_of

KEEP_WEIGHTS_MB = 64.0  # larger weights are not kept unless asked for
CHECKPOINT_SECONDS = 60.0  # what a killed process loses at most
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class How:
    """Where and how carefully groups are trained; nothing that changes a number."""

    device: torch.device
    keep_weights_mb: float = KEEP_WEIGHTS_MB
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    jobs: int = 1
    ranks: Ranks = ALONE


def train_into(
    runs: Sequence[Run], store: Store, how: How, on_step: Callable[[int], None] = lambda step: None
) -> list[str]:
    """Train a group into the folders of its runs, under their locks.

    Returns:
        Digests of the runs that are finished, whoever trained them; another process holds the others.
    """
    if not how.ranks.is_alone:
        return _train_shared(runs[0], store, how, on_step)
    with contextlib.ExitStack() as held:
        # In digest order and without waiting, so that two processes cannot wait for each other.
        folders = {run.digest: held.enter_context(store.claim(run.digest)) for run in _by_digest(runs)}
        mine = [run for run in runs if folders[run.digest] is not None]
        # A group of which some runs were filed when its process died goes on whole, for the same bits.
        others = [run.digest for run in runs if run not in mine]
        is_whole = all(map(store.has, others)) and _checkpoint(runs, store, how).is_begun
        if mine:
            _train_and_file(list(runs) if is_whole else mine, folders, store, how, on_step)
    return [run.digest for run in runs if store.has(run.digest)]


def _train_shared(run: Run, store: Store, how: How, on_step: Callable[[int], None]) -> list[str]:
    """`train_into` of several processes: the first one owns the folder, all of them train."""
    folders: dict[str, Path | None] = {run.digest: None}
    with contextlib.ExitStack() as held:

        def is_claimed() -> bool:
            folders[run.digest] = held.enter_context(store.claim(run.digest))
            return folders[run.digest] is not None

        if how.ranks.first(is_claimed):
            _train_and_file([run], folders, store, how, on_step)
    return how.ranks.first(lambda: [run.digest] if store.has(run.digest) else [])


def _by_digest(runs: Sequence[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: run.digest)


def _train_and_file(
    runs: list[Run],
    folders: dict[str, Path | None],
    store: Store,
    how: How,
    on_step: Callable[[int], None],
) -> None:
    """Train runs and file those whose folders are given; in halves where memory does not hold them all."""
    checkpoint = _checkpoint(runs, store, how)
    compiled = is_compiled(runs[0], len(runs), device=how.device)
    try:
        with few_threads(how.device):
            trained = train_group(
                runs,
                device=how.device,
                jobs=how.jobs,
                compiled=compiled,
                checkpoint=checkpoint if how.ranks.is_first else None,
                on_step=on_step,
                ranks=how.ranks,
                teachers=load_teachers(runs, store),
            )
    except RuntimeError as error:
        if len(runs) == 1 or not is_out_of_memory(error):
            raise
        trained = None  # outside of the handler the traceback no longer holds the group's memory
    free_memory(how.device)
    if trained is None:
        log.warning("%d runs side by side do not fit into memory; trying halves", len(runs))
        checkpoint.remove()
        for half in (runs[: len(runs) // 2], runs[len(runs) // 2 :]):
            _train_and_file(half, folders, store, how, on_step)
        return
    how.ranks.first(lambda: _file(trained, folders, store, how))


def check_teachers(taught: Mapping[str, Run], store: Store) -> None:
    """Refuse finished teachers of which there are no weights, before anything is to learn from them.

    Raises:
        ValueError: naming the first.
    """
    for digest, run in taught.items():
        try:
            store.weights(digest)
        except ValueError:
            raise ValueError(
                f"teacher {run.model.name} {digest} left no weights to learn from: it diverged, or was "
                f"trained when they were larger than keep_weights_mb; remove {store.folder(digest)} to "
                f"train it again"
            ) from None


def load_teachers(runs: Sequence[Run], store: Store) -> dict[str, dict[str, torch.Tensor]]:
    """Weights of the runs that methods read, by digest.

    Raises:
        ValueError: a teacher whose weights the store does not hold.
    """
    return {digest: load_file(store.weights(digest)) for digest in teachers_of(runs)}


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU ran out of memory, whichever of torch's libraries says so."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "alloc_failed" in said


def _file(trained: Sequence[Trained], folders: Mapping[str, Path | None], store: Store, how: How) -> None:
    """Write what was trained into the folders that are given; then no checkpoint is needed."""
    runs = [one.record.run for one in trained]
    checkpoint = _checkpoint(runs, store, how)
    if len(runs) > 1:
        checkpoint.name_members()
    for run, one in zip(runs, trained, strict=True):
        if folders[run.digest] is None:
            continue
        save_weights(one, folders[run.digest], how.keep_weights_mb)
        record = one.record
        store.finish(
            run.digest,
            run=record.run_json(),
            env=how.ranks.env(record.env_json(), device=how.device),
            rows=pd.DataFrame(record.rows),
            items=record.items_frame(),
        )
    checkpoint.remove()


def _checkpoint(runs: Sequence[Run], store: Store, how: How) -> Checkpoint:
    digests = [run.digest for run in runs]
    return Checkpoint(
        store.checkpoints, digests, every_seconds=how.checkpoint_seconds, device=device_name(how.device)
    )


def save_weights(trained: Trained, folder: Path, keep_mb: float) -> None:
    """final.safetensors, and best.safetensors where the best validation was an earlier one."""
    for name, state in (("final", trained.final), ("best", trained.best)):
        size_mb = sum(v.numel() * v.element_size() for v in state.values()) / 1e6
        same = name == "best" and trained.final and weights_hash(state) == weights_hash(trained.final)
        if state and size_mb <= keep_mb and not same:
            write_atomically(folder / f"{name}.safetensors", serialize(state))


class Heartbeat:
    """While inside, long loops keep touching the owner files of locks."""

    def __init__(self, store: Store, digests: Sequence[str]) -> None:
        self._store, self._digests = store, digests

    def _beat(self) -> None:
        for digest in self._digests:
            self._store.heartbeat(digest)

    def __enter__(self) -> None:
        Progress.beats.append(self._beat)

    def __exit__(self, *rest: object) -> None:
        Progress.beats.remove(self._beat)
