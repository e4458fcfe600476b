"""Hidden rules of few-shot episodes: which label each symbol gets, and which rules are held out.

Boolean rules label symbols that have fixed binary attributes (bits of a symbol's place, most significant
first) by one attribute ("literal"), by two joined ("and", "or"; each attribute may be negated) or by
whether two differ ("xor"). Affine rules map x to a x + b (mod p), a from 1 to p - 1.
A quarter of each class is held out: those whose ids have the lowest hashes.

Legend: R rule, X symbol, V label.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

from lmbench.tasks.draws import key_of

CLASSES = ("literal", "and", "or", "xor", "affine")
HELD_SHARE = 4  # one rule of so many is held out, rounded down


class Rules(NamedTuple):
    """All rules of some classes."""

    ids: tuple[str, ...]
    label_RX: np.ndarray
    is_held_R: np.ndarray
    n_label: int

    def used(self, which: str) -> np.ndarray:
        """Places of the rules of "train", "held_out" or "all"."""
        if which == "all":
            return np.arange(len(self.ids))
        return np.flatnonzero(self.is_held_R == (which == "held_out"))


@lru_cache(maxsize=32)
def rules_of(classes: tuple[str, ...], size: int) -> Rules:
    """The rules of these classes.

    Args:
        classes: of CLASSES; "affine" stands alone.
        size: number of attributes (2^size symbols), of affine rules the modulus.

    Raises:
        ValueError: a class that is unknown or mixed with affine.
    """
    odd = [name for name in classes if name not in CLASSES]
    if odd or not classes or ("affine" in classes and len(classes) > 1):
        raise ValueError(
            f"classes = {classes!r} is not accepted: some of {CLASSES[:-1]}, or {CLASSES[-1:]} alone"
        )
    ids, labels, held = [], [], []
    for name in classes:
        found = dict(_affine(size) if name == "affine" else _boolean(name, size))
        lowest = sorted(found, key=lambda rule: int(key_of("rule", rule)))[: len(found) // HELD_SHARE]
        ids += found
        labels += found.values()
        held += [rule in lowest for rule in found]
    n_label = size if classes == ("affine",) else 2
    return Rules(tuple(ids), np.array(labels, dtype=np.int8), np.array(held), n_label)


def attributes(size: int) -> np.ndarray:
    """(X, size) bits of each symbol."""
    return np.arange(2**size)[:, None] >> np.arange(size - 1, -1, -1) & 1


def _boolean(name: str, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """(id, labels) of all rules of a class, such as "1=0 and 3=1"."""
    bit_XK = attributes(size)
    if name == "literal":
        for at, value in product(range(size), (0, 1)):
            yield f"{at}={value}", bit_XK[:, at] == value
        return
    for one, two in combinations(range(size), 2):
        if name == "xor":
            for value in (0, 1):
                yield f"{one} xor {two} = {value}", (bit_XK[:, one] ^ bit_XK[:, two]) == value
            continue
        join = np.logical_and if name == "and" else np.logical_or
        for first, second in product((0, 1), repeat=2):
            yield (
                f"{one}={first} {name} {two}={second}",
                join(bit_XK[:, one] == first, bit_XK[:, two] == second),
            )


def _affine(modulus: int) -> Iterator[tuple[str, np.ndarray]]:
    """(id, labels) of all a x + b with a above 0."""
    for a, b in product(range(1, modulus), range(modulus)):
        yield f"{a}x+{b} mod {modulus}", (a * np.arange(modulus) + b) % modulus
