"""Tokenizers in an artifact: each kind comes back from its bytes, and encodes as it did."""

import json

import pytest

from lmbench.config import kinds, make
from lmbench.data.corpus import load_corpus
from lmbench.measure.artifact import load_tokenizer, tokenizer_bytes
from tests.corpora import text, write_corpus

CONFIGS = (
    ("byte", {}),
    ("char", {}),
    ("bpe", {"vocab_size": 300}),
    ("bpe", {"vocab_size": 256}),
    ("word", {}),
    ("word", {"punctuation": "separate", "max_words": 12}),
    ("word", {"form": "published"}),
)


def test_every_kind_of_tokenizer_is_tried() -> None:
    assert {name for name, _ in CONFIGS} == set(kinds("tokenizer"))


@pytest.mark.parametrize("name, fields", CONFIGS)
def test_a_tokenizer_comes_back_and_encodes_as_it_did(name, fields, tmp_path) -> None:
    config = make("tokenizer", name, **fields)
    fitted = config.fit(load_corpus(str(write_corpus(tmp_path / "small"))))
    fresh = load_tokenizer(tokenizer_bytes(config, tokenizer=fitted))
    assert list(fresh.vocabulary) == list(fitted.vocabulary)
    sample = text(500, shift=1)
    assert fresh.encode(sample).ids.tolist() == fitted.encode(sample).ids.tolist()
    assert fresh.decode(fresh.encode(sample).ids) == fitted.decode(fitted.encode(sample).ids)


def test_bpe_takes_eight_bytes_for_a_merge(tmp_path) -> None:
    config = make("tokenizer", "bpe", vocab_size=300)
    fitted = config.fit(load_corpus(str(write_corpus(tmp_path / "small"))))
    head, _, body = tokenizer_bytes(config, tokenizer=fitted).partition(b"\n")
    assert json.loads(head) == {"kind": "bpe", "version": 1, "vocab_size": 300}
    assert len(body) == 8 * (fitted.vocab_size - 256)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "the artifact's tokenizer is not valid: JSONDecodeError"),
        (b"[]\n", "the artifact's tokenizer is not valid: TypeError"),
        (b'{"kind":"char"}\n\xff', "the artifact's tokenizer is not valid: UnicodeDecodeError"),
        (b'{"kind":"none"}\n', "unknown tokenizer 'none'"),
        (b'{"kind":"bpe"}\n1234', "BPE merges take a multiple of 8 bytes, got 4"),
        (b'{"kind":"bpe"}\n' + bytes([0, 1, 1, 0, 0, 0, 0, 0]), "merges token 256 before it is made"),
    ],
)
def test_bytes_that_are_no_tokenizer_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_tokenizer(data)


def test_merges_that_double_a_token_without_end_are_refused() -> None:
    ids = [0, *range(256, 300)]  # each merge joins the token before with itself
    planes = b"".join(
        bytes((pair >> shift) & 255 for _ in range(2) for pair in ids) for shift in (0, 8, 16, 24)
    )
    with pytest.raises(ValueError, match="makes a token of more than 4,096 bytes"):
        load_tokenizer(b'{"kind":"bpe"}\n' + planes)
