"""One more token than the model has: `<|endoftext|>`, the start of a text.

Other libraries want such a token: to score the first token of a text, to pad the shorter texts of
a batch, to end one. A model of the suite knows none. It sees the tokens of a text from its first,
so here the token means that nothing precedes: whatever stands before it is forgotten, and the
token after it, of which the model knows nothing, may be any with equal probability. A padded
text then has the logits of the text alone, whichever side is padded, and positions count from its
own start.

Legend: B batch, T position, V vocabulary without the start, W with it, S piece, L its positions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lmbench.models.base import LanguageModel


class Piece(NamedTuple):
    """Tokens of one row between starts."""

    row: int
    first: int
    stop: int


def pieces_of(ids_BT: Tensor, *, start: int) -> list[Piece]:
    """The runs of tokens that are no start, row by row."""
    found = []
    for row, is_start in enumerate((ids_BT == start).tolist()):
        first = None
        for at, here in enumerate([*is_start, True]):
            if not here and first is None:
                first = at
            elif here and first is not None:
                found.append(Piece(row, first, at))
                first = None
    return found


def widen(logits_XV: Tensor) -> Tensor:
    """Logits (..., W): the start of another text is never predicted."""
    # The lowest number and not -inf, which sampling would multiply by 0.
    lowest = logits_XV.new_full((*logits_XV.shape[:-1], 1), torch.finfo(logits_XV.dtype).min)
    return torch.cat((logits_XV, lowest), dim=-1)


def logits_of(model: LanguageModel, ids_BT: Tensor, *, start: int) -> Tensor:
    """(B, T, W) logits of the token after each position; equal ones after a start.

    Raises:
        ValueError: a text longer than the model's context.
    """
    found = pieces_of(ids_BT, start=start)
    if len(found) == len(ids_BT) and all(p.first == 0 and p.stop == ids_BT.shape[1] for p in found):
        return widen(model(ids_BT).logits_BTV)  # no start at all
    dtype = next(model.parameters()).dtype
    logits_BTV = torch.zeros(*ids_BT.shape, start, dtype=dtype, device=ids_BT.device)
    if not found:
        return widen(logits_BTV)
    # Padded on the right by any token: no position sees what comes after it.
    ids_SL = ids_BT.new_zeros(len(found), max(p.stop - p.first for p in found))
    for at, (row, first, stop) in enumerate(found):
        ids_SL[at, : stop - first] = ids_BT[row, first:stop]
    logits_SLV = model(ids_SL).logits_BTV
    rows = torch.tensor([p.row for p in found for _ in range(p.first, p.stop)], device=ids_BT.device)
    columns = torch.tensor([t for p in found for t in range(p.first, p.stop)], device=ids_BT.device)
    texts = torch.cat([logits_SLV[at, : p.stop - p.first] for at, p in enumerate(found)])
    return widen(logits_BTV.to(texts.dtype).index_put((rows, columns), texts))
