"""Brackets: close those that are open.

    ( [ ] { < > ? = } ) <eos>

Brackets of four kinds nest; the answer closes the open ones, last opened first. Renaming the kinds is
another writing of the same example. Where no bracket is open one is opened, at `deepest` open ones the
last is closed, elsewhere a coin decides; kinds are uniform.
Source: Dyck languages (Chomsky and Schützenberger 1963); Hewitt et al. 2020; Suzgun et al. 2019.

Legend: N example, K place in the sequence, D place in the stack of open brackets, A answer token.
"""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from lmbench.tasks.drawn import Drawn
from lmbench.tasks.draws import Draws
from lmbench.tasks.ladder import Ladder
from lmbench.tasks.lengths import LengthTask, no_query, share_in_order, stopped, stopped_choices
from lmbench.tasks.symbols import ID, PAD

PAIRS = ("()", "[]", "{}", "<>")
KINDS = len(PAIRS)
OPENS, CLOSES = (np.array([ID[pair[side]] for pair in PAIRS]) for side in (0, 1))


class Setting(NamedTuple):
    """Of one level; lengths are of the body."""

    shortest: int
    longest: int
    deepest: int
    """Most brackets that are open at once."""


class Brackets(LengthTask):
    """The closing brackets that are missing."""

    kind: ClassVar[Literal["brackets"]] = "brackets"
    LEVELS: ClassVar = (
        Setting(8, 12, 4),
        Setting(13, 16, 4),
        Setting(17, 32, 8),
        Setting(33, 48, 8),
        Setting(49, 64, 8),
    )

    def generate(self, structure: Draws, surface: Draws, *, train: bool) -> Drawn:
        """See `SyntheticTask.generate`."""
        n_N1 = self.draw_lengths(structure)
        form_NK, stack_ND, depth_N1 = self._walk(structure.integers(2 * KINDS, self.settings.longest), n_N1)
        written_NC = surface.permutation(KINDS)  # the kind that stands for each
        opens_NC, closes_NC = OPENS[written_NC], CLOSES[written_NC]
        symbols_NC = np.concatenate([opens_NC, closes_NC, np.full_like(n_N1, PAD)], axis=1)
        last_first_ND = (depth_N1 - 1 - np.arange(self.settings.deepest)).clip(min=0)
        open_ND = np.take_along_axis(stack_ND, last_first_ND, axis=1)
        return Drawn(
            body_NL=np.take_along_axis(symbols_NC, form_NK, axis=1),
            query_NQ=no_query(len(structure)),
            answer_NA=stopped(np.take_along_axis(closes_NC, open_ND, axis=1), depth_N1),
            form_NC=form_NK,
        )

    def _walk(self, draw_NK: np.ndarray, n_N1: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Brackets as kinds in the order of their first use, the stack and its depth at the end.

        An open bracket of kind c is c, the one that closes it KINDS + c, a place past the end 2 KINDS. Of
        kinds drawn uniformly the k-th new one is c = k, so a draw of c or more when c were seen is new.
        """
        n, deepest = len(draw_NK), self.settings.deepest
        draw_KN = np.ascontiguousarray(draw_NK.T, dtype=np.int8)  # place by place, which is how it is walked
        form_KN = np.empty_like(draw_KN)
        depth_N, seen_N, row_N = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int8), np.arange(n)
        stack_ND = np.zeros((n, deepest + 1), dtype=np.int8)  # a last column for what is not to be kept
        n_N = n_N1[:, 0]
        for at, draw_N in enumerate(draw_KN):
            there_N = at < n_N
            must_N = (depth_N == 0) | ((depth_N == 1) & (n_N == at + 1))  # something stays open at the end
            is_open_N = must_N | ((draw_N >= KINDS) & (depth_N < deepest))
            kind_N = np.minimum(draw_N % KINDS, seen_N)
            code_N = np.where(is_open_N, kind_N, KINDS + stack_ND[row_N, depth_N - 1])
            form_KN[at] = np.where(there_N, code_N, 2 * KINDS)
            is_open_N &= there_N
            stack_ND[row_N, np.where(is_open_N, depth_N, deepest)] = kind_N
            np.maximum(seen_N, kind_N + 1, out=seen_N, where=is_open_N)
            depth_N += np.where(is_open_N, 1, -1) * there_N
        return form_KN.T.astype(np.int64), stack_ND.astype(np.int64), depth_N[:, None]

    def solve(self, body: Sequence[str], query: Sequence[str]) -> list[str]:
        """With a stack."""
        closing = dict(PAIRS)
        stack: list[str] = []
        for symbol in body:
            if symbol in closing:
                stack.append(closing[symbol])
            else:
                assert stack.pop() == symbol, f"{symbol} closes nothing"
        return [*reversed(stack), "<eos>"]

    def ladder(self) -> Ladder:
        """Shortcuts, both with the right number of each kind: first opened first; in random order."""
        share_D = self.depths()

        def over_depths(value: Callable[[int], float]) -> float:
            return math.fsum(share * value(depth) for depth, share in enumerate(share_D))

        return Ladder(
            score={
                "chance": over_depths(lambda depth: math.exp(-self.guess_nats(depth + 1))),
                "opened_order": over_depths(lambda depth: KINDS ** -float(depth // 2)),
                "counts_match": over_depths(lambda depth: share_in_order(depth, KINDS)),
                "bayes": 1.0,
            },
            answer_nll={"chance": over_depths(lambda depth: self.guess_nats(depth + 1)), "bayes": 0.0},
        )

    def depths(self) -> list[float]:
        """Share of the examples that leave 0, 1, ... brackets open."""
        return [self.mean(lambda n, at=at: self._depths_of(n)[at]) for at in range(self.settings.deepest + 1)]

    def _depths_of(self, n: int) -> list[float]:
        """Of bodies of one length, place by place."""
        deepest = self.settings.deepest
        share_D = [1.0] + [0.0] * deepest
        for at in range(n):
            up_D = [1.0] + [0.5] * (deepest - 1) + [0.0]
            if at == n - 1:
                up_D[1] = 1.0
            share_D = [
                (share_D[d - 1] * up_D[d - 1] if d else 0.0)
                + (share_D[d + 1] * (1 - up_D[d + 1]) if d < deepest else 0.0)
                for d in range(deepest + 1)
            ]
        return share_D

    def log2_space(self) -> float:
        """Bodies with something open, kinds in the order of first use, counted place by place."""
        return self.log2_total(self._forms)

    def _forms(self, n: int) -> int:
        """Of length n: by the brackets that are open and the kinds that have been seen."""
        deepest = self.settings.deepest
        count = {(0, 0): 1}
        for _ in range(n):
            after: dict[tuple[int, int], int] = {}
            for (depth, seen), forms in count.items():
                steps = [(depth + 1, seen, seen), (depth + 1, seen + 1, 1), (depth - 1, seen, 1)]
                for up, kinds, ways in steps:
                    if 0 <= up <= deepest and kinds <= KINDS:
                        after[up, kinds] = after.get((up, kinds), 0) + forms * ways
            count = after
        return sum(forms for (depth, _), forms in count.items() if depth)

    def choices(self) -> list[list[int]]:
        return stopped_choices(CLOSES.tolist(), shortest=1, longest=self.settings.deepest)
