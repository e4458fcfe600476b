"""The sketches' formulas of time and space beside what is counted, over a grid of shapes.

A published formula is an order of growth, and one of its symbols may have no stated meaning; it is
then evaluated under each reading. The corrected formula has every term, with units, from the same few
symbols. One symbol is varied at a time around one shape, so that the power that each enters with can be
read off. Legend: n positions, L layers, h heads, d width, V vocabulary, f = 4 d feed-forward, s density,
q bits.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pandas as pd

from lmbench.measure.distillation_counts import (
    Shape,
    cache_bytes,
    dense_macs,
    n_parameters,
    pruned_macs,
    stored_bytes,
)

GRID = {
    "positions": (32, 64, 128),
    "layers": (1, 2, 4),
    "heads": (2, 4, 8),
    "width": (32, 64, 128),
    "vocabulary": (128, 256, 512),
    "density": (0.1, 0.25, 0.5),
    "bits": (4, 6, 8),
}
"""The values of each symbol, of which one is that of the shape around which all are varied."""
Formula = Callable[[Shape], float]
Terms = Callable[[Shape], tuple[float, ...]]


class Law(NamedTuple):
    """A published order of growth, what corrects it, and the count."""

    number: str
    """Of the claim."""
    arm: str
    quantity: str
    varied: tuple[str, ...]
    published: Mapping[str, Terms]
    """Its one or two terms by reading; with one reading its name is empty."""
    corrected: Formula
    counted: Formula


def formula_counts() -> pd.DataFrame:
    """Every law at every shape of its grid.

    Returns:
        Columns number, arm, quantity, reading, varied, value (of what is varied), shape (all symbols, in
        words), first and second (terms as published, the second 0 where there is one), corrected, counted.
    """
    rows = []
    for law in LAWS:
        for varied, value, shape in _shapes(law.varied):
            named = {"number": law.number, "arm": law.arm, "quantity": law.quantity, "varied": varied}
            named |= {"value": float(value), "shape": _in_words(shape)}
            found = {"corrected": float(law.corrected(shape)), "counted": float(law.counted(shape))}
            for reading, published in law.published.items():
                first, second = (*published(shape), 0.0)[:2]
                rows.append(
                    named | {"reading": reading, "first": float(first), "second": float(second)} | found
                )
    return pd.DataFrame(rows)


def _shapes(varied: tuple[str, ...]) -> list[tuple[str, float, Shape]]:
    return [(name, value, Shape()._replace(**{name: value})) for name in varied for value in GRID[name]]


def _in_words(shape: Shape) -> str:
    return " ".join(f"{name}={size:g}" for name, size in shape._asdict().items())


# ------------------------------------------------------------------ corrected


def macs(s: Shape, *, pruned: float, dense: float) -> float:
    """n (L (s pruned + dense) + V d) + 2 L n^2 d, with pruned and dense in weights of a layer.

    The head multiplies V d weights a position; queries times keys and weights times values are n^2 d each.
    """
    of_weights = s.layers * (s.density * pruned + dense) + s.vocabulary * s.width
    return s.positions * of_weights + 2 * s.layers * s.positions**2 * s.width


def vectors(s: Shape) -> int:
    """Numbers that are in no matrix: 9 d biases and 4 d of norms a layer, the last norm, the head's bias."""
    return 13 * s.layers * s.width + 2 * s.width + s.vocabulary


def all_parameters(s: Shape) -> float:
    """2 V d of embedding and head, n d of positions, 12 d^2 a layer, and vectors."""
    tables = (2 * s.vocabulary + s.positions) * s.width
    return tables + 12 * s.layers * s.width**2 + vectors(s)


def first_bytes(s: Shape) -> float:
    """Codes of tables and feed-forwards, masked floats of attention, a float head, and keys and values."""
    codes = 8 * ((s.vocabulary + s.positions) * s.width + 8 * s.layers * s.width**2)
    scales = 32 * (s.vocabulary + s.positions + 5 * s.layers * s.width)  # one for each row of codes
    attention = 4 * s.layers * s.width**2 * (32 * s.density + 1)
    head_and_vectors = 32 * (s.vocabulary * s.width + vectors(s))
    cache = 32 * 2 * s.layers * s.positions * s.width
    return (codes + scales + attention + head_and_vectors + cache) / 8


def second_bytes(s: Shape) -> float:
    """q-bit codes of all matrices, of queries, keys, values and feed-forwards only what a mask leaves."""
    dense = s.bits * ((2 * s.vocabulary + s.positions) * s.width + s.layers * s.width**2)
    masked = 11 * s.layers * s.width**2 * (s.bits * s.density + 1)
    scales = 32 * (2 * s.vocabulary + s.positions + 9 * s.layers * s.width)
    return (dense + masked + scales + 32 * vectors(s)) / 8


# ------------------------------------------------------------------ published

_SIZES: dict[str, Formula] = {
    "S = layers": lambda s: s.layers,
    "S = width": lambda s: s.width,
    "S = positions": lambda s: s.positions,
    "S = parameters": all_parameters,
}
"""What "Dim(StudentModel)" may mean. B and D are d, and s is the share of weights that are not zero, as
the sketch defines its sparsity."""
_KEPT: dict[str, Formula] = {
    "k = weights kept of a d x d matrix": lambda s: s.density * s.width**2,
    "k = weights kept of a row": lambda s: s.density * s.width,
}


def _read(
    readings: Mapping[str, Formula], terms: Callable[[float, Shape], tuple[float, ...]]
) -> dict[str, Terms]:
    return {name: lambda s, size=size: terms(size(s), s) for name, size in readings.items()}


LAWS = (
    Law("B12", "V1", "multiply-adds", ("positions", "layers", "width", "density"),
        _read(_SIZES, lambda size, s: (size * s.width * s.width, size * s.width**2 * s.density)),
        lambda s: macs(s, pruned=4 * s.width**2, dense=8 * s.width**2),
        lambda s: pruned_macs(s, "prune_v1")),
    Law("B13", "V1", "bytes", ("positions", "layers", "width", "density"),
        _read(_SIZES, lambda size, s: (size * s.width, size**2 * s.density)),
        first_bytes,
        lambda s: stored_bytes(s, "prune_v1", "quantize_v1") + cache_bytes(s)),
    Law("C1", "V2", "bytes", ("vocabulary", "width", "layers", "bits"),
        {"": lambda s: (s.vocabulary * s.width * s.bits, s.layers * s.width**2 * s.bits)},
        second_bytes,
        lambda s: stored_bytes(s, "prune_v2", "quantize")),
    Law("C2", "V2", "multiply-adds", ("positions", "layers", "heads", "width", "density"),
        _read(_KEPT, lambda kept, s: (s.positions * s.layers * s.heads * s.width * kept * s.bits,)),
        lambda s: macs(s, pruned=11 * s.width**2, dense=s.width**2),
        lambda s: pruned_macs(s, "prune_v2")),
    Law("C3", "teacher", "parameters", ("vocabulary", "width", "layers"),
        {"": lambda s: (s.vocabulary * s.width, s.layers * s.width**2)},
        all_parameters,
        n_parameters),
    Law("C3", "teacher", "multiply-adds", ("positions", "layers", "heads", "width"),
        {"": lambda s: (s.positions * s.layers * s.heads * s.width**2,)},
        lambda s: macs(s, pruned=0, dense=12 * s.width**2),
        dense_macs),
)  # fmt: skip
"""The five claims, C3 in two parts. The first sketch prunes attention; the second queries, keys, values
and feed-forwards, each matrix to its share."""
