"""The texts of the benchmarks: Tiny Shakespeare in nanoGPT's cut, or made-up text of as many letters.

nanoGPT trains on the first 90% of the characters of Tiny Shakespeare and validates on the
rest (its data/shakespeare_char/prepare.py). The corpus of lmbench is the same text in three
files, which lost the line end between them; joined again it must have the hash of the original.
"""

import contextlib
import string
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lmbench.config import Config, make
from lmbench.data.corpus import load_corpus
from lmbench.data.manifest import hash_bytes

TINY_SHAKESPEARE = "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SIZE = 1_115_394  # characters
NAMES = ("tiny_shakespeare", "made_up")
MADE_UP_LETTERS = string.ascii_letters + string.digits + " .\n"  # 65, as many as Tiny Shakespeare has


def read(name: str) -> str:
    """A text by name: "tiny_shakespeare", or "made_up", as many independent letters.

    Speed does not depend on the text, so a machine without the corpus can measure on the latter.

    Raises:
        ValueError: the corpus is not here, or is another text.
    """
    if name == "made_up":
        drawn = np.random.default_rng(0).integers(0, len(MADE_UP_LETTERS), SIZE)
        drawn[: len(MADE_UP_LETTERS)] = np.arange(len(MADE_UP_LETTERS))  # every letter occurs
        return "".join(np.array(list(MADE_UP_LETTERS))[drawn])
    corpus = load_corpus("tiny_shakespeare")
    text = "\n".join(corpus.text(split) for split in ("train", "valid", "test"))
    found = hash_bytes(text.encode(), algorithm="sha256")
    if found != TINY_SHAKESPEARE:
        raise ValueError(f"the joined splits of tiny_shakespeare have {found}, not {TINY_SHAKESPEARE}")
    return text


def write_cut(text: str, folder: Path) -> Path:
    """nanoGPT's cut of a text as a corpus folder, which is returned.

    nanoGPT has no test split; test.txt repeats the validation text, because a corpus needs
    one, and no benchmark scores it.
    """
    at = int(0.9 * len(text))
    folder.mkdir(parents=True, exist_ok=True)
    for split, part in (("train", text[:at]), ("valid", text[at:]), ("test", text[at:])):
        (folder / f"{split}.txt").write_text(part, encoding="utf-8", newline="")
    return folder


@contextlib.contextmanager
def cut_folder(name: str, *, quick: bool) -> Iterator[Path]:
    """nanoGPT's cut of a text as a corpus folder that lives as long as the block.

    Args:
        quick: only the first 20,000 characters.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield write_cut(read(name)[: 20_000 if quick else None], Path(folder) / name)


def task(folder: Path) -> Config:
    """The lmbench task on a corpus folder, by characters."""
    return make("task", "text", corpus=str(folder), tokenizer="char")
