"""How many weights are left: by masks, after rounding, and what storing them would take.

Structural density is what masks leave, effective density what is not zero in the end: rounding to few
bits makes further zeros. A sparse tensor also stores where its values are; three usual ways differ by
nearly a factor of two, so none of them is quoted alone. Densities are shares of surviving weights;
the sparsity is 1 minus that.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from lmbench.errors import unknown
from lmbench.layers.quantizer_grids import TERNARY
from lmbench.methods.equipment import Equipment, effective
from lmbench.methods.installed import masks_on
from lmbench.methods.parts import matrices

INDEX_BITS = 16  # of a column in compressed rows


class StoredBits(NamedTuple):
    """Bits per weight, zeros included, of one tensor; row pointers and scales apart."""

    dense: float
    """Every code at its width, zeros too."""
    bitmask: float
    """One bit for each weight, and the codes of those that survive."""
    entropy: float
    """The same with the mask at its entropy, -p log2 p - (1 - p) log2(1 - p)."""
    csr16: float
    """A column index of 16 bits beside each surviving code."""


def stored_bits(density: float, *, bits: float) -> StoredBits:
    """Bits per weight of a tensor with independent zeros.

    Args:
        bits: of a code; 1.58 counts as log2 3.

    Raises:
        ValueError: a density that is no share.
    """
    if not 0 <= density <= 1:
        raise ValueError(f"density = {density} is no share of surviving weights; accepted: 0 to 1")
    width = math.log2(3) if bits == TERNARY else bits
    entropy = -sum(p * math.log2(p) for p in (density, 1 - density) if p > 0)
    codes = density * width
    return StoredBits(width, codes + 1, codes + entropy, codes + density * INDEX_BITS)


class WeightFlops(NamedTuple):
    """FLOPs of the products with weights in a forward pass."""

    dense: int
    """As kernels without a sparse form execute them, zeros too."""
    nonzero: float
    """Those that meet a weight which is not zero: what a perfect sparse kernel would have left."""


def nonzero_flops(flops: Mapping[str, int], table: pd.DataFrame) -> WeightFlops:
    """What zeros could save; time is another matter, see `measure.lowbit`.

    Args:
        flops: of a dense pass by weight; what multiplies no weight (attention's scores) is not among them.
        table: of `densities`.

    Raises:
        ValueError: a weight that the table lacks.
    """
    density = table.set_index("weight")["effective"]
    for name in flops:
        if name not in density.index:
            raise ValueError(unknown("weight", name, density.index))
    return WeightFlops(sum(flops.values()), float(sum(flops[name] * density[name] for name in flops)))


def densities(made: Equipment) -> pd.DataFrame:
    """One row for each matrix or table of an equipped model, and a last one, "all", for all of them.

    Returns:
        Columns weight, role, size, structural, effective, sparsity (1 - effective).
    """
    rows = []
    for part in matrices(made.model):
        value = effective(made.model, part.weight).detach()
        left = value.new_ones(value.shape)
        for name, span in masks_on(made.model, part.weight):
            view = left if span is None else left[span[0] : span[1]]
            view *= made.model.get_buffer(name)
        rows.append((part.weight, part.role, value.numel(), float(left.sum()), int(value.count_nonzero())))
    table = pd.DataFrame(rows, columns=["weight", "role", "size", "structural", "effective"])
    overall = {"weight": "all", "role": "all"} | table[["size", "structural", "effective"]].sum().to_dict()
    table = pd.concat([table, pd.DataFrame([overall])], ignore_index=True)
    for column in ("structural", "effective"):
        table[column] = table[column] / table["size"]
    return table.assign(size=table["size"].astype(int), sparsity=1 - table["effective"])
