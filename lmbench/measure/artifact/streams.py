"""Streams of values as sections of bytes: packed, or laid out so that a compressor sees their pattern.

Codes stand at their true width, or one to a byte, whichever is smaller after entropy coding: a
compressor for bytes does not see that codes of 6 bits that straddle bytes are unevenly distributed.
Numbers of two and four bytes are written in planes, all first bytes before all second ones, because
the high bytes of floats are alike.
"""

from collections.abc import Sequence

import numpy as np

from lmbench.measure.artifact.bits import TERNARY, pack_codes, packed_length, unpack_codes
from lmbench.measure.artifact.coders import quick, smallest

LAYOUTS = ("packed", "bytes")
_NUMBERS = {
    "rows": "<u2",
    "columns": "<u2",
    "scales/float16": "<f2",
    "scales/float32": "<f4",
    "float16": "<f2",
    "float32": "<f4",
}
# What each stream counts as in the split of a file.
_PARTS = {"codes": "codes", "masks": "masks", "rows": "masks", "columns": "masks", "scales": "scales"}
PARTS = ("header", "codes", "scales", "masks", "other", "tokenizer")
TOKENIZER = "tokenizer"


def part_of(name: str) -> str:
    """The part of the split that a stream or section belongs to."""
    return TOKENIZER if name == TOKENIZER else _PARTS.get(name.partition("/")[0], "other")


def section_length(name: str, *, n: int) -> int:
    """Bytes of a section of n values before entropy coding.

    Raises:
        ValueError: a name that no section has.
    """
    if name in _NUMBERS:
        return n * np.dtype(_NUMBERS[name]).itemsize
    key, layout = _split(name)
    return n if layout == "bytes" else packed_length(n, bits=_code_bits(key))


def true_length(stream: str, *, n: int) -> int:
    """Bytes of n values of a stream at their true width."""
    return section_length(stream if stream in _NUMBERS else f"{stream}/packed", n=n)


def stream_of(name: str) -> str:
    """The stream that a section holds."""
    return name if name in _NUMBERS else _split(name)[0]


def laid_out(stream: str, values: np.ndarray) -> dict[str, bytes]:
    """The section names and bytes that can hold a stream."""
    if stream in _NUMBERS:
        numbers = values.astype(_NUMBERS[stream])
        return {stream: numbers.view(np.uint8).reshape(-1, numbers.itemsize).T.tobytes()}
    bits = _code_bits(stream)
    found = {f"{stream}/packed": pack_codes(values.astype(np.uint8), bits=bits)}
    if stream != "masks" and bits != 8:
        found[f"{stream}/bytes"] = values.astype(np.uint8).tobytes()
    return found


def encoded(stream: str, values: np.ndarray, *, coders: Sequence[str]) -> tuple[str, int, str, bytes]:
    """The smallest section that holds a stream: its name, its length before coding, its coder, its bytes.

    The layout is the one that is smaller by the quick coders.
    """
    made = laid_out(stream, values)
    tried = {name: smallest(plain, coders=quick(coders)) for name, plain in made.items()}
    best = min(tried, key=lambda name: len(tried[name][1]))
    return best, len(made[best]), *smallest(made[best], coders=coders)


def values_of(name: str, data: bytes, *, n: int) -> np.ndarray:
    """The values of a decoded section.

    Raises:
        ValueError: codes that are beyond their bits.
    """
    if name in _NUMBERS:
        kind = np.dtype(_NUMBERS[name])
        planes = np.frombuffer(data, dtype=np.uint8).reshape(kind.itemsize, n)
        return np.ascontiguousarray(planes.T).view(kind).reshape(-1)
    key, layout = _split(name)
    if layout == "packed":
        return unpack_codes(data, bits=_code_bits(key), n=n)
    codes_N, n_codes = (
        np.frombuffer(data, dtype=np.uint8),
        3 if _code_bits(key) == TERNARY else 2 ** int(_code_bits(key)),
    )
    if codes_N.size and codes_N.max() >= n_codes:
        raise ValueError(f"section {name} holds code {codes_N.max()}, the highest is {n_codes - 1}")
    return codes_N


def _split(name: str) -> tuple[str, str]:
    key, _, layout = name.rpartition("/")
    if layout not in LAYOUTS or (key != "masks" and key not in _CODE_STREAMS):
        raise ValueError(f"the artifact has a section {name[:32]!r}, which no artifact has")
    return key, layout


_CODE_STREAMS = {f"codes/{bits:g}": bits for bits in (1, TERNARY, 2, 3, 4, 5, 6, 8)}


def _code_bits(key: str) -> float:
    return 1 if key == "masks" else _CODE_STREAMS[key]
