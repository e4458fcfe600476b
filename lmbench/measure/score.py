"""Scoring: the negative log-likelihood of every target of a split, in float32 or better.

Ties earn 1/m, so that a model of equal logits scores chance and not 1 (low-precision
logits tie often). The result does not depend on the evaluation batch size.

Legend: R model, B batch, T position, V vocabulary, N target.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmbench.config import Config
from lmbench.layers.shape import Readout
from lmbench.models.base import LanguageModel
from lmbench.progress import Progress
from lmbench.tasks.base import IGNORE, Batch, Scores, TaskData, View


def target_scores(logits_RBTV: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of each target for R models; those of IGNORE are there too, and mean nothing.

    Without data-dependent shapes, so that a captured graph can hold it.

    Returns:
        (R, B, T) negative log-likelihoods in nats and (R, B, T) correctness: 1/m where m logits
        tie for the highest and the target is one of them, else 0.
    """
    logits_RBTV = logits_RBTV if logits_RBTV.dtype == torch.float64 else logits_RBTV.float()
    index_RBT1 = targets_BT.clamp_min(0).expand(logits_RBTV.shape[:-1]).unsqueeze(-1)
    chosen_RBT = logits_RBTV.gather(-1, index_RBT1).squeeze(-1)
    nll_RBT = torch.logsumexp(logits_RBTV, dim=-1) - chosen_RBT
    highest_RBT = logits_RBTV.amax(dim=-1)
    ties_RBT = (logits_RBTV == highest_RBT.unsqueeze(-1)).sum(dim=-1)
    return nll_RBT, (chosen_RBT == highest_RBT) / ties_RBT


def summed_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Cross entropy in nats summed over the targets, in float32 or better."""
    logits_BTV = logits_BTV if logits_BTV.dtype == torch.float64 else logits_BTV.float()
    return F.cross_entropy(
        logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE, reduction="sum"
    )


def readout_of(tokens_BT: Tensor, targets_BT: Tensor) -> Readout:
    """Which positions a batch has targets for."""
    return "last" if targets_BT.shape[-1] == 1 < tokens_BT.shape[-1] else "all"


@torch.no_grad()
def evaluate(
    model: LanguageModel, data: TaskData, *, split: str, protocol: Config, view: View, eval_seed: int = 0
) -> Scores:
    """Score a split with dropout off, leaving the model in the mode it was in."""
    was_training = model.training
    model.eval()

    def scorer(batch: Batch) -> tuple[Tensor, Tensor]:
        readout = readout_of(batch.tokens_BT, batch.targets_BT)
        logits_BTV = model(batch.tokens_BT, batch.context_BK, readout=readout).logits_BTV
        return target_scores(logits_BTV.unsqueeze(0), batch.targets_BT)

    try:
        nll_RN, correct_RN = score_split(
            scorer, data, split=split, protocol=protocol, view=view, eval_seed=eval_seed
        )
    finally:
        model.train(was_training)
    return data.summarise(split, protocol, view, nll_RN[0], correct_RN[0], eval_seed=eval_seed)


@torch.no_grad()
def score_split(
    scorer: Callable[[Batch], tuple[Tensor, Tensor]],
    data: TaskData,
    *,
    split: str,
    protocol: Config,
    view: View,
    eval_seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of every target of a split, for R models at once.

    Args:
        scorer: maps a batch to the two (R, B, T) of `target_scores`; what it returns is copied.

    Returns:
        (R, N) negative log-likelihoods in nats, and (R, N) correctness, float64.
    """
    parts, kept = [], []
    with true_float32():
        for batch in data.eval_batches(split, protocol, view, eval_seed=eval_seed):
            parts.append(torch.stack(scorer(batch)).flatten(2))
            kept.append((batch.targets_BT != IGNORE).flatten())
            Progress.beat()
    # One transfer at the end: a copy per batch would wait for the device each time.
    nll_RN, correct_RN = torch.cat(parts, dim=2)[..., torch.cat(kept)].cpu().double().numpy()
    return nll_RN, correct_RN


@torch.no_grad()
def mean_effort(
    model: LanguageModel, data: TaskData, *, split: str, protocol: Config, view: View, eval_seed: int = 0
) -> dict[str, tuple[float, int]]:
    """`LanguageModel.effort` averaged over the positions that are scored: name to (mean, n)."""
    was_training, sums, n = model.training, {}, 0
    model.eval()
    try:
        with true_float32():
            for batch in data.eval_batches(split, protocol, view, eval_seed=eval_seed):
                found, width = model.effort(batch.tokens_BT), batch.targets_BT.shape[1]
                if not found:
                    return {}
                is_scored_BT = batch.targets_BT != IGNORE
                for name, effort_BT in found.items():
                    kept_N = effort_BT[:, -width:][is_scored_BT].double()
                    sums[name] = sums.get(name, 0.0) + float(kept_N.sum())
                n += int(is_scored_BT.sum())
                Progress.beat()
    finally:
        model.train(was_training)
    return {name: (total / n, n) for name, total in sums.items()}


@contextlib.contextmanager
def true_float32() -> Iterator[None]:
    """float32 means float32 inside: products and convolutions use no TensorFloat-32, whatever was set."""
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = cudnn


def tokens_per_second(model: LanguageModel, batch: Batch, *, repeats: int = 5) -> float:
    """Median inference speed in scored positions per second, dropout off, after one warm-up."""
    was_training, seconds = model.training, []
    model.eval()
    with torch.no_grad():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            readout = readout_of(batch.tokens_BT, batch.targets_BT)
            logits_BTV = model(batch.tokens_BT, batch.context_BK, readout=readout).logits_BTV
            if logits_BTV.is_cuda:
                torch.cuda.synchronize(logits_BTV.device)
            seconds.append(time.perf_counter() - start)
    model.train(was_training)
    return batch.targets_BT.numel() / float(np.median(seconds[1:]))
