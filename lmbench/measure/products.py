"""Where the matrix products of a forward pass are spent: on which weights, and how often each is used.

One pass is watched on the meta device, where nothing is computed and attention is broken down to
plain products. FLOPs are torch's own, 2 per multiply-add. A weight is known by its memory, and
by copies made of it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from lmbench.layers.fused import flop_formulas
from lmbench.layers.shape import Readout
from lmbench.models.base import ModelConfig, on_meta

SCORES = "aten::baddbmm"


class Products(NamedTuple):
    """FLOPs of the matrix products of one forward pass over one sequence, by what is multiplied."""

    tables: int
    """With a look-up table, as a tied head does."""
    matrices: int
    """With any other weight matrix."""
    scores: int
    """Without a weight: attention's queries times keys."""
    mixed: int
    """Without a weight: attention's weights times values, and what a recurrence multiplies in chunks."""

    @property
    def activations(self) -> int:
        """Products of activations with each other."""
        return self.scores + self.mixed


class _ProductMode(TorchDispatchMode):
    """Adds up torch's own FLOPs of each operation under the weight that it multiplies by."""

    def __init__(self, weights: Mapping[int, str]) -> None:
        # On first use: it loads Triton where that is installed.
        from torch.utils.flop_counter import FlopCounterMode

        super().__init__()
        self.weights, self.flops = dict(weights), {SCORES: 0, "": 0}
        self.made: list[Tensor] = []
        self.formulas = FlopCounterMode(display=False, custom_mapping=flop_formulas()).flop_registry

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        # A view such as W' shares the memory of its weight.
        operands = [self.weights.get(_memory(x), "") for x in tree_iter(args) if isinstance(x, Tensor)]
        name = next(filter(None, operands), "")
        formula = self.formulas.get(func._overloadpacket)
        if formula is not None:
            if not name and func._overloadpacket is torch.ops.aten.baddbmm:
                name = SCORES  # of what has no weight, only scores have a bias: the causal mask
            self.flops[name] = self.flops.get(name, 0) + formula(*args, **(kwargs or {}), out_val=out)
        elif operands and all(operands) and isinstance(out, Tensor):
            # A copy of a weight, in another order or type, stands for it; kept, so that nothing else
            # gets its memory.
            self.weights.setdefault(_memory(out), name)
            self.made.append(out)
        return out


class Seen(NamedTuple):
    """A forward pass on the meta device, as it was watched."""

    products: Products
    spare: Mapping[str, int]
    """6 T per weight minus what a step spends on it, forward and backward, by what explains the sign."""


def products(config: ModelConfig, *, readout: Readout) -> Products:
    """Watch one forward pass on the meta device, where nothing is computed."""
    return watch(config, readout=readout).products


def watch(config: ModelConfig, *, readout: Readout) -> Seen:
    """Both halves of what can be seen in one forward pass on the meta device."""
    model, mode = _watched(config, readout)
    named = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    lookups = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
    scores, mixed = mode.flops.pop(SCORES), mode.flops.pop("")
    tables = sum(mode.flops.get(name, 0) for name in lookups)
    spare: dict[str, int] = {}
    for name in named.keys() - lookups:
        left = 6 * config.seq_len * named[name].numel() - 3 * mode.flops.get(name, 0)
        reason = _reason(config, named[name], left, is_used=name in mode.flops)
        spare[reason] = spare.get(reason, 0) + left
    return Seen(Products(tables, sum(mode.flops.values()) - tables, scores, mixed), spare)


def flops_by_weight(config: ModelConfig, *, readout: Readout) -> dict[str, int]:
    """FLOPs of one forward pass over one sequence by the weight that is multiplied; "" is by none."""
    _, mode = _watched(config, readout)
    scores = mode.flops.pop(SCORES)
    return mode.flops | {"": mode.flops[""] + scores}


def _watched(config: ModelConfig, readout: Readout) -> tuple[nn.Module, _ProductMode]:
    """A model on the meta device, and what was seen of one pass of it."""
    model = on_meta(config).eval()
    tokens_BT = torch.zeros(1, config.seq_len, dtype=torch.long, device="meta")
    weights = {_memory(p): name for name, p in model.named_parameters() if p.dim() > 1}
    with _ProductMode(weights) as mode:
        model(tokens_BT, readout=readout)
    return model, mode


def _reason(config: ModelConfig, weight: Tensor, spare: int, *, is_used: bool) -> str:
    """Why a weight is not used exactly once per token."""
    if not is_used:
        return "weights applied element by element are counted as products"
    if spare < 0:
        return "matrices used more than once per token are counted once"
    if weight.dim() == 3 and config.inactive_parameters():
        return "experts that a token does not use are counted"
    return "products done once per window are charged per token"


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
