"""Sampling text from a model: temperature, top-k and top-p over what a model reads with a cache.

A model reads the prompt once and then one token after the other (`LanguageModel.extend`), which
costs one position a token instead of all of them. `cached=False` is the plain form that reads
the whole window again for each token; a test holds the two to each other for every model.

A context that is full is started anew. No prediction may depend on more than seq_len tokens, and
most models cannot forget their oldest token without reading the rest again. So wherever a model
would have to read token seq_len + 1 it restarts from the last seq_len // 2 tokens (at least one):
windows and recurrent models too, which could go on, so that all are compared under one rule.

Legend: B batch, T prompt, N new token, L all tokens, V vocabulary.
Source: Fan et al. 2018 (top-k), Holtzman et al. 2020 (top-p, "nucleus").
"""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from lmbench.models.base import LanguageModel, State


def generate(
    model: LanguageModel,
    prompt_BT: Tensor,
    n_tokens: int,
    *,
    seq_len: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    cached: bool = True,
    watch: Callable[[int], None] | None = None,
) -> Tensor:
    """(B, n_tokens) ids that follow each prompt; row b depends on its prompt, `seed` and b alone.

    Args:
        prompt_BT: (B, T) ids, at least one a row; of more than seq_len, the last seq_len are read.
        seq_len: of the model's config; see above for what happens when so many tokens are read.
        temperature: divides the logits; 0 takes the most probable token, the lowest id among equals.
        top_k: choose among the k most probable tokens only; None is off.
        top_p: of these, among the fewest that together have this probability; None is off.
        cached: False reads the whole window for each token.
        watch: is told after each token how many there are.

    Raises:
        ValueError: a setting that is out of range, an empty prompt, or logits that are not finite.
    """
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    uniform_BN = uniforms(seed, rows=prompt_BT.shape[0], n=n_tokens).to(prompt_BT.device)
    chosen: list[Tensor] = []

    def choose(logits_BV: Tensor) -> Tensor:
        if not chosen and not torch.isfinite(logits_BV).all():
            raise ValueError("the model's logits are not finite: its training has diverged")
        probs_BV = probabilities(logits_BV, temperature=temperature, top_k=top_k, top_p=top_p)
        return draw(probs_BV, uniform_BN[:, len(chosen)])

    how = {"seq_len": seq_len, "choose": choose, "cached": cached}
    for ids_B, _ in continuation(model, prompt_BT, n_tokens, **how):
        chosen.append(ids_B)
        if watch is not None:
            watch(len(chosen))
    return torch.stack(chosen, dim=1)


def continuation(
    model: LanguageModel,
    prompt_BT: Tensor,
    n_tokens: int,
    *,
    seq_len: int,
    choose: Callable[[Tensor], Tensor],
    cached: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each new token with the logits that it was chosen from: (B,) ids and (B, V).

    Args:
        choose: (B, V) logits to (B,) ids.

    Raises:
        ValueError: no new token is asked for, or an empty prompt.
    """
    B, T = prompt_BT.shape
    if n_tokens < 1:
        raise ValueError(f"n_tokens = {n_tokens} is not accepted: it must be at least 1")
    if T < 1:
        raise ValueError("the prompt is empty: it must hold at least 1 token")
    ids_BL = torch.cat((prompt_BT, prompt_BT.new_zeros(B, n_tokens)), dim=1)
    start, state = -1, None
    with evaluating(model):
        for known in range(T, T + n_tokens):
            before, start = start, window_start(known, n_prompt=T, seq_len=seq_len)
            if start != before:
                state = None
            first = start if state is None or not cached else known - 1
            logits_BV, state = _read(model, ids_BL[:, first:known], state, cached=cached)
            ids_BL[:, known] = choose(logits_BV)
            yield ids_BL[:, known], logits_BV


def _read(
    model: LanguageModel, tokens_BT: Tensor, state: State | None, *, cached: bool
) -> tuple[Tensor, State | None]:
    """(B, V) logits of the next token, and what is remembered."""
    if cached:
        return model.extend(tokens_BT, state)
    return model(tokens_BT, readout="last").logits_BTV[:, 0], None


def window_start(known: int, *, n_prompt: int, seq_len: int) -> int:
    """The first token that is read when `known` tokens are known and the next is asked for.

    For seq_len 4 and one token of prompt: tokens 0-0, 0-1, 0-2, 0-3, then 3-4, 3-5, 3-6, then 6-7.
    """
    kept = max(1, seq_len // 2)
    first = max(0, n_prompt - seq_len)
    beyond = known - first - seq_len
    step = seq_len + 1 - kept  # tokens between two restarts
    return first + max(0, -(-beyond // step)) * step


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off and no gradients; the model's own mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


# ------------------------------------------------------------------ choosing a token


def probabilities(
    logits_BV: Tensor, *, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """(B, V) probabilities with which each token is drawn; among equal ones the lower id ranks first."""
    logits_BV = logits_BV if logits_BV.dtype == torch.float64 else logits_BV.float()
    if temperature == 0:
        top_k, top_p = 1, None
    probs_BV = torch.softmax(logits_BV / (temperature or 1.0), dim=-1)
    if top_k is None and top_p is None:
        return probs_BV
    # By logits, which are distinct where their probabilities round to the same number.
    ids_BV = logits_BV.argsort(dim=-1, descending=True, stable=True)
    ranked_BV = probs_BV.gather(-1, ids_BV)
    if top_k is not None:
        ranked_BV[:, top_k:] = 0
    if top_p is not None and top_p < 1:
        ranked_BV = ranked_BV / ranked_BV.sum(-1, keepdim=True)
        before_BV = ranked_BV.cumsum(-1) - ranked_BV
        ranked_BV = ranked_BV.masked_fill(before_BV >= top_p, 0)
    ranked_BV = ranked_BV / ranked_BV.sum(-1, keepdim=True)
    return torch.zeros_like(probs_BV).scatter(-1, ids_BV, ranked_BV)


def draw(probs_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """(B,) ids: the token in whose part of [0, 1) the row's number lies, tokens in order of their ids."""
    wide = torch.float32 if probs_BV.device.type == "mps" else torch.float64
    ends_BV = probs_BV.to(wide).cumsum(-1)
    ends_BV = ends_BV / ends_BV[:, -1:]
    ids_B = (ends_BV <= uniform_B.to(wide).unsqueeze(-1)).sum(-1)
    return ids_B.clamp(max=probs_BV.shape[-1] - 1)


def uniforms(seed: int, *, rows: int, n: int) -> Tensor:
    """(rows, n) numbers in [0, 1), on the CPU; row b's are a function of (seed, b) alone."""
    drawn = [np.random.default_rng((seed, row)).random(n, dtype=np.float32) for row in range(rows)]
    return torch.from_numpy(np.stack(drawn))


def check_sampling(*, temperature: float, top_k: int | None, top_p: float | None, seed: int) -> None:
    """Refuse settings that no distribution has.

    Raises:
        ValueError: naming the setting, its value and what is accepted.
    """
    if not 0 <= temperature < float("inf"):
        raise ValueError(
            f"temperature = {temperature:g} is not accepted: it must be at least 0, where 0 takes the "
            "most probable token"
        )
    if top_k is not None and top_k < 1:
        raise ValueError(
            f"top_k = {top_k} is not accepted: it must be at least 1; leave it out to switch it off"
        )
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(
            f"top_p = {top_p:g} is not accepted: it must be above 0 and at most 1; leave it out to switch "
            "it off"
        )
    if seed < 0:
        raise ValueError(f"seed = {seed} is not accepted: it must be at least 0")
