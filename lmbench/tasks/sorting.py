"""Sorting: say numbers from the lowest to the highest.

    7 3 9 3 ? = 3 3 7 9 <eos>

The order in which numbers are written is no part of the example: its form is the multiset.
Source: Delétang et al. 2023 (bucket sort).

Legend: N example, K place in the sequence.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from lmbench.tasks.drawn import Drawn
from lmbench.tasks.draws import Draws
from lmbench.tasks.ladder import Ladder
from lmbench.tasks.lengths import Lengths, LengthTask, no_query, share_in_order, stopped, stopped_choices
from lmbench.tasks.symbols import N_VALUES, PAD, VALUE


class Sort(LengthTask):
    """Numbers in ascending order, with their repeats."""

    kind: ClassVar[Literal["sort"]] = "sort"
    LEVELS: ClassVar = (Lengths(4, 6), Lengths(7, 12), Lengths(13, 24), Lengths(25, 36), Lengths(37, 48))

    def generate(self, structure: Draws, surface: Draws, *, train: bool) -> Drawn:
        """See `SyntheticTask.generate`."""
        longest = self.settings.longest
        n_N1 = self.draw_lengths(structure)
        past = N_VALUES  # sorts to the end, where places are empty
        value_NK = np.where(self.there(n_N1), structure.integers(N_VALUES, longest), past).astype(np.int8)
        sorted_NK = np.sort(value_NK, axis=1)
        body_NK = np.take_along_axis(sorted_NK, surface.permutation(longest), axis=1)
        return Drawn(
            body_NL=np.where(body_NK == past, PAD, VALUE + body_NK),
            query_NQ=no_query(len(structure)),
            answer_NA=stopped(VALUE + sorted_NK, n_N1),
            form_NC=sorted_NK,
        )

    def solve(self, body: Sequence[str], query: Sequence[str]) -> list[str]:
        """By number, not by how it is spelled."""
        return [*sorted(body, key=int), "<eos>"]

    def ladder(self) -> Ladder:
        """Shortcut: the numbers as they are written, right where they happen to be sorted."""
        copied = self.mean(lambda n: share_in_order(n, N_VALUES))
        return self.length_ladder(lambda n: n + 1, {"copy": copied})

    def log2_space(self) -> float:
        """Multisets."""
        return self.log2_total(lambda n: math.comb(n + N_VALUES - 1, n))

    def choices(self) -> list[list[int]]:
        shortest, longest = self.settings
        return stopped_choices(list(range(VALUE, VALUE + N_VALUES)), shortest=shortest, longest=longest)
