"""Random numbers that are a function of (seed, split, index): the same on any machine, in any order.

A generator with a state could not give example 7,000,000 without the ones before it. Here each example
has a 64-bit key and its i-th number is a hash of key and i (the finaliser of SplitMix64: Steele, Lea and
Flood 2014), for all examples of a block at once.

Legend: N example, K number drawn for it.
"""

import hashlib

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: the step between the keys of SplitMix64
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _32 = (np.uint64(bits) for bits in (30, 27, 31, 32))


def mixed(bits: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit integers whose outputs look independent of each other; a new array."""
    bits = (bits ^ (bits >> _30)) * _FIRST
    bits ^= bits >> _27
    bits *= _SECOND
    bits ^= bits >> _31
    return bits


def key_of(*parts: object) -> np.uint64:
    """A 64-bit key of a few names and numbers."""
    text = "|".join(map(str, parts))
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


def hashed(form_NC: np.ndarray, key: np.uint64) -> np.ndarray:
    """(N,) 64-bit hash of each row of integers, under a key."""
    place_C = key + GOLDEN * np.arange(1, form_NC.shape[1] + 1, dtype=np.uint64)
    return mixed(mixed(form_NC.astype(np.int64).view(np.uint64) ^ place_C).sum(axis=1, dtype=np.uint64) ^ key)


class Draws:
    """Numbers for N examples, drawn column by column in the order of the calls."""

    def __init__(self, key_N: np.ndarray) -> None:
        self.key_N, self._at = key_N, 0

    def __len__(self) -> int:
        return len(self.key_N)

    def bits(self, k: int) -> np.ndarray:
        """(N, K) uniform 64-bit integers."""
        at_K = GOLDEN * np.arange(self._at + 1, self._at + k + 1, dtype=np.uint64)
        self._at += k
        return mixed(self.key_N[:, None] + at_K)

    def integers(self, high: int | np.ndarray, k: int) -> np.ndarray:
        """(N, K) uniform integers below `high`, a number or (N, 1) or (N, K) of them.

        Biased by less than high / 2^32, which no sample here can show.
        """
        high = np.asarray(high, dtype=np.uint64)
        return (((self.bits(k) >> _32) * high) >> _32).astype(np.int64)

    def uniform(self, k: int) -> np.ndarray:
        """(N, K) uniform in [0, 1)."""
        return (self.bits(k) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def permutation(self, n: int) -> np.ndarray:
        """(N, n) of 0 .. n - 1 in random order, n at most 256."""
        low = np.uint64(0xFF)
        packed = (self.bits(n) & ~low) | np.arange(n, dtype=np.uint64)
        packed.sort(axis=1)
        return (packed & low).astype(np.int64)

    def choice(self, weights: np.ndarray) -> np.ndarray:
        """(N,) places, each with a probability proportional to its weight."""
        edges = np.cumsum(np.asarray(weights, dtype=np.float64))
        return np.searchsorted(edges / edges[-1], self.uniform(1)[:, 0], side="right").clip(
            max=len(edges) - 1
        )
