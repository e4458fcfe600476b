"""Training until a validation loss: the clock of every time to quality, the same for both sides.

Seconds count training alone; the scoring in between is left out. The first step stands apart,
because it compiles. Nothing here imports lmbench, whose imports the other side must not pay.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """How far a training came."""

    reached: bool
    """Whether the last score is at or below the target."""
    step: int
    """Optimizer steps until the last score, or until the best one where the target was not reached."""
    nll: float
    """That score, in nats per target."""
    first_seconds: float
    """The first step, compilation included."""
    seconds: float
    """All later steps until then."""


def train_until(
    advance: Callable[[int], None],
    score: Callable[[], float],
    *,
    target: float,
    score_at: Sequence[int],
    device: torch.device,
    on_score: Callable[[Attempt], None] = lambda attempt: None,
    patience: int | None = None,
) -> Attempt:
    """Train until a score is at or below `target`.

    Args:
        advance: trains that many more steps.
        score: validation loss in nats.
        target: loss to reach.
        score_at: steps after which to score, rising; the last ends the training.
        on_score: told of each score.
        patience: scores without a better one after which to give up; None never does.

    Returns:
        The attempt at the score that reached the target, else at the best score.
    """
    first = _seconds(lambda: advance(1), device)
    best = Attempt(reached=False, step=1, nll=math.inf, first_seconds=first, seconds=0.0)
    seconds, done, since_best = 0.0, 1, 0
    for step in score_at:
        n = step - done
        seconds += _seconds(lambda n=n: advance(n), device)
        done, nll = step, score()
        attempt = Attempt(reached=nll <= target, step=step, nll=nll, first_seconds=first, seconds=seconds)
        on_score(attempt)
        if attempt.reached:
            return attempt
        since_best = 0 if nll < best.nll else since_best + 1
        best = attempt if nll < best.nll else best
        if since_best == patience:
            break
    return best


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
