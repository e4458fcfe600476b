"""The suite's tokenizers in the terms of the library `tokenizers`, exactly or not at all.

Ids, in both directions, are those of the suite's own tokenizer; `check_equal` holds the result
to that on text. The token `<|endoftext|>` is added behind the last id.

Characters and words are looked up; bytes and BPE go through GPT-2's byte-level alphabet. A
lossless word tokenizer spells what it does not know in bytes, and gives a word "a" and a byte
"a" two ids, for which the library has no model: known words are looked up whole, and unknown
ones fall apart into characters, of which those that are words themselves must not be found.
So before the lookup a word of one character that stands alone is replaced by a character that
no text contains, and back again on decoding.
"""

import re
from collections.abc import Iterable
from typing import Any

from lmbench.config import Config
from lmbench.data.tokenizer import Tokenizer

START = "<|endoftext|>"
"""Of a text, and padding, and its end; see `starts`."""
_PRIVATE = 0x100000  # the first of the 65,534 code points of Unicode's last private plane
# White space to str.split(), of which the library's own notion lacks four separators.
_SPLIT = r"[\t-\r\x1c- \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+"
# The pieces of `data.word`, and the characters of which a piece may have several, to the library and
# to Python, whose \w is letters, numbers and "_".
_PIECES = {
    "attached": (r"[^ \n]+|[ \n]", r"[^ \n]", r"[^ \n]"),
    "separate": (r"[\p{L}\p{N}_']+|[^\p{L}\p{N}_']", r"[\p{L}\p{N}_']", r"[\w']"),
}


def library_tokenizer(config: Config, tokenizer: Tokenizer) -> Any:
    """A fitted tokenizer as one of the library's.

    Args:
        config: what it was fitted from.

    Raises:
        ValueError: a kind, or a vocabulary, that the library cannot express.
    """
    from tokenizers import AddedToken

    makers = {"char": _char, "byte": _byte, "bpe": _bpe, "word": _word}
    if config.kind not in makers:
        raise ValueError(f"tokenizer {config.kind!r} cannot be exported; accepted: {', '.join(makers)}")
    made = makers[config.kind](config, tokenizer)
    made.add_special_tokens([AddedToken(START, special=True, normalized=False)])
    if made.token_to_id(START) != tokenizer.vocab_size:
        raise ValueError(f"the vocabulary holds {START!r}, which the exported tokenizer needs for itself")
    return made


def check_equal(made: Any, tokenizer: Tokenizer, texts: Iterable[str]) -> None:
    """Hold the library's tokenizer to the ids and the text of the suite's own.

    Raises:
        ValueError: they differ, with the place.
    """
    for text in texts:
        ours = tokenizer.encode(text).ids.tolist()
        theirs = made.encode(text, add_special_tokens=False).ids
        if ours != theirs:
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(ours))
            raise ValueError(
                f"the library `tokenizers` splits {tokenizer.decode(ours[max(0, at - 5) : at + 5])!r} "
                f"differently (token {at:,}), so this tokenizer is not exported"
            )
        if made.decode(theirs, skip_special_tokens=False) != tokenizer.decode(ours):
            raise ValueError("the library `tokenizers` does not give back the text, so nothing is exported")


def _char(config: Config, tokenizer: Tokenizer) -> Any:
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Library

    # No character is the library's "<unk>", so one that the vocabulary lacks is an error, as with us.
    made = Library(models.WordLevel({c: i for i, c in enumerate(tokenizer.vocabulary)}))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    return made


def _byte(config: Config, tokenizer: Tokenizer) -> Any:
    from tokenizers import Tokenizer as Library
    from tokenizers import models, pre_tokenizers

    symbols = _symbols()
    made = Library(models.BPE({symbols[value]: value for value in range(256)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _spelled(made)


def _bpe(config: Config, tokenizer: Tokenizer) -> Any:
    from tokenizers import Tokenizer as Library

    return _spelled(Library.from_str(tokenizer._model.to_str()))  # a copy: ours must stay as it is


def _spelled(made: Any) -> Any:
    from tokenizers import decoders

    made.decoder = decoders.ByteLevel()
    return made


def _symbols() -> list[str]:
    """The printable stand-in of each byte in GPT-2's byte-level alphabet."""
    from tokenizers import pre_tokenizers

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Printable bytes of Latin-1 stand for themselves; the others take what is left, in order.
    own, others = {ord(s): s for s in symbols if ord(s) < 256}, iter(s for s in symbols if ord(s) > 255)
    return [own[value] if value in own else next(others) for value in range(256)]


def _word(config: Any, tokenizer: Tokenizer) -> Any:
    if config.form == "published":
        return _published_words(tokenizer)
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Library

    whole, inner, within = _PIECES[config.punctuation]
    words = [token.decode() for token in tokenizer.vocabulary[256:]]
    single = [word for word in words if len(word) == 1 and word not in " \n"]
    stand_ins = {word: chr(_PRIVATE + i) for i, word in enumerate(single)}
    bytes_of = {f"<0x{value:02X}>": value for value in range(256)}
    for word in words:
        if word in bytes_of or set(stand_ins.values()) & set(word):
            raise ValueError(f"the vocabulary holds {word!r}, which the exported tokenizer needs for itself")
    vocabulary = bytes_of | {stand_ins.get(word, word): 256 + i for i, word in enumerate(words)}
    made = Library(models.BPE(vocabulary, [], byte_fallback=True, ignore_merges=True))
    # Only a character that can be part of a longer piece has to look at its neighbours.
    alone = [
        (rf"(?<!{inner}){_escaped(word)}(?!{inner})" if re.match(within, word) else _escaped(word), stand_in)
        for word, stand_in in stand_ins.items()
    ]
    replaced = [normalizers.Replace(Regex(pattern), stand_in) for pattern, stand_in in alone]
    made.normalizer = normalizers.Sequence(replaced)
    made.pre_tokenizer = pre_tokenizers.Split(Regex(whole), "isolated")
    back = [decoders.Replace(stand_in, word) for word, stand_in in stand_ins.items()]
    made.decoder = decoders.Sequence([*back, decoders.ByteFallback(), decoders.Fuse()])
    return made


def _published_words(tokenizer: Tokenizer) -> Any:
    from tokenizers import Regex, models, pre_tokenizers
    from tokenizers import Tokenizer as Library

    # Without a decoder the library joins tokens by spaces, as we do.
    made = Library(models.WordLevel({w: i for i, w in enumerate(tokenizer.vocabulary)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(_SPLIT), "removed")
    return made


def _escaped(character: str) -> str:
    return rf"\x{{{ord(character):x}}}"
