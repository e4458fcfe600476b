"""The index: a cache that answers for thousands of folders from a few files.

`results/index.parquet/` is a Parquet data set with one row per record (see `entries`). A
record counts only while its stamp is the folder's, so the folders stay the truth and the
index may be deleted at any time. Each file is named by the sha256 of its content and never
changed: a reader needs no lock and believes no damaged file. New records go to a new file,
which takes in every file that is no larger (as in a log-structured merge tree: O'Neil et
al. 1996), so that files are few and a small addition to a large store rewrites little.
"""

import contextlib
import hashlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lmbench.entries import ENTRY
from lmbench.folders import stamps
from lmbench.records import write_atomically
from lmbench.run import SCHEMA

FORM = {b"format": b"1", b"schema": str(SCHEMA).encode()}  # of these files; another one is not read
GROUP = 256  # records that are decoded together: bounds what is read beside what was asked for
WAIT_S = 30.0  # for another process to finish writing the index
_KEYS = ["run", "stamp"]
_UNREADABLE = (OSError, pa.ArrowException)
log = logging.getLogger(__name__)


class Index:
    """The index of the store at `root`."""

    def __init__(self, root: Path) -> None:
        self.path = root / "index.parquet"
        self._runs, self._locks = root / "runs", root / "locks"

    def read(self, digests: Sequence[str], *, columns: Sequence[str]) -> pa.Table:
        """Entries of those of `digests` that are held fresh, each once, in any order.

        Args:
            columns: what to read of each entry beside "run", such as `entries.IN_FRAMES`.
        """
        wanted, files = stamps(self._runs, digests), self._files()
        table = self._take(files, wanted, columns)
        if table.num_rows < len(wanted) and (now := self._files()) != files:
            table = self._take(now, wanted, columns)  # a writer has merged files in between
        return table

    def add(self, entries: Sequence[pa.Table]) -> None:
        """Hold these entries too; whatever keeps the cache from being written is logged, not raised."""
        from filelock import FileLock

        try:
            self._locks.mkdir(parents=True, exist_ok=True)
            with FileLock(self._locks / "index.lock", timeout=WAIT_S):
                self._tidy()
                self._merge({entry["run"][0].as_py(): entry for entry in entries})
        except OSError as error:  # filelock's Timeout is one
            log.info("%s is not brought up to date (%s): folders are read instead", self.path, error)

    def _merge(self, new: dict[str, pa.Table]) -> None:
        """Write `new` and the entries of all files that are no larger as one file, then drop those."""
        held = {path: keys for path in self._files() if (keys := self._keys(path)) is not None}
        known = {key for keys in held.values() for key in keys}
        new = {run: entry for run, entry in new.items() if (run, entry["stamp"][0].as_py()) not in known}
        if not new:
            return
        size, merged = len(new), []
        for path, keys in sorted(held.items(), key=lambda item: len(item[1])):
            if len(keys) > size:
                break
            size += len(keys)
            merged.append(path)
        fresh = stamps(self._runs, dict.fromkeys(run for path in merged for run, _ in held[path]))
        kept = self._take(merged, fresh, ENTRY.names[1:])
        written = self._write(pa.concat_tables([kept, *new.values()]).combine_chunks())
        for path in merged:
            if path != written:
                path.unlink(missing_ok=True)

    def _write(self, table: pa.Table) -> Path:
        sink = io.BytesIO()
        pq.write_table(table.replace_schema_metadata(FORM), sink, row_group_size=GROUP, compression="zstd")
        data = sink.getvalue()
        path = self.path / f"{hashlib.sha256(data).hexdigest()}.parquet"
        write_atomically(path, data)
        return path

    def _tidy(self) -> None:
        """Remove what no reader believes: damaged files, halves of writers that died, older forms."""
        if self.path.is_file():
            self.path.unlink()
        self.path.mkdir(parents=True, exist_ok=True)
        for path in self.path.iterdir():
            if self._keys(path) is None:
                path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self.path.glob("*.parquet")) if self.path.is_dir() else []

    def _keys(self, path: Path) -> list[tuple[str, str]] | None:
        """Digest and stamp of each entry of one file; None where it cannot be believed."""
        with contextlib.suppress(*_UNREADABLE), _opened(path) as file:
            return _pairs(file)
        return None

    def _take(self, files: Sequence[Path], wanted: Mapping[str, str], columns: Sequence[str]) -> pa.Table:
        """Entries with the wanted stamps, the first of each digest; unreadable files are passed over."""
        names = ["run", *columns]
        parts, rest = [pa.schema([ENTRY.field(name) for name in names]).empty_table()], dict(wanted)
        for path in files:
            if not rest:
                break
            with contextlib.suppress(*_UNREADABLE), _opened(path) as file:
                found = list(_fitting(file, rest, names))
                parts += found
                for part in found:
                    for run in part["run"].to_pylist():
                        del rest[run]
        return pa.concat_tables(parts)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A file of the index, if its content is what its name says and its form the present one.

    Raises:
        OSError: it is not, or cannot be read.
    """
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != path.stem:
            raise OSError(f"{path} is damaged")
        file.seek(0)
        parquet = pq.ParquetFile(file)
        if not parquet.schema_arrow.equals(ENTRY) or parquet.schema_arrow.metadata != FORM:
            raise OSError(f"{path} has another form")
        yield parquet


def _pairs(file: pq.ParquetFile) -> list[tuple[str, str]]:
    table = file.read(columns=_KEYS)
    return list(zip(*(table[name].to_pylist() for name in _KEYS), strict=True))


def _fitting(file: pq.ParquetFile, wanted: Mapping[str, str], names: list[str]) -> Iterator[pa.Table]:
    """The wanted entries of one file; only the groups that hold one are read."""
    fits, start = np.array([wanted.get(run) == stamp for run, stamp in _pairs(file)], dtype=bool), 0
    for group in range(file.num_row_groups):
        stop = start + file.metadata.row_group(group).num_rows
        if fits[start:stop].any():
            table = file.read_row_group(group, columns=names).replace_schema_metadata()
            yield table if fits[start:stop].all() else table.filter(pa.array(fits[start:stop]))
        start = stop
