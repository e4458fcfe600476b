"""Multi-step planning: find the way to a goal.

    s > a ; c > e ; a > g ; s > c ? s g = a          a star: 2 arms of 2 moves, the first move is asked
    a > c ; a > e ; c > b ; ... ? a b = c b          a web: a random digraph, the whole plan is asked

In a star, whoever does not look ahead to the end of the arms guesses one of them. With arms of one move
the goal itself is the answer. Predicting the whole path from its own beginning (`whole`) is known to fail:
all moves but the first can be read off the one before, and the first then gets no useful gradient.
In a web every node has the same number of moves and exactly one plan is shortest, so that a uniform legal
policy finds it with probability degree^-moves.

The shape of a star is all one, so the names are part of the example: the split holds out which names stand
where, and the surface shuffles the edges. A graph is the set of its named edges.

Source: path-star graphs (Bachmann and Nagarajan 2024; Frydenlund 2024).

Legend: N example, D arm or out-edge, M move, V node, E edge, L token of the body, C column of the form.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import model_validator

from lmbench.tasks.drawn import ALPHABETS, Drawn
from lmbench.tasks.draws import Draws
from lmbench.tasks.graphs import Star, Web, count_webs, shortest_plan, star_edges, webs
from lmbench.tasks.ladder import Ladder, uniform_ladder
from lmbench.tasks.symbols import ID, N_NAMES, NAME, SEMICOLON
from lmbench.tasks.synthetic import SyntheticTask

WIDTH = 4  # tokens of an edge with its separator: s > a ;


class Route(SyntheticTask):
    """First move, or whole plan, from a start to a goal."""

    kind: ClassVar[Literal["route"]] = "route"
    LEVELS: ClassVar = (
        *(Star(2, moves) for moves in range(1, 7)),
        Star(3, 2),
        Star(3, 3),
        Star(4, 3),
        Star(5, 5),
        Web(6, 2, 2),
        Web(8, 2, 3),
        Web(10, 2, 4),
        Web(10, 3, 3),
    )
    _told: ClassVar[tuple[str, ...]] = (*SyntheticTask._told, "whole")

    whole: bool = False
    """Whether training on a star teaches the whole path, move after move (the known pathology); scores
    are of the first move all the same. False teaches the first move only."""

    @model_validator(mode="after")
    def _star_if_whole(self) -> "Route":
        if self.whole and isinstance(self.settings, Web):
            raise ValueError(
                f"whole = true is not accepted at level {self.level}: its plans are whole, whole is of stars"
            )
        return self

    def generate(self, structure: Draws, surface: Draws, *, train: bool) -> Drawn:
        """See `SyntheticTask.generate`."""
        name_NV = self.draw_names(structure, self.settings.n_nodes).astype(np.int8)
        rows_N1 = np.arange(len(structure))[:, None]
        if isinstance(self.settings, Star):
            arms, moves = self.settings
            tail_E, head_E = star_edges(arms, moves)
            tail_NE, head_NE = name_NV[:, tail_E], name_NV[:, head_E]
            plan_NM = name_NV[:, 1 : 1 + moves]  # the first arm is the one that leads to the goal
        else:
            head_NVD, node_NM = webs(structure, self.settings)
            tail_NE = np.repeat(name_NV, self.settings.degree, axis=1)
            head_NE = name_NV[rows_N1, head_NVD.reshape(len(structure), -1)]
            plan_NM = name_NV[rows_N1, node_NM]
        start_N1, goal_N1 = name_NV[:, :1], plan_NM[:, -1:]
        order_NE = surface.permutation(tail_NE.shape[1])
        body_NEL = np.empty((*tail_NE.shape, WIDTH), dtype=np.int8)
        body_NEL[..., 0], body_NEL[..., 1] = tail_NE[rows_N1, order_NE], ID[">"]
        body_NEL[..., 2], body_NEL[..., 3] = head_NE[rows_N1, order_NE], SEMICOLON
        first_only = isinstance(self.settings, Star) and not (self.whole and train)
        # Numbers of two bytes sort several times faster than those of eight.
        edge_NE = np.sort((tail_NE - NAME).astype(np.int16) * N_NAMES + (head_NE - NAME), axis=1)
        return Drawn(
            body_NL=body_NEL.reshape(len(structure), -1)[:, :-1],
            query_NQ=np.concatenate([start_N1, goal_N1], axis=1),
            answer_NA=plan_NM[:, :1] if first_only else plan_NM,
            form_NC=np.concatenate([edge_NE, start_N1, goal_N1], axis=1),
        )

    def solve(self, body: Sequence[str], query: Sequence[str]) -> list[str]:
        """A shortest plan by breadth-first search, or its first move in a star."""
        plan = shortest_plan(moves_of(body), *query)
        return plan[:1] if isinstance(self.settings, Star) else plan

    def judge(self, body: Sequence[str], query: Sequence[str], said: Sequence[str]) -> bool:
        """Any shortest plan solves a web; in a star one first move does."""
        if isinstance(self.settings, Star):
            return list(said) == self.solve(body, query)
        moves, (start, goal) = moves_of(body), query
        is_legal = all(move in moves.get(at, []) for at, move in zip([start, *said], said, strict=False))
        return is_legal and list(said[-1:]) == [goal] and len(said) == len(shortest_plan(moves, start, goal))

    def guess(self, body: Sequence[str], query: Sequence[str], *, rng: np.random.Generator) -> list[str]:
        """What the uniform legal policy says: chance."""
        moves, plan = moves_of(body), [query[0]]
        for _ in range(1 if isinstance(self.settings, Star) else self.settings.moves):
            here = moves[plan[-1]]
            plan.append(here[rng.integers(len(here))])
        return plan[1:]

    def ladder(self) -> Ladder:
        """Chance moves legally. In a star: "some_node" says any node's name, "goal" repeats the goal. In a
        web "look_ahead_k" moves at random until the goal is k moves away."""
        if isinstance(self.settings, Star):
            arms, moves = self.settings
            return uniform_ladder(arms, some_node=1 / self.settings.n_nodes, goal=float(moves == 1))
        _, degree, moves = self.settings
        ahead = {f"look_ahead_{k}": degree ** -float(moves - k) for k in range(1, moves)}
        return uniform_ladder(degree, tokens=moves, **ahead)

    def log2_space(self) -> float:
        """Choices of names times graphs over them: a star's other arms are a set; webs by `count_webs`."""
        n_names, n_nodes = len(ALPHABETS[self.names]), self.settings.n_nodes
        if isinstance(self.settings, Star):
            return math.log2(math.perm(n_names, n_nodes)) - math.log2(math.factorial(self.settings.arms - 1))
        return math.log2(math.comb(n_names, n_nodes)) + math.log2(count_webs(*self.settings))

    def choices(self) -> list[list[int]]:
        """All names: which moves are legal is up to the example."""
        alphabet = ALPHABETS[self.names]
        tokens = 1 if isinstance(self.settings, Star) else self.settings.moves
        return [list(range(NAME + alphabet.start, NAME + alphabet.stop))] * tokens


def moves_of(body: Sequence[str]) -> dict[str, list[str]]:
    """Where each node leads, by reading edges."""
    moves: dict[str, list[str]] = {}
    for tail, head in zip(body[::WIDTH], body[2::WIDTH], strict=True):
        moves.setdefault(tail, []).append(head)
    return moves
