"""Learned vectors that scale or shift the residual stream, several behind one name.

They lie in one flat parameter, so that an optimizer treats them as vectors (no decay, no
orthogonalisation) and so that a pass that uses only some of them still gives the parameter a
gradient. Legend: C model width.
"""

import torch
from torch import Tensor, nn


class Vectors(nn.Module):
    """n vectors of C numbers, all equal to `value` at the start."""

    def __init__(self, n: int, *, width: int, value: float) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.full((n * width,), value))

    def forward(self, at: int) -> Tensor:
        """(C,) the vector of this index."""
        return self.weight[at * self.width : (at + 1) * self.width]
