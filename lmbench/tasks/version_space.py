"""What can be known of a hidden rule after some shots, by enumeration: exact, no sampling.

An episode draws a rule, a query symbol and n shots, each any of the other symbols, with replacement. What
the shots tell depends only on the set S of symbols among them: the version space of a rule is all rules
that agree with it on S. So results are means over all sets of k symbols and queries outside them, for
each k, and those for n shots are their means under the distribution of k (`distinct_share`).

Legend: M set of symbols (a mask), X symbol (as a query), R scored rule, N set and rule, O those that are
not plain, P rule of a prior, V label, D distance, K number of distinct symbols in the shots.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

CHUNK = 1024  # sets enumerated at once: what they need fits a processor's cache


class ByDistinct(NamedTuple):
    """Expected results of a strategy for each number of distinct symbols, 0 to all but the query."""

    score_K: np.ndarray
    nll_K: np.ndarray
    """Nats of the label; infinite where the strategy rules out what happens."""

    def at(self, shots: int) -> tuple[float, float]:
        """Score and nats after so many shots."""
        share_K = distinct_share(shots, n_symbol=len(self.score_K) - 1)
        happens = share_K > 0
        return float(share_K @ self.score_K), float(share_K[happens] @ self.nll_K[happens])


def posterior(label_RX: np.ndarray, *, n_label: int, scored: np.ndarray, prior: np.ndarray) -> ByDistinct:
    """Results of predicting by the posterior; ties, and shots that no rule of the prior makes, are guessed.

    Args:
        scored: places of the rules that episodes draw, uniformly.
        prior: places of the rules that the strategy holds possible, all alike.
    """
    n_symbol, n_scored = label_RX.shape[1], len(scored)
    gives_VPX = (label_RX[prior] == np.arange(n_label)[:, None, None]).astype(np.float32)
    differ_RP = (label_RX[scored][:, None] != label_RX[prior]) @ (1 << np.arange(n_symbol)).astype(np.uint32)
    is_held_possible_R = np.isin(scored, prior)
    sums = _Sums(n_symbol)
    for mask_M in _sets(n_symbol):
        agrees_NP = ((differ_RP & mask_M[:, None, None].astype(np.uint32)) == 0).reshape(-1, len(prior))
        # A rule alone in its version space is known: only the others need the sums, which cost most.
        open_N = np.flatnonzero((agrees_NP.sum(axis=1) != 1) | ~np.tile(is_held_possible_R, len(mask_M)))
        score_NX = np.ones((len(agrees_NP), n_symbol), dtype=np.float32)
        nats_NX = np.zeros_like(score_NX)
        if len(open_N):
            agrees_OP, truth_OX = agrees_NP[open_N].astype(np.float32), label_RX[scored][open_N % n_scored]
            score_NX[open_N], nats_NX[open_N] = _predicted(agrees_OP, gives_VPX, truth_OX)
        shape = (len(mask_M), n_scored, n_symbol)
        sums.add(mask_M, score_NX.reshape(shape), nats_NX.reshape(shape))
    return sums.means()


def _predicted(
    agrees_OP: np.ndarray, gives_VPX: np.ndarray, truth_OX: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(O, X) credit and nats of the posterior for the true labels, each row a set and a rule."""
    belief_V = [agrees_OP @ gives_PX for gives_PX in gives_VPX]
    best_OX, total_OX = np.maximum.reduce(belief_V), np.add.reduce(belief_V)
    ties_OX = np.add.reduce([belief_OX == best_OX for belief_OX in belief_V], dtype=np.float32)
    own_OX = belief_V[0].copy()
    for label in range(1, len(belief_V)):
        np.copyto(own_OX, belief_V[label], where=truth_OX == label)
    with np.errstate(divide="ignore", invalid="ignore"):
        nats_OX = np.where(own_OX > 0, np.log(total_OX / own_OX), np.inf)
    return (own_OX == best_OX) / ties_OX, nats_OX


