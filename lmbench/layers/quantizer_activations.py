"""Quantisers of activations: each position by itself, or in a range fixed beforehand.

A scale that is found over a sequence or a batch carries the size of later tokens into earlier
predictions; here it is that of one token's features, or a constant. Gradients pass straight
through, in a fixed range only inside of it. `LiteralFeedForward` is the reading of a published
pseudo-code in which the quantiser is the only thing between the two maps of a feed-forward.

Legend: B batch, T position, C model width, F feed-forward width.
"""

import torch
from torch import Tensor, nn

from lmbench.layers.feedforward import FeedForward
from lmbench.layers.mixer import Pass
from lmbench.layers.quantizer import Switch, learned_quantizer, straight
from lmbench.layers.quantizer_grids import TINY, Grid


class ActivationQuantizer:
    """Rounds the last axis of a tensor to `bits`; holds no tensor of its own but the method's switch.

    Args:
        bits: 2 to 8.
        limit: None finds the scale of each token from its largest magnitude, on the symmetric grid; a
            number r clips to [-r, r) with the step r / 2^(bits - 1), on the full grid.
        switch: None is on at all steps.
    """

    def __init__(self, *, bits: float, limit: float | None = None, switch: Switch | None = None) -> None:
        self.grid = Grid.symmetric(bits) if limit is None else Grid.full(bits)
        self.limit, self.switch = limit, switch

    def __call__(self, x: Tensor) -> Tensor:
        """(..., C) in the same shape and dtype."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.limit is None:
            fixed = wide.detach()
            scale = (fixed.abs().amax(-1, keepdim=True) / self.grid.high).clamp_min(TINY)
            rounded = straight(self.grid.codes(fixed, scale) * scale, through=wide)
        else:
            scale = torch.full((), self.limit / -self.grid.low, dtype=wide.dtype, device=x.device)
            rounded = learned_quantizer(wide, scale, grid=self.grid)
        rounded = rounded.to(x.dtype)
        return rounded if self.switch is None else torch.where(self.switch.on > 0, rounded, x)

    def hook(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """For `register_forward_pre_hook`: the first input, rounded."""
        return (self(inputs[0]), *inputs[1:])


class LiteralFeedForward(nn.Module):
    """down(quantise(up(x))), then dropout: no other non-linearity.

    Args:
        plain: whose maps it takes over, under the same names.
    """

    def __init__(self, plain: FeedForward, *, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        self.up, self.down, self.dropout = plain.up, plain.down, plain.dropout
        self.quantizer = quantizer

    def forward(self, x_BTC: Tensor, shared: Pass | None = None) -> Tensor:
        """(B, T, C) to (B, T, C), each position by itself."""
        return self.dropout(self.down(self.quantizer(self.up(x_BTC))))
