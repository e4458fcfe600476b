"""What a model holds in memory: weights, what a pass makes besides, and what generation remembers.

Bytes are counted, not sampled: a dispatch mode sees every tensor that is made, and when it is
given back. So the peak is that of the tensors themselves, without an allocator's reserve and
without the scratch space inside a kernel, and it is the same number each time. Which kernels
are chosen depends on the device, and so do the bytes.

Legend: B batch, T position.
"""

import weakref
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from lmbench.measure.generate import evaluating
from lmbench.measure.latency import timed_model
from lmbench.models.base import ModelConfig, State


class Memory(NamedTuple):
    """Bytes of one model at a batch size and length."""

    weights: int
    """Of all parameters."""
    train_peak: int
    """Beside the weights, at the worst moment of a forward and backward pass: activations and gradients."""
    prefill_peak: int
    """Beside the weights, at the worst moment of reading the tokens for generation, dropout off."""
    state: int
    """Remembered after the tokens, for the next one."""
    state_one: int
    """Remembered after a single token."""
    length: int
    """Tokens read."""

    @property
    def state_per_token(self) -> float:
        """Bytes by which the state grows with each further token."""
        return (self.state - self.state_one) / (self.length - 1) if self.length > 1 else 0.0


def memory(
    config: ModelConfig,
    *,
    batch_size: int,
    length: int,
    device: torch.device,
    dtype: str = "float32",
) -> Memory:
    """Count the bytes of a training pass, of a prefill and of its state, on the device."""
    model = timed_model(config, device=device, dtype=dtype)
    tokens_BT = torch.zeros(batch_size, length, dtype=torch.long, device=device)
    own = [*model.parameters(), *model.buffers(), tokens_BT]
    model.train()
    with LiveBytes(own) as training:
        output = model(tokens_BT)
        loss = output.logits_BTV.float().logsumexp(-1).sum()
        for _, logits_BTV in output.exits:
            loss = loss + logits_BTV.float().logsumexp(-1).sum()
        (loss if output.aux_loss is None else loss + output.aux_loss).backward()
    model.zero_grad()
    del output, loss
    with evaluating(model):
        with LiveBytes(own) as reading:
            _, state = model.extend(tokens_BT)
        _, one = model.extend(tokens_BT[:, :1])
    return Memory(
        weights=sum(p.numel() * p.element_size() for p in model.parameters()),
        train_peak=training.peak,
        prefill_peak=reading.peak,
        state=state_bytes(state),
        state_one=state_bytes(one),
        length=length,
    )


def state_bytes(state: State) -> int:
    """Bytes of all tensors of a state, each once; a view of a larger memory counts what it shows."""
    tensors = {
        (t.untyped_storage()._cdata, t.storage_offset(), t.shape): t
        for layer in state.layers
        for t in layer.values()
    }
    return sum(t.numel() * t.element_size() for t in tensors.values())


class LiveBytes(TorchDispatchMode):
    """Inside, adds up the bytes of all tensors that are made and still alive.

    Args:
        known: tensors whose memory is not counted, such as the weights.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._held = {t.untyped_storage()._cdata: 0 for t in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in tree_iter(out):
            if isinstance(made, Tensor):
                self._see(made.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._held:
            return
        self._held[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        # Called when the memory is given back, whoever held it last.
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.live -= self._held.pop(key, 0)
