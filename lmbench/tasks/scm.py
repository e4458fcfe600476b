"""Counterfactual reasoning: what would a node be, had another been different and all noise the same?

    a < # 3 ; b < a 0 ; c < a 2 ? : a 1 c = 0      (mod 5; c = a + noise: noise 4, so c = 1 + 4 = 0)

Nodes form a tree; the root has the parent "#". Each shows its factual value; the noise that made it
stays hidden and has to be inferred (abduction), one node is set to another value (action; easier levels
tell by how much it is moved: ? + a 3 c), and a second one is asked for (prediction). Half of the
questions are about a descendant of the node that is set (kind 1), half about another node (kind 0),
which keeps its value; the score is the smaller of the two kinds' shares, so that copying the fact and
always shifting it score 0. (By their mean both would score 1/2, and a model that only knows which node
is a descendant would pass half way to the best score.)

    b < a 0      additive: b = a + w, w uniform
    b ~ a 0      hidden mechanism: b = a + w or b = w - a, by a fair hidden bit, w uniform below `noise`

Under a hidden mechanism a shift of the parent shifts the child up or down; the facts tell which only
where one of the two needs an impossible w. The best strategy knows the sign of a path if it knows that
of every edge, and otherwise both signs are equally likely (the posterior is a product over edges of
1, 1/2 or 0). Fresh noise ("do" without facts) is not asked: an additive answer would be uniform.
Source: Pearl 2009, chapter 7 (abduction, action, prediction); Miller, Schoelkopf and Guo 2025.

Legend: N example, S node, F pair of nodes, L token of the body, W token of a statement.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from lmbench.tasks.drawn import Drawn
from lmbench.tasks.draws import Draws
from lmbench.tasks.ladder import ANSWER_NLL, SCORE, Answered, Ladder
from lmbench.tasks.symbols import ID, SEMICOLON, VALUE
from lmbench.tasks.synthetic import SyntheticTask
from lmbench.tasks.trees import distances, marked_trees, tree_hash

WIDTH = 5  # tokens of a statement with its separator: b < a 0 ;
OTHER, DESCENDANT = 0, 1
"""Kinds of questions."""


class Setting(NamedTuple):
    """Of one level."""

    nodes: int
    modulus: int
    is_shuffled: bool
    """Whether statements stand in random order; else parents before children."""
    is_shift: bool = False
    """Whether a question tells by how much a node is moved; else what it is set to."""
    noise: int = 0
    """Values of the noise of a hidden mechanism; 0 for additive ones."""


class Scm(SyntheticTask):
    """Counterfactual value of a node of a random tree."""

    kind: ClassVar[Literal["scm"]] = "scm"
    LEVELS: ClassVar = (
        Setting(2, 11, False, is_shift=True),
        Setting(3, 11, True, is_shift=True),
        Setting(4, 11, True, is_shift=True),
        Setting(4, 5, True),
        Setting(6, 7, True),
        Setting(8, 11, True),
        Setting(4, 7, True, noise=3),
        Setting(6, 7, True, noise=3),
    )
    most_rewrites: ClassVar[int] = 1

    def generate(self, structure: Draws, surface: Draws, *, train: bool) -> Drawn:
        """See `SyntheticTask.generate`. Node 0 is the root; the parent of each other stands before it."""
        n, p, is_shuffled, is_shift, _ = self.settings
        parent_NS, value_NS, effect_NSS = self._facts(structure)
        kind_N, set_N1, asked_N1 = self._questions(structure, effect_NSS)
        factual_N1, shift_N1 = np.take_along_axis(value_NS, set_N1, axis=1), 1 + structure.integers(p - 1, 1)
        rows_N1 = np.arange(len(structure))[:, None]
        sign_N1 = effect_NSS[rows_N1, set_N1, asked_N1]
        answer_N1 = (np.take_along_axis(value_NS, asked_N1, axis=1) + sign_N1 * shift_N1) % p
        setting_N1 = shift_N1 if is_shift else (factual_N1 + shift_N1) % p
        name_NS = self.draw_names(surface, n)
        body_NSW = self._statements(parent_NS, value_NS, name_NS)
        if is_shuffled:
            body_NSW = np.take_along_axis(body_NSW, surface.permutation(n)[:, :, None], axis=1)
        name_set_N1, name_asked_N1 = (np.take_along_axis(name_NS, at, axis=1) for at in (set_N1, asked_N1))
        mark_N1 = np.full_like(set_N1, ID["+" if is_shift else ":"])
        role_NS = (np.arange(n) == set_N1) + 2 * (np.arange(n) == asked_N1)
        form_N1 = tree_hash(parent_NS, value_NS * 3 + role_NS).view(np.int64)[:, None]
        return Drawn(
            body_NL=body_NSW.reshape(len(structure), -1)[:, :-1],  # the last separator separates nothing
            query_NQ=np.concatenate([mark_N1, name_set_N1, VALUE + setting_N1, name_asked_N1], axis=1),
            answer_NA=VALUE + answer_N1,
            form_NC=np.concatenate([form_N1, setting_N1], axis=1),
            kind_N=kind_N,
        )

    def _facts(self, structure: Draws) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N, S) parents and values, and (N, S, S) what a shift of one node does to each: 0, 1 or -1."""
        n, p, *_, noise = self.settings
        rows_N = np.arange(len(structure))
        parent_NS = np.zeros((len(rows_N), n), dtype=np.int64)
        parent_NS[:, 1:] = structure.integers(np.arange(1, n)[None], n - 1)
        value_NS = structure.integers(np.array([[p] + [noise or p] * (n - 1)]), n)
        sign_NS = 1 - 2 * structure.integers(2 if noise else 1, n)
        effect_NSS = np.zeros((len(rows_N), n, n), dtype=np.int8)
        effect_NSS[:, 0, 0] = 1
        for at in range(1, n):
            parent_N, sign_N = parent_NS[:, at], sign_NS[:, at]
            value_NS[:, at] = (sign_N * value_NS[rows_N, parent_N] + value_NS[:, at]) % p
            effect_NSS[:, :, at] = sign_N[:, None] * effect_NSS[rows_N, :, parent_N]
            effect_NSS[:, at, at] = 1
        return parent_NS, value_NS, effect_NSS

    def _questions(
        self, structure: Draws, effect_NSS: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Kind, and (N, 1) nodes that are set and asked, uniform among the pairs of the kind."""
        n = self.settings.nodes
        kind_N1 = structure.integers(2, 1)
        fits_NF = ((effect_NSS != 0) & ~np.eye(n, dtype=bool)).reshape(-1, n * n)
        fits_NF = np.where(kind_N1 == DESCENDANT, fits_NF, effect_NSS.reshape(-1, n * n) == 0)
        count_NF = fits_NF.cumsum(axis=1, dtype=np.int16)
        chosen_N1 = structure.integers(count_NF[:, -1:], 1)
        pair_N1 = (count_NF <= chosen_N1).sum(axis=1, keepdims=True)
        return kind_N1[:, 0], pair_N1 // n, pair_N1 % n

    def _statements(self, parent_NS: np.ndarray, value_NS: np.ndarray, name_NS: np.ndarray) -> np.ndarray:
        """(N, S, W) tokens."""
        out_NSW = np.empty((*value_NS.shape, WIDTH), dtype=np.int8)
        out_NSW[..., 0] = name_NS
        out_NSW[..., 1] = ID["~" if self.settings.noise else "<"]
        out_NSW[..., 2] = np.take_along_axis(name_NS, parent_NS, axis=1)
        out_NSW[:, 0, 2] = ID["#"]
        out_NSW[..., 3], out_NSW[..., 4] = VALUE + value_NS, SEMICOLON
        return out_NSW

    def solve(self, body: Sequence[str], query: Sequence[str]) -> list[str]:
        """Walk up from the asked node; a shift reaches it through every edge up to the node that is set."""
        p, noise = self.settings.modulus, self.settings.noise
        facts = {
            name: (parent, int(value))
            for name, _, parent, value, *_ in zip(*[iter([*body, ";"])] * WIDTH, strict=True)
        }
        (mark, changed, setting, asked), sign = query, 1
        at, fact = asked, facts[asked][1]
        while at not in (changed, "#"):
            parent, value = facts[at]
            if noise and parent != "#":
                # Where both mechanisms explain the facts both signs are as likely: up is as good as down.
                above = facts[parent][1]
                is_up = (value - above) % p < noise
                sign = sign if is_up else -sign
            at = parent
        shift = int(setting) - (facts[changed][1] if mark == ":" else 0)
        return [str((fact + sign * shift * (at == changed)) % p)]

    # ------------------------------------------------------------------ scores

    def ladder(self) -> Ladder:
        """ "Copy" says the fact, "shift" always moves it up; "guess" knows which of both but not how far."""
        _, p, *_, noise = self.settings
        known = self._known_sign() if noise else 1.0
        rungs = {"copy": 0.0, "shift": 0.0, "guess": 1 / (p - 1)}
        if noise:
            rungs["any_sign"] = 1 / 2
        return Ladder(
            score={"chance": 1 / p, **rungs, "bayes": (1 + known) / 2},
            answer_nll={"chance": math.log(p), "bayes": (1 - known) * math.log(2) / 2},
        )

    def _known_sign(self) -> float:
        """Probability that the facts tell the sign of every edge between the two nodes of kind 1.

        Every node is uniform, whatever its depth, and values along a path are a Markov chain: the
        chance of k revealing edges is the total of the k-th power of the revealing transitions.
        """
        n, p, *_, noise = self.settings
        above, below = np.arange(p)[:, None], np.arange(p)[None]
        is_up, is_down = (below - above) % p < noise, (below + above) % p < noise
        revealing = (is_up ^ is_down) / (2 * noise)  # from each value of a parent to each of a child
        totals = [np.linalg.matrix_power(revealing, k).sum() / p for k in range(n)]
        return float(sum(share * total for share, total in zip(distances(n), totals, strict=True)))

    def log2_space(self) -> float:
        """Trees of valued nodes, two of them marked, up to the order of children; times other settings."""
        n, p, *_, noise = self.settings
        under = [
            [x for x in range(p) if not noise or min((x - a) % p, (x + a) % p) < noise] for a in range(p)
        ]
        return math.log2(marked_trees(n, under) * (p - 1))

    def choices(self) -> list[list[int]]:
        return [list(range(VALUE, VALUE + self.settings.modulus))]

    def metrics(self, answered: Answered) -> dict[str, tuple[float, int]]:
        """The smaller share of the two kinds of questions, `descendant` and `other`; nats are their mean.

        Raises:
            ValueError: so few examples that none is of one kind.
        """
        exact_N, nll_N, n = answered.exact_N(), answered.nll_NA[:, 0], len(answered.kind_N)
        masks = [answered.kind_N == kind for kind in (OTHER, DESCENDANT)]
        counts = [int(mask.sum()) for mask in masks]
        if not all(counts):
            raise ValueError(f"n_eval = {self.n_eval} is too small: both kinds of questions are needed")
        other, descendant = (float(exact_N[mask].mean()) for mask in masks)
        nll = float(np.mean([nll_N[mask].mean() for mask in masks]))
        return {
            SCORE: (min(other, descendant), min(counts)),
            ANSWER_NLL: (nll, n),
            "descendant": (descendant, counts[DESCENDANT]),
            "other": (other, counts[OTHER]),
        }
