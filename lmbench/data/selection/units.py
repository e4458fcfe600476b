"""Units: the pieces of a training text that selection keeps or leaves out.

A unit is a document, or a run of at most `piece` tokens of one, so it has one domain. Nothing
crosses its ends: no n-gram, no window, no context (but in rows that are packed without masks).

Legend: N position in the text, U unit, D domain, B document.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Units:
    """U spans of one text, in the order of the text."""

    ids_N: np.ndarray
    """The whole text as token ids."""
    start_U: np.ndarray
    end_U: np.ndarray
    """The span of each unit, the end excluded."""
    document_U: np.ndarray
    """Number of the document that each unit is cut from."""
    domain_U: np.ndarray
    """Number of each unit's domain."""
    domains: tuple[str, ...]
    """Their names, sorted."""
    bytes_N: np.ndarray
    """UTF-8 bytes of each token."""

    def __len__(self) -> int:
        return len(self.start_U)

    @property
    def tokens_U(self) -> np.ndarray:
        """Tokens of each unit."""
        return self.end_U - self.start_U

    @cached_property
    def bytes_U(self) -> np.ndarray:
        """Bytes of each unit."""
        return self.sums(self.bytes_N)

    def sums(self, values_N: np.ndarray) -> np.ndarray:
        """The sum over each unit of a value per position."""
        total = np.concatenate([[0], np.cumsum(values_N)])
        return total[self.end_U] - total[self.start_U]

    def per_domain(self, values_U: np.ndarray) -> np.ndarray:
        """(D,) the sum over each domain of a value per unit."""
        return np.bincount(self.domain_U, weights=values_U, minlength=len(self.domains))

    def of(self, unit: int) -> np.ndarray:
        """The ids of one unit."""
        return self.ids_N[self.start_U[unit] : self.end_U[unit]]

    def every(self) -> list[np.ndarray]:
        """The ids of each unit."""
        return [self.of(unit) for unit in range(len(self))]

    def unit_N(self) -> np.ndarray:
        """For each position, the number of its unit; -1 outside of all."""
        out_N = np.full(len(self.ids_N), -1)
        for unit, (start, end) in enumerate(zip(self.start_U, self.end_U, strict=True)):
            out_N[start:end] = unit
        return out_N

    def take(self, indices: np.ndarray, *, end: np.ndarray | None = None) -> "Units":
        """Some of the units in the given order; `end` shortens them."""
        return replace(
            self,
            start_U=self.start_U[indices],
            end_U=self.end_U[indices] if end is None else end,
            document_U=self.document_U[indices],
            domain_U=self.domain_U[indices],
        )


def cut(
    ids_N: np.ndarray,
    *,
    bounds: Sequence[tuple[int, int]],
    domain_B: Sequence[str],
    bytes_N: np.ndarray,
    piece: int | None,
) -> Units:
    """Cut a text into units.

    Args:
        ids_N: the text, documents end to end.
        bounds: start and end of each document.
        domain_B: the name of each document's domain.
        bytes_N: UTF-8 bytes of each token.
        piece: tokens of a unit; the last one of a document is what is left. None keeps documents whole.
    """
    spans = [
        (document, at, min(end, at + (piece or end - start)))
        for document, (start, end) in enumerate(bounds)
        for at in range(start, end, piece or max(1, end - start))
    ]
    document_U, start_U, end_U = np.array(spans, dtype=np.int64).reshape(-1, 3).T
    domains = tuple(sorted(set(domain_B)))
    number_B = np.array([domains.index(name) for name in domain_B], dtype=np.int64)
    return Units(ids_N, start_U, end_U, document_U, number_B[document_U], domains, bytes_N)
