"""Windows of a text as batches, on the device where the text lies. Shared by tasks on text; no task itself.

Legend: B batch, T position, K preceding tokens, N position in the text.
"""

import torch

from lmbench.tasks.base import IGNORE, Batch, View


def gather(
    ids_N: torch.Tensor, start_B: torch.Tensor, doc_B: torch.Tensor, view: View, *, last_only: bool
) -> Batch:
    """Cut windows out of the text on its device; positions past its end repeat the last token."""
    offset_T = torch.arange(view.seq_len + 1, device=ids_N.device)
    span_BT = ids_N[(start_B[:, None] + offset_T).clamp_max(len(ids_N) - 1)]
    context_BK = None
    if view.is_window and not last_only:
        back_BK = start_B[:, None] + torch.arange(1 - view.seq_len, 0, device=ids_N.device)
        context_BK = torch.where(back_BK >= doc_B[:, None], ids_N[back_BK.clamp_min(0)], -1)
    targets_BT = span_BT[:, -1:] if last_only else span_BT[:, 1:]
    return Batch(tokens_BT=span_BT[:, :-1], targets_BT=targets_BT.clone(), context_BK=context_BK)


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