def nearest(label_RX: np.ndarray, *, scored: np.ndarray, distance_XX: np.ndarray) -> ByDistinct:
    """Results of the more frequent of two labels among the distinct shots nearest to the query."""
    n_symbol = label_RX.shape[1]
    # Which symbols have the label of the query, as a mask for each rule and query.
    alike_RX = (label_RX[scored][:, :, None] == label_RX[scored][:, None]) @ (1 << np.arange(n_symbol))
    shells_DX = [(distance_XX == d) @ (1 << np.arange(n_symbol)) for d in np.unique(distance_XX)]
    sums = _Sums(n_symbol)
    for mask_M in _sets(n_symbol):
        near_MX = np.zeros((len(mask_M), n_symbol), dtype=np.int64)
        for shell_X in shells_DX:
            near_MX = np.where(near_MX == 0, mask_M[:, None] & shell_X, near_MX)
        near_M1X = near_MX.astype(np.uint32)[:, None]
        twice_MRX = 2 * np.bitwise_count(near_M1X & alike_RX.astype(np.uint32)).astype(np.int8)
        all_M1X = np.bitwise_count(near_M1X).astype(np.int8)
        credit_MRX = ((twice_MRX > all_M1X) + np.float32(0.5) * (twice_MRX == all_M1X)).astype(np.float32)
        sums.add(mask_M, credit_MRX, np.full_like(credit_MRX, np.nan))
    return sums.means()


def count_forms(label_RX: np.ndarray, *, shots: int) -> int:
    """Distinct episodes of some rules as they are seen, but for the order of shots.

    They are queries times labelled multisets of shots. Of `shots` symbols with a support of k there are
    C(shots - 1, k - 1) multisets: each symbol once, the others anywhere among the k.
    """
    n_symbol, total = label_RX.shape[1], 0
    random_X = np.random.default_rng(0).integers(0, 2**63, size=(int(label_RX.max()) + 1, n_symbol))
    code_RX = random_X[label_RX, np.arange(n_symbol)]  # sums of two labellings differ, but by chance
    multisets_K = [
        math.comb(shots - 1, k - 1) if k and shots else int(k == shots) for k in range(n_symbol + 1)
    ]
    for mask_M in _sets(n_symbol):
        size_M = np.bitwise_count(mask_M).astype(np.int64)
        code_MR = np.sort((mask_M[:, None] >> np.arange(n_symbol) & 1) @ code_RX.T, axis=1)
        labellings_M = 1 + (code_MR[:, 1:] != code_MR[:, :-1]).sum(axis=1)
        total += int((np.array(multisets_K)[size_M] * (n_symbol - size_M) * labellings_M).sum())
    return total


def distinct_share(shots: int, *, n_symbol: int) -> np.ndarray:
    """(n_symbol + 1,) probability that so many distinct ones are among shots drawn from `n_symbol`."""
    share_K = np.zeros(n_symbol + 1)
    share_K[0] = 1.0
    known_K = np.arange(n_symbol + 1) / n_symbol
    for _ in range(shots):
        share_K = share_K * known_K + np.concatenate([[0.0], (share_K * (1 - known_K))[:-1]])
    return share_K


def _sets(n_symbol: int) -> Iterator[np.ndarray]:
    """Masks of all sets that leave a query."""
    for start in range(0, 2**n_symbol - 1, CHUNK):
        yield np.arange(start, min(start + CHUNK, 2**n_symbol - 1))


class _Sums:
    """Results added up by the size of the set, where the query is not in the set."""

    def __init__(self, n_symbol: int) -> None:
        self.n_symbol = n_symbol
        self.total = np.zeros((2, n_symbol))
        self.count_K = np.zeros(n_symbol)

    def add(self, mask_M: np.ndarray, score_MRX: np.ndarray, nats_MRX: np.ndarray) -> None:
        """Results of a chunk of sets."""
        is_out_MX = (mask_M[:, None] >> np.arange(self.n_symbol) & 1) == 0
        size_M = np.bitwise_count(mask_M).astype(np.int64)
        for total_K, part_MRX in zip(self.total, (score_MRX, nats_MRX), strict=True):
            part_MX = np.where(is_out_MX, part_MRX.sum(axis=1, dtype=np.float64), 0)
            np.add.at(total_K, size_M, part_MX.sum(axis=1))
        np.add.at(self.count_K, size_M, is_out_MX.sum(axis=1) * score_MRX.shape[1])

    def means(self) -> ByDistinct:
        """For each size, 0 to n_symbol - 1."""
        return ByDistinct(*(self.total / self.count_K))
