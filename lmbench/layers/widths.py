"""Nested widths: how many units of a stack are in use, and which axis of which weight counts them.

Units are heads, features of the residual stream, and feed-forward units; the width of a head
stays what it is. `layers.width_masks` leaves units out of a pass by masks, `layers.slices` by
slices of the weights. Both read here what a parameter's axes stand for.
Legend: N units of any kind, J features of heads, H K.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Unit = Literal["n_head", "d_model", "d_ff"]
ROUNDING = 1e-9
"""Added before a floor: 90 * (1 - 0.3) is 62.99999999999999 in binary floating point."""


class Widths(NamedTuple):
    """Units in use of each kind."""

    n_head: int
    d_model: int
    d_ff: int


def n_active(total: int, *, removed: float, round_to: int = 1) -> int:
    """Units that stay when a share is taken out: max(1, floor((1 - c) N)), with c in [0, 1 - 1/N].

    Args:
        removed: the share, clipped.
        round_to: the result is the nearest multiple, at least one, of which N need not be one.
    """
    share = min(max(removed, 0.0), 1 - 1 / total)
    kept = max(1, math.floor((1 - share) * total + ROUNDING))
    return min(total, max(round_to, (2 * kept + round_to) // (2 * round_to) * round_to))


# ------------------------------------------------------------------ which axis is of which units

_AXES: dict[str, tuple[str, ...]] = {
    "embedding.token.weight": ("", "d_model"),
    "embedding.position.embedding.weight": ("", "d_model"),
    "attention.in_proj.weight": ("qkv", "d_model"),
    "attention.in_proj.bias": ("qkv",),
    "attention.out_proj.weight": ("d_model", "n_head"),
    "attention.out_proj.bias": ("d_model",),
    "attention.q_norm.weight": ("",),
    "attention.k_norm.weight": ("",),
    "attention_norm.weight": ("d_model",),
    "attention_norm.bias": ("d_model",),
    "feedforward.up.weight": ("up", "d_model"),
    "feedforward.up.bias": ("up",),
    "feedforward.down.weight": ("d_model", "d_ff"),
    "feedforward.down.bias": ("d_model",),
    "feedforward_norm.weight": ("d_model",),
    "feedforward_norm.bias": ("d_model",),
    "head.norm.weight": ("d_model",),
    "head.norm.bias": ("d_model",),
    "head.linear.weight": ("", "d_model"),
    "head.linear.bias": ("",),
}


UNITS: dict[str, Unit] = {
    "n_head": "n_head",
    "qkv": "n_head",
    "d_model": "d_model",
    "up": "d_ff",
    "d_ff": "d_ff",
}
"""The units that an axis counts."""


class Site(NamedTuple):
    """Where a parameter lies and what its axes count."""

    axes: tuple[str, ...]
    """"" none of the units, "n_head" heads times K, "qkv" three such, "up" feed-forward units, twice
    where they are gated."""
    layer: int
    """0 outside of the blocks."""


def site_of(name: str) -> Site:
    """The site of a parameter by its plain name."""
    parts = name.split(".")
    is_block = parts[0] == "blocks"
    return Site(_AXES[".".join(parts[2:] if is_block else parts)], int(parts[1]) if is_block else 0)


class Sizes(NamedTuple):
    """All that masks and slices have to know of a stack."""

    full: Widths
    d_head: int
    n_layer: int
    gated: bool
    """Whether the feed-forward's first map makes gates, and then values."""

    def spread(self, units_N: Tensor, axis: str) -> Tensor:
        """(..., N) of the units along an axis of a parameter: (..., length of the axis)."""
        if axis in ("n_head", "qkv"):
            heads_J = units_N.unsqueeze(-1).expand(*units_N.shape, self.d_head).flatten(-2)
            return torch.cat([heads_J] * 3, dim=-1) if axis == "qkv" else heads_J
        return torch.cat([units_N] * 2, dim=-1) if axis == "up" and self.gated else units_N

    def gather(self, along: Tensor, axis: str) -> Tensor:
        """Sums over what each unit has of an axis, (..., length of the axis) to (..., N)."""
        if axis in ("n_head", "qkv"):
            parts = (3 if axis == "qkv" else 1, self.full.n_head, self.d_head)
            return along.unflatten(-1, parts).sum((-3, -1))
        return along.unflatten(-1, (2, -1)).sum(-2) if axis == "up" and self.gated else along
