"""Normalisation over the last axis: LayerNorm, and RMSNorm, which leaves the mean alone.

RMSNorm: x / sqrt(mean(x^2) + eps) * g. Source: Zhang and Sennrich 2019, eq. 4. Both kinds
can go without their learned gain (and bias), which the linear map behind a pre-norm could
absorb anyway (OLMo does so: Groeneveld et al. 2024).
"""

import torch.nn.functional as F
from torch import Tensor, nn, ones

from lmbench.layers.fused_norm import is_fused, norm_and_turn
from lmbench.layers.shape import NormKind

EPS = 1e-5  # that of nn.LayerNorm, so that the two kinds differ in nothing else


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned gain, or without one.

    Computed in the precision of the gain: nn.RMSNorm warns and leaves its fused kernel when
    bfloat16 activations meet a float32 gain, which is what autocast gives. Where both are
    bfloat16, torch squares and sums in float32 and rounds once, at the end.
    """

    def __init__(self, width: int, *, gain: bool = True) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(ones(width)) if gain else None

    def forward(self, x: Tensor) -> Tensor:
        """x with unit root mean square over the last axis, times the gain; the dtype of x."""
        if self.weight is None and is_fused(x):
            return norm_and_turn(x.unsqueeze(-2), None, None, normed=True, eps=EPS).squeeze(-2)
        wide = x if self.weight is None else x.to(self.weight.dtype)
        return F.rms_norm(wide, (self.width,), self.weight, EPS).to(x.dtype)


def make_norm(kind: NormKind, *, width: int, bias: bool, gain: bool = True) -> nn.Module:
    """A norm over `width` features.

    Args:
        bias: of LayerNorm; RMSNorm has none.
        gain: False leaves out what is learned, so LayerNorm's bias too.
    """
    if kind == "rmsnorm":
        return RMSNorm(width, gain=gain)
    return nn.LayerNorm(width, eps=EPS, elementwise_affine=gain, bias=bias)
