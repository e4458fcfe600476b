"""Graphs with a plan in them: stars of arms, and webs, which are digraphs with one shortest plan.

Webs are drawn, and counted exactly.

Legend: N example, D out-edge, M move, V node, E edge, S set of out-edges.
"""

import math
from collections import deque
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

from lmbench.tasks.draws import Draws, key_of, mixed

DRAWN_AGAIN = 1000  # webs after which one must have had a goal


class Star(NamedTuple):
    """Arms that start at one node."""

    arms: int
    moves: int
    """Length of each arm: how far to look ahead."""

    @property
    def n_nodes(self) -> int:
        """With the start."""
        return 1 + self.arms * self.moves


class Web(NamedTuple):
    """A digraph whose nodes have `degree` out-edges each, to distinct other nodes."""

    n_nodes: int
    degree: int
    moves: int
    """Length of the one shortest plan."""


def star_edges(arms: int, moves: int) -> tuple[np.ndarray, np.ndarray]:
    """Tail and head of each edge; node 0 is the start, arm k holds the nodes 1 + k * moves and on."""
    head_E = np.arange(1, 1 + arms * moves)
    return np.where((head_E - 1) % moves == 0, 0, head_E - 1), head_E


def webs(structure: Draws, web: Web) -> tuple[np.ndarray, np.ndarray]:
    """(N, V, D) out-edges and (N, M) the one shortest plan from node 0; the goal is any node that has one.

    Each example draws webs of its own until one has such a goal, so that it depends on no other.
    """
    n = len(structure)
    head_NVD = np.empty((n, web.n_nodes, web.degree), dtype=np.int64)
    plan_NM = np.empty((n, web.moves), dtype=np.int64)
    left = np.arange(n)
    for attempt in range(1, DRAWN_AGAIN):
        draws = Draws(mixed(structure.key_N[left] ^ key_of("web", attempt)))
        tried_NVD, plan_LM, has_goal = _web(draws, web)
        head_NVD[left[has_goal]], plan_NM[left[has_goal]] = tried_NVD[has_goal], plan_LM[has_goal]
        left = left[~has_goal]
        if not len(left):
            break
    assert not len(left), web
    return head_NVD, plan_NM


def _web(draws: Draws, web: Web) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Uniform webs, a uniform goal among those that fit, and whether there is one."""
    n, size = len(draws), web.n_nodes
    rows_N = np.arange(n)
    sets_SD = np.array(list(combinations(range(size - 1), web.degree)))
    head_NVD = sets_SD[draws.integers(len(sets_SD), size)]
    head_NVD += head_NVD >= np.arange(size)[:, None]  # no edge to itself
    edge_NVV = np.zeros((n, size, size), dtype=np.float32)
    np.put_along_axis(edge_NVV, head_NVD, 1, axis=2)
    paths_NV = np.zeros((n, size), dtype=np.float32)  # shortest paths from node 0 that end here
    paths_NV[:, 0] = 1
    is_new_NV, layers = paths_NV == 0, [paths_NV]
    for _ in range(web.moves):
        paths_NV = (layers[-1][:, None, :] @ edge_NVV)[:, 0] * is_new_NV
        is_new_NV = is_new_NV & (paths_NV == 0)
        layers.append(paths_NV)
    fits_NV = layers[-1] == 1
    nth_N1 = draws.integers(np.maximum(fits_NV.sum(axis=1, keepdims=True), 1), 1)
    plan_NM = np.empty((n, web.moves), dtype=np.int64)
    plan_NM[:, -1] = (fits_NV.cumsum(axis=1) > nth_N1).argmax(axis=1)
    for move in range(web.moves - 1, 0, -1):
        before_NV = edge_NVV[rows_N, :, plan_NM[:, move]] * layers[move]
        plan_NM[:, move - 1] = before_NV.argmax(axis=1)
    return head_NVD, plan_NM, fits_NV.any(axis=1)


@lru_cache(maxsize=64)
def count_webs(n_nodes: int, degree: int, moves: int) -> int:
    """Webs over given nodes, with a start and a goal that one shortest plan of so many moves joins.

    Count them by the layers of a breadth-first search from the start. Of the nodes of layer i only the
    plan's has an edge to the plan's next, and no node of it has one to later nodes of the plan. The state
    is how many nodes off the plan were reached, and how many of them stand in the last layer.
    """
    off_plan = n_nodes - moves - 1
    state = {(0, 0): 1}
    for layer in range(moves):
        after: dict[tuple[int, int], int] = {}
        for (reached, last), ways in state.items():
            for new in range(off_plan - reached + 1):
                known = layer + 1 + reached  # nodes reached so far, on the plan or off
                covering = sum(
                    (-1) ** out
                    * math.comb(new, out)
                    * math.comb(known - 1 + new - out, degree - 1)  # the plan's node, beside the next move
                    * math.comb(known - 1 + new - out, degree) ** last
                    for out in range(new + 1)
                )
                key = (reached + new, new)
                after[key] = after.get(key, 0) + ways * math.comb(off_plan - reached, new) * covering
        state = after
    free = math.comb(n_nodes - 1, degree)  # edges of the nodes at the goal's distance and beyond
    # The last layer counted is the goal's own, whose nodes are free too.
    total = sum(ways * free ** (1 + off_plan - reached + last) for (reached, last), ways in state.items())
    return total * math.perm(n_nodes, moves + 1)


def shortest_plan(moves: dict[str, list[str]], start: str, goal: str) -> list[str]:
    """Nodes after the start, up to the goal, by breadth-first search.

    Raises:
        ValueError: no way to the goal.
    """
    plans, queue = {start: []}, deque([start])
    while queue:
        at = queue.popleft()
        if at == goal:
            return plans[at]
        for move in moves.get(at, []):
            if move not in plans:
                plans[move] = [*plans[at], move]
                queue.append(move)
    raise ValueError(f"no way leads from {start!r} to {goal!r}")
