"""Locks: one per digest, so that no two processes make the same record.

The lock is the operating system's (flock, through filelock), which frees it when its
process dies, however it dies: a lock file that was left behind is taken over at once. The
owner file beside it only says in messages who holds the lock, and decides nothing.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from lmbench.records import write_json


class Locks:
    """The locks in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def hold(self, digest: str) -> Iterator[bool]:
        """Try to own a digest, without waiting: yields whether this process may write it."""
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / f"{digest}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            write_json(self._owner(digest), {"pid": os.getpid(), "host": socket.gethostname()})
            yield True
        finally:
            self._owner(digest).unlink(missing_ok=True)
            lock.release()

    def beat(self, digest: str) -> None:
        """Touch the owner file of a lock that this process holds."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._owner(digest))

    def owner(self, digest: str) -> str:
        """Who holds a lock, for messages."""
        try:
            path = self._owner(digest)
            state, age = json.loads(path.read_text()), time.time() - path.stat().st_mtime
            return f"process {state['pid']} on {state['host']} (last sign of life {age:.0f} s ago)"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def _owner(self, digest: str) -> Path:
        return self.folder / f"{digest}.owner"
