"""Associative recall of several keys: which value stood beside each?

    c 4 a 11 f 0 b 4 ? a c = 11 4

Keys are distinct letters, values uniform. The question names some of the keys; the answer is their values
in the order of the question. The order of the pairs is no part of the example.
Source: multi-query associative recall, Arora et al. 2023.

Legend: N example, M pair, Q query, L token of the body, A answer token.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from lmbench.tasks.drawn import Drawn
from lmbench.tasks.draws import Draws
from lmbench.tasks.ladder import Answered, Ladder, exact_metrics, uniform_ladder
from lmbench.tasks.symbols import N_VALUES, VALUE
from lmbench.tasks.synthetic import SyntheticTask


class Setting(NamedTuple):
    """Of one level."""

    pairs: int
    queries: int


class Recall(SyntheticTask):
    """Values of the keys that are asked for."""

    kind: ClassVar[Literal["recall"]] = "recall"
    LEVELS: ClassVar = (Setting(4, 2), Setting(8, 4), Setting(13, 4), Setting(20, 4), Setting(26, 4))

    def generate(self, structure: Draws, surface: Draws, *, train: bool) -> Drawn:
        """See `SyntheticTask.generate`. The first pairs are those that are asked for, in that order."""
        pairs, queries = self.settings
        value_NM = structure.integers(N_VALUES, pairs)
        key_NM, order_NM = self.draw_names(surface, pairs), surface.permutation(pairs)
        body_NM2 = np.stack([key_NM, VALUE + value_NM], axis=2)
        body_NM2 = np.take_along_axis(body_NM2, order_NM[:, :, None], axis=1)
        # Pairs that are not asked for are a set.
        other_NM = np.sort(value_NM[:, queries:], axis=1)
        return Drawn(
            body_NL=body_NM2.reshape(len(structure), -1),
            query_NQ=key_NM[:, :queries],
            answer_NA=VALUE + value_NM[:, :queries],
            form_NC=np.concatenate([value_NM[:, :queries], other_NM], axis=1),
        )

    def solve(self, body: Sequence[str], query: Sequence[str]) -> list[str]:
        """Look the keys up."""
        value = dict(zip(body[::2], body[1::2], strict=True))
        return [value[key] for key in query]

    def ladder(self) -> Ladder:
        """Shortcuts: for each key the value of some pair, drawn anew; for all keys that of the last pair."""
        pairs, queries = self.settings
        asked = queries / pairs  # how often the last pair is one of those asked for
        last = (asked * N_VALUES + 1 - asked) * N_VALUES ** -float(queries)
        rungs = {"some_value": some_value(pairs, queries, N_VALUES), "last_value": last}
        return uniform_ladder(N_VALUES, tokens=queries, **rungs)

    def log2_space(self) -> float:
        """Values of the asked pairs times multisets of the others."""
        pairs, queries = self.settings
        others = math.comb(N_VALUES + pairs - queries - 1, pairs - queries)
        return queries * math.log2(N_VALUES) + math.log2(others)

    def choices(self) -> list[list[int]]:
        return [list(range(VALUE, VALUE + N_VALUES))] * self.settings.queries

    def metrics(self, answered: Answered) -> dict[str, tuple[float, int]]:
        """The score is of all queries at once; `per_query` is the share of them that is right."""
        n = answered.correct_NA.size
        return exact_metrics(answered) | {"per_query": (float(answered.correct_NA.mean()), n)}


def some_value(pairs: int, queries: int, values: int) -> float:
    """Chance to answer all queries with the values of pairs that are drawn with replacement.

    A query for value x is met with the count of x among the pairs, over `pairs`. A value that m queries
    and r other pairs hold contributes (m + r)^m; summing over all ways to give the values to the pairs
    is the coefficient of s^queries t^others in queries! others! (sum of (m + r)^m s^m t^r / (m! r!))^values.
    """
    others = pairs - queries
    one = np.array(
        [
            [(m + r) ** m / (math.factorial(m) * math.factorial(r)) for r in range(others + 1)]
            for m in range(queries + 1)
        ]
    )
    total = np.zeros_like(one)
    total[0, 0] = 1.0
    for _ in range(values):
        after = np.zeros_like(one)
        for m in range(queries + 1):
            for r in range(others + 1):
                after[m:, r:] += total[m, r] * one[: queries + 1 - m, : others + 1 - r]
        total = after
    ways = total[-1, -1] * math.factorial(queries) * math.factorial(others)
    return float(ways / values**pairs / pairs**queries)
