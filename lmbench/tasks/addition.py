"""Addition of two numbers of many digits.

    7 4 + 5 5 ? = 2 0 1 <eos>          (47 + 55 = 102)

All numbers are written lowest digit first, so that each digit of the sum needs what has been said and one
carry. Both summands have n digits, zeros at the end allowed; the sum has n + 1, the last being 0 or 1.
Which summand comes first is no part of the example.
Source: Lee et al. 2023 (reversed digits); Zhou et al. 2024.

Legend: N example, K digit, lowest first.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from lmbench.tasks.drawn import Drawn
from lmbench.tasks.draws import Draws
from lmbench.tasks.ladder import Ladder
from lmbench.tasks.lengths import NOTHING, Lengths, LengthTask, no_query, stopped, stopped_choices
from lmbench.tasks.symbols import ID, PAD, VALUE


class Addition(LengthTask):
    """Digits of the sum."""

    kind: ClassVar[Literal["addition"]] = "addition"
    LEVELS: ClassVar = (Lengths(2, 3), Lengths(4, 6), Lengths(7, 12), Lengths(13, 18), Lengths(19, 24))
    most_rewrites: ClassVar[int] = 2

    def generate(self, structure: Draws, surface: Draws, *, train: bool) -> Drawn:
        """See `SyntheticTask.generate`."""
        longest = self.settings.longest
        n_N1 = self.draw_lengths(structure)
        there_NK = self.there(n_N1)
        one_NK, two_NK = (structure.integers(10, longest) * there_NK for _ in range(2))
        is_swapped_N1 = surface.integers(2, 1) == 1
        summands = np.where(is_swapped_N1, two_NK, one_NK), np.where(is_swapped_N1, one_NK, two_NK)
        first_NK, second_NK = (np.where(there_NK, VALUE + digit_NK, PAD) for digit_NK in summands)
        plus_N1 = np.full_like(n_N1, ID["+"])
        return Drawn(
            body_NL=np.concatenate([first_NK, plus_N1, second_NK], axis=1),
            query_NQ=no_query(len(structure)),
            answer_NA=stopped(VALUE + _added(one_NK, two_NK), n_N1 + 1),
            form_NC=_unordered(one_NK, two_NK, there_NK),
        )

    def solve(self, body: Sequence[str], query: Sequence[str]) -> list[str]:
        """With integers of any size."""
        n = body.index("+")
        first, second = (int("".join(reversed(part))) for part in (body[:n], body[n + 1 :]))
        return [*reversed(str(first + second).zfill(n + 1)), "<eos>"]

    def ladder(self) -> Ladder:
        """Shortcuts: no carries; carries of the column before, but not those that a 9 hands on."""
        no_carry = self.mean(lambda n: 0.55**n)  # 55 of 100 pairs of digits add up to 9 at most
        shortcuts = {"no_carry": no_carry, "short_carry": self.mean(_no_chain)}
        return self.length_ladder(lambda n: n + 2, shortcuts)

    def log2_space(self) -> float:
        """Unordered pairs."""
        return self.log2_total(lambda n: 10**n * (10**n + 1) // 2)

    def choices(self) -> list[list[int]]:
        shortest, longest = self.settings
        return stopped_choices(list(range(VALUE, VALUE + 10)), shortest=shortest + 1, longest=longest + 1)


def _added(one_NK: np.ndarray, two_NK: np.ndarray) -> np.ndarray:
    """(N, K + 1) digits of the sums."""
    out = np.zeros((len(one_NK), one_NK.shape[1] + 1), dtype=np.int64)
    for at in range(one_NK.shape[1]):
        total_N = out[:, at] + one_NK[:, at] + two_NK[:, at]
        out[:, at], out[:, at + 1] = total_N % 10, total_N // 10
    return out


def _unordered(one_NK: np.ndarray, two_NK: np.ndarray, there_NK: np.ndarray) -> np.ndarray:
    """Digits of the two in an order that does not hang on which is first: by their lowest unequal digit."""
    at_N1 = (one_NK != two_NK).argmax(axis=1)[:, None]
    is_turned_N1 = np.take_along_axis(one_NK, at_N1, axis=1) > np.take_along_axis(two_NK, at_N1, axis=1)
    low_NK, high_NK = np.where(is_turned_N1, two_NK, one_NK), np.where(is_turned_N1, one_NK, two_NK)
    return np.where(there_NK, 10 * low_NK + high_NK, NOTHING)


def _no_chain(n: int) -> float:
    """Share of pairs of n digits in which no column that adds up to 9 receives a carry.

    Columns add up to at most 8, 9, at least 10 with 45, 10, 45 of 100 pairs of digits.
    """
    without, carrying = 1.0, 0.0  # shares by the carry into the next column, both without a chain so far
    for _ in range(n):
        without, carrying = 0.55 * without + 0.45 * carrying, 0.45 * (without + carrying)
    return math.fsum((without, carrying))
