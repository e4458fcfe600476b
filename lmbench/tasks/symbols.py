"""The 64 symbols of all synthetic tasks: one vocabulary, so that one model can learn a mixture of them.

Ids are fixed for good: trained weights depend on them.
"""

from collections.abc import Iterable

import numpy as np

CONTROL = ("<pad>", "<bos>", "<eos>", "?", "=", ";", "|", "OK", "BACK", "IDK")
MARKS = ("+", "-", "*", ">", "<", ":", "(", ")", "[", "]", "{", "}", "#", "&", "~")
VALUES = tuple(str(value) for value in range(13))
NAMES = tuple("abcdefghijklmnopqrstuvwxyz")
SYMBOLS = CONTROL + MARKS + VALUES + NAMES
VOCAB_SIZE = len(SYMBOLS)

ID = {symbol: at for at, symbol in enumerate(SYMBOLS)}
PAD, BOS, EOS, ASK, EQUALS, SEMICOLON, BAR, OK, BACK, IDK = (ID[symbol] for symbol in CONTROL)
VALUE = ID["0"]
"""Id of the value 0; the value v is VALUE + v, for v up to 12."""
NAME = ID["a"]
"""Id of the first name; the k-th is NAME + k, for k up to 25."""
N_VALUES, N_NAMES = len(VALUES), len(NAMES)


def encode(text: str) -> np.ndarray:
    """Ids of symbols that are set apart by spaces.

    Raises:
        ValueError: a symbol that the vocabulary lacks.
    """
    unknown = [symbol for symbol in text.split() if symbol not in ID]
    if unknown:
        raise ValueError(f"symbol {unknown[0]!r} is not one of {' '.join(SYMBOLS)}")
    return np.array([ID[symbol] for symbol in text.split()], dtype=np.int8)


def spell(ids: Iterable[int]) -> str:
    """The symbols of ids, set apart by spaces, without padding."""
    return " ".join(SYMBOLS[at] for at in ids if at != PAD)
