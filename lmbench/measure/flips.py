"""Flips: how much the loss on a text rises when a few of its tokens are replaced, by chance or to do harm.

In each window every second token may be flipped and the others are the targets. So the same targets
are scored at every budget, none of them is ever changed, and each stands right behind a token that may
be. Two adversaries spend the same budget, one flip after the other, so the curve is nested:

    t o   b e   o r   n o t       "o", "b", " ", "r", "n", "t" may be flipped
    t x   b e   o r   n o t       one flip; the targets stay " ", "e", "o", " ", "o" and what follows

`random` takes a flip at a place and to a token drawn uniformly, `greedy` the one among `candidates`
such draws after which the loss is highest. The search asks nothing but losses, so it works for every
model; following the gradient of the loss by the one-hot tokens to better candidates (HotFlip,
Ebrahimi et al. 2018) would need an embedding, which not every model has. So a greedy curve is a lower
bound of the damage that can be done. With one candidate it is the random curve.

Windows and candidates are those of the seed, the same for every model. Replacements are tokens that
occur in train, as the embedding of one that never did means nothing.

Legend: W window, C candidate, B row of a batch, T position, E place that may be flipped, K preceding
tokens, V token that occurs in train.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch

from lmbench.data.splits import window_starts
from lmbench.measure.score import target_scores, true_float32
from lmbench.models.base import LanguageModel
from lmbench.progress import Progress
from lmbench.tasks.base import Batch, TaskData, View
from lmbench.tasks.windows import gather

KINDS = ("greedy", "random")
EVERY = 2  # tokens for each one that may be flipped


@torch.no_grad()
def flip_curve(
    model: LanguageModel,
    data: TaskData,
    *,
    split: str,
    view: View,
    budgets: Sequence[int],
    windows: int,
    candidates: int,
    seed: int,
) -> pd.DataFrame:
    """One row for each kind of adversary and budget.

    Columns: kind ("greedy" or "random"), budget (flips in a window), nll (nats per target, higher after
    more damage), n (targets).

    Args:
        data: of a text task; the model predicts at every position, as the dense protocol trains it.
        budgets: numbers of flips; 0 is the text as it is.
        windows: of seq_len tokens, drawn from the split.
        candidates: flips tried for each one that is kept, of each window.

    Raises:
        ValueError: a split of fewer windows, a budget that is negative or above the places of a window,
            or a train split with a single token to choose from.
    """
    spans = _windows(data, split=split, view=view, windows=windows, seed=seed)
    places = len(_places(view.seq_len))
    for budget in budgets:
        if not 0 <= budget <= places:
            raise ValueError(
                f"budgets holds {budget}; a window of seq_len = {view.seq_len} tokens has {places} places "
                "that may be flipped, so budgets are 0 to that"
            )
    kinds_V = np.unique(data.splits["train"].ids_N)
    if len(kinds_V) < 2:
        raise ValueError("a flip needs at least 2 different tokens in the train split, got 1")
    was_training, rows = model.training, []
    model.eval()
    try:
        with true_float32():
            score = _scorer(model, spans, view=view)
            for kind in KINDS:
                nll_by_budget = list(
                    _attack(
                        score,
                        spans.tokens_BT.cpu().numpy(),
                        kinds_V,
                        flips=max(budgets),
                        candidates=candidates if kind == "greedy" else 1,
                        seed=seed,
                    )
                )
                n = windows * len(_places(view.seq_len))
                rows += [(kind, budget, float(nll_by_budget[budget].sum() / n), n) for budget in budgets]
    finally:
        model.train(was_training)
    return pd.DataFrame(rows, columns=["kind", "budget", "nll", "n"])


def _places(seq_len: int) -> np.ndarray:
    """Positions that may be flipped: every second one, whose next token is the target there."""
    return np.arange(EVERY - 1, seq_len, EVERY)


def _windows(data: TaskData, *, split: str, view: View, windows: int, seed: int) -> Batch:
    """The windows of a seed as one batch."""
    part = data.splits[split]
    starts_S = window_starts(part, view.seq_len)
    if len(starts_S) < windows or view.seq_len < EVERY:
        raise ValueError(
            f"windows = {windows} of seq_len = {view.seq_len} tokens and a target are more than split "
            f"{split!r} of {data.config.caption} has ({len(starts_S)})"
        )
    chosen = np.sort(np.random.default_rng(seed).choice(len(starts_S), size=windows, replace=False))
    start_B = torch.from_numpy(starts_S[chosen]).to(view.device)
    doc_B = torch.from_numpy(part.doc_start_N[starts_S[chosen]]).to(view.device)
    return gather(torch.from_numpy(part.ids_N).to(view.device), start_B, doc_B, view, last_only=False)


def _scorer(model: LanguageModel, spans: Batch, *, view: View) -> Callable[[np.ndarray], np.ndarray]:
    """Maps (C, W, T) changed tokens to (C, W) nats, summed over the targets of a window."""
    rows, is_target_T = max(1, view.eval_tokens // view.seq_len), torch.zeros(view.seq_len, dtype=torch.bool)
    is_target_T[torch.from_numpy(_places(view.seq_len))] = True
    is_target_T = is_target_T.to(view.device)

    def score(tokens_CWT: np.ndarray) -> np.ndarray:
        shape = tokens_CWT.shape[:2]
        tokens_BT = torch.from_numpy(tokens_CWT.reshape(-1, view.seq_len)).to(view.device)
        window_B = torch.arange(len(tokens_BT), device=view.device) % shape[1]
        found = []
        for at in range(0, len(tokens_BT), rows):
            part_B = window_B[at : at + rows]
            context_BK = None if spans.context_BK is None else spans.context_BK[part_B]
            logits_BTV = model(tokens_BT[at : at + rows], context_BK, readout="all").logits_BTV
            nll_BT = target_scores(logits_BTV.unsqueeze(0), spans.targets_BT[part_B])[0][0]
            found.append(nll_BT[:, is_target_T].double().sum(-1))
            Progress.beat()
        return torch.cat(found).cpu().numpy().reshape(shape)

    return score


def _attack(
    score: Callable[[np.ndarray], np.ndarray],
    tokens_WT: np.ndarray,
    kinds_V: np.ndarray,
    *,
    flips: int,
    candidates: int,
    seed: int,
) -> Iterator[np.ndarray]:
    """(W,) nats of the windows after 0, 1, ... flips, each the worst of so many candidates."""
    places_E, window_W = _places(tokens_WT.shape[1]), np.arange(len(tokens_WT))
    tokens_WT, is_free_WE = tokens_WT.copy(), np.ones((len(tokens_WT), len(places_E)), dtype=bool)
    yield score(tokens_WT[None])[0]
    for step in range(flips):
        # Of a step alone, so that what is tried depends neither on the model nor on how many are tried.
        generator = np.random.default_rng([seed, step])
        drawn = [_draw(generator, tokens_WT, places_E, is_free_WE, kinds_V) for _ in range(candidates)]
        chosen_CW, token_CW = (np.stack(part) for part in zip(*drawn, strict=True))
        tried_CWT = np.repeat(tokens_WT[None], candidates, axis=0)
        tried_CWT[np.arange(candidates)[:, None], window_W, places_E[chosen_CW]] = token_CW
        nll_CW = score(tried_CWT)
        worst_W = nll_CW.argmax(axis=0)
        tokens_WT = tried_CWT[worst_W, window_W]
        is_free_WE[window_W, chosen_CW[worst_W, window_W]] = False
        yield nll_CW[worst_W, window_W]


def _draw(
    generator: np.random.Generator,
    tokens_WT: np.ndarray,
    places_E: np.ndarray,
    is_free_WE: np.ndarray,
    kinds_V: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """A flip of each window: the index of its place, uniform among those not flipped yet, and its new token,
    uniform among the others that occur in train."""
    chosen_W = np.where(is_free_WE, generator.random(is_free_WE.shape), -1.0).argmax(axis=1)
    present_W = tokens_WT[np.arange(len(tokens_WT)), places_E[chosen_W]]
    own_W = np.searchsorted(kinds_V, present_W).clip(max=len(kinds_V) - 1)
    is_known_W = kinds_V[own_W] == present_W
    drawn_W = (generator.random(len(tokens_WT)) * (len(kinds_V) - is_known_W)).astype(np.int64)
    return chosen_W, kinds_V[drawn_W + (is_known_W & (drawn_W >= own_W))]
