"""Normalisation over the last axis: LayerNorm, and RMSNorm, which leaves the mean alone.

RMSNorm: x / sqrt(mean(x^2) + eps) * g. Source: Zhang and Sennrich 2019, eq. 4.
"""

import torch.nn.functional as F
from torch import Tensor, nn, ones

from lmbench.layers.shape import NormKind

EPS = 1e-5  # that of nn.LayerNorm, so that the two kinds differ in nothing else


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned gain, computed in the precision of the gain.

    nn.RMSNorm warns and leaves its fused kernel when bfloat16 activations meet a float32
    gain, which is what autocast gives, and squares lose too much in bfloat16.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x with unit root mean square over the last axis, times the gain; the dtype of x."""
        return F.rms_norm(x.to(self.weight.dtype), self.weight.shape, self.weight, EPS).to(x.dtype)


def make_norm(kind: NormKind, *, width: int, bias: bool) -> nn.Module:
    """A norm over `width` features; RMSNorm has no bias whatever `bias` is."""
    return RMSNorm(width) if kind == "rmsnorm" else nn.LayerNorm(width, eps=EPS, bias=bias)
