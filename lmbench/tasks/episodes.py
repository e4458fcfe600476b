"""Few-shot learning: find a hidden rule in labelled shots and label a query by it.

    a 0 ; k 1 ; d 0 ; n 1 ? c = 0          the rule: is the first attribute 1? (c has 0 0 1 0)
    3 4 ; 0 5 ; 6 3 ? 2 = 2                the rule: 2 x + 5 (mod 7)

Symbols a to p have four fixed binary attributes, the bits of their place. Shots are any symbols but the
query, so nothing can be copied. Training shows 0 shots up to those of the level; scores are at `shots`.
Some rules are never trained: a model that memorized rules follows the posterior under the training rules
("bayes_train"), one that learned the class follows that under all rules ("bayes_all").
Source: Garg et al. 2022, Chan et al. 2022, Raventos et al. 2023, He et al. 2024.

Legend: N example, S shot, X symbol, R rule, K attribute or distinct symbols, L token, C column of the form.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from lmbench.tasks.drawn import ALPHABETS, Drawn
from lmbench.tasks.draws import Draws
from lmbench.tasks.ladder import Ladder
from lmbench.tasks.rules import Rules, attributes, rules_of
from lmbench.tasks.symbols import NAME, PAD, SEMICOLON, VALUE
from lmbench.tasks.synthetic import SyntheticTask
from lmbench.tasks.version_space import ByDistinct, count_forms, distinct_share, nearest, posterior

MOST_SHOTS = 16


class Setting(NamedTuple):
    """Of one level."""

    classes: tuple[str, ...]
    """Of rules, all rules of them alike."""
    size: int
    """Attributes of the symbols; of affine rules the modulus."""
    shots: int
    """Most in training, and as many as are scored unless the field says otherwise."""


class Episodes(SyntheticTask):
    """Label of a symbol under a rule that the shots tell."""

    kind: ClassVar[Literal["episodes"]] = "episodes"
    LEVELS: ClassVar = (
        Setting(("literal",), 4, 8),
        Setting(("literal", "and", "or"), 4, 8),
        Setting(("literal", "and", "or", "xor"), 4, 8),
        Setting(("literal", "and", "or", "xor"), 4, 16),
        Setting(("affine",), 7, 8),
        Setting(("affine",), 11, 8),
    )
    _told: ClassVar[tuple[str, ...]] = (*SyntheticTask._told, "shots", "rules")
    _scoring: ClassVar[tuple[str, ...]] = (*SyntheticTask._scoring, "shots", "rules")

    shots: int | None = Field(None, ge=0, le=MOST_SHOTS)
    """Shots of scored examples; None is those of the level. Fewer are the level's examples, cut short.
    Training is the same for all."""
    rules: Literal["train", "held_out"] = "train"
    """Which rules scored examples have; training has training rules always."""

    @model_validator(mode="after")
    def _enough_names(self) -> "Episodes":
        names, has = 2**self.settings.size, len(ALPHABETS[self.names])
        if not self._is_affine and names > has:
            raise ValueError(
                f"names = {self.names!r} is not accepted: {self.kind} level {self.level} needs {names} "
                f"names, and these are {has}"
            )
        return self

    @property
    def _is_affine(self) -> bool:
        return self.settings.classes == ("affine",)

    @property
    def _table(self) -> Rules:
        return rules_of(self.settings.classes, self.settings.size)

    @property
    def _scored_shots(self) -> int:
        return self.settings.shots if self.shots is None else self.shots

    @property
    def _first_symbol(self) -> int:
        """Token id of the symbol at place 0."""
        return VALUE if self._is_affine else NAME + ALPHABETS[self.names].start

    # ------------------------------------------------------------------ examples

    def generate(self, structure: Draws, surface: Draws, *, train: bool) -> Drawn:
        """See `SyntheticTask.generate`. The form is of all shots drawn, of which some may not be shown."""
        label_RX, n = self._table.label_RX, len(structure)
        most = self.settings.shots if train else max(self.settings.shots, self._scored_shots)
        used = self._table.used("train" if train else self.rules)
        rule_N1 = used[structure.integers(len(used), 1)]
        query_N1 = structure.integers(label_RX.shape[1], 1)
        shown_N1 = structure.integers(self.settings.shots + 1, 1) if train else self._scored_shots
        shot_NS = structure.integers(label_RX.shape[1] - 1, most)
        shot_NS += shot_NS >= query_N1  # any symbol but the query
        label_NS = label_RX[rule_N1, shot_NS]
        form_NC = np.full((n, 1 + MOST_SHOTS), -1)
        form_NC[:, :1] = query_N1
        form_NC[:, 1 : 1 + most] = np.sort(shot_NS * self._table.n_label + label_NS, axis=1)
        return Drawn(
            body_NL=self._written(shot_NS, label_NS, np.arange(most) < shown_N1, surface),
            query_NQ=self._first_symbol + query_N1,
            answer_NA=VALUE + label_RX[rule_N1, query_N1],
            form_NC=form_NC,
        )

    def _written(
        self, shot_NS: np.ndarray, label_NS: np.ndarray, is_shown_NS: np.ndarray, surface: Draws
    ) -> np.ndarray:
        """Tokens of the body: the shots in random order, those that are not shown as <pad>."""
        n, most = shot_NS.shape
        is_shown_NS = np.broadcast_to(is_shown_NS, shot_NS.shape)
        body_NS3 = np.full((n, most, 3), SEMICOLON, dtype=np.int8)
        body_NS3[:, :, 0], body_NS3[:, :, 1] = self._first_symbol + shot_NS, VALUE + label_NS
        body_NS3[~is_shown_NS] = PAD
        # Those shown come first, so that columns which nobody needs can go.
        key_NS = surface.permutation(most) + most * ~is_shown_NS
        order_NS = np.argsort(key_NS, axis=1)
        body_NS3 = np.take_along_axis(body_NS3, order_NS[:, :, None], axis=1)
        shown_N = is_shown_NS.sum(axis=1)
        last = np.flatnonzero(shown_N)
        body_NS3[last, shown_N[last] - 1, 2] = PAD  # the last separator has nothing to separate
        return body_NS3.reshape(n, -1)[:, : max(0, 3 * int(shown_N.max(initial=0)) - 1)]

    def solve(self, body: Sequence[str], query: Sequence[str]) -> list[str]:
        """The label that most rules give which fit all shots, of equals the first.

        Rules held possible are those of training where they are scored, else all.
        """
        label_RX = self._table.label_RX
        pairs = [part.split() for part in " ".join(body).split(" ; ")] if body else []
        shots = [(self._place(symbol), int(label)) for symbol, label in pairs]
        votes: Counter[int] = Counter()
        for rule in self._table.used(self._prior):
            if all(label_RX[rule, x] == label for x, label in shots):
                votes[int(label_RX[rule, self._place(query[0])])] += 1
        return [str(max(range(self._table.n_label), key=lambda label: votes[label]))]

    def _place(self, symbol: str) -> int:
        """Of a symbol as it is written."""
        return int(symbol) if symbol.isdigit() else ord(symbol) - ord("n" if self.names == "second" else "a")

    # ------------------------------------------------------------------ ladder

    @property
    def _prior(self) -> str:
        """Rules that "bayes" holds possible: nobody may know which were held out."""
        return "train" if self.rules == "train" else "all"

    def ladder(self) -> Ladder:
        """Exact, by enumeration of all sets of shots.

        "bayes" is the posterior under the training rules where these are scored, else under all rules; the
        other is "bayes_all" or "bayes_train". "majority" is the most frequent label of the shots, "nearest"
        the label of the nearest shots by Hamming distance, "unseen_label" of affine rules, which give no
        label twice, any label that no shot has.
        """
        (classes, size, _), shots = self.settings, self._scored_shots
        n_label, other = self._table.n_label, "all" if self._prior == "train" else "train"
        score, nats = {"chance": 1 / n_label}, {"chance": math.log(n_label)}
        if self._is_affine:
            share_K = distinct_share(shots, n_symbol=n_label - 1)
            score["unseen_label"] = float((share_K / (n_label - np.arange(n_label))).sum())
        else:
            label_RX = self._table.label_RX[self._table.used(self.rules)]
            score["majority"] = majority_score(label_RX, shots=shots)
            score["nearest"] = _nearest(classes, size, self.rules).at(shots)[0]
        for name, prior in (("bayes", self._prior), (f"bayes_{other}", other)):
            score[name], nats[name] = _posterior(classes, size, self.rules, prior).at(shots)
        return Ladder(score=score, answer_nll={name: nat for name, nat in nats.items() if math.isfinite(nat)})

    def log2_space(self) -> float:
        """Queries times labelled multisets of shots that some rule makes: of the shots that are shown.

        Shots that are drawn and not shown decide the split too: cut short, a test example may look like
        one of training, and after few shots it does.
        """
        classes, size, _ = self.settings
        return _log2_forms(classes, size, self.rules, self._scored_shots)

    def choices(self) -> list[list[int]]:
        return [list(range(VALUE, VALUE + self._table.n_label))]


@lru_cache(maxsize=64)
def _posterior(classes: tuple[str, ...], size: int, rules: str, prior: str) -> ByDistinct:
    """Of rules that are scored and a prior, for any number of shots: a second or two where there are most."""
    table = rules_of(classes, size)
    return posterior(table.label_RX, n_label=table.n_label, scored=table.used(rules), prior=table.used(prior))


@lru_cache(maxsize=64)
def _nearest(classes: tuple[str, ...], size: int, rules: str) -> ByDistinct:
    """By Hamming distance."""
    table, bit_XK = rules_of(classes, size), attributes(size)
    distance_XX = (bit_XK[:, None] != bit_XK).sum(axis=2)
    return nearest(table.label_RX, scored=table.used(rules), distance_XX=distance_XX)


@lru_cache(maxsize=256)
def _log2_forms(classes: tuple[str, ...], size: int, rules: str, shots: int) -> float:
    table = rules_of(classes, size)
    return math.log2(count_forms(table.label_RX[table.used(rules)], shots=shots))


def majority_score(label_RX: np.ndarray, *, shots: int) -> float:
    """Of the most frequent of two labels among the shots; ties are guessed.

    Shots are drawn alone, so that of n the number with the label of the query is binomial.
    """
    n_symbol = label_RX.shape[1]
    alike_RX = np.stack([(label_RX == label_RX[:, [x]]).sum(axis=1) - 1 for x in range(n_symbol)], axis=1)
    share_RX, total_RX = alike_RX / (n_symbol - 1), np.zeros(label_RX.shape)
    for hits in range(shots // 2 + shots % 2, shots + 1):
        credit = 0.5 if 2 * hits == shots else 1.0
        total_RX += credit * math.comb(shots, hits) * share_RX**hits * (1 - share_RX) ** (shots - hits)
    return float(total_RX.mean())
