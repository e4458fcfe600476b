"""Examples of synthetic tasks, each a function of (seed, split, index), written as token ids.

The hash of the canonical form decides the split, so that no example of one is in another, whatever
the seed. An example whose form belongs elsewhere is drawn again.

Legend: N example, T position, A answer token.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lmbench.tasks.base import IGNORE
from lmbench.tasks.drawn import Drawn
from lmbench.tasks.draws import GOLDEN, Draws, hashed, key_of, mixed
from lmbench.tasks.symbols import ASK, BOS, EQUALS, PAD, SEMICOLON
from lmbench.tasks.synthetic import SyntheticTask

PARTS, TRAIN, VALID = 1000, 900, 950  # of the hash: train below 900, valid below 950, test the rest
ATTEMPTS = 4000  # draws after which a split of a level must have been met


class Written(NamedTuple):
    """Examples as token ids, padded at the end."""

    tokens_NT: np.ndarray
    """(N, T + 1) int8."""
    is_answer_NT: np.ndarray
    """(N, T + 1) whether the token is a scored token of the answer."""
    hash_N: np.ndarray
    """64-bit hash of the canonical form."""
    kind_N: np.ndarray


def examples(task: SyntheticTask, *, seed: int, split: str, index_N: np.ndarray, rewrite: int = 0) -> Written:
    """Examples of a level: a pure function of (seed, split, index), each alone, in any order.

    Raises:
        ValueError: a split that the level's few canonical forms do not reach.
    """
    key = key_of(task.kind, task.level, "split")
    start_N = mixed(key_of(seed, split, task.kind, task.level) + GOLDEN * index_N.astype(np.uint64))
    done: list[tuple[np.ndarray, Written]] = []
    left = np.arange(len(index_N))
    for attempt in range(ATTEMPTS):
        key_N = mixed(start_N[left] + np.uint64(attempt))
        surface = Draws(mixed(key_N ^ key_of("surface", rewrite)))
        drawn = task.generate(Draws(key_N), surface, train=split == "train")
        hash_N = hashed(drawn.form_NC, key)
        fits_N = split_of(hash_N) == split
        written = _write(task, drawn, surface, hash_N, rewrite)
        done.append((left[fits_N], Written(*(part[fits_N] for part in written))))
        left = left[~fits_N]
        if not len(left):
            order = np.argsort(np.concatenate([at for at, _ in done]), kind="stable")
            parts = zip(*(one for _, one in done), strict=True)
            return Written(*(_joined(part)[order] for part in parts))
    raise ValueError(
        f"{task.caption} has too few forms (2^{task.log2_space():.1f}): none in the {split} split was met in "
        f"{ATTEMPTS} draws"
    )


def split_of(hash_N: np.ndarray) -> np.ndarray:
    """The split of each canonical form."""
    part_N = hash_N % np.uint64(PARTS)
    return np.where(part_N < TRAIN, "train", np.where(part_N < VALID, "valid", "test"))


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Along the examples; token arrays of shorter batches are padded."""
    if parts[0].ndim == 1:
        return np.concatenate(parts)
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts])


def _write(task: SyntheticTask, drawn: Drawn, surface: Draws, hash_N: np.ndarray, rewrite: int) -> Written:
    """Body, question and answer in the order of the surface, with the gaps closed."""
    n = len(hash_N)

    def mark(symbol: int) -> np.ndarray:
        return np.full((n, 1), symbol, dtype=np.int8)

    body, query, answer = (part.astype(np.int8) for part in (drawn.body_NL, drawn.query_NQ, drawn.answer_NA))
    if task.surface == "statement":
        parts = [mark(BOS), body, mark(ASK), query, mark(EQUALS), answer]
    else:
        parts = [mark(BOS), mark(ASK), query, mark(SEMICOLON), body, mark(EQUALS), answer]
    if rewrite and task.shift:
        moved_N1 = surface.integers(task.shift + 1, 1)
        parts.insert(1, np.where(np.arange(task.shift) < moved_N1, SEMICOLON, PAD).astype(np.int8))
    tokens_NT = np.concatenate(parts, axis=1)
    scored_NA = answer != PAD if drawn.scored_NA is None else drawn.scored_NA & (answer != PAD)
    is_answer_NT = np.zeros(tokens_NT.shape, dtype=bool)
    is_answer_NT[:, -answer.shape[1] :] = scored_NA
    if (tokens_NT == PAD).any():
        order = np.argsort(tokens_NT == PAD, axis=1, kind="stable")
        tokens_NT, is_answer_NT = (
            np.take_along_axis(part, order, axis=1) for part in (tokens_NT, is_answer_NT)
        )
    kind_N = np.zeros(n, dtype=np.int64) if drawn.kind_N is None else drawn.kind_N
    return Written(tokens_NT, is_answer_NT, hash_N, kind_N)


def parse(symbols: Sequence[str], *, surface: str) -> tuple[list[str], list[str], list[str]]:
    """Body, question and answer of an example as it is written; nothing that generated it is asked.

    "?" stands nowhere but before the question, "=" and ";" not in it, and "=" not in the answer.
    """
    symbols = list(symbols)[1:]
    while symbols[0] == ";":
        symbols = symbols[1:]
    ask = symbols.index("?")
    if surface == "statement":
        gap = symbols.index("=", ask)
        return symbols[:ask], symbols[ask + 1 : gap], symbols[gap + 1 :]
    start, gap = symbols.index(";"), len(symbols) - 1 - symbols[::-1].index("=")
    return symbols[start + 1 : gap], symbols[ask + 1 : start], symbols[gap + 1 :]


@lru_cache(maxsize=512)
def length(task: SyntheticTask) -> int:
    """Most tokens of an example, found on many drawn without regard to splits."""
    keys = [Draws(mixed(np.arange(at, at + 2048, dtype=np.uint64))) for at in (0, 2048)]
    found = 0
    for train in (True, False):
        drawn = task.generate(*keys, train=train)
        widths = (part.shape[1] for part in (drawn.body_NL, drawn.query_NQ, drawn.answer_NA))
        found = max(found, sum(widths) + 3 + (task.surface == "question") + task.shift)
    return found


def shift_into(
    tokens_NT: np.ndarray,
    targets_NT: np.ndarray,
    place: np.ndarray,
    written_NT: np.ndarray,
    is_target_NT: np.ndarray,
) -> None:
    """Write examples as model input, and what follows each token as its target."""
    width = written_NT.shape[1] - 1
    tokens_NT[place, :width] = written_NT[:, :-1]
    targets_NT[place, :width] = np.where(is_target_NT[:, 1:], written_NT[:, 1:], IGNORE)
