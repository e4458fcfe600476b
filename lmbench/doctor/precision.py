"""Is bfloat16 faster than float32 here? Two training programs of one model, timed side by side.

Both train the published transformer on the same batches, one in float32, one with bfloat16
weights and activations from end to end. They take turns, so that a slower or faster minute
of the machine falls on both; each turn of one is compared with the turn of the other beside
it, and the advice is bfloat16 only if it won every time.
"""

import statistics
import string
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lmbench.progress import Progress

if TYPE_CHECKING:
    import torch

    from lmbench.run import Run

DTYPES = ("float32", "bfloat16")
TURN_S = 0.08  # seconds of steps in a row: above the noise of a clock, below the drift of a machine
BUDGET_S = 2.0  # seconds after which no pair of turns is begun ...
FEWEST, MOST = 3, 15  # ... once there are so many, and so many are enough
SILENT_S = 3.0  # what takes longer shows its progress
WARM_UP_STEPS = {"cuda": 6}  # a step is captured as a graph at the fourth
WARM_UP_STEPS_ELSE = 2  # kernels load, memory is allocated
PLANNED_STEPS = 1 << 16  # more than any device takes in the budget
CHARACTERS = string.digits + string.ascii_letters + " .\n"  # 65, the published vocabulary

Steps = Callable[[int], None]
"""Takes so many training steps, and returns when they are finished."""


@dataclass(frozen=True)
class Comparison:
    """Seconds a step of pairs of turns, and what they say."""

    float32_s: tuple[float, ...]
    bfloat16_s: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Speed of bfloat16 over that of float32, of each pair."""
        return [slow / fast for slow, fast in zip(self.float32_s, self.bfloat16_s, strict=True)]

    @property
    def is_faster(self) -> bool:
        """Whether bfloat16 won every pair."""
        return min(self.ratios) > 1


def advice(found: Comparison) -> str:
    """The doctor's line."""
    ratios = found.ratios
    speed = f"{statistics.median(ratios):.2f}x [{min(ratios):.2f}, {max(ratios):.2f}]"
    steps = [1000 * statistics.median(seconds) for seconds in (found.float32_s, found.bfloat16_s)]
    how = f"{steps[0]:.3g} and {steps[1]:.3g} ms a step of the published transformer, {len(ratios)} repeats"
    set_it = 'set dtype="bfloat16" for training; scoring stays float32'
    said = set_it if found.is_faster else 'keep dtype="float32" for training'
    return f"bfloat16 is {speed} float32 here: {said} ({how})"


def time_precisions(device: "torch.device") -> Comparison:
    """Time training steps in both precisions on a device, for about 2 seconds.

    Raises:
        RuntimeError: the device cannot do it.
    """
    with tempfile.TemporaryDirectory(prefix="lmbench-") as folder:
        warm_up = WARM_UP_STEPS.get(device.type, WARM_UP_STEPS_ELSE)
        steps = {dtype: _steps_of(run, device) for dtype, run in runs_in(Path(folder)).items()}
        return compare(steps, warm_up=warm_up)


def compare(
    steps: Mapping[str, Steps], *, warm_up: int, clock: Callable[[], float] = time.perf_counter
) -> Comparison:
    """Let two programs take turns.

    Args:
        steps: under "float32" and "bfloat16".
        warm_up: first steps of each that do not count.
        clock: seconds.
    """

    def seconds(dtype: str, n: int) -> float:
        start = clock()
        steps[dtype](n)
        return (clock() - start) / n

    begun = clock()
    for dtype in DTYPES:
        steps[dtype](warm_up)
    once = {dtype: seconds(dtype, 1) for dtype in DTYPES}
    n = max(1, round(TURN_S / max(once.values())))
    turns: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    pair_s, started = n * sum(once.values()), clock()
    expected_s = started - begun + max(FEWEST * pair_s, min(MOST * pair_s, BUDGET_S + pair_s))
    with Progress(expected_s, "s of timing float32 and bfloat16", show=expected_s > SILENT_S) as bar:
        for done in range(MOST):
            if done >= FEWEST and clock() - started > BUDGET_S:
                break
            # Each goes first in every other pair: whoever follows finds the caches of the other.
            for dtype in DTYPES if done % 2 else reversed(DTYPES):
                turns[dtype].append(seconds(dtype, n))
            bar.update(min(clock() - begun, expected_s))
    return Comparison(float32_s=tuple(turns["float32"]), bfloat16_s=tuple(turns["bfloat16"]))


def runs_in(folder: Path) -> "dict[str, Run]":
    """The published transformer in each precision, on a text that is written to `folder`."""
    from lmbench.config import make
    from lmbench.run import Run

    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text(CHARACTERS * 100, encoding="utf-8")
    task = make("task", "text", corpus=str(folder), tokenizer="char")
    model = make("model", "transformer", vocab_size=len(CHARACTERS))
    return {dtype: Run(model=model, task=task, steps=PLANNED_STEPS, dtype=dtype) for dtype in DTYPES}


def _steps_of(run: "Run", device: "torch.device") -> Steps:
    import torch

    from lmbench.training.program import Program

    program = Program([run], device=device)

    def take(n: int) -> None:
        program.advance(n)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return take
