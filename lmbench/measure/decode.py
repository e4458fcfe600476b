"""Whole answers of synthetic tasks, decoded greedily and judged by the task itself.

Teacher-forced scores ask for each token given the right ones before it. Here the model reads its own
tokens. Where answers are unique both agree; only decoding can accept one of several right answers, or
show whether a model that errs in its own answer recovers, and what being allowed to say BACK gains.

A decoded token depends on nothing but `model(tokens).logits_BTV`, float32 or better, so that any model
can be decoded, whatever its cache does. Shorter rows are padded behind, which a causal model cannot see.

Legend: N example, T position, A answer token, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lmbench.measure.generate import evaluating
from lmbench.measure.score import true_float32
from lmbench.models.base import LanguageModel
from lmbench.tasks.draws import Draws, key_of, mixed
from lmbench.tasks.examples import examples, length, parse
from lmbench.tasks.retry import Retry
from lmbench.tasks.symbols import BACK, EOS, EQUALS, ID, PAD, SYMBOLS
from lmbench.tasks.synthetic import SyntheticTask

TOKENS = 1 << 14  # read at once, which bounds the memory of the logits


def greedy(
    model: LanguageModel,
    tokens_NT: Tensor,
    start_N: Tensor,
    *,
    n_tokens: int,
    stop: int = EOS,
    banned: Sequence[int] = (),
) -> Tensor:
    """(N, n_tokens) ids that the model puts at start, start + 1, ... of each row; <pad> after `stop`.

    Each is the token of the highest logit, the lowest id among equals.

    Args:
        tokens_NT: (N, T) ids; those from `start_N` on are not read.
        start_N: (N,) length of each row's prompt, at least 1.
        banned: ids that are never said.

    Raises:
        ValueError: an empty prompt.
    """
    if int(start_N.min()) < 1:
        raise ValueError("a prompt is empty: it must hold at least 1 token")
    n, first = len(tokens_NT), int(start_N.max())
    buffer_NT = torch.full((n, first + n_tokens), PAD, dtype=torch.long, device=tokens_NT.device)
    is_prompt_NT = torch.arange(first, device=start_N.device) < start_N[:, None]
    buffer_NT[:, :first] = torch.where(is_prompt_NT, tokens_NT[:, :first].long(), PAD)
    said_NA = torch.full((n, n_tokens), PAD, dtype=torch.long, device=tokens_NT.device)
    is_open_N = torch.ones(n, dtype=torch.bool, device=tokens_NT.device)
    with evaluating(model), true_float32():
        for at in range(n_tokens):
            logits_NV = _next_logits(model, buffer_NT[:, : first + at], start_N + at - 1)
            logits_NV[:, list(banned)] = -torch.inf
            said_NA[:, at] = torch.where(is_open_N, logits_NV.argmax(dim=-1), PAD)
            buffer_NT.scatter_(1, (start_N + at)[:, None], said_NA[:, at : at + 1])
            is_open_N &= said_NA[:, at] != stop
            if not is_open_N.any():
                break
    return said_NA


def _next_logits(model: LanguageModel, tokens_NT: Tensor, at_N: Tensor) -> Tensor:
    """(N, V) logits after position `at_N` of each row."""
    rows, parts = max(1, TOKENS // tokens_NT.shape[1]), []
    for tokens_BT, at_B in zip(tokens_NT.split(rows), at_N.split(rows), strict=True):
        logits_BTV = model(tokens_BT).logits_BTV
        logits_BV = logits_BTV[torch.arange(len(at_B), device=at_B.device), at_B]
        parts.append(logits_BV if logits_BV.dtype == torch.float64 else logits_BV.float())
    return torch.cat(parts)


# ------------------------------------------------------------------ answers of a task


class Questions:
    """The first n examples of a split without their answers, and the room that an answer has.

    Raises:
        ValueError: a context that is too short for the level.
    """

    def __init__(
        self, task: SyntheticTask, *, seq_len: int, split: str, eval_seed: int, n: int, device: torch.device
    ) -> None:
        if seq_len < length(task) - 1:
            raise ValueError(
                f"seq_len = {seq_len} is too short: an example of {task.caption} needs {length(task) - 1}"
            )
        made = examples(task, seed=eval_seed, split=split, index_N=np.arange(n))
        width = made.tokens_NT.shape[1]
        # The last "=" stands before the answer.
        start_N = width - (made.tokens_NT[:, ::-1] == EQUALS).argmax(axis=1)
        self.tokens_NT = torch.from_numpy(made.tokens_NT).long().to(device)
        self.start_N = torch.from_numpy(start_N).to(device)
        self.read = [
            parse([SYMBOLS[token] for token in row if token != PAD], surface=task.surface)[:2]
            for row in made.tokens_NT
        ]
        keys = Draws(mixed(np.arange(2, dtype=np.uint64))), Draws(mixed(np.arange(2, 4, dtype=np.uint64)))
        self.room = task.generate(*keys, train=True).answer_NA.shape[1]


def decoded_scores(
    model: LanguageModel,
    task: SyntheticTask,
    *,
    seq_len: int,
    split: str,
    eval_seed: int,
    n: int,
    device: torch.device,
) -> dict[str, tuple[float, int]]:
    """{"solved": (share of n examples whose decoded answer the task accepts, n)}; higher is better.

    Raises:
        ValueError: a context that is too short for the level.
    """
    asked = Questions(task, seq_len=seq_len, split=split, eval_seed=eval_seed, n=n, device=device)
    said = _spelled(greedy(model, asked.tokens_NT, asked.start_N, n_tokens=asked.room))
    solved = [task.judge(*question, answer) for question, answer in zip(asked.read, said, strict=True)]
    return {"solved": (float(np.mean(solved)), n)}


def recovery_gain(
    model: LanguageModel,
    task: Retry,
    *,
    seq_len: int,
    split: str,
    eval_seed: int,
    n: int,
    device: torch.device,
) -> dict[str, tuple[float, int]]:
    """What a model makes of a wrong token in its own answer, and what BACK is worth to it.

    Each answer is decoded up to a random depth; there a wrong sum is forced and decoding goes on, once
    with BACK allowed and once without.

    Returns:
        metric -> (value, n):
        solved: share right where nothing is forced;
        acc_allowed, acc_masked: share whose last sum is right, after a forced wrong one;
        gain: their difference, the worth of being able to take something back;
        recovery: share that says BACK and then what is right, at once;
        false_alarm: share of answers with nothing forced that take back a sum that is right.

    Raises:
        ValueError: a context that is too short for the level.
    """
    asked = Questions(task, seq_len=seq_len, split=split, eval_seed=eval_seed, n=n, device=device)
    free = _spelled(greedy(model, asked.tokens_NT, asked.start_N, n_tokens=asked.room))
    begun = _slipped(task, asked.read, free, key=key_of(eval_seed, split, "slip"))
    tokens_NT, start_N = _continued(asked, begun)
    room = asked.room - task.settings.steps  # what the deepest slip leaves
    allowed, masked = (
        _spelled(greedy(model, tokens_NT, start_N, n_tokens=room, banned=banned)) for banned in ((), (BACK,))
    )
    found: dict[str, list[bool]] = {}
    for at, (body, query) in enumerate(asked.read):
        before = begun[at]
        best = ["BACK", task.reply(body, query, [*before, "BACK"])]
        seen = {
            "solved": task.judge(body, query, free[at]),
            "acc_allowed": task.judge(body, query, [*before, *allowed[at]]),
            "acc_masked": task.judge(body, query, [*before, *masked[at]]),
            "recovery": allowed[at][:2] == best,
            "false_alarm": any(
                symbol == "BACK" and task.reply(body, query, free[at][:place]) != "BACK"
                for place, symbol in enumerate(free[at])
            ),
        }
        for metric, value in seen.items():
            found.setdefault(metric, []).append(value)
    means = {metric: float(np.mean(values)) for metric, values in found.items()}
    means["gain"] = means["acc_allowed"] - means["acc_masked"]
    return {metric: (value, n) for metric, value in means.items()}


def _slipped(
    task: Retry,
    questions: Sequence[tuple[list[str], list[str]]],
    said: Sequence[list[str]],
    *,
    key: np.uint64,
) -> list[list[str]]:
    """The beginning of each answer up to a random depth, and a wrong sum behind it."""
    draws = Draws(mixed(key + np.arange(len(said), dtype=np.uint64)))
    depth_N = draws.integers(task.settings.steps, 1)[:, 0].tolist()
    off_N = (1 + draws.integers(task.settings.modulus - 1, 1)[:, 0]).tolist()
    begun = []
    for (body, _), answer, depth, off in zip(questions, said, depth_N, off_N, strict=True):
        begun.append([*answer[:depth], task.slip(body, answer[:depth], off=off)])
    return begun


def _continued(asked: Questions, begun: Sequence[list[str]]) -> tuple[Tensor, Tensor]:
    """(N, T) ids of questions with the beginnings of their answers, and (N,) where they end."""
    extra = max(map(len, begun))
    tokens_NT = torch.cat((asked.tokens_NT, asked.tokens_NT.new_full((len(begun), extra), PAD)), dim=1)
    start_N = asked.start_N.clone()
    for row, symbols in enumerate(begun):
        first = int(asked.start_N[row])
        ids = [ID[symbol] for symbol in symbols]
        tokens_NT[row, first : first + len(ids)] = tokens_NT.new_tensor(ids)
        start_N[row] = first + len(ids)
    return tokens_NT, start_N


def _spelled(said_NA: Tensor) -> list[list[str]]:
    """Symbols of each answer, without padding."""
    return [[SYMBOLS[token] for token in row if token != PAD] for row in said_NA.tolist()]
