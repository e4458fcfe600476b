"""Regular fractions of two-level designs: which cells they have, and which effects they confuse.

A word is a product of factors, of sign +1 in a cell where an even number of its factors is off. In half of
a design one word has the same sign everywhere (the defining relation, I = that word), and so any two
words whose product it is cannot be told apart: they are aliases, and only their sum can be estimated
(Box, Hunter and Hunter, Statistics for Experimenters, ch. 6).
"""

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lmbench.analysis.distillation_arms import FACTORS, cell, factors_of

Word = tuple[str, ...]  # factors whose signs are multiplied, in the order of the design
Relation = tuple[tuple[Word, int], ...]


class Alias(NamedTuple):
    """Words that no cell tells apart, the shortest first, each with the sign it enters the sum with."""

    words: tuple[Word, ...]
    signs: tuple[int, ...]


class Design(NamedTuple):
    """A regular fraction of a two-level design."""

    factors: tuple[str, ...]
    cells: tuple[str, ...]
    relation: Relation
    """Words with one sign in all cells; none in a full design."""
    effects: tuple[Alias, ...]
    """What can be estimated, by the order of the shortest word."""
    left_out: tuple[str, ...]
    """Cells that were run and do not belong to the fraction."""

    def __str__(self) -> str:
        """`8 of 16 cells of the 2^4 design, I = Q×P×KD×ENT`."""
        full = f"2^{len(self.factors)}"
        if not self.relation:
            return f"all {len(self.cells)} cells of the {full} design"
        words = ", ".join(("−" if side < 0 else "") + name_of(word) for word, side in self.relation)
        return f"{len(self.cells)} of {2 ** len(self.factors)} cells of the {full} design, I = {words}"


def design_of(labels: Iterable[str], *, factors: Sequence[str] = FACTORS) -> Design:
    """`fraction_of`, where there has to be one.

    Raises:
        ValueError: no two factors whose four combinations, or three whose half, were run.
    """
    labels = list(dict.fromkeys(labels))
    design = fraction_of(labels, factors=factors)
    if design is None:
        known = [repr(label) for label in labels if factors_of(label, factors=factors) is not None]
        needed = ", ".join(repr(cell(point, factors=factors)) for point in _cells(factors[:2], ()))
        raise ValueError(
            "the cells that were run are no full or half design of two or more factors: "
            f"{', '.join(known) or 'none'}; needed are such as {needed}"
        )
    return design


def fraction_of(labels: Iterable[str], *, factors: Sequence[str] = FACTORS) -> Design | None:
    """The largest regular fraction among the cells; of equal ones that with the longest relation.

    A fraction is all cells, or half of them, in which a word has one sign. Where some factor is never
    used, the design is that of the others. None where two factors' four combinations were not run, nor
    half of the eight of three.
    """
    on = {factors_of(label, factors=factors): label for label in dict.fromkeys(labels)}
    on.pop(None, None)
    ranked = [
        ((len(cells), length, len(used)), used, relation, cells)
        for used, relation, length, cells in _fractions(tuple(factors))
        if set(cells) <= set(on)
    ]
    if not ranked:
        return None
    _, used, relation, cells = max(ranked, key=lambda candidate: candidate[0])
    others = tuple(name for point, name in on.items() if point not in cells)
    return Design(used, tuple(on[point] for point in cells), relation, _aliases(used, relation), others)


def words_of(factors: Sequence[str]) -> list[Word]:
    """All words but the empty one, shortest first."""
    sizes = range(1, len(factors) + 1)
    return [word for size in sizes for word in itertools.combinations(factors, size)]


def sign(word: Word, on: frozenset[str]) -> int:
    """Of a word in the cell where these factors are on."""
    return (-1) ** sum(name not in on for name in word)


@functools.lru_cache(maxsize=16)
def _fractions(factors: tuple[str, ...]) -> list[tuple[Word, Relation, float, list[frozenset[str]]]]:
    """Factors, relation, its length and cells of all full designs and halves without aliased main effects."""
    found = []
    for used in words_of(factors):
        for relation in [(), *(((word, side),) for word in words_of(used) for side in (1, -1))]:
            length = len(relation[0][0]) if relation else math.inf
            if len(used) > 1 and length >= 3:
                found.append((used, relation, length, _cells(used, relation)))
    return found


def _cells(factors: Sequence[str], relation: Relation) -> list[frozenset[str]]:
    points = [frozenset(), *(frozenset(word) for word in words_of(factors))]
    return [p for p in points if all(sign(word, p) == wanted for word, wanted in relation)]


def _aliases(factors: tuple[str, ...], relation: Relation) -> tuple[Alias, ...]:
    """The words of the design in classes; multiplying by the relation's word gives the other of a class."""
    found, seen = [], {frozenset(word) for word, _ in relation}
    for word in words_of(factors):
        if frozenset(word) in seen:
            continue
        others = [(frozenset(word) ^ frozenset(fixed), side) for fixed, side in relation]
        seen |= {frozenset(word), *(other for other, _ in others)}
        more = [tuple(name for name in factors if name in other) for other, _ in others]
        found.append(Alias((word, *more), (1, *(side for _, side in others))))
    return tuple(found)


def name_of(word: Word) -> str:
    """As tables write a word."""
    return "×".join(word)
