"""Fitted tokenizers as bytes: the vocabulary counts towards the size of an artifact, so it is in it.

A line of JSON with the tokenizer's config, then what its kind needs: nothing for bytes; the characters;
the pairs of ids that BPE merges, in order (a vocabulary of 1,024 is 768 pairs); the words, one a line.
Whatever is written is read back and compared before it is returned.
"""

import json
from typing import Any

import numpy as np

from lmbench.config import Config
from lmbench.data.bpe import BpeTokenizer
from lmbench.data.byte import ByteTokenizer
from lmbench.data.char import CharTokenizer
from lmbench.data.tokenizer import Tokenizer
from lmbench.data.word import _WORDS, LosslessWords, PublishedWords, Word
from lmbench.measure.artifact.hostile import trusted_config

_N_BYTES = 256
_LONGEST = 4096  # bytes of one token: doubled at each merge, a few hundred would fill any memory


def tokenizer_bytes(config: Config, *, tokenizer: Tokenizer) -> bytes:
    """A fitted tokenizer, for `pack`.

    Args:
        config: what it was fitted from.

    Raises:
        ValueError: a kind that cannot be written, or a vocabulary that is not read back as it is.
    """
    writers = {"byte": _nothing, "char": _characters, "bpe": _merges, "word": _words}
    if config.kind not in writers:
        raise ValueError(f"tokenizer {config.kind!r} cannot be packed; accepted: {', '.join(writers)}")
    head = json.dumps(config.canonical(), separators=(",", ":"))
    data = head.encode() + b"\n" + writers[config.kind](tokenizer)
    if list(load_tokenizer(data).vocabulary) != list(tokenizer.vocabulary):
        raise ValueError(
            f"the vocabulary of tokenizer {config.kind!r} cannot be packed: it is read back otherwise"
        )
    return data


def load_tokenizer(data: bytes) -> Tokenizer:
    """The tokenizer that `tokenizer_bytes` wrote.

    Raises:
        ValueError: anything else.
    """
    head, _, body = data.partition(b"\n")
    try:
        # Not valid as JSON, or as UTF-8: both are ValueErrors, of no use to who holds the file.
        held = json.loads(head)
        text = "" if held["kind"] in ("byte", "bpe") else body.decode()
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"the artifact's tokenizer is not valid: {type(error).__name__}") from None
    config = trusted_config("tokenizer", held)
    if config.kind == "byte":
        return ByteTokenizer()
    if config.kind == "bpe":
        return BpeTokenizer(_bpe(body))
    if config.kind == "char":
        return CharTokenizer(text)
    if config.kind == "word":
        return _word(config, text.split("\n") if text else [])
    raise ValueError(f"the artifact's tokenizer is of kind {config.kind!r}, which no artifact has")


def _nothing(tokenizer: Tokenizer) -> bytes:
    return b""


def _characters(tokenizer: Tokenizer) -> bytes:
    return "".join(tokenizer.vocabulary).encode()


def _words(tokenizer: Tokenizer) -> bytes:
    first = 0 if isinstance(tokenizer.vocabulary[0], str) else _N_BYTES + 2  # the bytes, space and newline
    words = tokenizer.vocabulary[first:]
    return b"\n".join(word.encode() if isinstance(word, str) else word for word in words)


def _word(config: Word, words: list[str]) -> Tokenizer:
    return (
        PublishedWords(words)
        if config.form == "published"
        else LosslessWords(words, _WORDS[config.punctuation])
    )


def _merges(tokenizer: Tokenizer) -> bytes:
    """Pairs of ids, all left ones before all right ones, low bytes before high ones."""
    found = json.loads(tokenizer._model.to_str())["model"]
    id_of = found["vocab"]
    pairs_MP = np.array([[id_of[left], id_of[right]] for left, right in found["merges"]], dtype="<u4")
    return pairs_MP.reshape(-1, 2).T.copy().view(np.uint8).reshape(-1, 4).T.tobytes()


def _bpe(body: bytes) -> Any:
    """The library's model with these merges."""
    from tokenizers import Tokenizer as Library
    from tokenizers import models, pre_tokenizers

    if len(body) % 8:
        raise ValueError(f"the artifact's BPE merges take a multiple of 8 bytes, got {len(body)}")
    pairs_MP = np.frombuffer(body, dtype=np.uint8).reshape(4, -1).T.copy().view("<u4").reshape(2, -1).T
    symbols, merges = sorted(pre_tokenizers.ByteLevel.alphabet()), []
    known = set(symbols)
    for left, right in pairs_MP.tolist():
        if max(left, right) >= len(symbols):
            raise ValueError(f"the artifact's BPE merges token {max(left, right)} before it is made")
        merges.append((symbols[left], symbols[right]))
        made = symbols[left] + symbols[right]
        if len(made) > _LONGEST:
            raise ValueError(f"the artifact's BPE makes a token of more than {_LONGEST:,} bytes")
        if made not in known:
            known.add(made)
            symbols.append(made)
    model = Library(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=merges))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return model
