"""The fixed examples that synthetic tasks are scored on.

They are a function of levels, split and eval_seed, so every model answers the same questions. The
order in which they stand is that in which scores come back, and what is known of each example (its
form, its kind, its level) stands beside it.

Legend: N example, T position.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lmbench.tasks.base import IGNORE
from lmbench.tasks.examples import examples, shift_into
from lmbench.tasks.synthetic import SyntheticTask


class EvaluationSet(NamedTuple):
    """The examples of a split, entry after entry, rewrites of an example one after the other."""

    tokens_NT: np.ndarray
    targets_NT: np.ndarray
    hash_N: np.ndarray
    kind_N: np.ndarray
    entry_N: np.ndarray


def evaluation_set(
    tasks: Sequence[SyntheticTask], *, split: str, eval_seed: int, seq_len: int
) -> EvaluationSet:
    """The set of some levels: the first `n_eval` examples of the seed, in all their writings.

    Args:
        seq_len: tokens of a row; must hold the longest example but for its last token.
    """
    n = sum(task.n_eval * task.rewrites for task in tasks)
    tokens_NT = np.zeros((n, seq_len), dtype=np.int8)
    targets_NT = np.full((n, seq_len), IGNORE, dtype=np.int8)
    rest: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    used = 0
    for at, task in enumerate(tasks):
        index_N = np.arange(task.n_eval)
        for rewrite in range(task.rewrites):
            made = examples(task, seed=eval_seed, split=split, index_N=index_N, rewrite=rewrite)
            place = used + index_N * task.rewrites + rewrite
            shift_into(tokens_NT, targets_NT, place, made.tokens_NT, made.is_answer_NT)
            rest.append((place, made.hash_N, made.kind_N, np.full(task.n_eval, at)))
        used += task.n_eval * task.rewrites
    place, *others = (np.concatenate(part) for part in zip(*rest, strict=True))
    hash_N, kind_N, entry_N = (part[np.argsort(place)] for part in others)
    return EvaluationSet(tokens_NT, targets_NT, hash_N, kind_N, entry_N)
