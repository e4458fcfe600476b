"""Scoring all replicas of a program at once, in float32 or better, as a graph of its own on a GPU.

Legend: R replica, P parameter, B batch, T position.
"""

import torch
from torch import Tensor

from lmbench.measure.score import score_split, target_scores, true_float32
from lmbench.run import Run
from lmbench.tasks.base import Batch, Scores, TaskData, View
from lmbench.training.capture import CapturedScorer, free_memory
from lmbench.training.distributed import Ranks
from lmbench.training.replicas import Replicas

MAX_TOKENS = 1 << 19  # of a batch over all replicas, on a GPU
MAX_LOGITS = 1 << 28  # the same, times vocabulary: 1 GiB of float32


class Scorer:
    """Scores weights of the replicas on splits of a task."""

    def __init__(self, run: Run, replicas: Replicas, data: TaskData, view: View, ranks: Ranks) -> None:
        self.run, self.replicas, self.data, self.view, self.ranks = run, replicas, data, view, ranks
        is_captured = view.device.type == "cuda" and ranks.is_alone
        self._score = CapturedScorer(self._batch, device=view.device) if is_captured else self._batch
        # Graphs read one address, so weights are copied there; elsewhere they are read where they lie.
        self._weights_RP = torch.empty_like(replicas.master_RP) if is_captured else replicas.master_RP
        self._is_captured = is_captured

    def scores(
        self, split: str, *, weights_RP: Tensor, items: bool, data: TaskData | None = None
    ) -> list[Scores]:
        """Scores of each replica with these weights, dropout off.

        Args:
            items: whether the items behind the scores are wanted.
            data: what is scored; None is what is learned.
        """
        data = self.data if data is None else data
        self._take(weights_RP)
        how = {"split": split, "protocol": self.run.protocol, "view": self.view}
        scorer = self.ranks.in_turn(self._score, dtype=self.replicas.master_RP.dtype)
        seed = self.run.eval_seed
        found = score_split(scorer, data, eval_seed=seed, **how)
        rows = zip(*map(self.ranks.summed, found), strict=True)
        return [data.summarise(*how.values(), *row, items=items, eval_seed=seed) for row in rows]

    def score_first(self, split: str, *, weights_RP: Tensor) -> None:
        """Score one batch, for what it takes of the memory; no later one is larger."""
        self._take(weights_RP)
        batches = self.data.eval_batches(split, self.run.protocol, self.view, eval_seed=self.run.eval_seed)
        with true_float32():
            self._batch(next(iter(batches)))

    def _take(self, weights_RP: Tensor) -> None:
        """These are scored next."""
        if self._is_captured:
            self._weights_RP.copy_(weights_RP)
        else:
            self._weights_RP = weights_RP

    def forget_graphs(self) -> None:
        """Capture anew: the model computes something else from now on."""
        if self._is_captured:
            self._score = self._batch  # the old graphs, and the memory that they hold, go first
            free_memory(self.view.device)
            self._score = CapturedScorer(self._batch, device=self.view.device)

    def _batch(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return target_scores(self.replicas.logits(batch, self._weights_RP), batch.targets_BT)


def view_of(run: Run, *, replicas: int, device: torch.device) -> View:
    """What batches are made for; those of scoring are as large as a GPU's memory allows."""
    view = {"seq_len": run.model.seq_len, "is_window": run.model.is_window, "device": device}
    if device.type != "cuda":
        return View(**view)  # small batches stay in the cache of a CPU
    tokens = min(MAX_TOKENS, MAX_LOGITS // run.model.vocab_size) // replicas
    return View(**view, eval_tokens=max(tokens, 1))
