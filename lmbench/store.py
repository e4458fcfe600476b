"""The store: one folder per finished run or evaluation, named by digest, believed only when whole.

    results/runs/<digest>/run.json              the config, its label, the schema
                          env.json              torch, device, threads, commit, engine, wall, hashes
                          rows.parquet          tidy results: one row per (step, split, metric)
                          items.parquet         the items behind each reported evaluation
                          final.safetensors     weights; best.safetensors beside it where they differ
                          done                  last: size and sha256 of every file above

A folder without `done` is not a result, whatever else it holds. `results/locks` keeps one
lock per digest, so that two processes never train the same run; the operating system
frees the lock of a process that dies. `results/index.parquet` is a cache of all folders
and can be rebuilt at any time.
"""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lmbench.records import ROW_COLUMNS, Records, parquet_bytes, write_atomically, write_json
from lmbench.run import SCHEMA

POLL_S = 0.5  # between two looks at a record that another process makes


@dataclass(frozen=True)
class Problem:
    """What `verify` found wrong with one folder."""

    digest: str
    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.digest}/{self.file}: {self.what}"


class Store(Records):
    """Folders under `root`/runs: the truth."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.runs = self.root / "runs"

    def folder(self, digest: str) -> Path:
        return self.runs / digest

    def has(self, digest: str) -> bool:
        return (self.folder(digest) / "done").is_file()

    def digests(self) -> list[str]:
        if not self.runs.is_dir():
            return []
        return sorted(path.parent.name for path in self.runs.glob("*/done"))

    def record(self, digest: str) -> dict[str, Any]:
        folder = self.folder(digest)
        if not self.has(digest):
            raise ValueError(f"no finished run {digest!r} in {self.runs}")
        run = json.loads((folder / "run.json").read_text())
        if run["schema"] > SCHEMA:
            raise ValueError(f"run {digest} has schema {run['schema']}; this lmbench reads up to {SCHEMA}")
        return {"run": run, "env": json.loads((folder / "env.json").read_text())}

    def rows(self, digest: str) -> pd.DataFrame:
        return pd.read_parquet(self.folder(digest) / "rows.parquet")

    def items(self, digest: str) -> pd.DataFrame:
        return pd.read_parquet(self.folder(digest) / "items.parquet")

    def weights(self, digest: str) -> Path:
        """The weights that the run reports: its best on validation, or its final ones.

        Raises:
            ValueError: the run kept no weights, because they were larger than its limit.
        """
        best_first = self.record(digest)["run"]["config"]["weights"] == "best"
        for name in ("best.safetensors", "final.safetensors") if best_first else ("final.safetensors",):
            if (self.folder(digest) / name).is_file():
                return self.folder(digest) / name
        raise ValueError(f"run {digest} kept no weights (see keep_weights_mb)")

    # ------------------------------------------------------------- writing

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

    def begin(self, digest: str) -> Path:
        """An empty folder for a record that is about to be made; the caller holds its lock."""
        folder = self.folder(digest)
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    def finish(
        self,
        digest: str,
        *,
        run: dict[str, Any],
        env: dict[str, Any],
        rows: pd.DataFrame,
        items: pd.DataFrame,
    ) -> None:
        """Write the record's files and, last of all, `done` with their sizes and hashes."""
        folder = self.folder(digest)
        write_json(folder / "run.json", run)
        write_json(
            folder / "env.json", env | {"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        )
        write_atomically(folder / "rows.parquet", parquet_bytes(rows.astype(ROW_COLUMNS)))
        write_atomically(folder / "items.parquet", parquet_bytes(items))
        files = {
            path.name: _stamp(path) for path in sorted(folder.iterdir()) if not path.name.startswith(".")
        }
        write_json(folder / "done", {"schema": SCHEMA, "files": files})

    def discard(self, digest: str) -> None:
        """Remove the half-written folder of a record that failed."""
        if not self.has(digest):
            shutil.rmtree(self.folder(digest), ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, digest: str) -> Iterator[bool]:
        """Try to own a digest, without waiting: yields whether this process may write it."""
        from filelock import FileLock, Timeout

        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{digest}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        owner = folder / f"{digest}.owner"
        try:
            state = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
            write_json(owner, state)
            yield True
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def heartbeat(self, digest: str) -> None:
        """Touch the owner file of a lock that this process holds."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.root / "locks" / f"{digest}.owner")

    def owner(self, digest: str) -> str:
        """Who holds a lock, for messages."""
        try:
            path = self.root / "locks" / f"{digest}.owner"
            state, age = json.loads(path.read_text()), time.time() - path.stat().st_mtime
        except (OSError, ValueError):
            return "another process"
        return f"process {state['pid']} on {state['host']} (last sign of life {age:.0f} s ago)"

    # ------------------------------------------------------------- care

    def verify(self, digest: str | None = None) -> list[Problem]:
        """Compare every file with the size and hash in `done`; unfinished folders are named too."""
        if digest is not None and not self.folder(digest).is_dir():
            raise ValueError(f"no run {digest!r} in {self.runs}")
        folders = [self.folder(digest)] if digest else sorted(p for p in self.runs.glob("*") if p.is_dir())
        return [problem for folder in folders for problem in _check(folder)]

    def prune(self, *, unfinished: bool = True, damaged: bool = False, dry_run: bool = False) -> list[str]:
        """Delete unfinished (if asked, damaged) folders that nobody is writing; returns their digests."""
        removed = []
        for name in sorted({problem.digest for problem in self.verify()}):
            if not (unfinished if not self.has(name) else damaged):
                continue
            with self.lock(name) as mine:
                if mine:
                    removed.append(name)
                    if not dry_run:
                        shutil.rmtree(self.folder(name))
        return removed

    def write_index(self) -> Path:
        """Rebuild `index.parquet`, a table of all records, from the folders."""
        path = self.root / "index.parquet"
        write_atomically(path, parquet_bytes(self.list()))
        return path


def _stamp(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _check(folder: Path) -> list[Problem]:
    if not (folder / "done").is_file():
        return [Problem(folder.name, "done", "missing: the run was never finished")]
    try:
        files = json.loads((folder / "done").read_text())["files"]
    except (ValueError, KeyError, TypeError):
        return [Problem(folder.name, "done", "is not readable")]
    problems = []
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            problems.append(Problem(folder.name, name, "missing"))
        elif path.stat().st_size != expected["size"]:
            what = f"has {path.stat().st_size} bytes, expected {expected['size']}"
            problems.append(Problem(folder.name, name, what))
        elif _stamp(path)["sha256"] != expected["sha256"]:
            problems.append(Problem(folder.name, name, "content differs from its recorded sha256"))
    return problems
