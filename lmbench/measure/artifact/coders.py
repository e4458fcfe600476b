"""Entropy coding of sections with general compressors, and decoding that cannot run away.

Each section is stored by the coder that makes it smallest: none, zlib, xz's LZMA or zstd. A section
says how many bytes it decodes to; a decoder is given leave for that many, so a stream made to
expand without end is stopped at its declared length and refused.

zstd is the package `zstandard`, an extra: without it files are written without it, and a file that
uses it is refused with the remedy.
"""

import importlib.util
import lzma
import zlib
from collections.abc import Sequence
from typing import Any

from lmbench.errors import unknown

CODERS = ("none", "zlib", "lzma", "zstd")
_LARGEST_WINDOW = 1 << 26  # bytes that a decoder looks back: its memory beside the output
# Which bits of the bytes before choose the model of the next one: for text, and for packed codes,
# whose bytes tell nothing of each other.
_CONTEXTS = ({"lc": 3, "lp": 0, "pb": 2}, {"lc": 0, "lp": 0, "pb": 0})


def installed_coders() -> tuple[str, ...]:
    """The coders that can be used here."""
    return CODERS if importlib.util.find_spec("zstandard") else CODERS[:-1]


def check_coders(names: Sequence[str]) -> None:
    """Refuse coders that do not exist or are not installed.

    Raises:
        ValueError: naming the coder.
    """
    for name in names:
        if name not in CODERS:
            raise ValueError(unknown("coder", name, CODERS))
        if name not in installed_coders():
            raise ValueError(_lacking())


def smallest(data: bytes, *, coders: Sequence[str]) -> tuple[str, bytes]:
    """The coder that makes the least of the bytes, and what it makes; "none" where none gains."""
    tried = [("none", data), *((name, _encode(data, name=name)) for name in coders if name != "none")]
    return min(tried, key=lambda pair: len(pair[1]))


def quick(coders: Sequence[str]) -> tuple[str, ...]:
    """The coders by which alternatives are compared: those that take no time, where they are among them."""
    return tuple(name for name in coders if name in ("none", "zlib")) if "zlib" in coders else tuple(coders)


def decode(stored: bytes, *, name: str, length: int) -> bytes:
    """The bytes of a section, whose declared length is all that is ever decoded.

    Raises:
        ValueError: an unknown coder, zstd where it is not installed, a damaged stream, or one that
            is shorter or longer than declared.
    """
    if name not in CODERS:
        raise ValueError(unknown("coder", name, CODERS))
    try:
        made, is_whole = _DECODE[name](stored, length)
    except (zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"a section coded by {name} is damaged: {error}") from None
    if len(made) != length or not is_whole:
        held = f"{len(made):,}" if len(made) < length else f"more than {length:,}"
        raise ValueError(f"a section coded by {name} declares {length:,} bytes but holds {held}")
    return made


def _encode(data: bytes, *, name: str) -> bytes:
    if name == "zlib":
        return min(zlib.compress(data, 6), _huffman(data), key=len)
    if name == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=19, write_content_size=False).compress(data)
    made = [
        lzma.compress(data, format=lzma.FORMAT_RAW, filters=[_filter(len(data)) | context])
        for context in _CONTEXTS
    ]
    return min(made, key=len)


def _huffman(data: bytes) -> bytes:
    """zlib's stream without matches, which among codes as if drawn at random cost more than they give.

    A million codes of a Gaussian come within 2% of their entropy, in a fiftieth of the time of LZMA.
    """
    coder = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(data) + coder.flush()


def _filter(length: int) -> dict[str, Any]:
    """LZMA2 without a container; its streams say themselves which context they use."""
    window = max(4096, min(length, _LARGEST_WINDOW))
    return {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": window}


def _decode_none(stored: bytes, length: int) -> tuple[bytes, bool]:
    return stored[: length + 1], len(stored) == length


def _decode_zlib(stored: bytes, length: int) -> tuple[bytes, bool]:
    decoder = zlib.decompressobj()
    made = decoder.decompress(stored, length + 1)
    return made, decoder.eof and not decoder.unused_data


def _decode_lzma(stored: bytes, length: int) -> tuple[bytes, bool]:
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=[_filter(length)])
    made = decoder.decompress(stored, max_length=length + 1)
    return made, decoder.eof and not decoder.unused_data


def _decode_zstd(stored: bytes, length: int) -> tuple[bytes, bool]:
    if "zstd" not in installed_coders():
        raise ValueError(_lacking())
    import zstandard

    try:
        decoder = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        with decoder.stream_reader(stored) as reader:
            made = reader.read(length + 1)
    except zstandard.ZstdError as error:
        raise ValueError(f"a section coded by zstd is damaged: {error}") from None
    return made, True


_DECODE = {"none": _decode_none, "zlib": _decode_zlib, "lzma": _decode_lzma, "zstd": _decode_zstd}


def _lacking() -> str:
    return "coder 'zstd' needs the package zstandard, which is not installed: pip install zstandard"
