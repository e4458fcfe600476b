"""Uncertainty: weigh reports of stated reliability, and know how sure to be.

    + k 1 ~ b 3 - k 1 + b 0 ? k = 1          two keys with two reports each

Each key has a value that nobody sees. A report on a key is right with the reliability that its first
symbol states, and else names any other value. The answer is the true value of the asked key, drawn before
the reports, so nobody is always right: the best are those whose probabilities are the posterior, in
proportion to the product of q where a report names a value and (1 - q) / (V - 1) where it names another.
The share of this information that a model has is its normalised `answer_nll`.

The canonical form is the multiset of the asked key's reports and the set of the other keys': what can be
known, without what is true, so that no evidence is in two splits.

Source: in-context Bayesian inference (Xie et al. 2021); calibration (Guo et al. 2017).

Legend: N example, K key, R report, L token of the body, S multiset of reports, V value, Q reliability.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from lmbench.tasks.drawn import Drawn
from lmbench.tasks.draws import Draws
from lmbench.tasks.ladder import Ladder
from lmbench.tasks.symbols import ID, SYMBOLS, VALUE
from lmbench.tasks.synthetic import SyntheticTask

WIDTH = 3  # tokens of a report: + k 1
RELIABILITY = {"-": 0.4, "~": 0.6, "+": 0.8}
"""How often a report with this symbol is right. A majority is not always best: three of the first kind
outweigh one of the second, two do not."""


class Setting(NamedTuple):
    """Of one level."""

    reports: int
    """On each key."""
    keys: int
    values: int


class Reports(SyntheticTask):
    """Value of a key, on which there are reports of several reliabilities."""

    kind: ClassVar[Literal["reports"]] = "reports"
    LEVELS: ClassVar = (
        Setting(2, 4, 4),
        Setting(3, 4, 4),
        Setting(4, 4, 4),
        Setting(6, 3, 4),
        Setting(8, 2, 5),
    )

    def generate(self, structure: Draws, surface: Draws, *, train: bool) -> Drawn:
        """See `SyntheticTask.generate`. The first key is the one that is asked for."""
        reports, keys, values = self.settings
        n, total = len(structure), keys * reports
        q_Q = np.array(list(RELIABILITY.values()))
        true_NK1 = structure.integers(values, keys)[:, :, None]
        kind_NKR = structure.integers(len(q_Q), total).reshape(n, keys, reports)
        is_right_NKR = structure.uniform(total).reshape(kind_NKR.shape) < q_Q[kind_NKR]
        other_NKR = structure.integers(values - 1, total).reshape(kind_NKR.shape)
        said_NKR = np.where(is_right_NKR, true_NK1, other_NKR + (other_NKR >= true_NK1))

        name_NK = self.draw_names(surface, keys)
        symbol_Q = np.array([ID[symbol] for symbol in RELIABILITY])
        body_NRL = np.empty((n, total, WIDTH), dtype=np.int8)
        body_NRL[:, :, 0] = symbol_Q[kind_NKR].reshape(n, total)
        body_NRL[:, :, 1] = np.repeat(name_NK, reports, axis=1)
        body_NRL[:, :, 2] = VALUE + said_NKR.reshape(n, total)
        order_NR = surface.permutation(total)
        body_NRL = np.take_along_axis(body_NRL, order_NR[:, :, None], axis=1)

        base_R = (len(q_Q) * values) ** np.arange(reports)
        evidence_NK = np.sort(kind_NKR * values + said_NKR, axis=2) @ base_R
        others_NK = np.sort(evidence_NK[:, 1:], axis=1)
        return Drawn(
            body_NL=body_NRL.reshape(n, -1),
            query_NQ=name_NK[:, :1],
            answer_NA=VALUE + true_NK1[:, 0],
            form_NC=np.concatenate([evidence_NK[:, :1], others_NK], axis=1),
        )

    def posterior(self, body: Sequence[str], query: Sequence[str]) -> list[float]:
        """Probability of each value of the asked key, given what is written."""
        weights = [1.0] * self.settings.values
        for symbol, key, said in zip(*(body[place::WIDTH] for place in range(WIDTH)), strict=True):
            if key == query[0]:
                q = RELIABILITY[symbol]
                miss = (1 - q) / (len(weights) - 1)
                weights = [weight * (q if str(at) == said else miss) for at, weight in enumerate(weights)]
        return [weight / sum(weights) for weight in weights]

    def solve(self, body: Sequence[str], query: Sequence[str]) -> list[str]:
        """The first of the most probable values."""
        chances = self.posterior(body, query)
        return [SYMBOLS[VALUE + chances.index(max(chances))]]

    def ladder(self) -> Ladder:
        """Shortcuts: "any_report" repeats one at random, "any_most_reliable" one of the most reliable;
        "same_key" and "most_reliable" do so on the asked key, "majority" says what most there say."""
        reports, keys, values = self.settings
        exact, best = enumerated(reports, values), highest_reliability(reports * keys)
        chance, one = 1 / values, sum(RELIABILITY.values()) / len(RELIABILITY)
        score = {
            "chance": chance,
            # Another key's report says the asked key's value as often as chance.
            "any_report": one / keys + chance * (1 - 1 / keys),
            "any_most_reliable": best / keys + chance * (1 - 1 / keys),
            "same_key": one,
            "most_reliable": exact.most_reliable,
            "majority": exact.majority,
            "bayes": exact.accuracy,
        }
        return Ladder(score=score, answer_nll={"chance": math.log(values), "bayes": exact.entropy})

    def log2_space(self) -> float:
        """Multisets of reports on the asked key times multisets of such multisets on the others."""
        reports, keys, values = self.settings
        evidence = math.comb(len(RELIABILITY) * values + reports - 1, reports)
        return math.log2(evidence) + math.log2(math.comb(evidence + keys - 2, keys - 1))

    def choices(self) -> list[list[int]]:
        return [list(range(VALUE, VALUE + self.settings.values))]


def highest_reliability(reports: int) -> float:
    """Expectation of the highest of so many, each equally likely."""
    q_Q = sorted(RELIABILITY.values())
    below_Q = [(place / len(q_Q)) ** reports for place in range(len(q_Q) + 1)]
    return sum(q * (below_Q[place + 1] - below_Q[place]) for place, q in enumerate(q_Q))


class Exact(NamedTuple):
    """Expectations over all reports on one key."""

    accuracy: float
    """Of the most probable value."""
    entropy: float
    """Of the posterior, nats."""
    majority: float
    """Accuracy of what most reports say; ties share."""
    most_reliable: float
    """Accuracy of a random one of the most reliable reports."""


@lru_cache(maxsize=64)
def enumerated(reports: int, values: int) -> Exact:
    """Exact, by going through all multisets of reports on a key."""
    q_Q = np.array(list(RELIABILITY.values()))
    n_kinds = len(q_Q) * values  # kind q * values + v: reliability q, says v
    sets = combinations_with_replacement(range(n_kinds), reports)
    kind_SR = np.array(list(sets), dtype=np.int16)
    count_SQV = (kind_SR[:, :, None] == np.arange(n_kinds)).sum(axis=1).reshape(-1, len(q_Q), values)
    # P(report says v | truth t) is q or (1 - q) / (V - 1), and each reliability is equally likely.
    miss_Q = (1 - q_Q) / (values - 1)
    log_S1 = (count_SQV.sum(axis=2) @ np.log(miss_Q / len(q_Q)))[:, None]
    log_S1 = log_S1 + math.lgamma(reports + 1) - np.log(_FACTORIAL[count_SQV]).sum(axis=(1, 2))[:, None]
    joint_SV = np.exp(log_S1 + np.einsum("sqv,q->sv", count_SQV, np.log(q_Q / miss_Q))) / values
    total_S1 = joint_SV.sum(axis=1, keepdims=True)
    votes_SV = count_SQV.sum(axis=1)
    is_top_SV = votes_SV == votes_SV.max(axis=1, keepdims=True)
    best_S = (len(q_Q) - 1) - (count_SQV.sum(axis=2) > 0)[:, ::-1].argmax(axis=1)
    best_SV = np.take_along_axis(count_SQV, best_S[:, None, None], axis=1)[:, 0]
    return Exact(
        accuracy=float(joint_SV.max(axis=1).sum()),
        entropy=float(-(joint_SV * np.log(joint_SV / total_S1)).sum()),
        majority=float((joint_SV * is_top_SV / is_top_SV.sum(axis=1, keepdims=True)).sum()),
        most_reliable=float((joint_SV * best_SV / best_SV.sum(axis=1, keepdims=True)).sum()),
    )


_FACTORIAL = np.array([math.factorial(n) for n in range(13)], dtype=np.float64)
