"""Parity: is the number of letters odd?

    b 3 7 b 0 b ? = 1          (three letters: odd)

Half of the places hold a letter, always the same one; which one is no part of the example. The others
hold a number that says nothing but makes the example one of many: without them a short level has so few
forms that a model learns them by heart. Places are independent, so whoever misses any scores 1/2.
Source: Delétang et al. 2023 (parity check); Hahn 2020 on why attention finds it hard.

Legend: N example, K place in the sequence.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from lmbench.tasks.drawn import Drawn
from lmbench.tasks.draws import Draws
from lmbench.tasks.ladder import Ladder
from lmbench.tasks.lengths import NOTHING, Lengths, LengthTask, no_query
from lmbench.tasks.symbols import N_VALUES, PAD, VALUE


class Parity(LengthTask):
    """1 where letters stand at an odd number of places, else 0."""

    kind: ClassVar[Literal["parity"]] = "parity"
    LEVELS: ClassVar = (Lengths(2, 5), Lengths(6, 10), Lengths(11, 20), Lengths(21, 30), Lengths(31, 40))

    def generate(self, structure: Draws, surface: Draws, *, train: bool) -> Drawn:
        """See `SyntheticTask.generate`."""
        there_NK = self.there(self.draw_lengths(structure))
        # One draw says both: a letter in half of the cases, else which of the values.
        item_NK = structure.integers(2 * N_VALUES, self.settings.longest).clip(max=N_VALUES)
        written_NK = np.where(item_NK == N_VALUES, self.draw_names(surface, 1), VALUE + item_NK)
        odd_N1 = ((item_NK == N_VALUES) & there_NK).sum(axis=1, keepdims=True) % 2
        return Drawn(
            body_NL=np.where(there_NK, written_NK, PAD),
            query_NQ=no_query(len(structure)),
            answer_NA=VALUE + odd_N1,
            form_NC=np.where(there_NK, item_NK, NOTHING),
        )

    def solve(self, body: Sequence[str], query: Sequence[str]) -> list[str]:
        """Count what is not a number."""
        return [str(sum(not symbol.isdigit() for symbol in body) % 2)]

    def ladder(self) -> Ladder:
        """Shortcuts: always 0; 1 where letters are more than half."""
        return self.length_ladder(lambda n: 1, {"constant": 0.5, "majority": self.mean(_majority)})

    def log2_space(self) -> float:
        return self.log2_total(lambda n: (N_VALUES + 1) ** n)

    def choices(self) -> list[list[int]]:
        return [[VALUE, VALUE + 1]]


def _majority(n: int) -> float:
    """Share of strings of n fair bits whose majority bit, 0 for a draw, is their parity."""
    return sum(math.comb(n, ones) for ones in range(n + 1) if (2 * ones > n) == ones % 2) / 2**n
