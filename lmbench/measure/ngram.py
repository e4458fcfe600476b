"""Interpolated n-gram models, counted exactly and scored in whole arrays.

The predictor that a small neural model has to beat. An order is a number of preceding
tokens: order 0 is the unigram, order 4 predicts from four tokens. Each order mixes what
it counted after a history h with the next lower order,

    P_j(w | h) = share_j(h, w) + rest_j(h) P_{j-1}(w | h without its oldest token),

down to the uniform distribution over the vocabulary, so that the sum over all tokens is
exactly 1 for every history, seen or not. Witten-Bell: share = c(hw) / (N + T), rest =
T / (N + T), with N tokens and T different tokens counted after h (Bell, Cleary & Witten
1990, method C). Kneser-Ney: share = (c - D) / N with a discount D of the count, and lower
orders that count in how many different contexts a gram occurs (Chen & Goodman 1999).

Nothing is hashed. A gram of j + 1 tokens is numbered by the rank of (number of its first j
tokens) * V + its last token, which fits 64 bits at any vocabulary and corpus size here.
The same number names a gram as an event of order j and as a history of order j + 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lmbench.errors import unknown

SMOOTHINGS = ("witten_bell", "kneser_ney", "modified_kneser_ney")


@dataclass(frozen=True)
class _Mix:
    """What one order adds: share of each known gram, rest of each known history."""

    share: np.ndarray
    rest: np.ndarray


@dataclass(frozen=True)
class _Level:
    """The grams of one order: their sorted keys, and their mixes as highest and as lower order."""

    keys: np.ndarray
    highest: _Mix
    lower: _Mix


class NGram:
    """Interpolated n-grams of every order up to `max_order`, fitted at construction.

    Args:
        documents: arrays of token ids; no history crosses from one to the next.
        vocab_size: ids are 0 ... vocab_size - 1, and all of them have a probability.
        max_order: the most preceding tokens that a prediction uses; 0 is the unigram.
        smoothing: "witten_bell", "kneser_ney" (one discount per order) or
            "modified_kneser_ney" (three).

    Raises:
        ValueError: an unknown smoothing, a negative order, no tokens, an id out of range.
    """

    def __init__(
        self,
        documents: Sequence[np.ndarray],
        *,
        vocab_size: int,
        max_order: int,
        smoothing: str = "witten_bell",
    ) -> None:
        if smoothing not in SMOOTHINGS:
            raise ValueError(unknown("smoothing", smoothing, SMOOTHINGS))
        if max_order < 0:
            raise ValueError(f"order is {max_order}; it counts preceding tokens, so it is 0 or more")
        self.vocab_size, self.max_order, self.smoothing = vocab_size, max_order, smoothing
        tokens, positions = flatten(documents, vocab_size=vocab_size)
        if not len(tokens):
            raise ValueError("an n-gram model needs at least 1 training token, got 0")
        self._levels = self._fit(tokens, positions)

    def _fit(self, tokens: np.ndarray, positions: np.ndarray) -> list[_Level]:
        counted = []
        grams = np.zeros(0, np.int64)
        for order in range(self.max_order + 1):
            histories = _histories(grams, positions, order=order)
            n_histories = len(counted[-1][0]) if counted else 1
            inside = histories >= 0
            # Only where documents are long enough for this order; the others end at a lower one.
            keys, ranks, counts = np.unique(
                histories[inside] * self.vocab_size + tokens[inside], return_inverse=True, return_counts=True
            )
            shorter, grams = grams, np.full(len(tokens), -1)
            grams[inside] = ranks
            if counted and self.smoothing != "witten_bell":
                counted[-1][2] = _left_contexts(shorter, grams, positions, order=order, n=n_histories)
            counted.append([keys, counts, counts, n_histories])
        return [self._level(*entry) for entry in counted]

    def _level(self, keys: np.ndarray, counts: np.ndarray, contexts: np.ndarray, n_histories: int) -> _Level:
        highest = self._mix(keys, counts, n_histories)
        lower = highest if contexts is counts else self._mix(keys, contexts, n_histories)
        return _Level(keys, highest, lower)

    def _mix(self, keys: np.ndarray, counts: np.ndarray, n_histories: int) -> _Mix:
        history = keys // self.vocab_size
        total = np.bincount(history, weights=counts, minlength=n_histories)
        if self.smoothing == "witten_bell":
            kept, taken = counts, np.bincount(history, minlength=n_histories)
            total = total + taken
        else:
            discount = _discounts(counts, modified=self.smoothing != "kneser_ney")[np.minimum(counts, 3)]
            kept, taken = counts - discount, np.bincount(history, weights=discount, minlength=n_histories)
        # A history that only ends documents was never continued: everything is left to the lower order.
        rest = np.divide(taken, total, out=np.ones(n_histories), where=total > 0)
        return _Mix(kept / total[history], rest)

    def nll_by_order(self, documents: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each order from 0 to `max_order` with the nats of every token, documents end to end.

        Token i of a document is predicted from at most its i predecessors.
        """
        tokens, positions = flatten(documents, vocab_size=self.vocab_size)
        lower = np.full(len(tokens), 1 / self.vocab_size)
        grams = np.zeros(0, np.int64)
        for order, level in enumerate(self._levels):
            histories = _histories(grams, positions, order=order)
            grams = _find(level.keys, histories, tokens, vocab_size=self.vocab_size)
            yield order, -np.log(_mixed(level.highest, histories, grams, lower))
            lower = _mixed(level.lower, histories, grams, lower)

    def distribution(self, history: np.ndarray, *, order: int) -> np.ndarray:
        """Probability of every token after `history` (ids, oldest first), by the given order."""
        ids = np.asarray(history, np.int64)
        followed = [np.append(ids, token) for token in range(self.vocab_size)]
        nll = dict(self.nll_by_order(followed))[order]
        return np.exp(-nll.reshape(self.vocab_size, -1)[:, -1])


