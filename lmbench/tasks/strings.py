"""What tasks share that say a string of letters again, in some order.

Letters are uniform. Moving all of them by as many places of the alphabet (a cycle) is another writing of
the same example, not any renaming: free renaming would leave short strings too few forms (15 of four
letters).

Legend: N example, K place in the answer.
"""

from typing import ClassVar

import numpy as np

from lmbench.tasks.drawn import ALPHABETS, Drawn
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
from lmbench.tasks.synthetic import SyntheticTask


class StringTask(LengthTask):
    """Abstract: the letters of the body, all of them, in an order that the task states."""

    LEVELS: ClassVar = (Lengths(4, 6), Lengths(7, 12), Lengths(13, 24), Lengths(25, 36), Lengths(37, 48))
    is_turned: ClassVar[bool]
    """Whether the answer is the string from its end to its start."""
    other_way: ClassVar[str]
    """Name of the shortcut that says the string the other way round."""

    def conflict(self, other: SyntheticTask) -> str:
        """See `SyntheticTask.conflict`."""
        return alphabet_conflict(self, other)

    def generate(self, structure: Draws, surface: Draws, *, train: bool) -> Drawn:
        """See `SyntheticTask.generate`. Drawn in the order of the answer."""
        alphabet = ALPHABETS[self.names]
        n_N1 = self.draw_lengths(structure)
        there_NK = self.there(n_N1)
        letter_NK = structure.integers(len(alphabet), self.settings.longest)
        moved_NK = (letter_NK + surface.integers(len(alphabet), 1)) % len(alphabet)
        tokens_NK = NAME + alphabet.start + moved_NK
        body_NK = np.where(there_NK, tokens_NK, PAD)
        return Drawn(
            body_NL=body_NK[:, ::-1] if self.is_turned else body_NK,
            query_NQ=no_query(len(structure)),
            answer_NA=stopped(tokens_NK, n_N1),
            form_NC=np.where(there_NK, (letter_NK - letter_NK[:, :1]) % len(alphabet), NOTHING),
        )

    def ladder(self) -> Ladder:
        """Shortcuts: the string the other way round (right for palindromes); its letters in random order."""
        m = len(ALPHABETS[self.names])
        turned = self.mean(lambda n: m ** -float(n // 2))
        any_order = self.mean(lambda n: share_in_order(n, m))
        return self.length_ladder(lambda n: n + 1, {self.other_way: turned, "any_order": any_order})

    def log2_space(self) -> float:
        """One letter is free of meaning, the others count from it."""
        m = len(ALPHABETS[self.names])
        return self.log2_total(lambda n: m ** (n - 1))

    def choices(self) -> list[list[int]]:
        shortest, longest = self.settings
        return stopped_choices(
            [NAME + letter for letter in ALPHABETS[self.names]], shortest=shortest, longest=longest
        )
