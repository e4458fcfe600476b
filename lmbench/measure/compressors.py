"""General-purpose compressors as predictors of text: zlib, bz2 and xz at their strongest.

A compressor is a code, and a code of L bytes for a text is a probability of 2^(-8 L) for
it, so 8 L / (bytes of the text) stands beside a model's bits per byte. Unlike a model it
starts from nothing and adapts as it reads. `prefix` gives it the training text too:
compressed(prefix + text) - compressed(prefix). Only xz can profit much, as zlib looks
back 32 KiB and bz2 works in blocks of 900 kB.
"""

import bz2
import lzma
import zlib

from lmbench.errors import unknown

COMPRESSORS = {
    "zlib": lambda text: zlib.compress(text, 9),
    "bz2": lambda text: bz2.compress(text, 9),
    "xz": lambda text: lzma.compress(text, preset=9 | lzma.PRESET_EXTREME),
}


def compressed_bytes(text: bytes, *, name: str, prefix: bytes = b"") -> int:
    """Bytes that the named compressor adds for `text`, headers included, when it has seen `prefix`.

    Raises:
        ValueError: an unknown compressor, or no text.
    """
    if name not in COMPRESSORS:
        raise ValueError(unknown("compressor", name, COMPRESSORS))
    if not text:
        raise ValueError(f"{name} needs at least 1 byte of text, got 0")
    compress = COMPRESSORS[name]
    return len(compress(prefix + text)) - (len(compress(prefix)) if prefix else 0)
