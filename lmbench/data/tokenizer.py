"""Tokenizers: text to ids and back, with the exact bytes of every token.

Bits per byte needs the bytes that each target stands for. A tokenizer is lossless when
`decode(encode(text)) == text`; then the bytes of its tokens add up to the UTF-8 length of
the text, for any text. A space is a byte like any other: it is counted once, in the token
that spells it, and a byte token counts one. The published word form loses text and has no
byte counts, so it is scored in perplexity only.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lmbench.config import Config
from lmbench.data.corpus import Corpus


@dataclass(frozen=True)
class Encoded:
    """A text as ids, N tokens."""

    ids: np.ndarray
    """(N,) int64."""
    n_bytes: np.ndarray | None
    """(N,) int64, UTF-8 bytes of each token; None where the tokenizer loses text."""


class Tokenizer(ABC):
    """A fitted tokenizer."""

    lossless: ClassVar[bool] = True

    @property
    @abstractmethod
    def vocabulary(self) -> Sequence[str | bytes]:
        """What each id stands for, in order; bytes where a token may be part of a character."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.vocabulary)

    @abstractmethod
    def encode(self, text: str) -> Encoded:
        """Ids and byte counts of a text."""

    @abstractmethod
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of ids; byte sequences that are not UTF-8 (a model may write such) show as U+FFFD."""

    def unknown_rate(self, text: str) -> float:
        """Part of the words that the vocabulary lacks, in [0, 1]; 0 for tokenizers without words."""
        return 0.0


class TokenizerConfig(Config):
    """Abstract: how a tokenizer is made from a corpus."""

    role: ClassVar[str] = "tokenizer"

    @abstractmethod
    def fit(self, corpus: Corpus) -> Tokenizer:
        """The tokenizer of a corpus; only what the kind says is read from valid and test."""


def check_published(corpus: Corpus, form: str, vocab_size: int) -> None:
    """Hold a vocabulary to the published size, where the corpus has one and is whole.

    Raises:
        ValueError: another size.
    """
    expected = corpus.published_vocab_sizes.get(form, vocab_size)
    if vocab_size != expected:
        raise ValueError(
            f"the {form} vocabulary of corpus {corpus.name} has {vocab_size:,} entries, "
            f"published: {expected:,}; the text is not the published one"
        )


def codepoints(text: str) -> np.ndarray:
    """(N,) uint32, the code points of a text."""
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
