"""Words as tokens, in a lossless form and in the published one.

Lossless: a word is a run of anything but space and newline; spaces and newlines are
tokens of their own, and a word that train does not hold is spelled in byte tokens, each
scored and each counting one byte. So every text comes back exactly, and bits per byte
compares with characters and bytes. The word "a" and the byte "a" are two ids: one is a
word, the other a piece of an unknown one.

Published: `text.split()`, which drops all white space; the vocabulary is the sorted set of
train's words, and others become <unk>. Perplexity per word only.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from lmbench.data.corpus import Corpus
from lmbench.data.tokenizer import Encoded, Tokenizer, TokenizerConfig, check_published

UNKNOWN = "<unk>"
_WORDS = {
    "attached": re.compile(r"[^ \n]+|[ \n]"),
    "separate": re.compile(r"[\w']+|[^\w']"),  # [^\w'] holds the space and the newline too
}
_WHITE = {" ", "\n"}


class LosslessWords(Tokenizer):
    """Ids: 256 bytes, space, newline, then the words in order."""

    def __init__(self, words: Iterable[str], pattern: re.Pattern[str]) -> None:
        self._pattern = pattern
        self._bytes = [bytes([value]) for value in range(256)] + [b" ", b"\n"]
        words = sorted(set(words) - _WHITE)
        self._bytes += [word.encode("utf-8") for word in words]
        self._id_of = {word: 258 + i for i, word in enumerate(words)} | {" ": 256, "\n": 257}
        self._n_bytes_V = np.array([len(token) for token in self._bytes], dtype=np.int64)

    @property
    def vocabulary(self) -> list[bytes]:
        return self._bytes

    def _ids(self, words: Sequence[str]) -> np.ndarray:
        return np.fromiter((self._id_of.get(word, -1) for word in words), dtype=np.int64, count=len(words))

    def encode(self, text: str) -> Encoded:
        words = self._pattern.findall(text)
        ids_W = self._ids(words)
        unknown = np.flatnonzero(ids_W < 0)
        if len(unknown):
            spelled = [words[at].encode("utf-8") for at in unknown.tolist()]
            repeats_W = np.ones(len(words), dtype=np.int64)
            repeats_W[unknown] = [len(part) for part in spelled]
            ids_W = np.repeat(ids_W, repeats_W)
            ids_W[ids_W < 0] = np.frombuffer(b"".join(spelled), dtype=np.uint8)
        return Encoded(ids_W, self._n_bytes_V[ids_W])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return b"".join([self._bytes[i] for i in np.asarray(ids).tolist()]).decode("utf-8", "replace")

    def unknown_rate(self, text: str) -> float:
        words = [word for word in self._pattern.findall(text) if word not in _WHITE]
        return float(np.mean(self._ids(words) < 0)) if words else 0.0


class PublishedWords(Tokenizer):
    """Ids: place in the sorted vocabulary; white space is lost."""

    lossless: ClassVar[bool] = False

    def __init__(self, words: Iterable[str]) -> None:
        self._words = sorted(set(words))
        self._id_of = {word: i for i, word in enumerate(self._words)}

    @property
    def vocabulary(self) -> list[str]:
        return self._words

    @cached_property
    def _unknown_id(self) -> int:
        return self._id_of.get(UNKNOWN, -1)

    def encode(self, text: str) -> Encoded:
        """Ids of a text's words.

        Raises:
            ValueError: a word that the vocabulary lacks, where it has no <unk> either.
        """
        words = text.split()
        ids = np.fromiter(
            (self._id_of.get(word, self._unknown_id) for word in words), dtype=np.int64, count=len(words)
        )
        if self._unknown_id < 0 and (ids < 0).any():
            at = int(np.flatnonzero(ids < 0)[0])
            raise ValueError(
                f"word {words[at]!r} at position {at:,} is not in the vocabulary, which has no {UNKNOWN}"
            )
        return Encoded(ids, None)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return " ".join([self._words[i] for i in np.asarray(ids).tolist()])

    def unknown_rate(self, text: str) -> float:
        """Part of the words that are replaced by <unk>; a literal <unk> in the text is a word."""
        words = text.split()
        return sum(word not in self._id_of for word in words) / len(words) if words else 0.0


class Word(TokenizerConfig):
    """Words of the train split."""

    kind: ClassVar[Literal["word"]] = "word"

    form: Literal["lossless", "published"] = "lossless"
    """lossless keeps every byte; published is `split()`, perplexity only."""
    punctuation: Literal["attached", "separate"] = "attached"
    """Whether a lossless word keeps the punctuation it touches; the published form always does."""
    max_words: int | None = Field(None, ge=1)
    """Most frequent words of train that the vocabulary keeps, ties in sorted order; None keeps all."""

    def fit(self, corpus: Corpus) -> LosslessWords | PublishedWords:
        if self.form == "published":
            return self._fit_published(corpus)
        pattern = _WORDS[self.punctuation]
        counts = Counter(pattern.findall(corpus.text("train")))
        for white in _WHITE:
            counts.pop(white, None)
        return LosslessWords(self._most_frequent(counts), pattern)

    def _fit_published(self, corpus: Corpus) -> PublishedWords:
        words = set(self._most_frequent(Counter(corpus.text("train").split())))
        others = set().union(*(corpus.text(split).split() for split in ("valid", "test")))
        if self.max_words is not None:
            others |= set(corpus.text("train").split())
        if others - words:
            words.add(UNKNOWN)
        tokenizer = PublishedWords(words)
        if self.max_words is None:
            check_published(corpus, "word", tokenizer.vocab_size)
        return tokenizer

    def _most_frequent(self, counts: Counter[str]) -> list[str]:
        return sorted(counts, key=lambda word: (-counts[word], word))[: self.max_words]