def flatten(documents: Sequence[np.ndarray], *, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """All tokens end to end, and the position of each within its document.

    Raises:
        ValueError: a bare array where a list of documents belongs, or an id out of range.
    """
    if isinstance(documents, np.ndarray) and documents.ndim == 1:
        raise ValueError("documents must be a list of id arrays, got one array; write [ids]")
    arrays = [np.asarray(document, np.int64) for document in documents]
    tokens = np.concatenate([*arrays, np.zeros(0, np.int64)])
    positions = np.concatenate([*(np.arange(len(array)) for array in arrays), np.zeros(0, np.int64)])
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocab_size:
        worst = tokens.min() if tokens.min() < 0 else tokens.max()
        raise ValueError(f"token id {worst} is outside the vocabulary 0 ... {vocab_size - 1}")
    return tokens, positions


def _histories(grams: np.ndarray, positions: np.ndarray, *, order: int) -> np.ndarray:
    """Number of the history of `order` tokens before each position; -1 unknown or too short."""
    if order == 0:
        return np.zeros(len(positions), np.int64)
    before = np.concatenate([[-1], grams[:-1]])[: len(positions)]
    return np.where(positions >= order, before, -1)


def _find(keys: np.ndarray, histories: np.ndarray, tokens: np.ndarray, *, vocab_size: int) -> np.ndarray:
    """Number of each gram, -1 where it was never counted. An unknown history matches no key."""
    if not len(keys):
        return np.full(len(tokens), -1)
    wanted = np.where(histories >= 0, histories * vocab_size + tokens, -1)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)


def _mixed(mix: _Mix, histories: np.ndarray, grams: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """share + rest * lower. The appended entry is what index -1 reads: share 0, rest 1."""
    return np.append(mix.share, 0.0)[grams] + np.append(mix.rest, 1.0)[histories] * lower


def _left_contexts(
    shorter: np.ndarray, longer: np.ndarray, positions: np.ndarray, *, order: int, n: int
) -> np.ndarray:
    """In how many different left contexts each shorter gram occurs; a document's start is one.

    Counting the start keeps every gram at 1 or more, as a start symbol would.
    """
    inside = longer >= 0
    ending = np.zeros(longer.max(initial=-1) + 1, np.int64)
    ending[longer[inside]] = shorter[inside]
    at_start = np.zeros(n, np.int64)
    at_start[shorter[(positions == order - 1) & (shorter >= 0)]] = 1
    return np.bincount(ending, minlength=n) + at_start


def _discounts(counts: np.ndarray, *, modified: bool) -> np.ndarray:
    """What is taken from a count of 0, 1, 2, and 3 or more.

    Y = n1 / (n1 + 2 n2) with n_k the number of grams counted k times; modified Kneser-Ney
    has D1 = Y (equal to 1 - 2 Y n2 / n1), D2 = 2 - 3 Y n3 / n2, D3 = 3 - 4 Y n4 / n3. We
    add half to each n_k and keep D2 and D3 at least Y: the formulas are undefined or give 0
    on small tables, and a discount of 0 would leave unseen tokens without probability.
    """
    n1, n2, n3, n4 = (np.count_nonzero(counts == k) + 0.5 for k in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    if not modified:
        return np.array([0.0, y, y, y])
    return np.array([0.0, y, max(y, 2 - 3 * y * n3 / n2), max(y, 3 - 4 * y * n4 / n3)])
