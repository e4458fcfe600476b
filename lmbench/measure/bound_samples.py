"""Samples that bounds are about, as batches, and the bounded losses of a model on them.

A text is a sample of tokens: every target of a split, each read once, under the windows of the
protocol. A synthetic task is a sample of documents: examples that its generator drew independently.

A large sample may be scored in part, at a price that Hoeffding's inequality sets by the number of
draws. Documents are drawn without replacement. Tokens come by the window, since one pass scores all
of it: windows are drawn with replacement and with probabilities as their numbers of targets, so that
the mean of their means is the mean over tokens on average. A window is one draw, however many tokens
it holds.

Source: Hoeffding 1963, theorem 2, and section 6 for draws without replacement.

Legend: B batch, T position, W window, N row of the batches.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch

from lmbench.config import Config
from lmbench.data.splits import Split, sliding_windows, window_starts
from lmbench.measure.bound_losses import Documents, Smoothed, Tokens, ZeroOne
from lmbench.measure.score import readout_of, target_scores, true_float32
from lmbench.models.base import LanguageModel
from lmbench.progress import Progress
from lmbench.tasks.base import IGNORE, Batch, View
from lmbench.tasks.synthetic_data import SyntheticData
from lmbench.tasks.text_data import TextData
from lmbench.tasks.windows import gather, keep_only

TRAIN, FRESH_DOCUMENTS = "train", "fresh"  # what a bound's sample is called, and one kept from training
FRESH = -1  # seed of documents that no run has seen: seeds of runs start at 0


class Scored(NamedTuple):
    """What is scored of a sample."""

    sample: Documents | Tokens
    """The whole of it."""
    draws: int
    """Independent draws from it; 0 where all of it is scored."""
    batches: Iterator[Batch]
    weight_N: np.ndarray | None
    """Share of each row in the risk; None is one for all documents, and for tokens that of its targets."""


def samples(
    data: TextData | SyntheticData, *, run: Config, view: View, draws: int | None, seed: int
) -> dict[str, Scored]:
    """The sample that a run learned from and those kept from it: "train", "valid", "test", and for documents
    "fresh", as many as are scored of train.

    Args:
        draws: windows or documents of train that are scored; None is all.
        seed: of these draws.
    """
    kept = {split: evaluation_sample(data, split=split, run=run, view=view) for split in ("valid", "test")}
    if isinstance(data, TextData):
        how = {"split": "train", "protocol": run.protocol, "view": view}
        return {TRAIN: token_sample(data, **how, draws=draws, seed=seed)} | kept
    m, how = run.steps * run.batch_size, {"run": run, "view": view, "seed": seed}
    drawn = document_sample(data, m=m, draws=draws, data_seed=run.data_seed, **how)
    fresh = document_sample(data, m=min(m, draws or m), draws=None, data_seed=FRESH, **how)
    return {TRAIN: drawn, FRESH_DOCUMENTS: fresh} | kept


def token_sample(
    data: TextData, *, split: str, protocol: Config, view: View, draws: int | None, seed: int
) -> Scored:
    """All targets of a split of a text, whatever part of it the protocol would score.

    Args:
        draws: windows to be drawn; None, or as many as there are, scores each once.
    """
    part = data.splits[split]
    is_last = protocol.kind == "last_token"
    starts_W, skips_W = _windows(part, protocol, view)
    ends = np.array([end for _, end in part.bounds])
    ends_W = ends[np.searchsorted(ends, starts_W, side="right")]
    n_W = np.ones_like(starts_W) if is_last else np.minimum(view.seq_len, ends_W - 1 - starts_W) - skips_W
    sample, weight_N = Tokens(m=int(n_W.sum())), None
    if draws is None or draws >= len(n_W):
        kept_W, draws = np.arange(len(n_W)), 0
    else:
        token_N = np.random.Generator(np.random.Philox(key=seed)).integers(sample.m, size=draws)
        window_N = np.searchsorted(np.cumsum(n_W), token_N, side="right")
        kept_W, times_W = np.unique(window_N, return_counts=True)
        weight_N = times_W / draws
    batches = _text_batches(part, starts_W[kept_W], skips_W[kept_W], ends_W[kept_W], view, is_last=is_last)
    return Scored(sample, draws, batches, weight_N)


def document_sample(
    data: SyntheticData, *, run: Config, view: View, data_seed: int, m: int, draws: int | None, seed: int
) -> Scored:
    """The first m examples of the training stream of a seed; their targets are those of training.

    Args:
        run: whose examples they are if data_seed is its own.
        data_seed: of the examples; `FRESH` gives documents that no run has drawn.
        draws: documents to be drawn; None, or as many as there are, scores all.
    """
    index_N = np.arange(m)
    if draws is None or draws >= m:
        draws = 0
    else:
        generator = np.random.Generator(np.random.Philox(key=seed))
        index_N = np.sort(generator.choice(m, size=draws, replace=False))
    batches = _document_batches(data, run, view, index_N, data_seed)
    return Scored(Documents(m=m, drawn="generator"), draws, batches, None)


def evaluation_sample(data: TextData | SyntheticData, *, split: str, run: Config, view: View) -> Scored:
    """What a run scores of a split.

    Raises:
        ValueError: a split without targets.
    """
    data.check_split(split, run.protocol, view.seq_len)
    batches = data.eval_batches(split, run.protocol, view, eval_seed=run.eval_seed)
    if isinstance(data, TextData):
        return Scored(Tokens(m=data.n_targets(split, run.protocol, view.seq_len)), 0, batches, None)
    n = sum(task.n_eval * task.rewrites for task, _ in data.entries)
    return Scored(Documents(m=n, drawn="generator"), 0, batches, None)


def risks(
    model: LanguageModel, scored: Scored, *, losses: Mapping[str, Smoothed | ZeroOne]
) -> dict[str, float]:
    """The mean of each loss over what is scored, in the unit of the loss; dropout is off."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in losses}
    counts = []
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), true_float32():
            for batch in scored.batches:
                nll_BT, error_BT, is_target_BT = _token_losses(model, batch)
                counts.append(is_target_BT.sum(axis=1))
                for name, loss in losses.items():
                    loss_BT = loss.of(nll_BT) if isinstance(loss, Smoothed) else error_BT
                    parts[name].append(np.where(is_target_BT, loss_BT, 0.0).sum(axis=1))
                Progress.beat()
    finally:
        model.train(was_training)
    n_N = np.concatenate(counts)
    weight_N = scored.weight_N
    if weight_N is None:
        share_N = np.ones_like(n_N) if isinstance(scored.sample, Documents) else n_N
        weight_N = share_N / share_N.sum()
    # A row without targets has no weight, and a sum of 0.
    return {
        name: float((weight_N * np.concatenate(sums) / np.maximum(n_N, 1)).sum())
        for name, sums in parts.items()
    }


