"""Scoring: the negative log-likelihood of every target of a split, in float32 or better.

Ties earn 1/m, so that a model of equal logits scores chance and not 1 (low-precision
logits tie often). The result does not depend on the evaluation batch size.

Legend: B batch, T position, V vocabulary, N target.
"""

import contextlib
import time

import numpy as np
import torch
from torch import Tensor

from lmbench.config import Config
from lmbench.models.base import LanguageModel
from lmbench.progress import Progress
from lmbench.tasks.base import IGNORE, Batch, Scores, TaskData, View


def target_scores(logits_BTV: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Per-target scores of the targets that are not IGNORE, in row order.

    Returns:
        (N,) negative log-likelihoods in nats and (N,) correctness: 1/m where m logits tie
        for the highest and the target is one of them, else 0.
    """
    keep_BT = targets_BT != IGNORE
    logits_NV, targets_N = logits_BTV[keep_BT], targets_BT[keep_BT]
    logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    chosen_N = logits_NV.gather(1, targets_N[:, None]).squeeze(1)
    nll_N = torch.logsumexp(logits_NV, dim=1) - chosen_N
    highest_N = logits_NV.amax(dim=1)
    ties_N = (logits_NV == highest_N[:, None]).sum(dim=1)
    return nll_N, (chosen_N == highest_N) / ties_N


def run_model(model: LanguageModel, batch: Batch) -> Tensor:
    """Logits for the positions that a batch has targets for."""
    readout = "last" if batch.targets_BT.shape[1] == 1 < batch.tokens_BT.shape[1] else "all"
    return model(batch.tokens_BT, batch.context_BK, readout=readout).logits_BTV


@torch.no_grad()
def evaluate(
    model: LanguageModel, data: TaskData, *, split: str, protocol: Config, view: View, eval_seed: int = 0
) -> Scores:
    """Score a split with dropout off, leaving the model in the mode it was in."""
    was_training = model.training
    model.eval()
    nll, correct = [], []
    with true_float32():
        for batch in data.eval_batches(split, protocol, view, eval_seed=eval_seed):
            nll_N, correct_N = target_scores(run_model(model, batch), batch.targets_BT)
            nll.append(nll_N)
            correct.append(correct_N)
            Progress.beat()
    model.train(was_training)
    # One transfer at the end: a copy per batch would wait for the device each time.
    nll_N = torch.cat(nll).double().cpu().numpy()
    return data.summarise(split, protocol, view, nll_N, torch.cat(correct).double().cpu().numpy())


def true_float32() -> contextlib.AbstractContextManager[None]:
    """cuDNN's convolutions use TF32 unless told not to; here float32 means float32."""
    return torch.backends.cudnn.flags(allow_tf32=False)


def tokens_per_second(model: LanguageModel, batch: Batch, *, repeats: int = 5) -> float:
    """Median inference speed in scored positions per second, dropout off, after one warm-up."""
    was_training, seconds = model.training, []
    model.eval()
    with torch.no_grad():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            logits_BTV = run_model(model, batch)
            if logits_BTV.is_cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    model.train(was_training)
    return batch.targets_BT.numel() / float(np.median(seconds[1:]))
