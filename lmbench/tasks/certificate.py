"""The contamination certificate: what test examples share with training examples, measured.

Splits are apart by construction, since the hash of the canonical form decides them; that is only worth
something if the form is what it should be. So whole texts are compared too, with those of every level
of the same task that was learned.

Legend: N example, T position.
"""

import numpy as np

from lmbench.tasks.base import TaskConfig
from lmbench.tasks.examples import examples, shift_into
from lmbench.tasks.synthetic import SyntheticTask

COMPARED = 8192  # training examples of each learned level


def compared(
    task: SyntheticTask, tokens_NT: np.ndarray, hash_N: np.ndarray, learned: TaskConfig, *, seed: int
) -> dict[str, tuple[float, int]]:
    """Metrics of one level, see `TaskData.certificate`.

    Args:
        tokens_NT: model input of its test examples.
        hash_N: of their canonical forms.
        learned: the task of the weights that are scored.
        seed: of its training data.
    """
    forms, texts, index_N = [np.zeros(0, dtype=np.uint64)], set(), np.arange(COMPARED)
    shown = [one for one in learned.levels if one.kind == task.kind]
    for one in shown:
        made = examples(one, seed=seed, split="train", index_N=index_N)
        forms += [made.hash_N] * (one.level == task.level)  # levels are hashed under keys of their own
        seen_NT = np.zeros((COMPARED, tokens_NT.shape[1]), dtype=np.int8)
        shift_into(seen_NT, seen_NT.copy(), index_N, made.tokens_NT, made.is_answer_NT)
        texts |= {row.tobytes() for row in seen_NT}
    n, verbatim = COMPARED * len(shown), sum(row.tobytes() in texts for row in tokens_NT)
    return {
        "overlap": (float(np.isin(hash_N, np.concatenate(forms)).sum()), n),
        "verbatim": (float(verbatim), n),
        "distinct": (float(len(np.unique(hash_N))), len(hash_N)),
        "log2_space": (task.log2_space(), 1),
    }
