"""Byte-level byte-pair encoding, trained on the train split.

The first 256 ids are the bytes, so every text can be spelled; the rest are merges of
frequent neighbours inside the word-like pieces of GPT-2's pattern, in which a space
belongs to the word after it. Training is deterministic: equal text and size give equal
merges. Training and encoding are the `tokenizers` library's.

Source: Sennrich et al. 2016 (arXiv 1508.07909); byte level: Radford et al. 2019, section 2.2.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from lmbench.data.corpus import Corpus
from lmbench.data.tokenizer import Encoded, Tokenizer, TokenizerConfig


class BpeTokenizer(Tokenizer):
    """A trained byte-level BPE."""

    def __init__(self, model: Any) -> None:
        self._model = model
        byte_of = _byte_of_symbol()
        symbols = sorted(model.get_vocab().items(), key=lambda item: item[1])
        self._bytes = [bytes(byte_of[symbol] for symbol in token) for token, _ in symbols]
        self._n_bytes_V = np.array([len(token) for token in self._bytes], dtype=np.int64)

    @property
    def vocabulary(self) -> list[bytes]:
        return self._bytes

    def encode(self, text: str) -> Encoded:
        # The fast call leaves out character offsets, which nothing here reads: half the time.
        ids = np.array(self._model.encode_batch_fast([text])[0].ids, dtype=np.int64)
        return Encoded(ids, self._n_bytes_V[ids])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return b"".join([self._bytes[i] for i in np.asarray(ids).tolist()]).decode("utf-8", "replace")


class Bpe(TokenizerConfig):
    """Byte-level BPE."""

    kind: ClassVar[Literal["bpe"]] = "bpe"

    vocab_size: int = Field(1024, ge=256)
    """Ids, the 256 bytes included; at 256 nothing is merged. A short text may give fewer."""

    def fit(self, corpus: Corpus) -> BpeTokenizer:
        from tokenizers import Tokenizer as Model
        from tokenizers import models, pre_tokenizers, trainers

        model = Model(models.BPE())
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
            special_tokens=[],
        )
        model.train_from_iterator((document.text for document in corpus.splits["train"]), trainer=trainer)
        return BpeTokenizer(model)


def _byte_of_symbol() -> dict[str, int]:
    """The printable stand-in of each byte in GPT-2's byte-level alphabet, inverted.

    Printable bytes of Latin-1 stand for themselves; the others take U+0100, U+0101, ... in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [value for value in range(256) if value not in printable]
    return {chr(value): value for value in printable} | {
        chr(256 + i): value for i, value in enumerate(others)
    }
