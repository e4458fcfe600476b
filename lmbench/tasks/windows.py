"""Windows of a text as batches, on the device where the text lies. Shared by tasks on text; no task itself.

Legend: B batch (any number of leading axes), T position, K preceding tokens, N position in the text.
"""

import numpy as np
import torch

from lmbench.config import Config
from lmbench.data.splits import Draws, batch_sizes
from lmbench.tasks.base import IGNORE, Batch, Stream, View


class WindowStream(Stream):
    """Training windows of a text."""

    def __init__(
        self,
        run: Config,
        view: View,
        ids_N: torch.Tensor,
        doc_N: torch.Tensor | None,
        starts_S: np.ndarray,
    ) -> None:
        self.view, self.device, self.ids_N, self.doc_N = view, view.device, ids_N, doc_N
        self.starts_S, self.sizes, self.batch_size = starts_S, batch_sizes(run), run.batch_size
        self.draws = Draws(run.data_seed, batch_size=run.batch_size, n=len(starts_S))
        self.last_only = run.protocol.kind == "last_token"

    def index(self, first: int, count: int) -> dict[str, np.ndarray]:
        """`start` of each window; with epochs also `used`, False past the end of the short last batch."""
        rows = {"start": self.starts_S[self.draws.block(first, count)]}
        if min(self.sizes) < self.batch_size:
            size_C = np.array([self.sizes[step % len(self.sizes)] for step in range(first, first + count)])
            rows["used"] = np.arange(self.batch_size) < size_C[:, None]
        return rows

    def batch(self, row: dict[str, torch.Tensor]) -> Batch:
        """See `Stream.batch`."""
        start_B = row["start"]
        doc_B = start_B if self.doc_N is None else self.doc_N[start_B]
        made = gather(self.ids_N, start_B, doc_B, self.view, last_only=self.last_only)
        if "used" in row:
            made.targets_BT.masked_fill_(~row["used"].unsqueeze(-1), IGNORE)
        return made


def gather(
    ids_N: torch.Tensor, start_B: torch.Tensor, doc_B: torch.Tensor, view: View, *, last_only: bool
) -> Batch:
    """Cut windows out of the text on its device; positions past its end repeat the last token."""
    offset_T = torch.arange(view.seq_len + 1, device=ids_N.device)
    span_BT = ids_N[(start_B[..., None] + offset_T).clamp_max(len(ids_N) - 1)]
    context_BK = None
    if view.is_window and not last_only:
        back_BK = start_B[..., None] + torch.arange(1 - view.seq_len, 0, device=ids_N.device)
        context_BK = torch.where(back_BK >= doc_B[..., None], ids_N[back_BK.clamp_min(0)], -1)
    targets_BT = span_BT[..., -1:] if last_only else span_BT[..., 1:]
    return Batch(tokens_BT=span_BT[..., :-1], targets_BT=targets_BT.clone(), context_BK=context_BK)


def keep_only(batch: Batch, start_B: torch.Tensor, end_B: torch.Tensor, skip_B: torch.Tensor) -> None:
    """Ignore the targets that an earlier window scored and those past the document's end."""
    offset_T = torch.arange(batch.targets_BT.shape[1], device=start_B.device)
    position_BT = start_B[:, None] + 1 + offset_T
    wanted_BT = (offset_T >= skip_B[:, None]) & (position_BT < end_B[:, None])
    batch.targets_BT[~wanted_BT] = IGNORE


def drop_after(targets_BT: torch.Tensor, left: int) -> int:
    """Ignore all but the first `left` scored targets; returns how many are left after this batch."""
    flat = targets_BT.view(-1)
    scored = (flat != IGNORE).nonzero().squeeze(-1)
    flat[scored[left:]] = IGNORE
    return left - len(scored)
