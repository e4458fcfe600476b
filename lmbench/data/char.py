"""Characters as tokens: the distinct characters of a corpus, sorted."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from lmbench.data.corpus import Corpus
from lmbench.data.tokenizer import Encoded, Tokenizer, TokenizerConfig, check_published, codepoints

N_CODEPOINTS = 0x110000  # of Unicode


class CharTokenizer(Tokenizer):
    """Id = place of the character in the sorted vocabulary."""

    def __init__(self, characters: Sequence[str]) -> None:
        self._characters = sorted(set(characters))
        self._codes_V = codepoints("".join(self._characters))
        self._id_of = np.full(N_CODEPOINTS, -1, dtype=np.int32)
        self._id_of[self._codes_V] = np.arange(len(self._codes_V))
        self._n_bytes_V = np.array([len(c.encode("utf-8")) for c in self._characters], dtype=np.int64)

    @property
    def vocabulary(self) -> list[str]:
        return self._characters

    def encode(self, text: str) -> Encoded:
        """Ids of a text.

        Raises:
            ValueError: a character that the vocabulary lacks, with its position.
        """
        ids = self._id_of[codepoints(text)].astype(np.int64)
        missing = np.flatnonzero(ids < 0)
        if len(missing):
            at = int(missing[0])
            raise ValueError(
                f"character {text[at]!r} (U+{ord(text[at]):04X}) at position {at:,} is not among the "
                f"{self.vocab_size} characters of the vocabulary; take vocabulary = 'all' or bytes"
            )
        return Encoded(ids, self._n_bytes_V[ids])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self._codes_V[np.asarray(ids, dtype=np.int64)].astype("<u4").tobytes().decode("utf-32-le")


class Char(TokenizerConfig):
    """Unicode characters."""

    kind: ClassVar[Literal["char"]] = "char"

    vocabulary: Literal["all", "train"] = "all"
    """Characters of all splits (as published), or of train alone; then others are an error."""

    def fit(self, corpus: Corpus) -> CharTokenizer:
        splits = corpus.splits if self.vocabulary == "all" else ("train",)
        tokenizer = CharTokenizer(sorted(set().union(*(corpus.text(split) for split in splits))))
        if self.vocabulary == "all":
            check_published(corpus, "char", tokenizer.vocab_size)
        return tokenizer
