"""One record's folder: which files make it, and whether they are still what was written.

`done` lists the size and sha256 of every other file, so a folder can be checked without
knowing how it was made. What is read is compared with that list first: a truncated or
changed file is refused by name, never decoded.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READ_BY_FRAMES = ("run.json", "env.json", "rows.parquet")
ABANDONED_S = 3600.0  # age at which a checkpoint without members is no longer being written
REMOVED = ".removed"  # end of a checkpoint's name once nobody needs it
NEEDED = (*READ_BY_FRAMES, "items.parquet")


@dataclass(frozen=True)
class Problem:
    """What `verify` found wrong with one folder."""

    digest: str
    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.digest}/{self.file}: {self.what}"


def fingerprint(path: Path) -> dict[str, Any]:
    """Size in bytes and sha256 of a file, as `done` lists them."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return {"size": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def check(folder: Path) -> list[Problem]:
    """All that is wrong with a folder: not finished, files missing, truncated or changed."""
    if not (folder / "done").is_file():
        return [Problem(folder.name, "done", "missing: the run was never finished")]
    try:
        listed = _listed(folder)
    except ValueError as error:
        return [Problem(folder.name, "done", str(error))]
    found = ((name, _fault(folder / name, listed)) for name in dict.fromkeys((*NEEDED, *listed)))
    return [Problem(folder.name, name, what) for name, what in found if what]


def names(folder: Path) -> set[str]:
    """Names of the files that a finished folder was written with.

    Raises:
        ValueError: `done` cannot be read.
    """
    try:
        return set(_listed(folder))
    except ValueError as error:
        raise ValueError(_damaged(folder, "done", str(error))) from None


def intact(folder: Path, name: str) -> Path:
    """The path of a file whose size and content are those that `done` lists.

    Raises:
        ValueError: they are not, or `done` cannot be read; names the folder, the file and the remedy.
    """
    names(folder)  # first: what is wrong may be `done` itself
    what = _fault(folder / name, _listed(folder))
    if what:
        raise ValueError(_damaged(folder, name, what))
    return folder / name


def stamp(folder: Path | str) -> str | None:
    """Identifies the content of a finished folder; None where a file of it is missing.

    It is the sha256 of `done`, which in turn holds those of all files, and the sizes that files have
    now. So it survives copying, and a record that was made anew has another one, however fast that went.
    """
    try:
        with open(f"{folder}/done", "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
        sizes = [str(os.stat(f"{folder}/{name}").st_size) for name in READ_BY_FRAMES]
        return "-".join([content, *sizes])
    except OSError:
        return None


def stamps(runs: Path, digests: Iterable[str]) -> dict[str, str]:
    """The stamps of the folders that have one."""
    found = ((digest, stamp(f"{runs}/{digest}")) for digest in digests)
    return {digest: mark for digest, mark in found if mark}


def is_useless(checkpoint: Path, finished: Callable[[str], bool]) -> bool:
    """Whether no unfinished run needs a checkpoint: all that its members.json names are finished.

    One that names no members cannot be resumed; it counts once it is too old to be in the making.
    """
    if checkpoint.name.endswith(REMOVED):
        return True
    try:
        members = json.loads((checkpoint / "members.json").read_text())["members"]
        return all(finished(digest) for digest in members)
    except (OSError, ValueError, KeyError, TypeError):
        with contextlib.suppress(FileNotFoundError):  # its owner may have removed it by now
            return time.time() - checkpoint.stat().st_mtime > ABANDONED_S
    return False


def _listed(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        return _parsed((folder / "done").read_bytes())
    except FileNotFoundError:
        raise ValueError("missing: the run was never finished") from None


def _parsed(data: bytes) -> dict[str, dict[str, Any]]:
    """Name -> size and sha256, from the content of `done`."""
    try:
        listed = json.loads(data)["files"]
        return {name: {"size": int(e["size"]), "sha256": str(e["sha256"])} for name, e in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("is not readable" if data else "is empty") from None


def _fault(path: Path, listed: dict[str, dict[str, Any]]) -> str | None:
    """What is wrong with a file, in a few words; None where nothing is."""
    if path.name not in listed:
        return "is not listed in done"
    if not path.is_file():
        return "missing"
    expected, found = listed[path.name], path.stat().st_size
    if found != expected["size"]:
        return f"has {found} bytes, expected {expected['size']}"
    if fingerprint(path) != expected:
        return "content differs from its recorded sha256"
    return None


def _damaged(folder: Path, name: str, what: str) -> str:
    return (
        f"run folder {folder} is damaged: {name} {'is missing' if what == 'missing' else what}; "
        "`lmbench runs verify` names every damaged run, `lmbench runs prune --damaged` removes them, "
        "then the same notebook or command makes them again"
    )
