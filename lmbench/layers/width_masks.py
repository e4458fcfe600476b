"""Nested widths by masks: a pass in which the units that are not in use are 0.

Token and position vectors, all that is written to the stream, and all norms' outputs are 0 in
the features that are not in use; heads and feed-forward units that are not put out 0. So they
get no gradient either. Norms average over the features in use: that makes a masked pass equal
to one through the sliced weights (`layers.slices`); over all C, they would inflate what is
left by sqrt(C / n). Nothing is scaled up for what is missing. Related: slimmable networks (Yu
et al. 2019), MatFormer (Devvrit et al. 2023).

Legend: B batch, T position, C model width, N units of any kind, R rank rows, one for each layer
or one for all.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lmbench.layers.norm import EPS, RMSNorm
from lmbench.layers.widths import UNITS, Sizes, Unit, Widths, site_of

Rule = Literal["prefix", "random", "importance"]


class WidthMasks(nn.Module):
    """Who is in use, from buffers that are filled for each step.

    `prefix`: the first n of each kind. `random`: others at every step and in every layer, drawn
    from `key`; all are in use in evaluation, as with dropout. `importance`: those of the lowest
    rank, where ranks are state that is computed from the weights.
    """

    def __init__(self, sizes: Sizes, *, rule: Rule) -> None:
        super().__init__()
        self.sizes, self.rule = sizes, rule
        for name, n in sizes.full._asdict().items():
            self._hold(name, torch.tensor(float(n)))
        if rule == "random":
            self._hold("key", torch.zeros((), dtype=torch.int64))
        for name, n in sizes.full._asdict().items() if rule != "random" else ():
            rows = sizes.n_layer if rule == "importance" and name != "d_model" else 1
            self._hold(f"rank_{name}", torch.arange(n, dtype=torch.float32).repeat(rows, 1))

    def _hold(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def used(self, unit: Unit, *, layer: int, held: Mapping[str, Tensor] | None = None) -> Tensor:
        """(..., N) booleans.

        Args:
            held: buffers by name, with further axes in front; None takes the module's own.
        """
        held = dict(self.named_buffers()) if held is None else held
        n = getattr(self.sizes.full, unit)
        layer = 0 if unit == "d_model" else layer
        if self.rule == "random":
            rank_N = _drawn_ranks(held["key"], n, site=3 * layer + Widths._fields.index(unit))
        else:
            rank_RN = held[f"rank_{unit}"] if f"rank_{unit}" in held else self.get_buffer(f"rank_{unit}")
            rank_N = rank_RN[..., layer if self.rule == "importance" else 0, :]
        return rank_N < held[unit].unsqueeze(-1)

    def mask(self, unit: Unit, *, layer: int) -> Tensor:
        """(N,) ones and zeros, float32."""
        if self.rule == "random" and not self.training:
            return torch.ones_like(self.get_buffer(unit)).expand(getattr(self.sizes.full, unit))
        return self.used(unit, layer=layer).float()

    def count(self) -> Tensor:
        """Features of the stream in use."""
        n = self.get_buffer("d_model")
        is_whole = self.rule == "random" and not self.training
        return torch.full_like(n, self.sizes.full.d_model) if is_whole else n


def _drawn_ranks(key: Tensor, n: int, *, site: int) -> Tensor:
    """(..., n) ranks of n units in an order drawn from the key and the site: a hash (splitmix64), sorted."""
    index_N = torch.arange(n, device=key.device) + site * (1 << 20)
    x_N = key.unsqueeze(-1) ^ (index_N * -0x61C8864680B583EB)
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x_N = (x_N ^ ((x_N >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x_N.argsort(dim=-1).argsort(dim=-1)


class Masked(nn.Module):
    """Parametrization: an axis of a weight is 0 where its units are not in use."""

    permanent = False  # of the pass, not of the weight

    def __init__(self, masks: WidthMasks, *, axis: str, layer: int, last: bool) -> None:
        super().__init__()
        # In a tuple: as a submodule its buffers would go by the name of each weight.
        self._masks, self.axis, self.layer, self.last = (masks,), axis, layer, last

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, masked."""
        masks = self._masks[0]
        units_N = masks.mask(UNITS[self.axis], layer=self.layer).to(weight.dtype)
        along = masks.sizes.spread(units_N, self.axis)
        return weight * (along if self.last or weight.ndim == 1 else along.unsqueeze(-1))


class ActiveNorm(nn.Module):
    """LayerNorm or RMSNorm over the features in use; 0 in the others, which it reads as 0.

    RMSNorm: x / sqrt(sum(x^2) / n + eps) * g. LayerNorm: the same of x - sum(x) / n, plus b.
    """

    def __init__(self, norm: nn.Module, masks: WidthMasks) -> None:
        super().__init__()
        self.centred = not isinstance(norm, RMSNorm)
        self.eps = norm.eps if self.centred else EPS
        self.weight, self.bias = norm.weight, norm.bias if self.centred else None
        self._masks = (masks,)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, C) in the dtype of x; statistics in float32 or better."""
        wide_BTC = x_BTC.to(torch.promote_types(x_BTC.dtype, torch.float32))
        mask_C = self._masks[0].mask("d_model", layer=0).to(wide_BTC.dtype)
        n = self._masks[0].count().to(wide_BTC.dtype)
        if self.centred:
            wide_BTC = (wide_BTC - wide_BTC.sum(-1, keepdim=True) / n) * mask_C
        power_BT1 = wide_BTC.square().sum(-1, keepdim=True) / n
        wide_BTC = wide_BTC * torch.rsqrt(power_BT1 + self.eps)
        if self.weight is not None:
            wide_BTC = wide_BTC * (self.weight * mask_C)
        if self.bias is not None:
            wide_BTC = wide_BTC + self.bias * mask_C
        return wide_BTC.to(x_BTC.dtype)


def install(model: nn.Module, sizes: Sizes, *, rule: Rule, names: Iterable[str]) -> WidthMasks:
    """Mask a stack of attention and dense feed-forwards in place; all units are in use until told otherwise.

    The masks are the module `widths` of the model. Axes that read the stream need none: it is 0 there.

    Args:
        names: of the parameters in the plain model, which others may have parametrized already.

    Raises:
        ValueError: masks are there already, by whose widths the norms would go on to average.
    """
    if any(isinstance(part, WidthMasks) for part in model.children()):
        raise ValueError("two methods 'constrain' act on one model; accepted: one")
    masks = WidthMasks(sizes, rule=rule)
    model.add_module("widths", masks)
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner, site, is_table = model.get_submodule(path), site_of(name), name.startswith("embedding.")
        axis = site.axes[-1] if is_table else site.axes[0]
        if axis and not _is_norm(owner):
            masked = Masked(masks, axis=axis, layer=site.layer, last=is_table)
            parametrize.register_parametrization(owner, leaf, masked)
    for path, part in [(path, part) for path, part in model.named_modules() if _is_norm(part)]:
        parent, _, leaf = path.rpartition(".")
        if not leaf.startswith(("q_", "k_")):  # of a head, whose width stays
            model.get_submodule(parent).add_module(leaf, ActiveNorm(part, masks))
    return masks


def _is_norm(part: nn.Module) -> bool:
    return isinstance(part, nn.LayerNorm | RMSNorm)
