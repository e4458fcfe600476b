"""Levels of synthetic tasks as training streams and fixed evaluation sets.

Legend: N example, T position, C step, B batch, A answer token.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import torch

from lmbench.config import Config
from lmbench.records import no_items
from lmbench.tasks.base import IGNORE, Batch, Scores, Stream, TaskConfig, TaskData, View
from lmbench.tasks.certificate import compared
from lmbench.tasks.draws import GOLDEN, Draws, key_of, mixed
from lmbench.tasks.evaluation_set import EvaluationSet, evaluation_set
from lmbench.tasks.examples import examples, length, shift_into
from lmbench.tasks.ladder import Answered
from lmbench.tasks.rewrites import metrics_of_worst
from lmbench.tasks.symbols import PAD, VOCAB_SIZE
from lmbench.tasks.synthetic import SyntheticTask


class SyntheticStream(Stream):
    """Training batches: example B * step + b of the run's data_seed, each of an entry drawn by weight."""

    def __init__(self, data: "SyntheticData", run: Config, view: View) -> None:
        self.data, self.device, self.view = data, view.device, view
        self.seed, self.batch_size = run.data_seed, run.batch_size

    def index(self, first: int, count: int) -> dict[str, np.ndarray]:
        """`tokens` and `targets` (count, B, T), int8."""
        at_N = np.arange(first * self.batch_size, (first + count) * self.batch_size)
        tokens_NT, targets_NT = self.data.training_examples(self.seed, at_N, self.view.seq_len)
        shape = (count, self.batch_size, -1)
        return {"tokens": tokens_NT.reshape(shape), "targets": targets_NT.reshape(shape)}

    def batch(self, row: dict[str, torch.Tensor]) -> Batch:
        """See `Stream.batch`."""
        return _batch(row["tokens"], row["targets"], self.view)


