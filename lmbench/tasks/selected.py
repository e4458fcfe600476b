"""Training batches from a selection of a text: windows of kept units, paced ones, packed rows.

Shared by what selects data; no task itself. Windows of kept units in the order of the text are
those of `windows.WindowStream`, with other starts. Here are the two streams that differ from it.

A unit is to a window model what a document is: its context does not reach before the unit. Packed
rows may hold several units; whether models are told of the borders is `packing`'s choice.

Legend: C step of a block, B batch (any number of leading axes), T position, K preceding tokens,
W window, S step, R row, N position in the text.
"""

import numpy as np
import torch

from lmbench.config import Config
from lmbench.data.selection.choose import Selection
from lmbench.data.selection.pacing import pools
from lmbench.data.selection.packing import Packing, Rows, pack
from lmbench.data.selection.units import Units
from lmbench.data.splits import Draws, batch_sizes
from lmbench.tasks.base import IGNORE, Batch, Stream, View
from lmbench.tasks.windows import WindowStream, gather

FINE = 1 << 53  # draws below it are fractions of it, exact in float64


def selected_stream(
    chosen: Selection,
    *,
    run: Config,
    view: View,
    ids_N: torch.Tensor,
    unit_N: torch.Tensor | None,
    packing: Packing | None,
    competence: float | None,
) -> Stream:
    """The training batches that a selection gives.

    Args:
        ids_N: the whole text, on the view's device.
        unit_N: for each position the start of its unit; window models only.
        packing: lays units out in rows; None draws windows.
        competence: the part of the data that pacing starts with; None paces nothing.

    Raises:
        ValueError: every kept unit is too short for a window.
    """
    start = 1.0 if competence is None else competence
    if packing is not None:
        rows = pack(chosen.kept, seq_len=view.seq_len, packing=packing, difficulty_U=chosen.difficulty_K)
        difficulty_R = chosen.difficulty_K[rows.unit_R]
        return PackedStream(run, view, ids_N, unit_N, rows, difficulty_R=difficulty_R, start=start)
    starts_W, unit_W = starts_of(chosen.kept, view.seq_len)
    if not len(starts_W):
        raise ValueError(
            f"select keeps no unit of more than seq_len = {view.seq_len} tokens; the longest has "
            f"{chosen.kept.tokens_U.max()}, take a larger piece or share, or packing = 'separate' or 'masked'"
        )
    if competence is None:
        return WindowStream(run, view, ids_N, unit_N, starts_W)
    difficulty_W = chosen.difficulty_K[unit_W]
    return PacedWindows(run, view, ids_N, unit_N, starts_W, difficulty_W=difficulty_W, start=start)


def usage(chosen: Selection, *, seq_len: int, packing: Packing | None, read: int) -> dict[str, float]:
    """How a training uses the kept tokens.

    Args:
        read: places that it reads, rows times seq_len.

    Returns:
        `unreachable_tokens`, of kept units that are too short for a window or a row; `padding`, the
        share of places without a token; `passes`, tokens that are read over tokens that are kept.
    """
    tokens_K, padding = chosen.kept.tokens_U, 0.0
    shortest = seq_len + 1 if packing is None else 2
    if packing is not None:
        padding = pack(chosen.kept, seq_len=seq_len, packing=packing).padding
    return {
        "unreachable_tokens": float(tokens_K[tokens_K < shortest].sum()),
        "padding": padding,
        "passes": read * (1 - padding) / float(tokens_K.sum()),
    }


