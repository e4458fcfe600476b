"""Redundancy: exact copies by comparison of bytes, near copies by MinHash with banded hashing.

Two units are as similar as their sets of shingles (runs of 5 tokens), measured by Jaccard's
|A and B| / |A or B| = j. A MinHash of P numbers agrees with another in a share of them that
estimates j with standard deviation sqrt(j (1 - j) / P) (Broder 1997). Cut into b bands of r
numbers, two units become candidates if one whole band agrees: Pr = 1 - (1 - j^r)^b, an S-curve
whose knee lies near (1/b)^(1/r). Candidates are then compared exactly, so hashing can only miss a
pair, never invent one. What is dropped is the later of two; a unit is compared with what is kept.

Training text is also compared with validation and test text. A copy may begin anywhere in it, so
held-out text is cut at every quarter of a piece: a copied piece of L tokens then shares at least
7/8 L with one of them, a Jaccard of about 7/9, above the default threshold. That is where the default
16 bands of 8 rows compare two units with probability 0.90, so one in ten of the worst placed copies
stays; `exact` finds them all where they are verbatim. A unit of l < L tokens, as the last one of a
document is, meets pieces of L tokens too, of which it is at most l/L: near copies below that
threshold, by default 0.7 L, stay unless they are verbatim.

Source: Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, section 3.4; Lee et al. 2021
(arXiv:2107.06499). Legend: N position, U unit, S shingle.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

LONG = 32  # tokens from which a unit's verbatim place in held-out text is no coincidence
HASH_SEED = 1  # of the permutations: a choice of data does not depend on a run's seeds here


@dataclass(frozen=True, kw_only=True)
class MinHashing:
    """How near copies are found."""

    bands: int = 16
    rows: int = 8
    """The signature has bands x rows numbers."""
    shingle: int = 5
    """Tokens of a shingle; a unit with fewer has no near copies."""
    similar: float = 0.7
    """Least exact Jaccard of two units of which one is dropped."""

    @property
    def permutations(self) -> int:
        """P, the numbers of a signature."""
        return self.bands * self.rows


@dataclass
class Found:
    """Units to drop, why, and what finding them took."""

    copy_of: dict[int, int] = field(default_factory=dict)
    """Dropped unit -> the kept unit that it copies; -1 for held-out text."""
    jaccard: dict[int, float] = field(default_factory=dict)
    """Dropped unit -> exact Jaccard with it; 1 for exact copies."""
    counts: dict[str, int] = field(default_factory=dict)
    """Work done: shingles, permuted hashes, candidates compared."""


def knee(bands: int, rows: int) -> float:
    """The Jaccard near which the probability of becoming a candidate rises fastest."""
    return (1 / bands) ** (1 / rows)


def candidate_probability(jaccard: float, *, bands: int, rows: int) -> float:
    """How likely two units of this similarity are compared at all."""
    return 1 - (1 - jaccard**rows) ** bands


def estimate_sd(jaccard: float, *, permutations: int) -> float:
    """Standard deviation of the share of equal MinHash numbers as an estimate of the Jaccard."""
    return math.sqrt(jaccard * (1 - jaccard) / permutations)


def exact(units: Sequence[np.ndarray], *, held_out: Sequence[np.ndarray] = ()) -> Found:
    """Units that an earlier unit equals; those of `LONG` tokens or more also if held-out text holds them."""
    found, first = Found(), {}
    texts = ["".join(map(chr, _printable(document))) for document in held_out]
    for unit, ids in enumerate(units):
        original = first.setdefault(ids.astype("<i8").tobytes(), unit)
        if original == unit:
            wanted = "".join(map(chr, _printable(ids)))
            if len(ids) < LONG or not any(wanted in text for text in texts):
                continue
            original = -1
        found.copy_of[unit], found.jaccard[unit] = original, 1.0
    found.counts = {"compared_exactly": len(units) * (1 + len(texts))}
    return found


def _printable(ids: np.ndarray) -> list[int]:
    """Ids as code points that form a string: those of surrogates are stepped over, as str.find is fast."""
    shifted = np.where(ids < 0xD800, ids, ids + 0x800)
    if len(ids) and shifted.max() > 0x10FFFF:
        raise ValueError(f"token id {ids.max()} is too large for the search of exact copies in held-out text")
    return shifted.tolist()


def near(
    units: Sequence[np.ndarray], *, how: MinHashing, held_out: Sequence[np.ndarray] = (), piece: int | None
) -> Found:
    """Units that are near copies of an earlier kept one, or of a part of held-out text.

    Args:
        held_out: documents of validation and test.
        piece: tokens of a unit, by which held-out text is cut; None compares whole documents.
    """
    from datasketch import MinHash, MinHashLSH

    known = [part for document in held_out for part in _overlapping(document, piece)]
    sets = shingles([*known, *units], size=how.shingle)
    blank = MinHash(num_perm=how.permutations, seed=HASH_SEED, hashfunc=int, scheme="affine32")
    index = MinHashLSH(num_perm=how.permutations, params=(how.bands, how.rows))
    found, compared = Found(), 0
    for at, numbers in enumerate(sets):
        if not len(numbers):
            continue
        sketch = blank.copy()
        sketch.update_batch(numbers)
        unit = at - len(known)
        if unit >= 0:
            candidates = sorted(index.query(sketch))
            compared += len(candidates)
            best = max(((jaccard(numbers, sets[other]), -other) for other in candidates), default=(0.0, 0))
            if best[0] >= how.similar:
                found.copy_of[unit] = max(-1, -best[1] - len(known))
                found.jaccard[unit] = best[0]
                continue
        index.insert(at, sketch, check_duplication=False)
    n_shingles = sum(map(len, sets))
    found.counts = {
        "shingles": n_shingles,
        "permuted_hashes": n_shingles * how.permutations,
        "candidates_compared": compared,
    }
    return found


def shingles(texts: Sequence[np.ndarray], *, size: int) -> list[np.ndarray]:
    """The set of runs of `size` tokens of each text, sorted, as numbers that are equal where runs are.

    Nothing is hashed: a run is numbered by its rank among all, which one more token at a time refines.
    """
    lengths = np.array([max(0, len(text) - size + 1) for text in texts], dtype=np.int64)
    ends = np.cumsum(lengths)
    rank_S = np.zeros(int(lengths.sum()), dtype=np.int64)
    for offset in range(size):
        shifted = [
            text[offset : offset + length] for text, length in zip(texts, lengths.tolist(), strict=True)
        ]
        token_S = np.concatenate([*shifted, np.zeros(0, np.int64)]).astype(np.int64)
        width = int(token_S.max(initial=0)) + 1
        rank_S = np.unique(rank_S * width + token_S, return_inverse=True)[1]
    assert rank_S.max(initial=0) < 1 << 32, "shingles are numbered in 32 bits"
    return [np.unique(rank_S[end - length : end]) for end, length in zip(ends, lengths, strict=True)]


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """|A and B| / |A or B| of two sorted sets."""
    both = len(np.intersect1d(one, other, assume_unique=True))
    either = len(one) + len(other) - both
    return both / either if either else 0.0


def _overlapping(document: np.ndarray, piece: int | None) -> list[np.ndarray]:
    """Pieces of a document that begin at every quarter of a piece."""
    if piece is None or len(document) <= piece:
        return [document]
    step = max(1, piece // 4)
    last = len(document) - piece
    return [document[at : at + piece] for at in [*range(0, last, step), last]]
