"""Basic reasoning: follow definitions to a value.

    b = 3 ; f = e + 2 ; a = 2 ; d = b + 4 ; c = a + 1 ; e = 0 ? d = 0     (mod 7; three chains of one hop)

Each chain starts with a literal and adds an increment at each hop; the question names the end of one.
Roots and increments are uniform, so whoever misses one of them scores chance. Whoever takes one for
another of the context is right as often as it is the right one: of m chains, 1/m and chance for the rest
("any_root"; of one hop the increment of any chain does as well). With three chains that is a third of
the way from chance to the best score; with two it would be half.
Source: LEGO (Zhang et al. 2022), k-hop (Sanford et al. 2024), iGSM (Ye et al. 2024).

Legend: N example, M chain, K hop, S statement, L token of the body.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from lmbench.tasks.drawn import Drawn
from lmbench.tasks.draws import Draws
from lmbench.tasks.ladder import Ladder, uniform_ladder
from lmbench.tasks.symbols import EQUALS, ID, PAD, SEMICOLON, VALUE
from lmbench.tasks.synthetic import SyntheticTask

WIDTH = 6  # tokens of a statement with its separator: d = b + 4 ;


class Setting(NamedTuple):
    """Of one level."""

    hops: int
    """Definitions between the literal and the end of a chain."""
    chains: int
    modulus: int
    is_shuffled: bool
    """Whether statements stand in random order; else hop by hop, chains in random order."""


class Chain(SyntheticTask):
    """Value of the end of one of several chains of definitions."""

    kind: ClassVar[Literal["chain"]] = "chain"
    LEVELS: ClassVar = (
        Setting(0, 4, 11, True),
        Setting(1, 3, 7, True),
        Setting(2, 3, 7, True),
        Setting(3, 3, 7, True),
        Setting(4, 3, 7, True),
        Setting(5, 3, 7, True),
    )

    def generate(self, structure: Draws, surface: Draws, *, train: bool) -> Drawn:
        """See `SyntheticTask.generate`. The first chain is the one that is asked for."""
        hops, chains, p, is_shuffled = self.settings
        steps_NMK = structure.integers(p, chains * (hops + 1)).reshape(-1, chains, hops + 1)
        value_NMK = steps_NMK.cumsum(axis=2) % p
        name_NMK = self.draw_names(surface, chains * (hops + 1)).reshape(-1, chains, hops + 1)
        body_NSL = self._statements(steps_NMK, name_NMK)
        if is_shuffled:
            order_NS = surface.permutation(chains * (hops + 1))
        else:
            order_NS = surface.permutation(chains)[:, None] * (hops + 1) + np.arange(hops + 1)[:, None]
            order_NS = order_NS.reshape(len(structure), -1)
        body_NSL = np.take_along_axis(body_NSL, order_NS[:, :, None], axis=1)
        # All examples are equally long, so the gaps of the literals can go; the last separator goes too.
        body_NL = body_NSL[body_NSL != PAD].reshape(len(structure), -1)[:, :-1]
        # Chains that are not asked for are a set: their order is no part of the example.
        base_K = p ** np.arange(hops, -1, -1)
        other_NM = np.sort(steps_NMK[:, 1:] @ base_K, axis=1)
        return Drawn(
            body_NL=body_NL,
            query_NQ=name_NMK[:, 0, -1:],
            answer_NA=VALUE + value_NMK[:, 0, -1:],
            form_NC=np.concatenate([steps_NMK[:, 0], other_NM], axis=1),
        )

    def _statements(self, steps_NMK: np.ndarray, name_NMK: np.ndarray) -> np.ndarray:
        """(N, S, WIDTH) tokens, chain after chain."""
        n, chains, length = steps_NMK.shape
        out = np.full((n, chains, length, WIDTH), PAD, dtype=np.int8)
        out[..., 0], out[..., 1], out[..., -1] = name_NMK, EQUALS, SEMICOLON
        out[:, :, 0, 2] = VALUE + steps_NMK[:, :, 0]
        out[:, :, 1:, 2], out[:, :, 1:, 3] = name_NMK[:, :, :-1], ID["+"]
        out[:, :, 1:, 4] = VALUE + steps_NMK[:, :, 1:]
        return out.reshape(n, chains * length, WIDTH)

    def solve(self, body: Sequence[str], query: Sequence[str]) -> list[str]:
        """Follow the definitions back to a literal."""
        terms = {part[0]: part[2:] for part in statements(body)}

        def value(name: str) -> int:
            first, *rest = terms[name]
            start = int(first) if first.isdigit() else value(first)
            return (start + (int(rest[1]) if rest else 0)) % self.settings.modulus

        return [str(value(query[0]))]

    def ladder(self) -> Ladder:
        """ "Any root" adds the chain's own increments to any literal of the context.

        At 0 hops there is nothing to add, and the rung is called "some_literal".
        """
        hops, chains, p, _ = self.settings
        one_of_all = 1 / chains + (1 - 1 / chains) / p
        return uniform_ladder(p, **{"any_root" if hops else "some_literal": one_of_all})

    def log2_space(self) -> float:
        """Asked chain times multisets of the others."""
        hops, chains, p, _ = self.settings
        kinds = p ** (hops + 1)
        return math.log2(kinds) + math.log2(math.comb(kinds + chains - 2, chains - 1))

    def choices(self) -> list[list[int]]:
        return [list(range(VALUE, VALUE + self.settings.modulus))]


def statements(body: Sequence[str]) -> list[list[str]]:
    """Symbols between separators."""
    return [part.split() for part in " ".join(body).split(" ; ")]
