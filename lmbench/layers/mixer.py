"""What every sequence mixer is: the part of a block in which positions see earlier positions.

Legend: B batch, T position, C model width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

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

    @property
    def aux_loss(self) -> Tensor | None:
        """Their sum; None where no layer has one."""
        return sum(self.aux_losses[1:], start=self.aux_losses[0]) if self.aux_losses else None


class Mixer(nn.Module, ABC):
    """Abstract: (B, T, C) to (B, T, C); position t reads positions 0 to t."""

    out_proj: nn.Linear
    """The map that writes to the residual stream."""

    @abstractmethod
    def forward(self, x_BTC: Tensor, shared: Pass | None = None) -> Tensor:
        """A whole sequence from its start. Functional, so that replicas stack under vmap.

        Args:
            shared: of the pass; None where the layer is used by itself.
        """

    @abstractmethod
    def extend(
        self, x_BTC: Tensor, state: LayerState, shared: Pass | None = None
    ) -> tuple[Tensor, LayerState]:
        """Further positions after those that `state` stands for; {} is the start. Dropout is off."""
