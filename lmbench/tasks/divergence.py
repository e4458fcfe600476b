"""Compound divergence of a split, and a split that makes it large while atoms stay alike.

A test set asks for composition when its atoms are as frequent as in training and its compounds are
not. Frequencies P of training and Q of test are compared by the Chernoff coefficient

    C_a(P, Q) = sum over k of P(k)^a Q(k)^(1 - a)          (1: the same; 0: nothing in common)

Divergence is 1 - C: of atoms with a = 0.5, of compounds with a = 0.1, which asks rather whether a
compound of the test is in training at all than how often.
Source: Keysers et al. 2020 (CFQ), section 3. We depart from it in what a compound is: here a caller
lists the compounds of each item, all of weight 1 (there: weighted subgraphs).

Legend: I item, A atom type, C compound type, K compound of an item.
"""

from typing import NamedTuple

import numpy as np

ATOM_ALPHA, COMPOUND_ALPHA = 0.5, 0.1
MOST_ATOM_DIVERGENCE = 0.02  # as in the source


class DivergentSplit(NamedTuple):
    """Items of either side, the rest is not used, and how far the sides are apart."""

    train: np.ndarray
    test: np.ndarray
    atom_divergence: float
    compound_divergence: float


def divergence(train_C: np.ndarray, test_C: np.ndarray, *, alpha: float) -> float:
    """1 - the Chernoff coefficient of two lists of counts, 0 (alike) to 1 (nothing in common).

    Raises:
        ValueError: counts that are all 0.
    """
    train_C, test_C = np.asarray(train_C, dtype=float), np.asarray(test_C, dtype=float)
    for name, counts in (("train_C", train_C), ("test_C", test_C)):
        if not counts.sum() > 0:
            raise ValueError(f"{name} has no counts above 0, which leaves nothing to compare")
    return float(_divergences(train_C[None], test_C[None], alpha)[0])


def divergences(
    atoms_IA: np.ndarray, compounds_IK: np.ndarray, *, train: np.ndarray, test: np.ndarray
) -> tuple[float, float]:
    """Atom and compound divergence of two sets of items.

    Args:
        atoms_IA: how often each atom is in each item.
        compounds_IK: types of the compounds of each item, all items having K of them.
        train, test: the items of either side.
    """
    n_type = int(compounds_IK.max()) + 1
    counts = [np.bincount(compounds_IK[side].ravel(), minlength=n_type) for side in (train, test)]
    atoms = divergence(atoms_IA[train].sum(axis=0), atoms_IA[test].sum(axis=0), alpha=ATOM_ALPHA)
    return atoms, divergence(*counts, alpha=COMPOUND_ALPHA)


def greedy_split(
    atoms_IA: np.ndarray, compounds_IK: np.ndarray, *, n_train: int, n_test: int
) -> DivergentSplit:
    """Grow both sides item by item, keeping compounds apart and atoms alike.

    Sides take turns in proportion to their sizes. Of the items that keep the atom divergence within
    MOST_ATOM_DIVERGENCE (if none does, of those that come nearest) the one is taken that adds least to
    the Chernoff coefficient of the compounds; of equals the one with the fewest compounds that its side
    lacks, so that a side stays compact and leaves others to its opponent; of these the first. Nothing is
    random. The sum is taken as if the compounds of an item were distinct; what is returned is exact.

    Raises:
        ValueError: more items asked for than there are.
    """
    if n_train + n_test > len(atoms_IA):
        raise ValueError(
            f"n_train + n_test = {n_train + n_test} is above the {len(atoms_IA)} items there are"
        )
    n_type = int(compounds_IK.max()) + 1
    sizes = np.array([n_train, n_test])
    atoms, compounds = np.zeros((2, atoms_IA.shape[1])), np.zeros((2, n_type))
    taken: tuple[list[int], list[int]] = ([], [])
    is_free_I = np.ones(len(atoms_IA), dtype=bool)
    while (left := sizes - [len(taken[0]), len(taken[1])]).any():
        side = int(np.argmax(left / sizes))
        after_IA = atoms[side] + atoms_IA
        apart_I = _divergences(*((after_IA, atoms[1:]) if side == 0 else (atoms[:1], after_IA)), ATOM_ALPHA)
        apart_I = np.where(is_free_I, apart_I, np.inf)
        fits_I = apart_I <= max(MOST_ATOM_DIVERGENCE, apart_I.min() + 1e-12)
        cost_I = _shared(compounds, side)[compounds_IK].sum(axis=1)
        lacking_I = (compounds[side] == 0)[compounds_IK].sum(axis=1)
        order = np.lexsort((lacking_I, np.round(cost_I, 12), ~fits_I))
        best = int(order[0])
        is_free_I[best] = False
        taken[side].append(best)
        atoms[side] += atoms_IA[best]
        np.add.at(compounds[side], compounds_IK[best], 1)
    train, test = (np.array(sorted(items)) for items in taken)
    return DivergentSplit(train, test, *divergences(atoms_IA, compounds_IK, train=train, test=test))


def _divergences(train_IC: np.ndarray, test_IC: np.ndarray, alpha: float) -> np.ndarray:
    """(I,) row by row, rows of one side repeated where it has one; 0 where a side has no counts yet."""
    total_I = train_IC.sum(axis=1) ** alpha * test_IC.sum(axis=1) ** (1 - alpha)
    same_I = (train_IC**alpha * test_IC ** (1 - alpha)).sum(axis=1)
    return np.where(total_I > 0, 1 - same_I / np.where(total_I > 0, total_I, 1), 0.0)


def _shared(compounds: np.ndarray, side: int) -> np.ndarray:
    """(C,) what one more of each compound on a side adds to the Chernoff sum."""
    alpha = COMPOUND_ALPHA if side == 0 else 1 - COMPOUND_ALPHA
    own_C, other_C = compounds[side], compounds[1 - side]
    return ((own_C + 1) ** alpha - own_C**alpha) * other_C ** (1 - alpha)
