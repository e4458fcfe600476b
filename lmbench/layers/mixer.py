"""What every sequence mixer is: the part of a block in which positions see earlier positions.

Legend: B batch, T position, C model width.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

LayerState = dict[str, Tensor]
"""What a layer remembers of earlier positions, (B, ...) tensors by name; no tensor at the start."""


@dataclass
class Pass:
    """What the layers of one forward pass tell each other beside the residual stream."""

    aux_losses: list[Tensor] = field(default_factory=list)
    """Scalars to be added to the loss in training."""
    first_value: Tensor | None = None
    """Values of the first attention layer, for those that mix them in."""
    segment_BT: Tensor | None = None
    """Place in its row at which each position's segment starts; None where each row is one segment."""
    bias_B1TT: Tensor | None = None
    """Of the segments, see `segment_bias`; made by the first layer that asks for it."""

    @property
    def aux_loss(self) -> Tensor | None:
        """Their sum; None where no layer has one."""
        return sum(self.aux_losses[1:], start=self.aux_losses[0]) if self.aux_losses else None

    @property
    def offset_BT(self) -> Tensor | None:
        """Place of each position within its segment, from 0 on; None where each row is one segment."""
        if self.segment_BT is None:
            return None
        return torch.arange(self.segment_BT.shape[1], device=self.segment_BT.device) - self.segment_BT

    def segment_bias(self, *, dtype: torch.dtype) -> Tensor | None:
        """Added to scores of attention: (B, 1, T, T) zeros, -inf to later keys and those of another segment.

        None where each row is one segment.
        """
        if self.segment_BT is not None and self.bias_B1TT is None:
            other_BTT = self.segment_BT.unsqueeze(2) != self.segment_BT.unsqueeze(1)
            later_TT = torch.ones_like(other_BTT[0]).triu(1)
            zeros_BTT = torch.zeros_like(other_BTT, dtype=dtype)
            self.bias_B1TT = zeros_BTT.masked_fill(later_TT | other_BTT, -math.inf).unsqueeze(1)
        return self.bias_B1TT


class Mixer(nn.Module, ABC):
    """Abstract: (B, T, C) to (B, T, C); position t reads positions 0 to t."""

    out_proj: nn.Linear
    """The map that writes to the residual stream."""

    @abstractmethod
    def forward(self, x_BTC: Tensor, shared: Pass | None = None) -> Tensor:
        """A whole sequence from its start. Functional, so that replicas stack under vmap.

        Args:
            shared: of the pass; None where the layer is used by itself. Where it holds segments, only
                mixers that keep them apart (`mixers.MixerKind`) are called.
        """

    @abstractmethod
    def extend(
        self, x_BTC: Tensor, state: LayerState, shared: Pass | None = None
    ) -> tuple[Tensor, LayerState]:
        """Further positions after those that `state` stands for; {} is the start. Dropout is off."""
