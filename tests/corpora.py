"""Small texts that tests make for themselves."""

from pathlib import Path

LINES = (
    "FIRST:\nShall we meet again at the gate of the city?\n\n",
    "SECOND:\nWe shall, when the day is done and the fires are lit.\n\n",
    "FIRST:\nThen bring the letter, and bring it sealed.\n\n",
)


def text(n: int, *, shift: int = 0) -> str:
    """`n` characters of repeated speeches; `shift` gives another text of the same kind."""
    speeches = LINES[shift % 3 :] + LINES[: shift % 3]
    return ("".join(speeches) * (n // 100 + 1))[:n]


def write_corpus(folder: Path, *, train: int = 3000, valid: int = 700, test: int = 700) -> Path:
    """A folder with train.txt, valid.txt and test.txt; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for shift, (split, n) in enumerate((("train", train), ("valid", valid), ("test", test))):
        (folder / f"{split}.txt").write_text(text(n, shift=shift), encoding="utf-8")
    return folder
