"""Grids that weights are rounded to, the blocks that share one scale, and scales found from values.

A quantised weight is scale * code with a whole code. The grid says which codes exist, the blocks
which weights share a scale: a row (all inputs of one output), a group of so many inputs in a row,
or a whole tensor. Zero is a code of every grid and is made from zero alone by none of them, so
what a mask has removed stays removed: Q(0) = 0. Rows that are all zeros have a tiny scale.

    bits    codes of a scale that is found    codes of a learned scale
    1       -1, 1 (0 from 0 alone)            the same
    1.58    -1, 0, 1                          the same
    b       -(2^(b-1) - 1) .. 2^(b-1) - 1     -2^(b-1) .. 2^(b-1) - 1

So 2 bits of a scale that is found are the three values -1, 0, 1 too, and differ from 1.58 only in how
the scale is found (the largest magnitude, and not the mean one); with the clip of the least squared
error the two are bit by bit the same. Of a learned scale they are the four values -2 .. 1.

Source: Rastegari et al. 2016 (binary, scale mean|w|); Ma et al. 2024, "The era of 1-bit LLMs"
(ternary, scale mean|w|); Esser et al. 2020, "Learned step size quantization" (the full range).
Legend: N block, G weights of a block.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lmbench.errors import unknown

Granularity = Literal["row", "group", "tensor"]
BINARY, TERNARY, FULL = 1.0, 1.58, 32.0
BITS = (BINARY, TERNARY, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, FULL)
"""Accepted bits; 32 is a weight left as it is."""
TINY = 1e-12  # smallest scale, so that a block of zeros divides by something
RATIOS = 100  # clips that are tried by `best_scale`, evenly from 1/100 of the largest magnitude to all of it


@dataclass(frozen=True)
class Grid:
    """The codes low .. high of so many bits."""

    bits: float
    low: int
    high: int

    @classmethod
    def symmetric(cls, bits: float) -> "Grid":
        """As many codes above zero as below it: 2^b - 1 of b bits, three of 2 bits and of 1.58."""
        high = 1 if bits < 2 else 2 ** (int(bits) - 1) - 1
        return cls(bits, -high, high)

    @classmethod
    def full(cls, bits: float) -> "Grid":
        """All codes that so many bits hold; below 2 bits those of `symmetric`."""
        if bits < 2:
            return cls.symmetric(bits)
        n = 2 ** (int(bits) - 1)
        return cls(bits, -n, n - 1)

    def codes(self, x_NG: Tensor, scale_N1: Tensor) -> Tensor:
        """The nearest codes of x / scale; one bit takes the sign."""
        if self.bits == BINARY:
            return x_NG.sign()
        return (x_NG / scale_N1).round().clamp(self.low, self.high)


@dataclass(frozen=True)
class Blocks:
    """How a weight of this shape is cut into blocks.

    Args:
        shape: (..., outputs, inputs) of one replica's weight; leading axes (experts, heads) are more rows.
        group: inputs to a block, where granularity is "group"; the last one of a row may hold fewer.
        input_first: whether the weight is stored as (..., inputs, outputs).
    """

    shape: tuple[int, ...]
    granularity: Granularity = "row"
    group: int = 128
    input_first: bool = False

    def __post_init__(self) -> None:
        if self.granularity not in get_args(Granularity):
            raise ValueError(unknown("granularity", self.granularity, get_args(Granularity)))
        if self.group < 1:
            raise ValueError(f"group = {self.group} inputs share no scale; accepted: 1 or more")

    @property
    def n_input(self) -> int:
        """Inputs of a row."""
        return self.shape[-2] if self.input_first else self.shape[-1]

    @property
    def n_row(self) -> int:
        """Rows over all leading axes."""
        return math.prod(self.shape) // self.n_input

    @property
    def size(self) -> int:
        """G."""
        whole = {"row": self.n_input, "tensor": math.prod(self.shape)}
        return whole.get(self.granularity, min(self.group, self.n_input))

    @property
    def n(self) -> int:
        """N, which is the number of scales."""
        per_row = -(-self.n_input // self.size)
        return 1 if self.granularity == "tensor" else self.n_row * per_row

    def split(self, weight: Tensor) -> Tensor:
        """A weight as (N, G) in float32 or better; short groups are filled up with zeros."""
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        rows = (wide.mT if self.input_first else wide).reshape(self.n_row, self.n_input)
        if self.granularity == "tensor":
            return rows.reshape(1, -1)
        missing = -self.n_input % self.size
        return (F.pad(rows, (0, missing)) if missing else rows).reshape(-1, self.size)

    def join(self, x_NG: Tensor) -> Tensor:
        """The inverse of `split`, in the dtype of x."""
        if self.granularity == "tensor":
            rows = x_NG.reshape(self.n_row, self.n_input)
        else:
            rows = x_NG.reshape(self.n_row, -1)[:, : self.n_input]
        if not self.input_first:
            return rows.reshape(self.shape)
        return rows.reshape(*self.shape[:-2], self.shape[-1], self.shape[-2]).mT


def mean_magnitude(x_NG: Tensor) -> Tensor:
    """(N, 1) mean of |x| over what is not zero: over the weights that survive a mask."""
    return x_NG.abs().sum(1, keepdim=True) / (x_NG != 0).sum(1, keepdim=True).clamp_min(1)


def found_scale(x_NG: Tensor, grid: Grid) -> Tensor:
    """(N, 1): the largest magnitude is the last code; below 2 bits the mean magnitude is code 1."""
    if grid.bits < 2:
        return mean_magnitude(x_NG).clamp_min(TINY)
    return (x_NG.abs().amax(1, keepdim=True) / grid.high).clamp_min(TINY)


def learned_scale_start(x_NG: Tensor, grid: Grid) -> Tensor:
    """(N,) first learned scales: 2 mean|x| / sqrt(high), or mean|x| for one bit, which has no steps between.

    A block of zeros, such as a map that starts at 0, takes the mean magnitude of an nn.Linear's start,
    1 / (2 sqrt(G)): from a scale of 0 nothing is ever inside the clip.
    """
    mean_N = mean_magnitude(x_NG).squeeze(1)
    mean_N = torch.where(mean_N > 0, mean_N, torch.full_like(mean_N, 0.5 * x_NG.shape[1] ** -0.5))
    return mean_N if grid.bits == BINARY else 2 * mean_N / grid.high**0.5


def best_scale(x_NG: Tensor, grid: Grid) -> Tensor:
    """(N, 1) scales of the least squared error, among `RATIOS` clips of the largest magnitude.

    For one bit the mean magnitude is the best of all: it is where the derivative is zero.
    """
    if grid.bits == BINARY:
        return found_scale(x_NG, grid)
    largest_N1 = x_NG.abs().amax(1, keepdim=True)
    best_N1 = (largest_N1 / grid.high).clamp_min(TINY)
    least_N1 = _squared_error(x_NG, best_N1, grid)
    for ratio in range(RATIOS - 1, 0, -1):
        scale_N1 = (largest_N1 * (ratio / RATIOS) / grid.high).clamp_min(TINY)
        error_N1 = _squared_error(x_NG, scale_N1, grid)
        best_N1 = torch.where(error_N1 < least_N1, scale_N1, best_N1)
        least_N1 = torch.minimum(error_N1, least_N1)
    return best_N1


def _squared_error(x_NG: Tensor, scale_N1: Tensor, grid: Grid) -> Tensor:
    return (grid.codes(x_NG, scale_N1) * scale_N1 - x_NG).square().sum(1, keepdim=True)


def check_bits(bits: float) -> float:
    """`bits`, if a grid has as many.

    Raises:
        ValueError: naming the nearest that one has.
    """
    if bits in BITS:
        return bits
    near = min(BITS, key=lambda known: abs(known - bits))
    raise ValueError(
        f"bits = {bits:g} has no grid; accepted: {', '.join(f'{known:g}' for known in BITS)}. "
        f"Did you mean {near:g}?"
    )
