"""FLOPs of a generated token, counted as it is computed.

One further token is read after length - 1 others on the meta device, where nothing is computed and
every operation is seen. Products count 2 per multiply-add, as in the ledger; beside them stand the
additions and multiplications done element by element, which are all there is to a recurrence (and,
for any model, its norms, gates and residual sums). Functions such as exp are left out of both.

Legend: B batch, T position.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lmbench.layers.fused import flop_formulas
from lmbench.models.base import LanguageModel, ModelConfig, State, on_meta

_BY_OUTPUT = ("add", "sub", "rsub", "mul", "div", "addcmul", "lerp")
_BY_INPUT = ("sum", "mean", "cumsum")


class Generated(NamedTuple):
    """FLOPs of writing one token, for one sequence."""

    length: int
    """Tokens of context that the prediction is made from."""
    cached: int
    """Matrix products, where the tokens before the last are remembered."""
    cached_elementwise: int
    """Additions and multiplications beside these products."""
    uncached: int
    """Matrix products of reading the whole context again."""


def generated_flops(config: ModelConfig, *, length: int) -> Generated:
    """Count the token that is written when `length` tokens are known, the last of them new.

    Raises:
        ValueError: a length that the model cannot read.
    """
    if not 1 <= length <= config.seq_len:
        raise ValueError(
            f"length = {length} is not accepted: {config.name} reads 1 to {config.seq_len} tokens"
        )
    # The counter's hooks want either a graph or no weight that asks for one.
    model = on_meta(config).eval().requires_grad_(False)
    tokens_BT = torch.zeros(1, length, dtype=torch.long, device="meta")
    with torch.no_grad():
        state = model.extend(tokens_BT[:, :-1])[1] if length > 1 else None
        cached, elementwise = _counted_extend(model, tokens_BT[:, -1:], state)
        # Not `forward`, whose window models would be given a context.
        uncached, _ = _counted_extend(model, tokens_BT, None)
    return Generated(length, cached, elementwise, uncached)


def _counted_extend(model: LanguageModel, tokens_BT: Tensor, state: State | None) -> tuple[int, int]:
    """Products and element-wise operations of reading these tokens."""
    from torch.utils.flop_counter import FlopCounterMode

    elementwise = ElementwiseCount()
    with (
        FlopCounterMode(display=False, custom_mapping=flop_formulas()) as counter,
        elementwise,
        _WholeAttention(elementwise),
    ):
        model.extend(tokens_BT, state)
    return counter.get_total_flops(), elementwise.n


class ElementwiseCount(TorchDispatchMode):
    """Inside, `n` counts additions and multiplications of numbers that are no part of a product."""

    def __init__(self) -> None:
        super().__init__()
        self.n, self.is_paused = 0, False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__.rstrip("_")
        if self.is_paused or not isinstance(out, Tensor) or not out.is_floating_point():
            return out
        if name in _BY_OUTPUT:
            self.n += out.numel() * (2 if name in ("addcmul", "lerp") else 1)
        elif name in _BY_INPUT:
            self.n += args[0].numel()
        return out


class _WholeAttention(TorchFunctionMode):
    """Attention on the meta device scales all keys, which no kernel does: inside it, products alone count."""

    def __init__(self, count: ElementwiseCount) -> None:
        super().__init__()
        self.count = count

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count.is_paused = func is F.scaled_dot_product_attention
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.count.is_paused = False
