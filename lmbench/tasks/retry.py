"""Self-correction, second half: notice a wrong step in one's own answer, take it back and go on.

    : 3 > 4 : 1 ? = 3 0 BACK 2 3 <eos>     (mod 5; 3 + 4 is 2: the wrong 0 is taken back)

The body gives increments; the answer is the running sum after each. In training a step goes wrong with
a fixed rate, and BACK and the right sum follow; the wrong sum itself is no target, so that erring is
never taught. What is scored are two kinds of a given beginning, equally long and equally likely:

    kind 1, after a wrong sum:  : 3 > 4 : 1 ? = 3 0 | BACK 2     scored: both (recovery R)
    kind 0, after a right sum:  : 3 > 4 : 1 ? = 3 2 | BACK       scored: BACK, which is a false alarm (F)

The score is R - F: 1 at best, 0 for whoever never says BACK, and 1/p - 1 for whoever always does and
guesses. Being `correct` on kind 0 is an error; `as_wanted` turns it round. The nats are those
of recovering plus those of not saying BACK after a right sum, as always saying BACK is no recovery.
Source: Ye et al. 2024 (Physics of Language Models 2.2), whose models retract errors; Huang et al. 2023,
why the gain against not being allowed to (lmbench.measure.decode) belongs beside it.

Legend: N example, S step, J token of a step, A answer token.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from lmbench.tasks.drawn import Drawn
from lmbench.tasks.draws import Draws
from lmbench.tasks.ladder import ANSWER_NLL, SCORE, Answered, Ladder
from lmbench.tasks.symbols import BACK, EOS, ID, PAD, VALUE
from lmbench.tasks.synthetic import SyntheticTask

MARKS = np.array([ID[mark] for mark in (":", ">", "&", "#")], dtype=np.int8)
CLEAN, FORCED = 0, 1
"""Kinds of scored examples."""
LEAST_NATS = float(np.finfo(np.float32).eps)
"""Scores are of float32 logits: of a symbol with fewer nats than this no other has a known probability."""


class Setting(NamedTuple):
    """Of one level."""

    steps: int
    modulus: int
    rate: float
    """Share of the steps of training answers that go wrong first."""


class Retry(SyntheticTask):
    """Running sums as the answer, with BACK after a wrong one."""

    kind: ClassVar[Literal["retry"]] = "retry"
    LEVELS: ClassVar = (
        Setting(5, 7, 0.25),
        Setting(6, 7, 0.2),
        Setting(8, 7, 0.2),
        Setting(10, 7, 0.1),
        Setting(12, 7, 0.05),
    )
    most_rewrites: ClassVar[int] = 1

    def generate(self, structure: Draws, surface: Draws, *, train: bool) -> Drawn:
        """See `SyntheticTask.generate`. An answer is steps of (wrong, BACK, right) and a last token."""
        n, p, rate = self.settings
        step_NS = structure.integers(p, n)
        true_NS = step_NS.cumsum(axis=1) % p
        wrong_NS = (true_NS + 1 + structure.integers(p - 1, n)) % p
        place_S = np.arange(n)
        if train:
            kind_N1, depth_N1 = np.full((len(structure), 1), FORCED), np.full((len(structure), 1), n)
            is_wrong_NS, last = structure.uniform(n) < rate, EOS
        else:
            kind_N1, depth_N1 = structure.integers(2, 1), structure.integers(n, 1)
            is_wrong_NS = (kind_N1 == FORCED) & (place_S == depth_N1)
            last = np.where(kind_N1[:, 0] == CLEAN, BACK, PAD)
        answer_NA = np.full((len(structure), 3 * n + 1), PAD, dtype=np.int8)
        answer_NSJ = answer_NA[:, :-1].reshape(-1, n, 3)
        answer_NSJ[..., 0] = np.where(is_wrong_NS, VALUE + wrong_NS, PAD)
        answer_NSJ[..., 1] = np.where(is_wrong_NS, BACK, PAD)
        answer_NSJ[..., 2] = np.where(place_S <= depth_N1, VALUE + true_NS, PAD)
        answer_NA[:, :-1], answer_NA[:, -1] = answer_NSJ.reshape(len(structure), -1), last
        mark_NS = MARKS[surface.integers(len(MARKS), n)]
        return Drawn(
            body_NL=np.stack([mark_NS, VALUE + step_NS], axis=2).reshape(len(structure), -1),
            query_NQ=np.empty((len(structure), 0), dtype=np.int8),
            answer_NA=answer_NA,
            form_NC=step_NS,
            scored_NA=self._scored(is_wrong_NS, train=train),
            kind_N=kind_N1[:, 0],
        )

    def _scored(self, is_wrong_NS: np.ndarray, *, train: bool) -> np.ndarray:
        """(N, A) targets: all but wrong sums in training, else what follows the given beginning."""
        scored_NSJ = np.repeat(is_wrong_NS[:, :, None], 3, axis=2) | train
        scored_NSJ[..., 0] = False
        last_N1 = np.ones((len(is_wrong_NS), 1), dtype=bool)
        return np.concatenate([scored_NSJ.reshape(len(is_wrong_NS), -1), last_N1], axis=1)

    # ------------------------------------------------------------------ reading

    def sums(self, body: Sequence[str]) -> list[str]:
        """The right running sums."""
        total, out = 0, []
        for step in body[1::2]:
            total = (total + int(step)) % self.settings.modulus
            out.append(str(total))
        return out

    def solve(self, body: Sequence[str], query: Sequence[str]) -> list[str]:
        """The running sums, with nothing to take back."""
        return [*self.sums(body), "<eos>"]

    def reply(self, body: Sequence[str], query: Sequence[str], said: Sequence[str]) -> str:
        """What the best strategy says next after `said`: BACK after a wrong sum, else the next sum."""
        right, kept = self.solve(body, query), standing(said)
        return right[len(kept)] if kept == right[: len(kept)] and len(kept) < len(right) else "BACK"

    def slip(self, body: Sequence[str], said: Sequence[str], *, off: int) -> str:
        """A wrong next sum: the right one after `said`, moved by `off`, 1 to modulus - 1."""
        right = self.sums(body)
        place = min(len(standing(said)), len(right) - 1)
        return str((int(right[place]) + off) % self.settings.modulus)

    def judge(self, body: Sequence[str], query: Sequence[str], said: Sequence[str]) -> bool:
        """Whether the last of n sums is right, with those that are taken back left out."""
        right, kept = self.sums(body), standing(said)
        return len(kept) == len(right) + 1 and kept[-2:] == [right[-1], "<eos>"]

    # ------------------------------------------------------------------ scores

    def ladder(self) -> Ladder:
        """A guesser says BACK or one of p sums first, then one of p sums; its R - F is below 0.

        Its nats are ln((p + 1) p) of recovering and ln((p + 1) / p) of not saying BACK. "Detect only" says
        BACK exactly after wrong sums and then guesses another sum.
        """
        _, p, _ = self.settings
        rungs = {"never_back": 0.0, "always_back": 1 / p - 1, "detect_only": 1 / (p - 1)}
        return Ladder(
            score={"chance": (1 / p - 1) / (p + 1), **rungs, "bayes": 1.0},
            answer_nll={"chance": 2 * math.log(p + 1), "bayes": 0.0},
        )

    def log2_space(self) -> float:
        """Increments alone: an example with another error is no other example."""
        n, p, _ = self.settings
        return n * math.log2(p)

    def choices(self) -> list[list[int]]:
        """BACK or a sum, then a sum."""
        sums = list(range(VALUE, VALUE + self.settings.modulus))
        return [[BACK, *sums], sums]

    def as_wanted(self, answered: Answered) -> Answered:
        """See `SyntheticTask.as_wanted`: of kind 0, scores of any other symbol than BACK."""
        is_clean_N1 = (answered.kind_N == CLEAN)[:, None]
        nll_NA, correct_NA = answered.nll_NA, answered.correct_NA
        other_NA = -np.log(-np.expm1(-np.maximum(nll_NA, LEAST_NATS)))
        return Answered(
            nll_NA=np.where(is_clean_N1, other_NA, nll_NA),
            correct_NA=np.where(is_clean_N1, 1 - correct_NA, correct_NA),
            kind_N=answered.kind_N,
        )

    def metrics(self, answered: Answered) -> dict[str, tuple[float, int]]:
        """`score` is `recovery` less `false_alarm`; the nats of doing right are added over the kinds.

        Raises:
            ValueError: so few examples that none is of one kind.
        """
        exact_N, is_forced_N = answered.exact_N(), answered.kind_N == FORCED
        nll_N = np.nansum(self.as_wanted(answered).nll_NA, axis=1)
        n, n_forced = len(exact_N), int(is_forced_N.sum())
        if n_forced in (0, n):
            raise ValueError(f"n_eval = {self.n_eval} is too small: both kinds of beginnings are needed")
        recovery, alarm = float(exact_N[is_forced_N].mean()), float(exact_N[~is_forced_N].mean())
        nll = float(nll_N[is_forced_N].mean() + nll_N[~is_forced_N].mean())
        return {
            SCORE: (recovery - alarm, n),
            ANSWER_NLL: (nll, n),
            "recovery": (recovery, n_forced),
            "false_alarm": (alarm, n - n_forced),
        }


def standing(said: Sequence[str]) -> list[str]:
    """What is left of an answer when each BACK has taken away the symbol before it."""
    kept: list[str] = []
    for symbol in said:
        if symbol != "BACK":
            kept.append(symbol)
        elif kept:
            kept.pop()
    return kept
