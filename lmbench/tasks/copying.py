"""Copying: say a string again.

    c a f ? = c a f <eos>

Letters are uniform. Moving all of them by as many places of the alphabet (a cycle) is another writing of
the same example, not any renaming: free renaming would leave short strings too few forms (15 of four
letters).
Source: Delétang et al. 2023 (duplicate string); Jelassi et al. 2024.

Legend: N example, K place in the sequence.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from lmbench.tasks.draws import Draws
from lmbench.tasks.ladder import Ladder
from lmbench.tasks.lengths import (
    NOTHING,
    Lengths,
    LengthTask,
    alphabet_conflict,
    no_query,
    share_in_order,
    stopped,
    stopped_choices,
)
from lmbench.tasks.symbols import NAME, PAD
from lmbench.tasks.synthetic import ALPHABETS, Drawn, SyntheticTask


class Copy(LengthTask):
    """The string itself."""

    kind: ClassVar[Literal["copy"]] = "copy"
    LEVELS: ClassVar = (Lengths(4, 6), Lengths(7, 12), Lengths(13, 24), Lengths(25, 36), Lengths(37, 48))

    def conflict(self, other: SyntheticTask) -> str:
        """See `SyntheticTask.conflict`."""
        return alphabet_conflict(self, other)

    def generate(self, structure: Draws, surface: Draws, *, train: bool) -> Drawn:
        """See `SyntheticTask.generate`."""
        alphabet = ALPHABETS[self.names]
        n_N1 = self.draw_lengths(structure)
        there_NK = self.there(n_N1)
        letter_NK = structure.integers(len(alphabet), self.settings.longest)
        moved_NK = (letter_NK + surface.integers(len(alphabet), 1)) % len(alphabet)
        tokens_NK = NAME + alphabet.start + moved_NK
        return Drawn(
            body_NL=np.where(there_NK, tokens_NK, PAD),
            query_NQ=no_query(len(structure)),
            answer_NA=stopped(tokens_NK, n_N1),
            form_NC=np.where(there_NK, (letter_NK - letter_NK[:, :1]) % len(alphabet), NOTHING),
        )

    def solve(self, body: Sequence[str], query: Sequence[str]) -> list[str]:
        """Read from the start to the end."""
        return [*body, "<eos>"]

    def ladder(self) -> Ladder:
        """Shortcuts: the string backwards (right for palindromes); its letters in random order."""
        m = len(ALPHABETS[self.names])
        backwards = self.mean(lambda n: m ** -float(n // 2))
        any_order = self.mean(lambda n: share_in_order(n, m))
        return self.length_ladder(lambda n: n + 1, {"backwards": backwards, "any_order": any_order})

    def log2_space(self) -> float:
        """The first letter is free of meaning, the others count from it."""
        m = len(ALPHABETS[self.names])
        return self.log2_total(lambda n: m ** (n - 1))

    def choices(self) -> list[list[int]]:
        shortest, longest = self.settings
        return stopped_choices(
            [NAME + letter for letter in ALPHABETS[self.names]], shortest=shortest, longest=longest
        )
