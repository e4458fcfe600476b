"""What a finished run loses on each token of a training text, for methods that choose data by it.

The text is read as a split is scored: by windows that move by half their length, so that a token
has at least that much context. The run learned some of this text itself, so its losses are those
of a reader who may remember; a reference that was trained on less of the text (`train_tokens`)
is the more honest one.

Legend: N position in the text, B batch, T position.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmbench.data.splits import sliding_windows
from lmbench.methods.equipment import equipped, in_force
from lmbench.run import Dense, Run
from lmbench.tasks.base import IGNORE, View
from lmbench.tasks.text_data import TextData

SPLIT = "train"


def check_reference(reference: Run, run: Run) -> None:
    """Refuse a reference that does not read the same ids: the same text under the same tokenizer.

    Args:
        run: of a text.

    Raises:
        ValueError: saying what each reads.
    """
    whole, task = {"train_tokens": None, "eval_tokens": None}, reference.task
    if task.kind != "text" or task.replace(**whole) != run.task.replace(**whole):
        raise ValueError(
            f"select.reference was trained on {reference.task.caption}, the run reads "
            f"{run.task.caption}; their losses need the same text and tokenizer"
        )


@torch.no_grad()
def reference_losses(
    reference: Run, weights: Mapping[str, Tensor], *, data: TextData, view: View
) -> np.ndarray:
    """(N,) nats of each token of train, NaN for the first of each document.

    Args:
        weights: of the reference, under plain names.
        view: says on which device, and how large batches are.
    """
    held = in_force(reference.methods, step=reference.steps, steps=reference.steps)
    model = equipped(reference.model, weights, methods=held).to(view.device).eval()
    wide = View(
        seq_len=reference.model.seq_len,
        is_window=reference.model.is_window,
        device=view.device,
        eval_tokens=view.eval_tokens,
    )
    found = []
    for batch in data.eval_batches(SPLIT, Dense(), wide, eval_seed=0):
        logits_BTV = model(batch.tokens_BT, batch.context_BK).logits_BTV.float()
        nll_BT = F.cross_entropy(
            logits_BTV.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORE, reduction="none"
        )
        found.append(nll_BT[batch.targets_BT.flatten() != IGNORE])
    text = data.splits[SPLIT]
    nll_N = np.full(len(text.ids_N), np.nan)
    nll_N[text.doc_start_N != np.arange(len(text.ids_N))] = torch.cat(found).cpu().double().numpy()
    return nll_N


def scoring_flops(reference: Run, data: TextData) -> int:
    """Forward FLOPs of `reference_losses`: one pass of seq_len tokens for each window."""
    model = reference.model
    stride = model.seq_len if model.is_window else max(1, model.seq_len // 2)
    windows = len(sliding_windows(data.splits[SPLIT], model.seq_len, stride)[0])
    return windows * sum(term.forward for term in model.terms("all"))


def training_flops(reference: Run) -> int:
    """What training the reference took: three passes' worth for each of its sequences."""
    each = 3 * sum(term.forward for term in reference.model.terms("all")) + reference.model.recomputed()
    return reference.steps * reference.batch_size * each
