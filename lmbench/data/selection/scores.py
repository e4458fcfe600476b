"""What a unit is worth and how hard it is: numbers of each unit, from the training text alone.

- nll: nats per byte under an n-gram that was counted on all *other* units. A model that had counted
  the unit itself would call everything easy that it has seen once.
- compression: bytes of the unit compressed by zlib at its strongest, per byte.
- length: tokens.
- loss, excess: nats per byte of a reference, and by how much another predictor's are above them.

The n-gram is the interpolated Witten-Bell model of `measure.ngram` (same formula, see there) with
the unit's own counts taken away from every count, total and number of different continuations, so
one pass gives what a fit for each unit would. No validation text is ever read.

Legend: N position, U unit, D domain, G gram.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from lmbench.data.selection.units import Units


def ngram_nll(units: Units, *, vocab_size: int, order: int) -> list[np.ndarray]:
    """Nats of each token from at most `order` predecessors in its unit, by counts of the other units.

    Returns:
        For each order 0 .. order an array (N,), NaN outside the units.

    Source: Bell, Cleary & Witten 1990, method C, interpolated.
    """
    inside_N = units.unit_N() >= 0
    unit_N = units.unit_N()[inside_N]
    token_N = units.ids_N[inside_N].astype(np.int64)
    position_N = np.arange(len(units.ids_N))[inside_N] - units.start_U[unit_N]
    lower_N = np.full(len(token_N), 1 / vocab_size)
    history_N, out = np.zeros(len(token_N), np.int64), []
    for depth in range(order + 1):
        gram_N = np.full(len(token_N), -1)
        deep_N = position_N >= depth
        mixed, gram_N[deep_N] = _without_own(
            unit_N[deep_N], history_N[deep_N], token_N[deep_N], lower_N[deep_N], vocab_size=vocab_size
        )
        lower_N = lower_N.copy()
        lower_N[deep_N] = mixed
        whole_N = np.full(len(units.ids_N), np.nan)
        whole_N[inside_N] = -np.log(lower_N)
        out.append(whole_N)
        history_N = np.concatenate([[-1], gram_N[:-1]])  # the gram that ends just before each token
    return out


def _without_own(
    unit_N: np.ndarray, history_N: np.ndarray, token_N: np.ndarray, lower_N: np.ndarray, *, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of one order from those of the next lower one, and the number of each gram."""
    key_G, gram_N, count_G = np.unique(
        history_N * vocab_size + token_N, return_inverse=True, return_counts=True
    )
    history_G = key_G // vocab_size
    n_histories = int(history_N.max(initial=0)) + 1
    total_H = np.bincount(history_G, weights=count_G, minlength=n_histories)
    types_H = np.bincount(history_G, minlength=n_histories)
    # The same for what each unit contributed: P are pairs (unit, gram), Q pairs (unit, history).
    pair_P, at_N, own_P = np.unique(
        unit_N * np.int64(len(key_G)) + gram_N, return_inverse=True, return_counts=True
    )
    gram_P, unit_P = pair_P % max(1, len(key_G)), pair_P // max(1, len(key_G))
    only_P = own_P == count_G[gram_P]  # grams that no other unit has: no type of theirs
    _, at_P = np.unique(unit_P * np.int64(n_histories) + history_G[gram_P], return_inverse=True)
    own_total_Q, own_types_Q = np.bincount(at_P, weights=own_P), np.bincount(at_P, weights=only_P)
    count_N = count_G[gram_N] - own_P[at_N]
    total_N = total_H[history_N] - own_total_Q[at_P][at_N]
    types_N = types_H[history_N] - own_types_Q[at_P][at_N]
    known_N = total_N > 0
    mixed_N = np.where(
        known_N, (count_N + types_N * lower_N) / np.where(known_N, total_N + types_N, 1), lower_N
    )
    return mixed_N, gram_N


def per_byte(units: Units, nll_N: np.ndarray) -> np.ndarray:
    """(U,) nats per byte; tokens without a prediction (NaN) count neither nats nor bytes."""
    predicted_N = ~np.isnan(nll_N)
    nats_U = units.sums(np.where(predicted_N, nll_N, 0.0))
    return nats_U / np.maximum(units.sums(np.where(predicted_N, units.bytes_N, 0)), 1)


def excess(student_N: np.ndarray, reference_N: np.ndarray) -> np.ndarray:
    """(N,) how much worse the student is than the reference, clipped at 0; NaN where one is silent."""
    return np.maximum(student_N - reference_N, 0.0)


def compression(texts: Sequence[bytes]) -> np.ndarray:
    """(U,) compressed bytes per byte of each text on its own; higher is harder."""
    return np.array([len(zlib.compress(text, 9)) / max(1, len(text)) for text in texts])


def percentile(score_U: np.ndarray, *, domain_U: np.ndarray) -> np.ndarray:
    """(U,) in (0, 1): the share of its own domain that lies below a unit, equal scores sharing their mean.

    Domains differ in level, so that a plain ranking would first take one domain and then the next.
    """
    out_U = np.zeros(len(score_U))
    for domain in np.unique(domain_U):
        members = np.flatnonzero(domain_U == domain)
        _, level, count = np.unique(score_U[members], return_inverse=True, return_counts=True)
        below = np.cumsum(count) - count
        out_U[members] = (below[level] + count[level] / 2) / len(members)
    return out_U
