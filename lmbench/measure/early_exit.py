"""Quality against executed FLOPs of a model with early exits.

A curve has one point for each threshold: the loss of what the heads say where tokens stop,
and the forward FLOPs that a pass would have to execute. Beside it stands the honest
competitor, every token stopped at one and the same depth, which needs no test of confidence.

A token that stops after d of L blocks is charged d blocks with all T^2 pairs of attention (as
in the ledger), the keys and values of the L - d deeper blocks, and every head that was asked.
A point that saves blocks may so cost more than it saves: an exit's test is a whole head.

Legend: B batch, T position, V vocabulary, N target, L blocks, D depth (0 to L).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lmbench.config import Config
from lmbench.layers.block import block_terms
from lmbench.layers.cost import matmul
from lmbench.measure.score import readout_of, score_split, target_scores
from lmbench.models.early_exit import NEVER, EarlyExit, EarlyExitConfig
from lmbench.tasks.base import IGNORE, Batch, TaskData, View


def exit_curve(
    model: EarlyExit,
    config: EarlyExitConfig,
    data: TaskData,
    *,
    split: str,
    protocol: Config,
    view: View,
    thresholds: Sequence[float],
    eval_seed: int = 0,
) -> pd.DataFrame:
    """One row for each threshold, and one for each depth that has a head.

    Columns: policy ("threshold" or "depth"), setting (its value), nll (nats per target), targets
    (its n), blocks and flops (executed by a token, forward, on average), tokens (their n: the
    positions that hold a scored target, or whole windows where only the last is read out).

    Args:
        thresholds: more than 0; at 1 no token stops.
    """
    was_training, counter = model.training, _Counter(model, thresholds, n_block=config.n_layer)
    model.eval()
    try:
        nll_RN, _ = score_split(counter, data, split=split, protocol=protocol, view=view, eval_seed=eval_seed)
    finally:
        model.train(was_training)
    return pd.DataFrame(counter.rows(config, nll_RN))


class _Counter:
    """Scores a batch under each policy, and adds up after how many blocks tokens stopped."""

    def __init__(self, model: EarlyExit, thresholds: Sequence[float], *, n_block: int) -> None:
        self.model, self.thresholds = model, list(thresholds)
        self.stops = np.zeros((len(self.thresholds), n_block + 1), dtype=np.int64)
        """Tokens by threshold and by the blocks that they went through."""
        self.reads = np.zeros_like(self.stops)
        """The same of the tokens whose logits are wanted."""

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        tokens_BT, targets_BT = batch.tokens_BT, batch.targets_BT
        readout = readout_of(tokens_BT, targets_BT)
        wanted_BT = targets_BT != IGNORE
        scored = []
        for at, threshold in enumerate(self.thresholds):
            logits_BTV, blocks_BT = self.model.stopped(tokens_BT, threshold=threshold, readout=readout)
            scored.append(target_scores(logits_BTV.unsqueeze(0), targets_BT))
            read_BT = blocks_BT[:, -targets_BT.shape[1] :][wanted_BT]
            passed_BT = read_BT if readout == "all" else blocks_BT
            for held, found in ((self.stops, passed_BT), (self.reads, read_BT)):
                held[at] += torch.bincount(found.flatten(), minlength=held.shape[1]).cpu().numpy()
        full = self.model.full(tokens_BT, readout=readout)
        for logits_BTV in (*(logits for _, logits in full.exits), full.logits_BTV):
            scored.append(target_scores(logits_BTV.unsqueeze(0), targets_BT))
        nll, correct = zip(*scored, strict=True)
        return torch.cat(nll), torch.cat(correct)

    def rows(self, config: EarlyExitConfig, nll_RN: np.ndarray) -> list[dict[str, object]]:
        """Of the table."""
        tokens, reads = int(self.stops[0].sum()), int(self.reads[0].sum())
        depths = [*config.depths, config.n_layer]
        fixed_DD = np.eye(config.n_layer + 1, dtype=np.int64)[depths]
        policies = [("threshold", value) for value in self.thresholds] + [("depth", at) for at in depths]
        stops = np.concatenate((self.stops, tokens * fixed_DD))
        flops = [
            threshold_flops(config, stops_D=stop_D, reads_D=read_D, is_tested=value < NEVER)
            for value, stop_D, read_D in zip(self.thresholds, self.stops, self.reads, strict=True)
        ] + [depth_flops(config, depth=at, tokens=tokens, reads=reads) for at in depths]
        return [
            {
                "policy": policy,
                "setting": float(value),
                "nll": float(nll_N.mean()),
                "targets": len(nll_N),
                "blocks": float(stop_D @ np.arange(len(stop_D)) / tokens),
                "flops": total / tokens,
                "tokens": tokens,
            }
            for (policy, value), nll_N, stop_D, total in zip(policies, nll_RN, stops, flops, strict=True)
        ]


# ------------------------------------------------------------------ closed forms


def threshold_flops(
    config: EarlyExitConfig, *, stops_D: np.ndarray, reads_D: np.ndarray, is_tested: bool
) -> int:
    """Forward FLOPs of tokens of which stops_D[d] stop after d blocks.

    Args:
        reads_D: those of them whose logits are wanted.
        is_tested: whether earlier heads are asked at all.
    """
    each, depth_D = _flops(config), np.arange(config.n_layer + 1)
    asked_D = np.array([sum(at <= depth for at in config.depths) for depth in depth_D])
    heads = int(stops_D @ asked_D) * is_tested + int(reads_D[-1])
    executed, frozen = int(stops_D @ depth_D), int(stops_D @ (config.n_layer - depth_D))
    total = int(stops_D.sum()) * each.embedding + executed * each.block + frozen * each.memory
    return total + heads * each.head


def depth_flops(config: EarlyExitConfig, *, depth: int, tokens: int, reads: int) -> int:
    """Forward FLOPs of a model cut off after `depth` blocks, with `reads` of its tokens read out."""
    each = _flops(config)
    return tokens * (each.embedding + depth * each.block) + reads * each.head


class _Flops(NamedTuple):
    """Forward FLOPs for one token."""

    embedding: int
    block: int
    memory: int
    """One block's keys and values of a frozen token, with the convolution that they read through."""
    head: int
    """Any head."""


def _flops(config: EarlyExitConfig) -> _Flops:
    shape, terms = config.block_shape(), config.terms("all")
    parts = block_terms(shape, n_layer=1)
    block = sum(term.forward for term in parts)
    head = sum(term.forward for term in terms if term.name == "head")
    heads = (1 + len(config.depths)) * head
    embedding = sum(term.forward for term in terms) - heads - config.n_layer * block
    conv = sum(term.forward for term in parts if term.elementwise)
    projected = matmul(shape.seq_len, inner=shape.d_model, columns=2 * shape.n_kv_head * shape.d_head)
    return _Flops(*(total // shape.seq_len for total in (embedding, block, conv + projected, head)))