class SyntheticData(TaskData):
    """One level of a task, or a mixture of several.

    Args:
        entries: levels and the weights with which training draws them.
    """

    vocab_size = VOCAB_SIZE

    def __init__(self, config: Config, *, entries: Sequence[tuple[SyntheticTask, float]]) -> None:
        self.config, self.entries = config, list(entries)
        self.length = max(length(task) for task, _ in self.entries)
        self._set = lru_cache(maxsize=8)(self._make_set)
        self._on_device = lru_cache(maxsize=8)(self._copy_set)

    # ---------------------------------------------------------------- training

    def stream(self, run: Config, view: View) -> SyntheticStream:
        """An endless stream.

        Raises:
            ValueError: a context too short, or a run that counts epochs.
        """
        self._check(run.protocol, view.seq_len)
        if run.epoch_windows is not None:
            raise ValueError(
                f"epoch_windows = {run.epoch_windows} is not accepted: {self.config.kind} never repeats"
            )
        return SyntheticStream(self, run, view)

    def training_examples(
        self, seed: int, index_N: np.ndarray, seq_len: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(N, seq_len) tokens and targets, int8, of the examples with these places in the stream."""
        draws = Draws(mixed(key_of(seed, "entry") + GOLDEN * index_N.astype(np.uint64)))
        entry_N = draws.choice(np.array([weight for _, weight in self.entries]))
        tokens_NT = np.zeros((len(index_N), seq_len), dtype=np.int8)
        targets_NT = np.full((len(index_N), seq_len), IGNORE, dtype=np.int8)
        for at, (task, _) in enumerate(self.entries):
            mine = np.flatnonzero(entry_N == at)
            if len(mine):
                written = examples(task, seed=seed, split="train", index_N=index_N[mine])
                is_target_NT = written.is_answer_NT if task.answers_only else written.tokens_NT != PAD
                shift_into(tokens_NT, targets_NT, mine, written.tokens_NT, is_target_NT)
        return tokens_NT, targets_NT

    def certificate(
        self, learned: TaskConfig, *, data_seed: int, eval_seed: int, seq_len: int
    ) -> dict[tuple[str, str], dict[str, tuple[float, int]]]:
        """See `TaskData.certificate`."""
        held, found = self._set("test", eval_seed, seq_len), {}
        for at, (task, _) in enumerate(self.entries):
            mine = held.entry_N == at
            tokens_NT, hash_N = held.tokens_NT[mine], held.hash_N[mine]
            found[task.kind, task.level_name] = compared(task, tokens_NT, hash_N, learned, seed=data_seed)
        return found

    # ---------------------------------------------------------------- evaluation

    def _check(self, protocol: Config, seq_len: int) -> None:
        if protocol.kind != "dense" or protocol.eval_bytes is not None:
            raise ValueError(
                f"{self.config.kind} is scored on its answers: protocol dense without eval_bytes"
            )
        if seq_len < self.length - 1:
            longest = max((task for task, _ in self.entries), key=length)
            raise ValueError(
                f"seq_len = {seq_len} is too short: an example of {longest.caption} needs {self.length - 1}"
            )

    def check_split(self, split: str, protocol: Config, seq_len: int) -> None:
        self._check(protocol, seq_len)

    def _make_set(self, split: str, eval_seed: int, seq_len: int) -> EvaluationSet:
        tasks = [task for task, _ in self.entries]
        return evaluation_set(tasks, split=split, eval_seed=eval_seed, seq_len=seq_len)

    def _copy_set(self, split: str, eval_seed: int, seq_len: int, device: torch.device) -> list[torch.Tensor]:
        held = self._set(split, eval_seed, seq_len)
        return [torch.from_numpy(part).to(device) for part in (held.tokens_NT, held.targets_NT)]

    def eval_batches(self, split: str, protocol: Config, view: View, *, eval_seed: int) -> Iterator[Batch]:
        self._check(protocol, view.seq_len)
        tokens_NT, targets_NT = self._on_device(split, eval_seed, view.seq_len, view.device)
        rows = max(1, view.eval_tokens // view.seq_len)
        for tokens_BT, targets_BT in zip(tokens_NT.split(rows), targets_NT.split(rows), strict=True):
            yield _batch(tokens_BT, targets_BT, view)

    def summarise(
        self,
        split: str,
        protocol: Config,
        view: View,
        nll_N: np.ndarray,
        correct_N: np.ndarray,
        *,
        items: bool = True,
        eval_seed: int = 0,
    ) -> Scores:
        held = self._set(split, eval_seed, view.seq_len)
        nll_NA, correct_NA = _by_example(held.targets_NT != IGNORE, nll_N, correct_N)
        levels, solved_N, wanted = {}, np.zeros(len(nll_NA)), []
        for at, (task, _) in enumerate(self.entries):
            mine = held.entry_N == at
            answered = Answered(nll_NA=nll_NA[mine], correct_NA=correct_NA[mine], kind_N=held.kind_N[mine])
            levels[task.kind, task.level_name] = _level_metrics(task, answered)
            solved_N[mine] = task.solved_N(answered)
            wanted.append(task.as_wanted(answered))
        # Runs are chosen by this nll, so targets that are to be avoided count as their opposite.
        metrics = {
            # NaN stands for no target below, so a model that gives it is told apart here.
            "nll": (
                _mean_of(one.nll_NA for one in wanted) if np.isfinite(nll_N).all() else math.nan,
                len(nll_N),
            ),
            "accuracy": (_mean_of(one.correct_NA for one in wanted), len(nll_N)),
        }
        table = _items(nll_NA, solved_N) if items else no_items()
        return Scores(metrics=metrics, items=table, levels=levels)

    def eval_hash(self, split: str, protocol: Config, *, eval_seed: int) -> str:
        held = self._set(split, eval_seed, self.length)
        return hashlib.sha256(held.tokens_NT.tobytes() + held.targets_NT.tobytes()).hexdigest()


def _batch(tokens_BT: torch.Tensor, targets_BT: torch.Tensor, view: View) -> Batch:
    """Nothing comes before an example, which is all that a window model is told."""
    context_BK = None
    if view.is_window:
        context_BK = tokens_BT.new_full((*tokens_BT.shape[:-1], view.seq_len - 1), -1).long()
    return Batch(tokens_BT=tokens_BT.long(), targets_BT=targets_BT.long(), context_BK=context_BK)


def _by_example(
    is_target_NT: np.ndarray, nll_M: np.ndarray, correct_M: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of targets in reading order as (N, A), NaN past the end of an answer."""
    count_N = is_target_NT.sum(axis=1)
    there_NA = np.arange(count_N.max()) < count_N[:, None]
    out = np.full((2, *there_NA.shape), np.nan)
    out[0][there_NA], out[1][there_NA] = nll_M, correct_M
    return out[0], out[1]


def _level_metrics(task: SyntheticTask, answered: Answered) -> dict[str, tuple[float, int]]:
    """A task's own metrics; with rewrites, the worst of them."""
    if task.rewrites == 1:
        return task.metrics(answered)
    return metrics_of_worst(answered, task.solved_N(answered), rewrites=task.rewrites)


def _mean_of(parts: Iterable[np.ndarray]) -> float:
    """Mean over all targets of all entries."""
    flat = np.concatenate([part.ravel() for part in parts])
    return float(flat[~np.isnan(flat)].mean())


def _items(nll_NA: np.ndarray, solved_N: np.ndarray) -> pd.DataFrame:
    """One row an example; `correct` says whether it is solved."""
    return pd.DataFrame(
        {
            "item": np.arange(len(nll_NA)),
            "nll": np.nansum(nll_NA, axis=1),
            "n": (~np.isnan(nll_NA)).sum(axis=1),
            "bytes": 0,
            "correct": solved_N,
        }
    )
