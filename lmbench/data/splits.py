"""A split as ids, and the windows that training draws from it and scoring slides over it.

Windows never cross the end of a document. Legend: N position in the split.
"""

from dataclasses import dataclass

import numpy as np

from lmbench.config import Config

SKIPPED = 1 << 12  # steps drawn at once on the way to a later one


@dataclass(frozen=True)
class Split:
    """One split as ids: documents end to end."""

    ids_N: np.ndarray
    n_bytes_N: np.ndarray | None
    """Bytes of each token; None where the tokenizer loses text."""
    doc_start_N: np.ndarray
    """For each position, where its document starts."""
    bounds: tuple[tuple[int, int], ...]
    """Start and end of each document."""


def window_starts(split: Split, seq_len: int) -> np.ndarray:
    """Every position from which seq_len tokens and one target lie inside one document."""
    parts = [np.arange(start, max(start, end - seq_len), dtype=np.int64) for start, end in split.bounds]
    return np.concatenate(parts)


class Draws:
    """Uniform integers below `n`, `batch_size` for each step: a pure function of (data_seed, step).

    Steps are asked for in blocks, in increasing order or again from the start.
    """

    def __init__(self, data_seed: int, *, batch_size: int, n: int) -> None:
        self.data_seed, self.batch_size, self.n = data_seed, batch_size, n
        self._restart()

    def _restart(self) -> None:
        self._generator, self._at = np.random.Generator(np.random.Philox(key=self.data_seed)), 0

    def block(self, first: int, count: int) -> np.ndarray:
        """(count, batch_size) indices of steps first .. first + count - 1."""
        if first < self._at:
            self._restart()
        while self._at < first:  # the stream cannot jump: a draw may take one value or several
            self._next(min(first - self._at, SKIPPED))
        return self._next(count)

    def _next(self, count: int) -> np.ndarray:
        self._at += count
        return self._generator.integers(0, self.n, size=(count, self.batch_size), dtype=np.int64)


def batch_sizes(run: Config) -> list[int]:
    """Examples in each batch of an epoch: all full but perhaps the last; one entry without epochs."""
    if run.epoch_windows is None:
        return [run.batch_size]
    full, rest = divmod(run.epoch_windows, run.batch_size)
    return [run.batch_size] * full + [rest] * (rest > 0)


def sliding_windows(split: Split, seq_len: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts of the windows, and how many targets at the front of each were scored before."""
    starts, skips = [], []
    for start, end in split.bounds:
        targets = end - start - 1
        later = max(0, -(-(targets - seq_len) // stride))  # windows after the first that are needed
        n = (1 + later) if targets > 0 else 0
        starts.append(start + stride * np.arange(n, dtype=np.int64))
        skips.append(np.where(np.arange(n) == 0, 0, seq_len - stride))
    return np.concatenate(starts), np.concatenate(skips)


def chunks(values: np.ndarray, size: int) -> list[np.ndarray]:
    """Consecutive pieces of `size`, the last one short."""
    return [values[at : at + size] for at in range(0, len(values), size)]
