"""Packing: units laid out in rows of seq_len tokens, so that those shorter than a window count too.

A unit of n tokens has n - 1 targets. It is cut into chunks of at most seq_len inputs, the target of
a chunk's last input being the next chunk's first token. "separate" gives every chunk a row of its
own, the rest of it padding. "masked" and "concatenate" put chunks of several units into one row:
full chunks keep their own, the others are placed by first-fit decreasing (each, longest first, in
the first row that has room; at most 11/9 of the fewest rows possible, Johnson 1973). Padding and
whatever is no prediction within its own unit has no target.

A chunk in a row with others is a segment of it. "masked" says where segments start, so that models
keep them apart (`tasks.base.Batch.segment_BT`): each target's loss is that of "separate" rows, from
fewer of them. "concatenate" says nothing: the later chunks of a row see the earlier ones. Any model
takes such rows, a recurrent one too, and they are the control that tells what the masks do.

Legend: R row, T position in it, U unit, N position in the text.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lmbench.data.selection.units import Units

Packing = Literal["separate", "masked", "concatenate"]


@dataclass(frozen=True)
class Rows:
    """R rows of seq_len places."""

    place_RT: np.ndarray
    """Position in the text of each input whose next token is its target; -1 is padding. int32."""
    unit_R: np.ndarray
    """A row's unit: the hardest one where there are several, see `pack`."""
    segment_RT: np.ndarray | None = None
    """Place in the row at which the segment of each place starts, that of padding after the last one;
    int32. None where rows are not divided: they hold one chunk, or chunks that see each other."""

    @property
    def padding(self) -> float:
        """Share of the places that hold no token, in [0, 1)."""
        return float((self.place_RT < 0).mean()) if self.place_RT.size else 0.0


def pack(units: Units, *, seq_len: int, packing: Packing, difficulty_U: np.ndarray | None = None) -> Rows:
    """Lay out units in rows.

    Args:
        difficulty_U: decides which unit a row of several counts as; None is the first.
    """
    starts, lengths, owner = _chunks(units, seq_len=seq_len)
    alone = packing == "separate"
    row_C = np.arange(len(starts)) if alone else first_fit_decreasing(lengths, room=seq_len)
    place_RT = np.full((int(row_C.max(initial=-1)) + 1, seq_len), -1, dtype=np.int32)
    segment_RT = np.zeros_like(place_RT) if packing == "masked" else None
    unit_R = np.full(len(place_RT), -1)
    used_R = np.zeros(len(place_RT), dtype=np.int64)
    for start, length, unit, row in zip(starts, lengths, owner, row_C, strict=True):
        at = used_R[row]
        place_RT[row, at : at + length] = np.arange(start, start + length)
        used_R[row] += length
        if segment_RT is not None:
            segment_RT[row, at:] = at
            segment_RT[row, used_R[row] :] = used_R[row]
        held = unit_R[row]
        if held < 0 or (difficulty_U is not None and difficulty_U[unit] > difficulty_U[held]):
            unit_R[row] = unit
    return Rows(place_RT, unit_R, segment_RT)


def _chunks(units: Units, *, seq_len: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start, number of inputs and unit of each chunk."""
    chunks = [
        (at, min(seq_len, end - 1 - at), unit)
        for unit, (start, end) in enumerate(zip(units.start_U.tolist(), units.end_U.tolist(), strict=True))
        for at in range(start, end - 1, seq_len)
    ]
    starts, lengths, owner = np.array(chunks, dtype=np.int64).reshape(-1, 3).T
    return starts, lengths, owner


def first_fit_decreasing(lengths: np.ndarray, *, room: int) -> np.ndarray:
    """The bin of each item: longest first, each into the first bin that has room for it.

    Raises:
        ValueError: an item longer than a bin.
    """
    if len(lengths) and lengths.max() > room:
        raise ValueError(f"an item of length {lengths.max()} does not fit into a bin of {room}")
    bin_C, left_R, n = np.zeros(len(lengths), dtype=np.int64), np.full(len(lengths), room), 0
    first = 0  # bins before it are full
    for item in np.argsort(-lengths, kind="stable"):
        fits = left_R[first:n] >= lengths[item]
        at = first + int(fits.argmax()) if fits.any() else n
        n = max(n, at + 1)
        left_R[at] -= lengths[item]
        bin_C[item] = at
        while first < n and left_R[first] == 0:
            first += 1
    return bin_C
