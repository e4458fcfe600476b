"""What the teachers say of a training text, computed once: top-k log-probabilities and the tail's mass.

A student sees a text many times and its teachers say the same each time, so their passes over
the batches can be replaced by one over the text. Two things then differ from live teachers,
and both are declared:

    tail      only the k likeliest tokens are told apart; the divergence is one between k + 1
              outcomes, at most the true one (the data-processing inequality), equal for k = V
    context   a live teacher sees the part of the window before a position, 1 to seq_len tokens; a
              cached one always between seq_len / 2 and seq_len of the document, where it has as many,
              also beyond the start of a packed row's segment; it never sees another document

The text is read by windows that move by half their length (a window model sees seq_len tokens
at any position, so its windows are disjoint, and its context is that of the live passes).

Legend: N position in the text, X entry of a row (2 k + 1), B batch, T position, R replica.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmbench.data.splits import Split, sliding_windows
from lmbench.layers.objective import Soft, average, likeliest, packed
from lmbench.layers.shape import Readout
from lmbench.methods.base import TeacherTable
from lmbench.models.base import LanguageModel
from lmbench.tasks.base import View
from lmbench.tasks.text_data import TextData
from lmbench.tasks.windows import gather


@dataclass(frozen=True)
class TeacherCache(TeacherTable):
    """A row for each position of a training text: what the teachers say of the token after it."""

    table_NX: Tensor
    """See `layers.objective.packed`; rows of positions without a next token count for nothing."""

    @property
    def n_bytes(self) -> int:
        """Memory that the rows take, 4 (2 k + 1) bytes a token of the text."""
        return self.table_NX.numel() * self.table_NX.element_size()

    def rows(self, row: Mapping[str, Tensor], *, seq_len: int, readout: Readout) -> Tensor:
        """(..., 1, B, T, X) for the windows or packed rows of a step; see `TeacherTable.rows`.

        Args:
            row: of the text's stream, whose "start" (..., B) says where windows begin, or "place" (..., B, T)
                where each token stands, -1 where there is none.
            readout: "last" gives one row for each window, T = 1.

        Raises:
            ValueError: batches that are not of the text.
        """
        if "place" in row:  # of packed rows all positions are read out; those of padding are ignored
            return self.table_NX[row["place"].long().clamp_min(0)].unsqueeze(-4)
        if "start" not in row:
            raise ValueError(
                "distill.cache knows positions of the training text, but these batches are not windows of it "
                f"(they have {', '.join(sorted(row))}); accepted: None"
            )
        offset_T = torch.arange(seq_len, device=self.table_NX.device)
        offset_T = offset_T[-1:] if readout == "last" else offset_T
        return self.table_NX[row["start"].unsqueeze(-1) + offset_T].unsqueeze(-4)


def windows(split: Split, *, seq_len: int, disjoint: bool) -> tuple[np.ndarray, np.ndarray]:
    """Starts of the windows that are read, and how many positions at the front of each one has read before.

    Args:
        disjoint: where all teachers are window models, which see as much at any position.
    """
    return sliding_windows(split, seq_len, seq_len if disjoint else max(1, seq_len // 2))


@torch.no_grad()
def fill(
    models: Sequence[LanguageModel],
    data: TextData,
    view: View,
    *,
    k: int,
    tau: float,
    shares: Sequence[float],
    disjoint: bool,
) -> TeacherCache:
    """Read the training text once with every teacher.

    Args:
        models: on the view's device, in evaluation mode.
        k: tokens told apart at each position.
        tau: temperature at which probabilities are averaged and kept.
        shares: of the teachers, adding up to 1.
        disjoint: see `windows`.
    """
    split = data.splits["train"]
    ids_N, doc_N = (torch.from_numpy(x).to(view.device) for x in (split.ids_N, split.doc_start_N))
    end_N = torch.from_numpy(_ends(split)).to(view.device)
    table_NX = torch.zeros(len(ids_N), 2 * k + 1, device=view.device)
    offset_T, at_once = (
        torch.arange(view.seq_len, device=view.device),
        max(1, view.eval_tokens // view.seq_len),
    )
    found = windows(split, seq_len=view.seq_len, disjoint=disjoint)
    starts_S, skips_S = (torch.from_numpy(x).to(view.device) for x in found)
    for start_B, skip_B in zip(starts_S.split(at_once), skips_S.split(at_once), strict=True):
        position_BT = start_B.unsqueeze(1) + offset_T
        is_new_BT = (offset_T >= skip_B.unsqueeze(1)) & (position_BT + 1 < end_N[start_B].unsqueeze(1))
        soft = _read(models, ids_N, start_B, doc_N[start_B], view, tau=tau, shares=shares)
        table_NX[position_BT[is_new_BT]] = packed(likeliest(soft, k=k))[is_new_BT].to(table_NX.dtype)
    return TeacherCache(table_NX)


def _read(
    models: Sequence[LanguageModel],
    ids_N: Tensor,
    start_B: Tensor,
    doc_B: Tensor,
    view: View,
    *,
    tau: float,
    shares: Sequence[float],
) -> Soft:
    """All tokens' probabilities at each position of some windows."""
    batch = gather(ids_N, start_B, doc_B, view, last_only=False)
    logits = [model(batch.tokens_BT, batch.context_BK).logits_BTV for model in models]
    return average(torch.stack(logits), shares=shares, tau=tau)


def _ends(split: Split) -> np.ndarray:
    """(N,) where the document of each position ends."""
    return np.repeat([end for _, end in split.bounds], [end - start for start, end in split.bounds])
