"""Rooted trees of labelled nodes whose children have no order: a hash, and how many there are.

Two writings of an example that differ in names and order only are the same tree, so its hash adds up
the hashes of the children. Counting follows the same recursion: a tree is a root and a multiset of
trees (Euler transform; Polya 1937), with at most one child per marked node set apart.

Legend: N example, S node.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from lmbench.tasks.draws import GOLDEN, key_of, mixed


def tree_hash(parent_NS: np.ndarray, label_NS: np.ndarray) -> np.ndarray:
    """(N,) 64-bit hash of a tree of labels, the same for any order of its nodes (children are summed)."""
    rows_N = np.arange(len(parent_NS))
    code_NS = key_of("node") + GOLDEN * label_NS.astype(np.uint64)
    for at in range(parent_NS.shape[1] - 1, 0, -1):
        code_NS[rows_N, parent_NS[:, at]] += mixed(code_NS[:, at])
    return mixed(code_NS[:, 0])


@lru_cache
def distances(n: int) -> tuple[float, ...]:
    """Probability of each number of edges, 0 to n - 1, between a node and a uniformly drawn descendant.

    Averaged over the (n - 1)! trees in which each node's parent is uniform among those before it.
    """
    share = np.zeros(n)
    for parents in np.ndindex(*range(1, n)):
        depths: list[list[int]] = [[]]  # of each node, distances to the nodes above it
        for parent in parents:
            depths.append([1, *(1 + depth for depth in depths[parent])])
        found = np.bincount([depth for row in depths for depth in row], minlength=n)
        share += found / found.sum()
    return tuple(share / math.factorial(n - 1))


def marked_trees(n: int, under: Sequence[Sequence[int]]) -> int:
    """Rooted unordered trees of n nodes with values, one node marked as set and another as asked.

    Args:
        under: values that a child may have, for each value of its parent.
    """
    values = range(len(under))
    # By number of nodes and value of the root: trees without a mark, with one given mark, with both.
    none, one, both = ([[0] * len(under)] for _ in range(3))
    for size in range(1, n + 1):
        rows = [
            _rooted(size, [[sum(t[b] for b in under[a]) for t in trees] for trees in (none, one, both)])
            for a in values
        ]
        for trees, column in zip((none, one, both), zip(*rows, strict=True), strict=True):
            trees.append(list(column))
    return sum(both[n])


def _rooted(size: int, children: Sequence[Sequence[int]]) -> tuple[int, int, int]:
    """Trees of `size` nodes with a given root by their marks, from numbers of possible children by size."""
    bare, single, double = children
    forests = [1]  # multisets of unmarked children by total size: the Euler transform
    for k in range(1, size):
        sums = [sum(d * bare[d] for d in range(1, i + 1) if i % d == 0) for i in range(1, k + 1)]
        forests.append(sum(s * forests[k - i] for i, s in enumerate(sums, start=1)) // k)
    rest = size - 1

    def with_child(kinds: Sequence[int], others: Sequence[int]) -> list[int]:
        return [sum(kinds[j] * others[k - j] for j in range(1, k + 1)) for k in range(size)]

    one_below = with_child(single, forests)
    two_below = with_child(double, forests)[rest] + with_child(single, one_below)[rest]
    return forests[rest], forests[rest] + one_below[rest], 2 * one_below[rest] + two_below
