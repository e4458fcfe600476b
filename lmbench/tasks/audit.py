"""Self-correction, first half: find the one wrong step of a finished calculation and put it right.

    3 : 3  4 > 0  1 : 1 ? = 2 2            (mod 5; 3 + 4 is 2, not 0: step 2 is wrong and 2 is right)
    3 : 3  4 > 2  1 : 3 ? = OK 3           (nothing is wrong; then the last sum is repeated)

Each step is an increment and the running sum after it. One sum is wrong, at a uniform place, or none;
later sums go on from the wrong one, so only a step beside its predecessor shows the error. "None" is as
likely as each place. The mark inside a step is one of four and means nothing.
Source: Ye et al. 2024 (Physics of Language Models 2.2), who let models find and retract their errors.

Legend: N example, S step.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from lmbench.tasks.drawn import Drawn
from lmbench.tasks.draws import Draws
from lmbench.tasks.ladder import Answered, Ladder, exact_metrics, uniform_ladder
from lmbench.tasks.symbols import ID, OK, VALUE
from lmbench.tasks.synthetic import SyntheticTask

MARKS = np.array([ID[mark] for mark in (":", ">", "&", "#")], dtype=np.int8)


class Setting(NamedTuple):
    """Of one level."""

    steps: int
    """At most 12: a place is told as a value."""
    modulus: int


class Audit(SyntheticTask):
    """Place of the wrong step, or OK, and the right sum there, or the last one."""

    kind: ClassVar[Literal["audit"]] = "audit"
    LEVELS: ClassVar = (
        Setting(3, 7),
        Setting(4, 7),
        Setting(6, 7),
        Setting(8, 7),
        Setting(10, 7),
        Setting(12, 7),
    )

    def generate(self, structure: Draws, surface: Draws, *, train: bool) -> Drawn:
        """See `SyntheticTask.generate`. Place 0 stands for no error."""
        n, p = self.settings
        step_NS = structure.integers(p, n)
        place_N1 = structure.integers(n + 1, 1)
        off_N1 = np.where(place_N1 > 0, 1 + structure.integers(p - 1, 1), 0)
        true_NS = step_NS.cumsum(axis=1) % p
        is_after_NS = np.arange(1, n + 1) >= place_N1
        shown_NS = (true_NS + off_N1 * is_after_NS) % p
        mark_NS = MARKS[surface.integers(len(MARKS), n)]
        asked_N1 = np.where(place_N1 > 0, place_N1, n) - 1
        value_N1 = np.take_along_axis(true_NS, asked_N1, axis=1)
        locus_N1 = np.where(place_N1 > 0, VALUE + place_N1, OK)
        return Drawn(
            body_NL=np.stack([VALUE + step_NS, mark_NS, VALUE + shown_NS], axis=2).reshape(
                len(structure), -1
            ),
            query_NQ=np.empty((len(structure), 0), dtype=np.int8),
            answer_NA=np.concatenate([locus_N1, VALUE + value_N1], axis=1),
            form_NC=np.concatenate([step_NS, place_N1, off_N1], axis=1),
        )

    def solve(self, body: Sequence[str], query: Sequence[str]) -> list[str]:
        """Add each increment to the sum before it."""
        before = 0
        for place, (step, _, shown) in enumerate(zip(*[iter(body)] * 3, strict=True), start=1):
            value = (before + int(step)) % self.settings.modulus
            if value != int(shown):
                return [str(place), str(value)]
            before = value
        return ["OK", str(before)]

    def ladder(self) -> Ladder:
        """ "Always OK" copies the last sum; "place only" finds the error and guesses another sum there.

        "Total only" adds up all increments: where that is the last sum nothing is wrong, else it guesses
        the place and gives the right sum there.
        """
        n, p = self.settings
        clean = 1 / (n + 1)
        rungs = {
            "always_ok": clean,
            "total_only": clean + (1 - clean) / n,
            "place_only": clean + (1 - clean) / (p - 1),
        }
        found = uniform_ladder(p, tokens=1, **rungs)
        return Ladder(
            score={**found.score, "chance": clean / p},
            answer_nll={"chance": math.log((n + 1) * p), "bayes": 0.0},
        )

    def log2_space(self) -> float:
        """Increments, times no error or one of p - 1 at each place."""
        n, p = self.settings
        return n * math.log2(p) + math.log2(n * (p - 1) + 1)

    def choices(self) -> list[list[int]]:
        """Places and OK, then sums."""
        n, p = self.settings
        return [[OK, *range(VALUE + 1, VALUE + n + 1)], list(range(VALUE, VALUE + p))]

    def metrics(self, answered: Answered) -> dict[str, tuple[float, int]]:
        """Beside the joint score, `locus`, and `value` given the right place."""
        n = len(answered.kind_N)
        locus, value = (float(answered.correct_NA[:, at].mean()) for at in (0, 1))
        return {**exact_metrics(answered), "locus": (locus, n), "value": (value, n)}