def _token_losses(model: LanguageModel, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(B, T) negative log-likelihoods in nats, errors, and which positions are targets."""
    readout = readout_of(batch.tokens_BT, batch.targets_BT)
    logits_BTV = model(batch.tokens_BT, batch.context_BK, readout=readout).logits_BTV
    nll_1BT, correct_1BT = target_scores(logits_BTV.unsqueeze(0), batch.targets_BT)
    nll_BT, correct_BT = torch.cat([nll_1BT, correct_1BT.to(nll_1BT)]).cpu().double().numpy()
    return nll_BT, 1 - correct_BT, (batch.targets_BT != IGNORE).cpu().numpy()


def _windows(part: Split, protocol: Config, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Starts of all windows, and the targets at the front of each that are scored by the one before."""
    if protocol.kind == "last_token":
        starts_W = window_starts(part, view.seq_len)
        return starts_W, np.zeros_like(starts_W)
    stride = min(protocol.stride or max(1, view.seq_len // 2), view.seq_len)
    return sliding_windows(part, view.seq_len, view.seq_len if view.is_window else stride)


def _text_batches(
    part: Split, starts_W: np.ndarray, skips_W: np.ndarray, ends_W: np.ndarray, view: View, *, is_last: bool
) -> Iterator[Batch]:
    ids_N = torch.from_numpy(part.ids_N).to(view.device)
    rows = max(1, view.eval_tokens // view.seq_len)
    for at in range(0, len(starts_W), rows):
        kept = slice(at, at + rows)
        doc_W = part.doc_start_N[starts_W[kept]]
        start_B, doc_B, skip_B, end_B = (
            torch.from_numpy(x).to(view.device) for x in (starts_W[kept], doc_W, skips_W[kept], ends_W[kept])
        )
        made = gather(ids_N, start_B, doc_B, view, last_only=is_last)
        if not is_last:
            keep_only(made, start_B, end_B, skip_B)
        yield made


def _document_batches(
    data: SyntheticData, run: Config, view: View, index_N: np.ndarray, data_seed: int
) -> Iterator[Batch]:
    stream, rows = data.stream(run, view), max(1, view.eval_tokens // view.seq_len)
    for at in range(0, len(index_N), rows):
        made = data.training_examples(data_seed, index_N[at : at + rows], view.seq_len)
        tokens_BT, targets_BT = (torch.from_numpy(part).to(view.device) for part in made)
        yield stream.batch({"tokens": tokens_BT, "targets": targets_BT})
