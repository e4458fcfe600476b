"""The store: folders of finished runs and evaluations that many processes read, make and clear away.

    results/runs/<digest>/            one record, see `run_folders`
    results/checkpoints/<name>/       members.json {"members": [digests]}: unfinished runs that can go on
    results/locks/                    one lock per digest, see `locks`
    results/index.parquet/            a cache of all folders, see `index`; it can be deleted at any time

A record is made once, by whoever holds its lock, and the folders are the truth about what is there.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from lmbench import folders
from lmbench.entries import IN_FRAMES, entry, to_frame
from lmbench.index import Index
from lmbench.locks import Locks
from lmbench.run_folders import RunFolders

POLL_S = 0.5  # between two looks at a record that another process makes
MANY = 32  # records read from their folders that are worth a write of the index


class Store(RunFolders):
    """The folders of `root` with what processes share: locks, checkpoints and the index."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.index = Index(self.root)
        self._locks = Locks(self.root / "locks")

    @property
    def checkpoints(self) -> Path:
        """Where groups of runs keep what they need to go on; one folder each, with a members.json."""
        return self.root / "checkpoints"

    # ------------------------------------------------------------- reading

    def records(self, digests: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        digests = list(digests)
        held = self.index.read(digests, columns=["record"])
        known = dict(zip(held["run"].to_pylist(), held["record"].to_pylist(), strict=True))
        for digest in digests:
            yield digest, json.loads(known[digest]) if digest in known else self.record(digest)

    def frame(self, digests: Iterable[str] | None = None) -> pd.DataFrame:
        """`Records.frame`, from the index where that is up to date and from the folders elsewhere."""
        asked = self.digests() if digests is None else list(dict.fromkeys(digests))
        self.used.update(asked)
        held = self.index.read(asked, columns=IN_FRAMES)
        place = {digest: i for i, digest in enumerate(held["run"].to_pylist())}
        read = {digest: self._entry(digest) for digest in asked if digest not in place}
        new = [found for found in read.values() if found is not None]
        if len(new) >= MANY:
            self.index.add(new)
        if len(new) < len(read) or not asked:
            return super().frame(asked)
        place |= {digest: held.num_rows + i for i, digest in enumerate(read)}
        entries = pa.concat_tables([held, *(found.select(held.column_names) for found in new)])
        order = [place[digest] for digest in asked]
        return to_frame(entries if order == sorted(order) else entries.take(order))

    def _entry(self, digest: str) -> pa.Table | None:
        """A record as the index keeps it, read from its folder."""
        # The stamp first: should the folder be replaced meanwhile, the entry is stale, not wrong.
        stamp = folders.stamp(self.folder(digest))
        return entry(digest, stamp=stamp, record=self.record(digest), rows=self.rows(digest))

    # ------------------------------------------------------------- making

    @contextlib.contextmanager
    def claim(self, digest: str) -> Iterator[Path | None]:
        """Own a record while it is made: yields its empty folder, which `finish` must be called on.

        Yields None where another process owns it, or has finished it since the caller looked. Whatever
        ends the block early, Ctrl-C included, takes the half-written folder with it.
        """
        with self.lock(digest) as mine:
            if not mine or self.has(digest):
                yield None
                return
            try:
                yield self.begin(digest)
            except BaseException:
                self.discard(digest)
                raise

    def ensure(self, digest: str, make: Callable[[], None]) -> None:
        """Call `make`, which claims the record, until this process or another has finished it."""
        while not self.has(digest):
            make()
            if not self.has(digest):
                time.sleep(POLL_S)

    def lock(self, digest: str) -> contextlib.AbstractContextManager[bool]:
        """Try to own a digest, without waiting: yields whether this process may write it."""
        return self._locks.hold(digest)

    def heartbeat(self, digest: str) -> None:
        """Say that the process that holds a lock, this one, is alive."""
        self._locks.beat(digest)

    def owner(self, digest: str) -> str:
        """Who holds a lock, for messages."""
        return self._locks.owner(digest)

    # ------------------------------------------------------------- care

    def prune(self, *, unfinished: bool = True, damaged: bool = False, dry_run: bool = False) -> list[str]:
        """Delete unfinished (if asked, damaged) folders that nobody is writing, and checkpoints without use.

        Returns:
            The digests, and behind them "checkpoints/<name>" of each checkpoint that no run needs.
        """
        removed = []
        for name in sorted({problem.digest for problem in self.verify()}):
            if not (unfinished if not self.has(name) else damaged):
                continue
            with self.lock(name) as mine:
                if mine:
                    removed.append(name)
                    if not dry_run:
                        shutil.rmtree(self.folder(name))

        def finished(digest: str) -> bool:
            return self.has(digest) and digest not in removed

        found = sorted(path for path in self.checkpoints.glob("*") if path.is_dir())
        useless = [path for path in found if folders.is_useless(path, finished)]
        for path in useless if not dry_run else ():
            shutil.rmtree(path, ignore_errors=True)  # the group that it belonged to may do the same
        return removed + [f"{self.checkpoints.name}/{path.name}" for path in useless]

    def write_index(self) -> Path:
        """Bring the index up to date: what it lacks is read from the folders, damaged ones left out."""
        digests, entries = self.digests(), []
        held = set(self.index.read(digests, columns=[])["run"].to_pylist())
        for digest in digests:
            if digest not in held:
                with contextlib.suppress(ValueError):  # said by whoever reads or verifies that record
                    entries.append(self._entry(digest))
        self.index.add([found for found in entries if found is not None])
        return self.index.path
