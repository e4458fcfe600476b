"""How long a model takes to answer: the prompt (prefill), and each token after it (decode).

Prefill reads `length` tokens and gives the logits of the next. Decode reads the length-th token
where those before it are remembered, and draws the next one: the step that generation repeats.
Without a cache, decode reads all `length` tokens again. Both stand at one exact length, so a
time belongs to a context and not to a range of them. Weights do not matter, so a model is timed
as it starts. Seconds are the median over repeats with their range, after a warm-up, with the
device waited for; nothing is compiled or captured.

Legend: B batch, T position.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmbench.measure.generate import draw, evaluating, probabilities
from lmbench.measure.late import LateProgress
from lmbench.models.base import LanguageModel, ModelConfig, seeded

KINDS = ("prefill", "decode", "decode_uncached")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Timing(NamedTuple):
    """Seconds of one piece of work."""

    median: float
    low: float
    """The fastest repeat."""
    high: float
    """The slowest."""
    n: int
    """Repeats."""


class Latency(NamedTuple):
    """One kind of work of one model at one batch size and context length."""

    kind: str
    """Of `KINDS`."""
    batch_size: int
    length: int
    """Tokens of context, those that are read or remembered."""
    seconds: Timing

    @property
    def tokens_per_second(self) -> float:
        """Tokens read by a prefill, or written by a decode step, over the median."""
        return self.batch_size * (self.length if self.kind == "prefill" else 1) / self.seconds.median


def latencies(
    config: ModelConfig,
    *,
    batch_sizes: Sequence[int],
    lengths: Sequence[int],
    device: torch.device,
    dtype: str = "float32",
    repeats: int = 15,
    warm_up: int = 3,
    show: bool = True,
) -> list[Latency]:
    """Time every kind of work for each batch size and length.

    Args:
        lengths: tokens of context, at most the model's seq_len.
        dtype: of the weights and the arithmetic, "float32" or "bfloat16".
        show: whether progress is shown where this takes longer than a few seconds.

    Raises:
        ValueError: a length beyond the context, or a size below 1.
    """
    check_grid(config, batch_sizes=batch_sizes, lengths=lengths)
    model, found = timed_model(config, device=device, dtype=dtype), []
    grid = [(batch_size, length) for batch_size in batch_sizes for length in lengths]
    with LateProgress(len(KINDS) * len(grid), "timings", show=show) as progress, evaluating(model):
        for batch_size, length in grid:
            tokens_BT = torch.arange(batch_size * length, device=device).reshape(batch_size, length)
            for kind, work in _works(model, tokens_BT % config.vocab_size):
                progress.update(len(found), f"{config.name}, {kind}, {batch_size} x {length}")
                seconds = timed(work, device=device, repeats=repeats, warm_up=warm_up)
                found.append(Latency(kind, batch_size, length, seconds))
    return found


def check_grid(config: ModelConfig, *, batch_sizes: Sequence[int], lengths: Sequence[int]) -> None:
    """Refuse sizes that cannot be timed.

    Raises:
        ValueError: naming the size and what is accepted.
    """
    for name, values in (("batch_sizes", batch_sizes), ("lengths", lengths)):
        if not values or min(values) < 1:
            raise ValueError(f"{name} = {list(values)} is not accepted: give at least one, each at least 1")
    if max(lengths) > config.seq_len:
        raise ValueError(
            f"length = {max(lengths)} is more than {config.name} can read: its seq_len is {config.seq_len}"
        )


def timed_model(config: ModelConfig, *, device: torch.device, dtype: str) -> LanguageModel:
    """The model as it starts, its weights in `dtype`; tables of angles stay float32, as in training."""
    model = seeded(config, init_seed=0).to(device).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(DTYPES[dtype])
    return model


def _works(model: LanguageModel, tokens_BT: Tensor) -> Iterator[tuple[str, Callable[[], object]]]:
    """The kinds of work on one batch of prompts."""
    uniform_B = torch.full((tokens_BT.shape[0],), 0.5, device=tokens_BT.device)
    last_B1 = tokens_BT[:, -1:]

    def choose(logits_BV: Tensor) -> Tensor:
        return draw(probabilities(logits_BV, temperature=1.0), uniform_B)

    yield "prefill", lambda: model.extend(tokens_BT)
    state = model.extend(tokens_BT[:, :-1])[1] if tokens_BT.shape[1] > 1 else None
    yield "decode", lambda: choose(model.extend(last_B1, state)[0])
    yield "decode_uncached", lambda: choose(model(tokens_BT, readout="last").logits_BTV[:, 0])


def timed(work: Callable[[], object], *, device: torch.device, repeats: int, warm_up: int) -> Timing:
    """Call `work` warm_up times for nothing, then `repeats` times for its seconds."""
    seconds = []
    for _ in range(warm_up + repeats):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    kept = seconds[warm_up:]
    return Timing(statistics.median(kept), min(kept), max(kept), len(kept))


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
