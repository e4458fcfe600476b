"""Bytes as tokens: 256 ids, nothing to fit, every text fits."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from lmbench.data.corpus import Corpus
from lmbench.data.tokenizer import Encoded, Tokenizer, TokenizerConfig


class ByteTokenizer(Tokenizer):
    """Id = value of the UTF-8 byte."""

    @property
    def vocabulary(self) -> list[bytes]:
        return [bytes([value]) for value in range(256)]

    def encode(self, text: str) -> Encoded:
        ids = np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)
        return Encoded(ids, np.ones_like(ids))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return np.asarray(ids, dtype=np.uint8).tobytes().decode("utf-8", "replace")


class Byte(TokenizerConfig):
    """UTF-8 bytes."""

    kind: ClassVar[Literal["byte"]] = "byte"

    def fit(self, corpus: Corpus) -> ByteTokenizer:
        return ByteTokenizer()
