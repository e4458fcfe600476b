"""Documents: the pieces of a split that nothing before them belongs to.

`documents.json` beside the splits lists them: for each split, {name, domain, start, end},
where start and end are characters of the split and the documents follow one another
without a gap. Without it a split is one document. This module also cuts a split in two,
which is how valid stands in for a missing train.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

KEPT = 0.9  # part of valid that stands in for train


@dataclass(frozen=True)
class Document:
    """A text that nothing before it belongs to: no context crosses its start."""

    text: str
    name: str
    domain: str


@dataclass(frozen=True)
class Corpus:
    """Named text with splits."""

    name: str
    splits: dict[str, tuple[Document, ...]]
    """train, valid and test, each a sequence of documents."""
    caption: str = ""
    """Names a substitution; empty when every split is the true one."""
    published_vocab_sizes: Mapping[str, int] = field(default_factory=dict)
    """Vocabulary size that a tokenizer form must have on this text; empty under a substitution."""

    def text(self, split: str) -> str:
        """A whole split, its documents end to end."""
        return "".join(document.text for document in self.splits[split])


def read_text(path: Path) -> str:
    body = path.read_bytes()
    if not body:
        raise ValueError(f"{path} is empty; a split needs text")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 (byte 0x{body[error.start]:02x} at offset {error.start}); "
            "convert it, for example with `iconv -t utf-8`"
        ) from None


def split_documents(text: str, split: str, *, corpus: str, index: Path | None) -> tuple[Document, ...]:
    if index is None:
        return (Document(text, f"{corpus}/{split}", corpus),)
    try:
        rows = json.loads(index.read_text(encoding="utf-8"))[split]
        spans = [(row["start"], row["end"]) for row in rows]
        made = tuple(Document(text[r["start"] : r["end"]], r["name"], r["domain"]) for r in rows)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{index} does not list split {split!r} as {{name, domain, start, end}}: {error}"
        ) from None
    ends = [0, *(end for _, end in spans)]
    if [start for start, _ in spans] != ends[:-1] or ends[-1] != len(text) or any(a >= b for a, b in spans):
        raise ValueError(
            f"the documents of split {split!r} in {index} do not cover its {len(text):,} characters"
        )
    return made


def cut(documents: tuple[Document, ...]) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """The two parts of a split, cut after the line end nearest to 90% of its characters."""
    text = "".join(document.text for document in documents)
    wanted = round(KEPT * len(text))
    before, after = text.rfind("\n", 0, wanted) + 1, text.find("\n", wanted) + 1
    ends = [at for at in (before, after) if 0 < at < len(text)] or [wanted]
    at = min(ends, key=lambda end: abs(end - wanted))
    if not 0 < at < len(text):
        raise ValueError(f"a valid split of {len(text)} characters is too short to stand in for train")
    first, last, start = [], [], 0
    for document in documents:
        inside = min(max(at - start, 0), len(document.text))
        head, tail = document.text[:inside], document.text[inside:]
        first += [Document(head, document.name, document.domain)] if head else []
        last += [Document(tail, document.name, document.domain)] if tail else []
        start += len(document.text)
    return tuple(first), tuple(last)
