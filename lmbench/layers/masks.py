"""Masks of weights: which survive, chosen by magnitude, and how the others go on.

A mask is a buffer of 0 and 1 that the weight is multiplied by. With the shadow "dense" the
gradient passes through the mask, so removed weights go on learning and come back where they
have grown (Lin et al. 2020, "Dynamic model pruning with feedback"); with "hard" they receive
none, and what is removed stays so. How many survive is exact: floor(density * n), at least one.

Four structures: single weights; n of m consecutive inputs (2:4 is what sparse tensor cores
execute); heads of attention and units of a feed-forward, with all weights that only they use.
All functions take R replicas side by side. Source of the ranking by magnitude and of the cubic
schedule: Zhu and Gupta 2017, section 2; of n:m, Mishra et al. 2021.
Legend: R replica, N weights in a row, U unit, C inputs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lmbench.layers.quantizer import straight

Shadow = Literal["dense", "hard"]
EVEN = 1e-9  # density * n may fall short of a whole number by rounding


class Mask(nn.Module):
    """A parametrization: the weight times its mask.

    Args:
        shape: of the mask; it broadcasts to the weight.
        shadow: see the module.
    """

    permanent = True
    mask: Tensor

    def __init__(self, shape: tuple[int, ...], *, shadow: Shadow) -> None:
        super().__init__()
        self.shadow = shadow
        self.register_buffer("mask", torch.ones(shape))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with zeros where it is removed."""
        masked = weight * self.mask.to(weight.dtype)
        return straight(masked, through=weight) if self.shadow == "dense" else masked


def kept(density: float, n: int) -> int:
    """How many of n survive: floor(density * n), at least one.

    Raises:
        ValueError: a density that is no share.
    """
    if not 0 < density <= 1:
        raise ValueError(f"density = {density} is no share of surviving weights; accepted: above 0, up to 1")
    return max(1, math.floor(density * n + EVEN))


def density_from(sparsity: float, *, literal: bool = False) -> float:
    """The share of weights that survive a sparsity.

    Args:
        sparsity: the share of zeros.
        literal: the published definition CountNonZero(M) / Size(M), which is the density itself.

    Raises:
        ValueError: a sparsity that leaves nothing, or that is no share.
    """
    density = sparsity if literal else 1 - sparsity
    if not 0 < density <= 1:
        raise ValueError(f"sparsity = {sparsity} leaves a density of {density:g}; accepted: above 0, up to 1")
    return density


# ------------------------------------------------------------------ choosing


def largest(scores_RN: Tensor, *, keep: int) -> Tensor:
    """(R, N) with 1 at the `keep` largest scores of each row, exactly that many, in float32."""
    best_RK = scores_RN.topk(keep, dim=1).indices
    return torch.zeros_like(scores_RN, dtype=torch.float32).scatter_(1, best_RK, 1.0)


def largest_of_each(scores: Tensor, *, keep: int, of: int) -> Tensor:
    """1 at the `keep` largest of every `of` neighbours along the last axis, whose length `of` divides."""
    groups = scores.unflatten(-1, (-1, of))
    best = groups.topk(keep, dim=-1).indices
    return torch.zeros_like(groups, dtype=torch.float32).scatter_(-1, best, 1.0).flatten(-2)


def masks_by_magnitude(
    magnitudes: Mapping[str, Tensor], *, density: float, scope: Literal["tensor", "global"]
) -> dict[str, Tensor]:
    """Masks of single weights.

    Args:
        magnitudes: (R, *shape) by name, such as |w|; minus one where nothing may come back.
        scope: whether each tensor keeps its own share, or all together keep it.
    """
    flat = {name: value.flatten(1) for name, value in magnitudes.items()}
    if scope == "tensor":
        chosen = {name: largest(x_RN, keep=kept(density, x_RN.shape[1])) for name, x_RN in flat.items()}
    else:
        every_RN = torch.cat(list(flat.values()), dim=1)
        every_RN = largest(every_RN, keep=kept(density, every_RN.shape[1]))
        sizes = [x_RN.shape[1] for x_RN in flat.values()]
        chosen = dict(zip(flat, every_RN.split(sizes, dim=1), strict=True))
    return {name: mask_RN.reshape(magnitudes[name].shape) for name, mask_RN in chosen.items()}


# ------------------------------------------------------------------ units


@dataclass(frozen=True)
class UnitWeight:
    """How the weights of one tensor belong to units.

    Args:
        index: int64, broadcasts to the weight: the unit of each row or column, -1 for none.
    """

    name: str
    index: Tensor


def unit_scores(weights: Mapping[str, Tensor], parts: Sequence[UnitWeight], *, n_unit: int) -> Tensor:
    """(R, U) mean square over all weights of a unit.

    The mean, so that units of layers with other sizes compare.
    """
    sums_RU, counts_U = 0.0, 0.0
    for part in parts:
        weight = weights[part.name]
        shape = (len(weight), *part.index.shape)
        index = part.index.to(weight.device).flatten() % (n_unit + 1)  # -1 becomes the last, which is dropped
        squares = weight.square().sum_to_size(shape).flatten(1)
        empty_RU = weight.new_zeros(len(weight), n_unit + 1)
        sums_RU = sums_RU + empty_RU.index_add(1, index, squares)[:, :-1]
        share = weight[0].numel() // part.index.numel()
        counts_U = counts_U + empty_RU[0].index_add(0, index, torch.full_like(squares[0], share))[:-1]
    return sums_RU / counts_U


def unit_mask(chosen_RU: Tensor, part: UnitWeight) -> Tensor:
    """(R, *index shape) mask of one tensor, 1 where no unit is concerned."""
    padded_RU = torch.cat((chosen_RU, torch.ones_like(chosen_RU[:, :1])), dim=1)
    index = part.index.to(chosen_RU.device)
    return padded_RU[:, index.flatten() % padded_RU.shape[1]].reshape(len(chosen_RU), *index.shape)
