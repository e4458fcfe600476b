"""Sum modulo p of a sequence.

    4 7 9 ? = 0          (mod 5: 4 + 2 + 4 = 10)

A number below 2 p stands for its rest, and which of two equal ones is written is no part of the example.
Rests are uniform, so whoever misses any of them scores 1/p.
Source: Delétang et al. 2023 (modular arithmetic); Power et al. 2022.

Legend: N example, K place in the sequence.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from lmbench.tasks.drawn import Drawn
from lmbench.tasks.draws import Draws
from lmbench.tasks.ladder import Ladder
from lmbench.tasks.lengths import NOTHING, Lengths, LengthTask, no_query, share_in_order
from lmbench.tasks.symbols import PAD, VALUE

P = 5


class ModSum(LengthTask):
    """Rest of the sum of the numbers, divided by P."""

    kind: ClassVar[Literal["modsum"]] = "modsum"
    LEVELS: ClassVar = (Lengths(3, 6), Lengths(7, 12), Lengths(13, 24), Lengths(25, 36), Lengths(37, 48))

    def generate(self, structure: Draws, surface: Draws, *, train: bool) -> Drawn:
        """See `SyntheticTask.generate`."""
        longest = self.settings.longest
        there_NK = self.there(self.draw_lengths(structure))
        rest_NK = structure.integers(P, longest)
        written_NK = VALUE + rest_NK + P * surface.integers(2, longest)
        return Drawn(
            body_NL=np.where(there_NK, written_NK, PAD),
            query_NQ=no_query(len(structure)),
            answer_NA=VALUE + (rest_NK * there_NK).sum(axis=1, keepdims=True) % P,
            form_NC=np.where(there_NK, rest_NK, NOTHING),
        )

    def solve(self, body: Sequence[str], query: Sequence[str]) -> list[str]:
        """Add up."""
        return [str(sum(int(symbol) for symbol in body) % P)]

    def ladder(self) -> Ladder:
        """Shortcuts: the last rest; the sum of the rests without its modulus, right below P.

        As many strings sum to less than P as are sorted: both count the ways to give P - 1 to n + 1 parts.
        """
        no_wrap = self.mean(lambda n: share_in_order(n, P))
        return self.length_ladder(lambda n: 1, {"last_value": 1 / P, "no_wrap": no_wrap})

    def log2_space(self) -> float:
        return self.log2_total(lambda n: P**n)

    def choices(self) -> list[list[int]]:
        return [list(range(VALUE, VALUE + P))]
