"""A folder that holds a model in Hugging Face's format, read as plain files.

So a model can be named, and its record read, where the library transformers is not installed.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

CONFIG = "config.json"
_WEIGHTS = "*.safetensors"
# Under these names a config.json holds the number of positions that a model knows.
_CONTEXTS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")


class Folder(NamedTuple):
    """What a config.json says about a model."""

    model_type: str
    vocab_size: int
    context: int | None
    """None where the architecture has no limit."""


def read_folder(path: str) -> Folder:
    """What a folder holds.

    Raises:
        ValueError: no config.json, or one that does not name an architecture and a vocabulary.
    """
    try:
        found = json.loads((Path(path) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"path = {path!r} is not a folder with a readable {CONFIG}") from None
    for name in ("model_type", "vocab_size"):
        if not isinstance(found, dict) or name not in found:
            raise ValueError(f"{CONFIG} in {path} has no {name}, so it is not that of a language model")
    contexts = [found[name] for name in _CONTEXTS if found.get(name)]
    return Folder(found["model_type"], found["vocab_size"], contexts[0] if contexts else None)


def fingerprint(path: str, *, weights: bool) -> str:
    """sha256 of the folder's config.json and, if asked, of its weights.

    Raises:
        ValueError: the folder lacks one of them.
    """
    files = [Path(path) / CONFIG, *(sorted(Path(path).glob(_WEIGHTS)) if weights else ())]
    if not files[0].is_file():
        raise ValueError(f"path = {path!r} is not a folder with a readable {CONFIG}")
    if weights and len(files) == 1:
        raise ValueError(
            f"{path} holds no {_WEIGHTS}, and other formats are not read; pretrained = false draws new "
            "weights"
        )
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return _hash_of(tuple(stamps))


@lru_cache(maxsize=64)
def _hash_of(stamps: tuple[tuple[str, int, int], ...]) -> str:
    """Read once as long as sizes and times stay: weights may be gigabytes."""
    total = hashlib.sha256()
    for name, *_ in stamps:
        with open(name, "rb") as file:
            total.update(Path(name).name.encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
