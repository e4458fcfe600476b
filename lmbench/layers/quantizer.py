"""Quantisers of weights, as parametrizations: the pass reads rounded weights, the trained ones are dense.

Rounding has no useful gradient, so the gradient is passed straight through (Bengio et al. 2013).
Where the scale is found from the weights themselves (largest magnitude, or mean magnitude below
2 bits) nothing is clipped for good and all weights receive their gradient. A learned scale (LSQ) clips:

    x^ = s * round(clip(x / s, -Qn, Qp))
    dx^/dx = 1 inside the clip, 0 outside
    dx^/ds = round(x / s) - x / s inside, -Qn or Qp at the rails, times 1 / sqrt(G Qp)

Source: Esser et al. 2020, section 2. There s is the parameter. Here it is size * |factor|, with the
size kept from the start and the factor learned from 1 on: Adam's steps do not depend on the size of
a gradient, and its first ones, of the learning rate, would be a third of an 8-bit step.

Legend: N block of weights with one scale, G weights of it.
"""

import torch
from torch import Tensor, nn

from lmbench.layers.quantizer_grids import BINARY, Blocks, Grid, found_scale, learned_scale_start

SMALLEST = 1e-3  # of the factor, which weights would otherwise be divided by at its sign change


class Switch(nn.Module):
    """Whether the quantisers of one method act: one buffer for all of them, which the engine fills."""

    on: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("on", torch.ones(()), persistent=False)


def straight(value: Tensor, *, through: Tensor) -> Tensor:
    """`value` to the bit, with the gradient of `through`."""
    return value.detach() + (through - through.detach())


def learned_quantizer(x: Tensor, scale: Tensor, *, grid: Grid, gradient_scale: float = 1.0) -> Tensor:
    """scale * round(clip(x / scale)), differentiable in both; for one bit scale * sign(x).

    Args:
        scale: positive, broadcasts to x.
        gradient_scale: factor on the gradient of the scale, not on its value.
    """
    s = scale.detach() + gradient_scale * (scale - scale.detach())
    if grid.bits == BINARY:  # no rails and no steps: the gradient passes everywhere
        return straight(x.sign() * scale, through=x) + x.sign() * (s - s.detach())
    inside = (x / s).clamp(grid.low, grid.high)
    return straight(inside.round(), through=inside) * s


class FoundQuantizer(nn.Module):
    """Symmetric, without a zero point; the scale of each block is found in the pass.

    Args:
        switch: None is on at all steps.
    """

    permanent = True

    def __init__(self, blocks: Blocks, *, bits: float, switch: Switch | None = None) -> None:
        super().__init__()
        self.blocks, self.grid = blocks, Grid.symmetric(bits)
        self.switches = () if switch is None else (switch,)  # a tuple: it is a part of the model, not of this

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, rounded, in its own dtype."""
        x_NG = self.blocks.split(weight)
        fixed_NG = x_NG.detach()
        scale_N1 = found_scale(fixed_NG, self.grid)
        rounded = self.blocks.join(straight(self.grid.codes(fixed_NG, scale_N1) * scale_N1, through=x_NG))
        return _switched(rounded.to(weight.dtype), weight, self.switches)


class LearnedQuantizer(nn.Module):
    """LSQ: the scale of each block is size * |factor|, of which the factor is learned.

    Args:
        weight: what the first sizes are found from.
        switch: None is on at all steps.
    """

    permanent = True
    size: Tensor

    def __init__(self, blocks: Blocks, *, bits: float, weight: Tensor, switch: Switch | None = None) -> None:
        super().__init__()
        self.blocks, self.grid = blocks, Grid.full(bits)
        self.switches = () if switch is None else (switch,)
        # One axis: optimizers leave parameters of one axis without decay.
        self.factor = nn.Parameter(torch.ones(blocks.n, device=weight.device))
        self.register_buffer("size", self.start(weight.detach()))

    def start(self, weight: Tensor) -> Tensor:
        """(N,) sizes for these weights, of which zeros do not count."""
        return learned_scale_start(self.blocks.split(weight), self.grid)

    def scale(self, dtype: torch.dtype) -> Tensor:
        """(N, 1)."""
        scale_N = self.size.to(dtype) * self.factor.to(dtype).abs().clamp_min(SMALLEST)
        return scale_N.unsqueeze(1)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, rounded, in its own dtype."""
        x_NG = self.blocks.split(weight)
        g = (self.blocks.size * self.grid.high) ** -0.5
        rounded_NG = learned_quantizer(x_NG, self.scale(x_NG.dtype), grid=self.grid, gradient_scale=g)
        return _switched(self.blocks.join(rounded_NG).to(weight.dtype), weight, self.switches)


class Rows(nn.Module):
    """Acts on some rows of a weight, each span by a module of its own, and leaves the others alone.

    Args:
        spans: first row and row after the last of each, ascending, without overlap.
        inner: one for each span.
    """

    permanent = True

    def __init__(self, spans: tuple[tuple[int, int], ...], inner: list[nn.Module]) -> None:
        super().__init__()
        self.spans, self.inner = spans, nn.ModuleList(inner)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with these rows changed."""
        pieces, at = [], 0
        for (first, end), inner in zip(self.spans, self.inner, strict=True):
            pieces += [weight[at:first], inner(weight[first:end])]
            at = end
        return torch.cat((*pieces, weight[at:]))


def _switched(rounded: Tensor, weight: Tensor, switches: tuple[Switch, ...]) -> Tensor:
    return rounded if not switches else torch.where(switches[0].on > 0, rounded, weight)
