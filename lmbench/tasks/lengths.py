"""What tasks share whose levels are ranges of lengths: train on short levels, score the longer ones.

With L the longest of level 1, levels 2, 3 and 4 reach to 2 L, 3 L and 4 L. A length is drawn uniformly
within its level; places past the end hold <pad>, and writing closes the gaps. The canonical form holds
the places past the end too, so that strings of different lengths differ in form.
Source: Delétang et al. 2023, section 4; Zhou et al. 2024.

Legend: N example, K place in the sequence, A answer token.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from lmbench.tasks.drawn import ALPHABETS
from lmbench.tasks.draws import Draws
from lmbench.tasks.ladder import Ladder
from lmbench.tasks.symbols import EOS, PAD
from lmbench.tasks.synthetic import SyntheticTask

NOTHING = -1  # stands in a sequence of numbers where a shorter one has ended


class Lengths(NamedTuple):
    """Of one level, both included."""

    shortest: int
    longest: int


class LengthTask(SyntheticTask):
    """Abstract: each level's settings have `shortest` and `longest`; one right answer to each example."""

    def draw_lengths(self, structure: Draws) -> np.ndarray:
        """(N, 1) uniform over the range of the level."""
        shortest, longest = self.settings[:2]
        return shortest + structure.integers(longest - shortest + 1, 1)

    def there(self, n_N1: np.ndarray) -> np.ndarray:
        """(N, K) which places a sequence of each length fills."""
        return np.arange(self.settings.longest) < n_N1

    def mean(self, value: Callable[[int], float]) -> float:
        """Of a function of the length, over the lengths of the level."""
        shortest, longest = self.settings[:2]
        return math.fsum(value(n) for n in range(shortest, longest + 1)) / (longest - shortest + 1)

    def log2_total(self, forms: Callable[[int], int]) -> float:
        """Binary logarithm of the number of forms, given those of each length."""
        shortest, longest = self.settings[:2]
        return math.log2(sum(forms(n) for n in range(shortest, longest + 1)))

    def length_ladder(self, tokens: Callable[[int], int], shortcuts: Mapping[str, float]) -> Ladder:
        """With the guesser's chance on answers of tokens(n) places."""
        return Ladder(
            score={
                "chance": self.mean(lambda n: math.exp(-self.guess_nats(tokens(n)))),
                **shortcuts,
                "bayes": 1.0,
            },
            answer_nll={"chance": self.mean(lambda n: self.guess_nats(tokens(n))), "bayes": 0.0},
        )

    def guess_nats(self, tokens: int) -> float:
        """Nats of an answer of so many places for who holds all `choices` at each for equally likely."""
        return math.fsum(math.log(len(ids)) for ids in self.choices()[:tokens])


def stopped_choices(symbols: list[int], *, shortest: int, longest: int) -> list[list[int]]:
    """Choices at each place of an answer of so many symbols and <eos>: <eos> from where it may stand."""
    return [symbols] * shortest + [[*symbols, EOS]] * (longest - shortest) + [[EOS]]


def stopped(tokens_NK: np.ndarray, n_N1: np.ndarray) -> np.ndarray:
    """(N, K + 1): the first n tokens of each example, then <eos>, then <pad>."""
    place_A = np.arange(tokens_NK.shape[1] + 1)
    wide_NA = np.pad(tokens_NK, ((0, 0), (0, 1)))
    return np.where(place_A < n_N1, wide_NA, np.where(place_A == n_N1, EOS, PAD))


def alphabet_conflict(learned: SyntheticTask, scored: SyntheticTask) -> str:
    """Of strings whose form is taken modulo the size of the alphabet: see `SyntheticTask.conflict`."""
    sizes = [len(ALPHABETS[task.names]) for task in (learned, scored)]
    if sizes[0] == sizes[1] or learned.level != scored.level:  # levels share no length
        return ""
    return (
        f"strings are split modulo {sizes[1]} with names = {scored.names!r}, so that some were trained on "
        f"modulo {sizes[0]} with names = {learned.names!r}"
    )


def no_query(n: int) -> np.ndarray:
    """(N, 0): where the body says all."""
    return np.zeros((n, 0), dtype=np.int8)


def share_in_order(n: int, symbols: int) -> float:
    """Share of the strings of n symbols that are sorted: multisets over strings.

    It is also the chance that a random order of a random string's symbols is the string itself.
    """
    return math.comb(n + symbols - 1, n) / symbols**n
