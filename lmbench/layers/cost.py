"""The unit of the FLOP ledger: what one part of a forward pass costs.

Every layer states its terms beside its forward, and a model adds up those of its layers.
Matrix products, 2 per multiply-add: element-wise work, norms, softmax and look-ups are left
out, as everywhere in the field. What does the work of a product element by element (a scan,
a depthwise convolution) is counted too, and marked, because torch's counter is blind to it.
The backward pass of a product is two products of the same size, one for each factor's
gradient, so twice its forward.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Term:
    """FLOPs of one part of a forward pass over one sequence."""

    name: str
    forward: int
    causal: int | None = None
    """Forward FLOPs if only the allowed half of a causal attention is computed; None: no such half."""
    elementwise: bool = False
    """Whether it is computed element by element, which no counter of matrix products sees."""


def merged(terms: Iterable[Term]) -> tuple[Term, ...]:
    """One term for each name, in the order of first appearance."""
    found: dict[str, Term] = {}
    for term in terms:
        held = found.get(term.name)
        found[term.name] = term if held is None else _sum(held, term)
    return tuple(found.values())


def _sum(one: Term, other: Term) -> Term:
    causal = None
    if one.causal is not None or other.causal is not None:
        causal = sum(t.forward if t.causal is None else t.causal for t in (one, other))
    assert one.elementwise == other.elementwise, f"{one.name} is counted in two ways"
    return replace(one, forward=one.forward + other.forward, causal=causal)


def matmul(rows: int, *, inner: int, columns: int) -> int:
    """FLOPs of (rows, inner) @ (inner, columns): a multiply and an add for each triple."""
    return 2 * rows * inner * columns
