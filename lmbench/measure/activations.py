"""What a training step holds for its backward pass, with and without checkpointing.

Saved bytes are those alive after the forward pass: all that the backward pass will read,
without weights, inputs and logits. The peak is the worst moment of both passes, gradients
included. Both are counted tensor by tensor (`memory.LiveBytes`), at the batch that is asked for.
"""

from typing import NamedTuple

import torch

from lmbench.measure.latency import timed_model
from lmbench.measure.memory import LiveBytes
from lmbench.models.base import ModelConfig


class Held(NamedTuple):
    """Bytes of one training step."""

    saved: int
    """For the backward pass, after the forward pass; logits and weights not counted."""
    logits: int
    """Of the logits."""
    peak: int
    """Beside the weights, at the worst moment; gradients, logits and the loss included."""
    gradients: int
    """Of all parameters."""
    state: int
    """Of a training with AdamW: float32 weights, their gradients and two moments, whatever is computed in."""


def activations(
    config: ModelConfig, *, batch_size: int, device: torch.device, dtype: str = "float32"
) -> Held:
    """Count the bytes of a forward and backward pass over full sequences, dropout on."""
    model = timed_model(config, device=device, dtype=dtype).train()
    tokens_BT = torch.zeros(batch_size, config.seq_len, dtype=torch.long, device=device)
    with LiveBytes([*model.parameters(), *model.buffers(), tokens_BT]) as bytes_:
        output = model(tokens_BT)
        logits = output.logits_BTV.untyped_storage().nbytes()
        saved = bytes_.live - logits
        loss = output.logits_BTV.float().logsumexp(-1).sum()
        (loss if output.aux_loss is None else loss + output.aux_loss).backward()
    n = sum(p.numel() for p in model.parameters())
    gradients = sum(p.grad.numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None)
    return Held(saved=saved, logits=logits, peak=bytes_.peak, gradients=gradients, state=16 * n)
