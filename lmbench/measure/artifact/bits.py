"""Small whole numbers as bytes, at their true width.

Codes of b bits follow each other without gaps, the first in the lowest bits of the first byte, so n
of them take ceil(b n / 8) bytes. Three-valued codes have log2 3 = 1.585 bits: five of them make one
byte in base 3 (3^5 = 243), 1.6 bits each.

Legend: N codes.
"""

import numpy as np

TERNARY = 1.58
PER_BYTE = 5  # three-valued codes in one byte
_PLACES = 3 ** np.arange(PER_BYTE)
_PIECE = 1 << 20  # codes at a time, so that eight bytes per code are held for a piece only


def packed_length(n: int, *, bits: float) -> int:
    """Bytes that n codes take."""
    return -(-n // PER_BYTE) if bits == TERNARY else -(-n * int(bits) // 8)


def pack_codes(codes_N: np.ndarray, *, bits: float) -> bytes:
    """(N,) uint8 codes, each below 2^bits (below 3 for 1.58 bits), as bytes."""
    if bits == TERNARY:
        padded = np.zeros(packed_length(len(codes_N), bits=bits) * PER_BYTE, dtype=np.uint8)
        padded[: len(codes_N)] = codes_N
        return (padded.reshape(-1, PER_BYTE) @ _PLACES).astype(np.uint8).tobytes()
    width = int(bits)
    pieces = []
    for first in range(0, len(codes_N), _PIECE):  # a multiple of 8, so every piece ends on a byte
        piece_N1 = codes_N[first : first + _PIECE, None]
        pieces.append(
            np.packbits(np.unpackbits(piece_N1, axis=1, count=width, bitorder="little"), bitorder="little")
        )
    return b"".join(piece.tobytes() for piece in pieces)


def unpack_codes(data: bytes, *, bits: float, n: int) -> np.ndarray:
    """The (N,) uint8 codes that `pack_codes` was given.

    Raises:
        ValueError: not the length of n codes, or a byte that no five three-valued codes make.
    """
    if len(data) != packed_length(n, bits=bits):
        raise ValueError(
            f"{n} codes of {bits} bits take {packed_length(n, bits=bits)} bytes, got {len(data)}"
        )
    packed = np.frombuffer(data, dtype=np.uint8)
    if bits == TERNARY:
        if packed.size and packed.max() >= 3**PER_BYTE:
            raise ValueError(
                f"byte {packed.max()} stands for no {PER_BYTE} three-valued codes: 242 is the highest"
            )
        return (packed[:, None] // _PLACES % 3).astype(np.uint8).reshape(-1)[:n]
    width, codes_N = int(bits), np.empty(n, dtype=np.uint8)
    for first in range(0, n, _PIECE):
        count = min(_PIECE, n - first)
        piece = packed[first * width // 8 : -(-(first + count) * width // 8)]
        bits_NW = np.unpackbits(piece, count=count * width, bitorder="little").reshape(count, width)
        codes_N[first : first + count] = np.packbits(bits_NW, axis=1, bitorder="little")[:, 0]
    return codes_N
