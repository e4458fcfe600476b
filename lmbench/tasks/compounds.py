"""Eight functions on twelve elements, what they compose to, and which compounds are held out.

The functions are fixed for good: permutations without structure, so that a compound can be had only by
applying one after the other. A compound is a sequence of functions, outermost first; with the element
that it is applied to it makes a string. Compounds have numbers, shorter ones first.

Legend: C compound, F function of a compound (outermost first), X element, S string, I item, A atom type,
K part of an item.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from lmbench.tasks.divergence import DivergentSplit, greedy_split
from lmbench.tasks.draws import hashed, key_of, mixed
from lmbench.tasks.examples import split_of

FUNCTIONS = (
    (8, 4, 10, 7, 11, 1, 6, 3, 2, 5, 0, 9),
    (6, 11, 1, 10, 8, 0, 9, 2, 4, 3, 5, 7),
    (6, 1, 5, 3, 9, 7, 10, 2, 0, 8, 11, 4),
    (7, 11, 9, 5, 6, 0, 3, 10, 1, 4, 8, 2),
    (10, 0, 9, 1, 5, 8, 11, 2, 6, 7, 4, 3),
    (10, 3, 2, 9, 1, 8, 7, 6, 5, 0, 4, 11),
    (8, 10, 6, 7, 11, 9, 3, 2, 5, 4, 1, 0),
    (9, 1, 5, 11, 4, 0, 7, 8, 3, 2, 10, 6),
)
"""Value of each function at the elements 0 to 11. Drawn once; no two of the 64 pairs compose alike."""
N_FUNCTIONS, N_ELEMENTS = len(FUNCTIONS), len(FUNCTIONS[0])
NO_FUNCTION = -1
HELD_SHIFTS = (2, 5)  # of pairs (f, f + shift): each function is held out twice as outer, twice as inner
POOL = 2048  # compounds among which the divergent split is sought, where there are more


class Catalogue(NamedTuple):
    """All compounds up to a depth."""

    functions_CF: np.ndarray
    """NO_FUNCTION past the end of shorter ones."""
    depth_C: np.ndarray


class Split(NamedTuple):
    """Numbers of the compounds that training draws and of those that are scored."""

    train: tuple[np.ndarray, ...]
    """By depth, the shallow first; depths that are not trained are left out."""
    same: np.ndarray
    """Of compounds that are in training too: what is new is their element."""
    held_out: np.ndarray
    """Of compounds that no training string has."""


@lru_cache(maxsize=8)
def catalogue(depth: int) -> Catalogue:
    """Compounds of 1 to `depth` functions; those of d functions are in base-8 order of their functions."""
    functions = []
    for d in range(1, depth + 1):
        digits = np.arange(N_FUNCTIONS**d)[:, None] // N_FUNCTIONS ** np.arange(d - 1, -1, -1) % N_FUNCTIONS
        functions.append(np.pad(digits, ((0, 0), (0, depth - d)), constant_values=NO_FUNCTION))
    functions_CF = np.concatenate(functions)
    return Catalogue(functions_CF, (functions_CF >= 0).sum(axis=1))


def workings(functions_CF: np.ndarray, x_C: np.ndarray) -> np.ndarray:
    """(C, F) values of an element after one function, two, ...; the last is the compound's value.

    The first places of a compound that is shorter than the longest hold the element itself.
    """
    table = np.concatenate([np.array(FUNCTIONS), np.arange(N_ELEMENTS)[None]])  # the last: NO_FUNCTION
    value_C, steps = x_C, []
    for at in range(functions_CF.shape[1] - 1, -1, -1):
        value_C = table[functions_CF[:, at], value_C]
        steps.append(value_C)
    return np.stack(steps, axis=1)


def numbers(functions_CF: np.ndarray) -> np.ndarray:
    """(C,) numbers of compounds of equal depth."""
    depth = functions_CF.shape[1]
    first = sum(N_FUNCTIONS**d for d in range(1, depth))
    return first + functions_CF @ N_FUNCTIONS ** np.arange(depth - 1, -1, -1)


def held_pairs() -> np.ndarray:
    """(8, 8) whether the ordered pair (outer, inner) is held out: 16 of 64."""
    outer, inner = np.indices((N_FUNCTIONS, N_FUNCTIONS))
    return np.isin((inner - outer) % N_FUNCTIONS, HELD_SHIFTS)


def pair_table() -> pd.DataFrame:
    """Which ordered pairs are held out: a row for each outer function, a column for each inner one."""
    letters = list("abcdefgh")
    words = np.where(held_pairs(), "held out", "train")
    return pd.DataFrame(words, index=pd.Index(letters, name="outer"), columns=pd.Index(letters, name="inner"))


def function_table() -> pd.DataFrame:
    """Value of each function (row) at each element (column)."""
    return pd.DataFrame(FUNCTIONS, index=pd.Index(list("abcdefgh"), name="function"))


@lru_cache(maxsize=32)
def split_compounds(split_by: str, *, depth: int) -> Split:
    """The compounds of one way to split, for strings of up to `depth` functions.

    Args:
        split_by: "random" (nothing is held out but single strings), "pair" (compounds with a pair of
            `held_pairs`), "depth" (all of more than 2 functions) or "divergence" (see `divergent_split`).
    """
    functions_CF, depth_C = catalogue(depth)
    at = [np.flatnonzero(depth_C == d) for d in range(1, depth + 1)]
    if split_by == "random":
        return Split(tuple(at), at[-1], at[-1][:0])
    if split_by == "depth":
        return Split(tuple(at[:2]), at[1], at[-1] if depth > 2 else at[-1][:0])
    if split_by == "pair":
        is_held_C = held_pairs()[functions_CF[:, :-1], functions_CF[:, 1:]] & (functions_CF[:, 1:] >= 0)
        is_held_C = is_held_C.any(axis=1)
        return Split(
            tuple(c[~is_held_C[c]] for c in at), at[-1][~is_held_C[at[-1]]], at[-1][is_held_C[at[-1]]]
        )
    found, pool = divergent_split(depth)
    # Compounds between the shallowest and the deepest would show training what is to be new.
    return Split((at[0], pool[found.train]), pool[found.train], pool[found.test])


@lru_cache(maxsize=8)
def divergent_split(depth: int) -> tuple[DivergentSplit, np.ndarray]:
    """A split of compounds of `depth` functions with large compound divergence, and its pool's numbers.

    Atoms are the functions; compounds are runs of two and of three functions. A quarter as many compounds
    are held out as trained; of a pool of 64 all are used, of larger ones half.
    """
    functions_CF, depth_C = catalogue(depth)
    pool = np.flatnonzero(depth_C == depth)
    order = np.argsort(mixed(key_of("divergence", depth) + pool.astype(np.uint64)))
    pool = pool[order[:POOL]]
    functions_IF = functions_CF[pool]
    atoms_IA = (functions_IF[:, :, None] == np.arange(N_FUNCTIONS)).sum(axis=1)
    pairs_IK = functions_IF[:, :-1] * N_FUNCTIONS + functions_IF[:, 1:]
    triples_IK = pairs_IK[:, :-1] * N_FUNCTIONS + functions_IF[:, 2:] + N_FUNCTIONS**2
    n_used = len(pool) if depth == 2 else len(pool) // 2
    n_test = n_used // 5 if depth > 2 else n_used // 4
    compounds_IK = np.concatenate([pairs_IK, triples_IK], axis=1)
    return greedy_split(atoms_IA, compounds_IK, n_train=n_used - n_test, n_test=n_test), pool


@lru_cache(maxsize=32)
def string_places(split_by: str, *, depth: int) -> np.ndarray:
    """(S,) split where each string belongs, whatever the level: levels may be learned in one mixture.

    A hash decides, with two exceptions: strings of one function are in train, or a function would be
    unknown somewhere; strings of held-out compounds are not, but half in valid and half in test.
    """
    split, depth_C = split_compounds(split_by, depth=depth), catalogue(depth).depth_C
    string_S = np.arange(len(depth_C) * N_ELEMENTS)
    hash_S = hashed(string_S[:, None], key_of("compose", "place"))
    is_held_S = np.isin(string_S // N_ELEMENTS, split.held_out)
    place_S = np.where(is_held_S, np.where(hash_S % 2, "valid", "test"), split_of(hash_S))
    return np.where(depth_C[string_S // N_ELEMENTS] == 1, "train", place_S)


@lru_cache(maxsize=32)
def string_salts(kind: str, level: int, split_by: str, depth: int) -> np.ndarray:
    """(S,) a number in the form of each string: the first with which its hash gives its split.

    All tasks are split by the hash of the form under a key of the level; here a table decides.
    """
    place_S, key = string_places(split_by, depth=depth), key_of(kind, level, "split")
    salt_S, left = np.zeros(len(place_S), dtype=np.int64), np.arange(len(place_S))
    while len(left):
        found = split_of(hashed(np.stack([left, salt_S[left]], axis=1), key))
        left = left[found != place_S[left]]
        salt_S[left] += 1
    return salt_S