def starts_of(kept: Units, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Every window of seq_len tokens and one target inside a kept unit: its start, and its unit."""
    room_K = np.maximum(kept.tokens_U - seq_len, 0)
    unit_W = np.repeat(np.arange(len(kept)), room_K)
    offset_W = np.arange(len(unit_W)) - np.repeat(np.cumsum(room_K) - room_K, room_K)
    return kept.start_U[unit_W] + offset_W, unit_W


class Pace:
    """Uniform draws from the easiest part of a list, a part that grows: a pure function of (data_seed, step).

    Args:
        difficulty_W: of each entry, see `pacing.pools`.
        start: competence at the beginning; 1 draws from all entries at every step.
    """

    def __init__(self, run: Config, difficulty_W: np.ndarray, *, start: float) -> None:
        self.order_W = np.argsort(difficulty_W, kind="stable")
        self.pool_S = pools(difficulty_W[self.order_W], steps=run.steps, start=start)
        self.draws = Draws(run.data_seed, batch_size=run.batch_size, n=FINE)

    def block(self, first: int, count: int) -> np.ndarray:
        """(count, B) entries for steps first .. first + count - 1."""
        pool_C = self.pool_S[np.minimum(np.arange(first, first + count), len(self.pool_S) - 1)]
        part_CB = self.draws.block(first, count) / FINE
        return self.order_W[np.minimum((part_CB * pool_C[:, None]).astype(np.int64), pool_C[:, None] - 1)]


class PacedWindows(WindowStream):
    """Windows from easy to hard."""

    def __init__(
        self,
        run: Config,
        view: View,
        ids_N: torch.Tensor,
        doc_N: torch.Tensor | None,
        starts_W: np.ndarray,
        *,
        difficulty_W: np.ndarray,
        start: float,
    ) -> None:
        super().__init__(run, view, ids_N, doc_N, starts_W)
        self.draws = Pace(run, difficulty_W, start=start)


class PackedStream(Stream):
    """Packed rows: inputs at places of the text, targets only where a row has the next token too.

    Every replica may have rows of its own, so their places travel with the draws, and where rows are
    divided their segments too: 4 bytes a token each.
    """

    def __init__(
        self,
        run: Config,
        view: View,
        ids_N: torch.Tensor,
        doc_N: torch.Tensor | None,
        rows: Rows,
        *,
        difficulty_R: np.ndarray,
        start: float,
    ) -> None:
        self.view, self.device, self.ids_N, self.doc_N, self.rows = view, view.device, ids_N, doc_N, rows
        self.sizes, self.batch_size = batch_sizes(run), run.batch_size
        self.draws = Pace(run, difficulty_R, start=start)

    def index(self, first: int, count: int) -> dict[str, np.ndarray]:
        """`place` (count, B, T): position of each input, -1 for padding and all that is not used.

        With it `segment`, see `Rows.segment_RT`, where rows are divided.
        """
        row_CB = self.draws.block(first, count)
        place_CBT = self.rows.place_RT[row_CB]
        if min(self.sizes) < self.batch_size:
            size_C = np.array([self.sizes[step % len(self.sizes)] for step in range(first, first + count)])
            place_CBT[np.arange(self.batch_size) >= size_C[:, None]] = -1
        if self.rows.segment_RT is None:
            return {"place": place_CBT}
        return {"place": place_CBT, "segment": self.rows.segment_RT[row_CB]}

    def batch(self, row: dict[str, torch.Tensor]) -> Batch:
        """See `Stream.batch`."""
        place_BT = row["place"].long()
        is_input_BT = place_BT >= 0
        here_BT = place_BT.clamp_min(0)
        tokens_BT = torch.where(is_input_BT, self.ids_N[here_BT], 0)
        # A chunk ends before its unit does, so the next token is there and belongs to the unit.
        targets_BT = torch.where(is_input_BT, self.ids_N[here_BT + 1], IGNORE)
        context_BK = None
        if self.view.is_window:
            start_B = here_BT[..., 0]
            context_BK = gather(
                self.ids_N, start_B, self.doc_N[start_B], self.view, last_only=False
            ).context_BK
        segment_BT = row["segment"].long() if "segment" in row else None
        return Batch(tokens_BT=tokens_BT, targets_BT=targets_BT, context_BK=context_BK, segment_BT=segment_BT)
