"""How answers to a level are scored, and what scores there are to be had.

Legend: N example, A token of the answer.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

SCORE, ANSWER_NLL = "score", "answer_nll"
"""The two metrics of every level: the task's score, and the nats of the whole answer."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """How a model did on N examples of one level."""

    nll_NA: np.ndarray
    """Nats of each answer token given those before it; NaN where nothing is scored."""
    correct_NA: np.ndarray
    """1 where the token has the highest logit, 1/m of m that tie, else 0; NaN where nothing is scored.
    All 1 is what greedy decoding needs to give the whole answer."""
    kind_N: np.ndarray

    def exact_N(self) -> np.ndarray:
        """Whether the whole answer is right; ties share."""
        return np.nanprod(self.correct_NA, axis=1)


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Exact scores of named strategies on one level, by rung; "chance" and "bayes" are always there."""

    score: Mapping[str, float]
    answer_nll: Mapping[str, float] = field(default_factory=dict)

    def rungs(self) -> list[tuple[str, str, float]]:
        """(metric, rung, value) of all."""
        by_metric = {SCORE: self.score, ANSWER_NLL: self.answer_nll}
        return [(metric, rung, value) for metric, rungs in by_metric.items() for rung, value in rungs.items()]


def exact_metrics(answered: Answered) -> dict[str, tuple[float, int]]:
    """The score is exact match of the whole answer."""
    exact_N, n = answered.exact_N(), len(answered.kind_N)
    nll = float(np.nansum(answered.nll_NA, axis=1).mean())
    return {SCORE: (float(exact_N.mean()), n), ANSWER_NLL: (nll, n)}


def uniform_ladder(n_choices: int, *, tokens: int = 1, **shortcuts: float) -> Ladder:
    """Of a task with one right answer of `tokens` tokens, each of `n_choices`, all answers equally likely."""
    chance, nats = n_choices ** -float(tokens), tokens * math.log(n_choices)
    return Ladder(
        score={"chance": chance, **shortcuts, "bayes": 1.0}, answer_nll={"chance": nats, "bayes": 0.0}
    )
