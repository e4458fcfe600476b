"""The unit of the FLOP ledger: what one part of a forward pass costs.

Every layer states its terms beside its forward, and a model adds up those of its layers.
Matrix products only, 2 per multiply-add: element-wise work, norms, softmax and look-ups
are left out, as everywhere in the field. The backward pass of a matrix product is two
products of the same size, one for each factor's gradient, so twice its forward.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Term:
    """FLOPs of one part of a forward pass over one sequence."""

    name: str
    forward: int
    causal: int | None = None
    """Forward FLOPs if only the allowed half of a causal attention is computed; None: no such half."""


def matmul(rows: int, *, inner: int, columns: int) -> int:
    """FLOPs of (rows, inner) @ (inner, columns): a multiply and an add for each triple."""
    return 2 * rows * inner * columns
