"""What every synthetic task is: a generator of examples whose difficulty and best score are known.

An example is a body, a question and an answer:

    <bos> b = 3 ; d = b + 4 ? d = 7          surface "statement": the body first
    <bos> ? d ; b = 3 ; d = b + 4 = 7        surface "question": the question first

What it *is*, its canonical form, is drawn apart from how it is written and decides its split; see
`tasks.drawn`.

Legend: N example.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from lmbench.tasks.base import TaskConfig, TaskData
from lmbench.tasks.drawn import ALPHABETS, Drawn
from lmbench.tasks.draws import Draws
from lmbench.tasks.ladder import Answered, Ladder, exact_metrics
from lmbench.tasks.rewrites import ladder_of_worst
from lmbench.tasks.symbols import NAME, SYMBOLS


class SyntheticTask(TaskConfig):
    """Abstract: the settings of a synthetic task. A subclass states its levels, examples and ladder."""

    LEVELS: ClassVar[tuple[Any, ...]]
    """Settings of each level, easiest first."""

    level: int = Field(0, ge=0)
    """Difficulty, see LEVELS of the task; a 0.1M model learns level 0 in a minute."""
    surface: Literal["statement", "question"] = "statement"
    """What is written first; conclusions can hang on such incidental form (Wu et al. 2023)."""
    names: Literal["all", "first", "second"] = "all"
    """Letters that stand for names: all 26, a to m or n to z (crossings are novel domains)."""
    answers_only: bool = True
    """Whether only answers are targets in training; False trains on every token. Scores are of answers."""
    n_eval: int = Field(2000, ge=1)
    """Examples of the valid and of the test set."""
    rewrites: int = Field(1, ge=1)
    """Ways in which each example of a set is written; the score is then of the worst of them."""
    shift: int = Field(0, ge=0)
    """Most separators put before the body of all rewrites but the first, so that positions move."""

    most_rewrites: ClassVar[int] = 64
    """Largest `rewrites`: as many writings as examples have, 1 where the score is no share of examples."""
    _scoring: ClassVar[tuple[str, ...]] = ("n_eval", "rewrites", "shift")
    """Fields that change what is scored and nothing that is trained on; a task may add its own."""

    @model_validator(mode="after")
    def _known_level(self) -> "SyntheticTask":
        if self.level >= len(self.LEVELS):
            raise ValueError(
                f"level = {self.level} is not accepted: {self.kind} has levels 0 to {len(self.LEVELS) - 1}"
            )
        if self.rewrites > self.most_rewrites:
            raise ValueError(
                f"rewrites = {self.rewrites} is not accepted: {self.kind} is scored in at most "
                f"{self.most_rewrites}"
            )
        if self.shift and self.rewrites == 1:
            raise ValueError(f"shift = {self.shift} needs rewrites of at least 2: the first is not shifted")
        return self

    @property
    def levels(self) -> tuple[TaskConfig, ...]:
        return (self,)

    @property
    def as_trained(self) -> "SyntheticTask":
        """What training on this level is, whatever of it is scored."""
        return self.replace(**{name: type(self).model_fields[name].default for name in self._scoring})

    def conflict(self, other: "SyntheticTask") -> str:
        """Why weights that learned this level may not be scored on another of its kind; empty if they may.

        The hash keeps splits apart where two levels share a canonical form. Where a field changes what the
        form is taken of, an example may be train under one and test under the other.
        """
        return ""

    def refuse_leak(self, scored: TaskConfig, *, split: str) -> None:
        """See `TaskConfig.refuse_leak`."""
        check_apart(self.levels, scored.levels)

    @property
    def settings(self) -> Any:
        """Those of the level."""
        return self.LEVELS[self.level]

    def canonical(self) -> dict[str, Any]:
        """With the settings that the level stands for: a changed table of levels is another task."""
        return super().canonical() | {"settings": [type(self.settings).__name__, *self.settings]}

    @property
    def level_name(self) -> str:
        """The level, and what is not as usual of how it is written: names a group of rows."""
        odd = [f"{name}={getattr(self, name)}" for name in self._told if self._differs(name)]
        return ", ".join([str(self.level), *odd])

    _told: ClassVar[tuple[str, ...]] = ("surface", "names", "rewrites", "shift")
    """Fields that a level's name tells where they are not at their default; a task may add its own."""

    def _differs(self, name: str) -> bool:
        return getattr(self, name) != type(self).model_fields[name].default

    def load(self) -> TaskData:
        from lmbench.tasks.synthetic_data import SyntheticData

        return SyntheticData(self, entries=[(self, 1.0)])

    def load_like(self, trained: TaskData) -> TaskData:
        """All synthetic tasks share one vocabulary.

        Raises:
            ValueError: weights that learned another vocabulary.
        """
        data = self.load()
        if trained.vocab_size != data.vocab_size:
            raise ValueError(
                f"task {self.kind!r} needs a model of its {data.vocab_size} symbols; this one was trained "
                f"with {trained.vocab_size} token ids"
            )
        return data

    @property
    def caption(self) -> str:
        return f"{self.kind} level {self.level_name}"

    # ------------------------------------------------------------------ what a task states

    @abstractmethod
    def generate(self, structure: Draws, surface: Draws, *, train: bool) -> Drawn:
        """N examples, in array operations.

        Args:
            structure: decides the canonical form and the answer.
            surface: decides how it is written, and nothing else.
            train: whether it is training data, where they differ from what is scored.
        """

    @abstractmethod
    def solve(self, body: Sequence[str], query: Sequence[str]) -> list[str]:
        """The best answer to an example as it is written: the Bayes-optimal strategy, by reading symbols."""

    def judge(self, body: Sequence[str], query: Sequence[str], said: Sequence[str]) -> bool:
        """Whether what a model said by itself solves the example; some tasks accept several answers."""
        return list(said) == self.solve(body, query)

    def reply(self, body: Sequence[str], query: Sequence[str], said: Sequence[str]) -> str:
        """What the best strategy says next, given what has been said of the answer."""
        return self.solve(body, query)[len(said)]

    @abstractmethod
    def ladder(self) -> Ladder:
        """Exact scores of chance, named shortcuts and the Bayes-optimal strategy on this level."""

    @abstractmethod
    def log2_space(self) -> float:
        """Binary logarithm of the number of canonical forms of this level."""

    @abstractmethod
    def choices(self) -> list[list[int]]:
        """Token ids among which a guesser chooses, for each token of the longest answer."""

    def guess(self, body: Sequence[str], query: Sequence[str], *, rng: np.random.Generator) -> list[str]:
        """What chance says: any of `choices` for each token, unless the example itself narrows them."""
        return [SYMBOLS[ids[rng.integers(len(ids))]] for ids in self.choices()]

    def metrics(self, answered: Answered) -> dict[str, tuple[float, int]]:
        """Metrics of the level, "score" and "answer_nll" among them; a task may add its own."""
        return exact_metrics(answered)

    def as_wanted(self, answered: Answered) -> Answered:
        """Scores as they are good: those of targets that a task scores to be avoided, turned round."""
        return answered

    def solved_N(self, answered: Answered) -> np.ndarray:
        """(N,) whether each example is solved; ties share."""
        return self.as_wanted(answered).exact_N()

    def scored_ladder(self) -> Ladder:
        """The ladder of what is scored: with rewrites, of the worst of them."""
        return ladder_of_worst(self.ladder(), rewrites=self.rewrites)

    # ------------------------------------------------------------------ help for subclasses

    def draw_names(self, surface: Draws, n: int) -> np.ndarray:
        """(N, n) ids of distinct names of the alphabet.

        Raises:
            ValueError: more names than the alphabet has.
        """
        alphabet = ALPHABETS[self.names]
        if n > len(alphabet):
            raise ValueError(
                f"{self.kind} level {self.level} needs {n} names; names = {self.names!r} has {len(alphabet)}"
            )
        return NAME + alphabet.start + surface.permutation(len(alphabet))[:, :n]


def check_apart(learned: Sequence[TaskConfig], scored: Sequence[TaskConfig]) -> None:
    """Refuse levels whose test examples may be among the training examples of others.

    Raises:
        ValueError: two levels in conflict, with the reason.
    """
    for one in learned:
        for other in scored:
            reason = one.conflict(other) if isinstance(one, SyntheticTask) and one.kind == other.kind else ""
            if reason:
                raise ValueError(
                    f"weights that learn {one.caption} cannot be scored on {other.caption}: {reason}"
                )
