"""Which runs can learn from rows of units: what a row may hold, and what a model must keep apart.

A unit is a piece of one document. Windows are drawn from inside one, so it must be longer than they
are. Units shorter than a window are learned from in packed rows. With packing = "masked" a row holds
several and models keep them apart. The ledger goes on to count whole rows, padding and those scores
of attention included that the mask rules out: they are computed, and by no fused kernel, so long rows
take the memory of all T^2 scores. Evaluations know no segments.

Legend: T position.
"""

from lmbench.data.selection.packing import Packing
from lmbench.models.base import ModelConfig
from lmbench.run import Run


def check_rows(packing: Packing | None, *, piece: int | None, run: Run) -> None:
    """Refuse a run that cannot learn from units in this way.

    Args:
        packing: of units into rows; None draws windows, each from inside one unit.
        piece: tokens of a unit; None is whole documents.

    Raises:
        ValueError: a model whose predictions cross borders, a protocol with one target in a row, or units
            that hold no window.
    """
    if packing == "masked":
        refuse_crossing(run.model, who="model", instead="a model whose mixers are all attention")
    if packing and run.protocol.kind == "last_token":
        raise ValueError(
            f"select.packing = {packing!r} makes rows of many targets; protocol 'last_token' has one"
        )
    if packing is None and piece is not None and piece <= run.model.seq_len:
        raise ValueError(
            f"select.piece = {piece} holds no window of seq_len = {run.model.seq_len} and its "
            f"target; take piece >= {run.model.seq_len + 1}, or packing = 'separate' or 'masked'"
        )


def refuse_crossing(model: ModelConfig, *, who: str, instead: str) -> None:
    """Refuse a model for rows of several segments where its predictions would cross their borders.

    Args:
        who: what the model is in the run.
        instead: what is accepted there, beside packing = 'separate'.

    Raises:
        ValueError: saying what crosses.
    """
    if model.crosses:
        raise ValueError(
            f"select.packing = 'masked' keeps the units of a row apart, which {who} {model.name!r} cannot: "
            f"{model.crosses}; accepted: 'separate', or {instead}"
        )
