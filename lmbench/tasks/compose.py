"""Compositional generalization: apply functions that are known alone to compounds that are new.

    a c 7 ? = 10                 a(c(7)): c of 7 is 2, a of 2 is 10
    a c 7 ? = 2 10               the same with its steps shown, as on level 0

Eight fixed functions on twelve elements are learned in weights: training shows every function at every
element, alone, and compounds of them. Fields say which compounds are kept from training and which
are scored: new strings of known compounds (`held_out` off) or compounds that no training string has.
Three forms of writing the same, as conclusions can hang on incidental form (ReCOGS, Wu et al. 2023):

    prefix   a c 7               postfix  7 c a               nested   a ( c ( 7 ) )

Source: SCAN (Lake and Baroni 2018), PCFG (Hupkes et al. 2020), CFQ (Keysers et al. 2020).

Legend: N example, D function of a compound, C compound, S string, P scored string, L token of the body,
A token of the answer.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import model_validator

from lmbench.tasks.compounds import (
    FUNCTIONS,
    N_ELEMENTS,
    N_FUNCTIONS,
    NO_FUNCTION,
    Split,
    catalogue,
    numbers,
    split_compounds,
    string_places,
    string_salts,
    workings,
)
from lmbench.tasks.drawn import ALPHABETS, Drawn
from lmbench.tasks.draws import Draws
from lmbench.tasks.ladder import Ladder, uniform_ladder
from lmbench.tasks.symbols import ID, NAME, PAD, VALUE
from lmbench.tasks.synthetic import SyntheticTask


class Setting(NamedTuple):
    """Of one level."""

    depth: int
    """Functions of the scored compounds; training draws all depths up to it alike."""
    is_worked: bool
    """Whether the answer is the value after each function, innermost first; else the last value alone."""


class Compose(SyntheticTask):
    """Value of several functions applied one after the other."""

    kind: ClassVar[Literal["compose"]] = "compose"
    LEVELS: ClassVar = (
        Setting(2, True),
        Setting(2, False),
        Setting(3, False),
        Setting(4, False),
        Setting(5, False),
    )
    most_rewrites: ClassVar[int] = 1
    _told: ClassVar[tuple[str, ...]] = (*SyntheticTask._told, "form", "split_by", "held_out", "worked")
    _scoring: ClassVar[tuple[str, ...]] = (*SyntheticTask._scoring, "held_out")

    form: Literal["prefix", "postfix", "nested"] = "prefix"
    """How a compound is written, see above."""
    split_by: Literal["random", "pair", "depth", "divergence"] = "random"
    """Which compounds training lacks: none, only strings ("random"); those with one of 16 ordered pairs
    ("pair"); those of more than 2 functions ("depth"); those of a split of maximum compound divergence,
    which trains on none of the depths between ("divergence")."""
    held_out: bool = False
    """Whether the compounds that training lacks are scored; else new strings of those it has."""
    worked: bool | None = None
    """Whether answers show all steps; None is as the level has it."""

    @model_validator(mode="after")
    def _has_held_out(self) -> "Compose":
        if self.held_out and self.split_by == "random":
            raise ValueError(
                "held_out = True needs split_by 'pair', 'depth' or 'divergence': 'random' holds out none"
            )
        if self.held_out and self.split_by == "depth" and self.settings.depth <= 2:
            raise ValueError(
                f"held_out = True with split_by = 'depth' needs a level of at least 2: level {self.level} is "
                "no deeper than training"
            )
        return self

    def conflict(self, other: SyntheticTask) -> str:
        """See `SyntheticTask.conflict`. Compounds that one table holds out are trained on under another."""
        if other.split_by == self.split_by:
            return ""
        return (
            f"split_by = {other.split_by!r} scores what training with split_by = {self.split_by!r} may have "
            f"shown; accepted: split_by = {self.split_by!r}"
        )

    # ------------------------------------------------------------------ examples

    def generate(self, structure: Draws, surface: Draws, *, train: bool) -> Drawn:
        """See `SyntheticTask.generate`. The split is of compounds where a table says so."""
        depth, split = self.settings.depth, self._compounds()
        tables = split.train if train else (split.held_out if self.held_out else split.same,)
        sizes = np.array([len(table) for table in tables])
        which_N1 = structure.integers(len(tables), 1)
        at_N1 = (sizes.cumsum() - sizes)[which_N1] + structure.integers(sizes[which_N1], 1)
        compound_N = np.concatenate(tables)[at_N1[:, 0]]
        x_N = structure.integers(N_ELEMENTS, 1)[:, 0]
        function_ND, string_N = catalogue(depth).functions_CF[compound_N], compound_N * N_ELEMENTS + x_N
        is_there_ND = function_ND[:, ::-1] != NO_FUNCTION
        answer_ND = np.where(is_there_ND, VALUE + workings(function_ND, x_N), PAD)
        return Drawn(
            body_NL=self._written(function_ND, x_N),
            query_NQ=np.zeros((len(structure), 0), dtype=np.int8),
            answer_NA=answer_ND[:, -self._answer_tokens :],
            form_NC=np.stack([string_N, self._salts()[string_N]], axis=1),
        )

    def _written(self, function_ND: np.ndarray, x_N: np.ndarray) -> np.ndarray:
        """Tokens of the body; where a compound is shorter than the longest there is <pad>."""
        is_there_ND = function_ND != NO_FUNCTION
        name_ND = np.where(is_there_ND, self._first_name + function_ND, PAD)
        x_N1 = VALUE + x_N[:, None]
        if self.form == "prefix":
            return np.concatenate([name_ND, x_N1], axis=1)
        if self.form == "postfix":
            return np.concatenate([x_N1, name_ND[:, ::-1]], axis=1)
        opened_ND = np.where(is_there_ND, ID["("], PAD)
        inwards = np.stack([name_ND, opened_ND], axis=2).reshape(len(x_N), -1)
        return np.concatenate([inwards, x_N1, np.where(is_there_ND, ID[")"], PAD)], axis=1)

    @property
    def _answer_tokens(self) -> int:
        """Of the deepest compounds."""
        return self.settings.depth if self._is_worked else 1

    @property
    def _is_worked(self) -> bool:
        return self.settings.is_worked if self.worked is None else self.worked

    @property
    def _first_name(self) -> int:
        """Id of the letter of the first function: a, or n of the second alphabet."""
        return NAME + ALPHABETS[self.names].start

    def _compounds(self) -> Split:
        return split_compounds(self.split_by, depth=self.settings.depth)

    def _salts(self) -> np.ndarray:
        return string_salts(self.kind, self.level, self.split_by, self.settings.depth)

    def solve(self, body: Sequence[str], query: Sequence[str]) -> list[str]:
        """Apply the functions, innermost first."""
        words = [word for word in body if word not in "()"]
        x, *names = words if self.form == "postfix" else reversed(words)
        values = [int(x)]
        for name in names:
            values.append(FUNCTIONS[ord(name) - ord("n" if self.names == "second" else "a")][values[-1]])
        return [str(value) for value in (values[1:] if self._is_worked else values[-1:])]

    # ------------------------------------------------------------------ ladder

    def ladder(self) -> Ladder:
        """Of the strings in the test set, by enumeration; strategies that see a part of the string.

        "inner_only" applies only the innermost function, "outer_only" only the outermost, "nearest"
        answers as a random one of the training strings that differ in one function (where there are any).
        """
        compound_P, x_P = self.population()
        function_PD = catalogue(self.settings.depth).functions_CF[compound_P]
        truth_PA = self._answers(function_PD, x_P)
        rungs = {
            name: float((workings(function_PD[:, [at]], x_P) == truth_PA).all(axis=1).mean())
            for name, at in (("inner_only", -1), ("outer_only", 0))
        }
        nearest = self._nearest(function_PD, x_P, truth_PA)
        if nearest is not None:
            rungs["nearest"] = nearest
        return uniform_ladder(N_ELEMENTS, tokens=self._answer_tokens, **rungs)

    def _answers(self, function_PD: np.ndarray, x_P: np.ndarray) -> np.ndarray:
        """(P, A) values that answer strings of full depth."""
        return workings(function_PD, x_P)[:, -self._answer_tokens :]

    def population(self, split: str = "test") -> tuple[np.ndarray, np.ndarray]:
        """(P,) compounds and (P,) elements of all strings that a set is drawn from, uniformly."""
        split_C = self._compounds()
        compound_C = split_C.held_out if self.held_out else split_C.same
        string_P = (compound_C[:, None] * N_ELEMENTS + np.arange(N_ELEMENTS)).ravel()
        string_P = string_P[self._places()[string_P] == split]
        return string_P // N_ELEMENTS, string_P % N_ELEMENTS

    def _places(self) -> np.ndarray:
        return string_places(self.split_by, depth=self.settings.depth)

    def _nearest(self, function_PD: np.ndarray, x_P: np.ndarray, truth_PA: np.ndarray) -> float | None:
        """Strings with no such neighbour are guessed; None if no string has one."""
        is_trained_S = np.zeros(len(self._places()), dtype=bool)
        is_trained_S.reshape(-1, N_ELEMENTS)[np.concatenate(self._compounds().train)] = True
        is_trained_S &= self._places() == "train"
        near_P, right_P = np.zeros(len(x_P)), np.zeros(len(x_P))
        for at in range(function_PD.shape[1]):
            for other in range(N_FUNCTIONS):
                changed_PD = function_PD.copy()
                changed_PD[:, at] = other
                is_near_P = is_trained_S[numbers(changed_PD) * N_ELEMENTS + x_P]
                is_near_P &= function_PD[:, at] != other
                near_P += is_near_P
                right_P += is_near_P & (self._answers(changed_PD, x_P) == truth_PA).all(axis=1)
        if not near_P.any():
            return None
        guess = N_ELEMENTS ** -float(truth_PA.shape[1])
        return float(np.where(near_P > 0, right_P / np.maximum(near_P, 1), guess).mean())

    def log2_space(self) -> float:
        """Strings of the scored compounds, in all splits."""
        split = self._compounds()
        return math.log2(len(split.held_out if self.held_out else split.same) * N_ELEMENTS)

    def choices(self) -> list[list[int]]:
        return [list(range(VALUE, VALUE + N_ELEMENTS))] * self._answer_tokens
