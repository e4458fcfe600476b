"""Compound divergence, by hand, and the greedy split that makes it large."""

import math

import numpy as np
import pytest

from lmbench.tasks.compounds import divergent_split
from lmbench.tasks.divergence import MOST_ATOM_DIVERGENCE, divergence, divergences, greedy_split


@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_equal_frequencies_diverge_by_0_and_disjoint_ones_by_1(alpha):
    assert divergence([2, 4, 0], [1, 2, 0], alpha=alpha) == pytest.approx(0)
    assert divergence([2, 4, 0], [0, 0, 9], alpha=alpha) == 1


def test_divergence_is_1_minus_the_chernoff_coefficient():
    # P = (1/2, 1/2), Q = (1, 0): the sum is (1/2)^a * 1^(1 - a).
    assert divergence([3, 3], [5, 0], alpha=0.1) == pytest.approx(1 - 0.5**0.1)
    assert divergence([3, 3], [5, 0], alpha=0.5) == pytest.approx(1 - math.sqrt(0.5))


def test_with_a_small_alpha_a_compound_missing_in_training_weighs_more_than_a_rare_one():
    missing, rare = divergence([1, 0], [1, 1], alpha=0.1), divergence([9, 1], [1, 1], alpha=0.1)
    assert missing > 0.4 > 0.1 > rare


def test_nothing_to_compare_is_refused():
    with pytest.raises(ValueError, match="test_C has no counts above 0, which leaves nothing to compare"):
        divergence([1, 2], [0, 0], alpha=0.5)


def test_the_greedy_split_finds_a_perfect_one():
    """Four items of two atoms each; compounds 0 and 1 are shared by two items each."""
    atoms_IA = np.ones((4, 2))
    found = greedy_split(atoms_IA, np.array([[0], [1], [0], [1]]), n_train=2, n_test=2)
    assert {tuple(found.train), tuple(found.test)} == {(0, 2), (1, 3)}
    assert (found.atom_divergence, found.compound_divergence) == (pytest.approx(0), 1)


def test_atoms_come_before_compounds():
    """Keeping compounds apart would give each side atoms of its own; alike atoms are what is asked first."""
    atoms_IA = np.array([[2, 0], [2, 0], [0, 2], [0, 2]])
    found = greedy_split(atoms_IA, np.array([[0], [0], [1], [1]]), n_train=2, n_test=2)
    assert found.atom_divergence == pytest.approx(0) and found.compound_divergence == pytest.approx(0)


def test_more_items_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"n_train \+ n_test = 5 is above the 4 items there are"):
        greedy_split(np.ones((4, 2)), np.zeros((4, 1), dtype=int), n_train=3, n_test=2)


def test_the_split_of_compounds_diverges_more_than_random_ones_and_its_atoms_hardly():
    found, pool = divergent_split(3)
    assert found.atom_divergence <= MOST_ATOM_DIVERGENCE
    assert found.compound_divergence > 0.9
    assert len(found.train) == 4 * len(found.test) + 1 and not np.intersect1d(found.train, found.test).size
    rng = np.random.default_rng(0)
    pairs_IK = (np.arange(512) // 8)[:, None] * [1, 0] + (np.arange(512) % 64)[:, None] * [0, 1]
    atoms_IA = np.stack([np.bincount([i // 64, i // 8 % 8, i % 8], minlength=8) for i in range(512)])
    for _ in range(3):
        order = rng.permutation(512)
        _, compounds = divergences(atoms_IA, pairs_IK, train=order[:205], test=order[205:256])
        assert compounds < 0.1
    assert len(pool) == 512
