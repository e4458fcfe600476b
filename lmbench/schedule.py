"""Schedules: a number as a function of the optimizer step, as a factor of its base value.

`factors(steps)` gives the whole curve at once, because a training program that runs many
replicas on one device reads it from a tensor rather than calling Python at every step.
"""

from typing import ClassVar, Literal

from pydantic import Field

from lmbench.config import Config
from lmbench.curves.base import half_cosine, late_fall, line


class Schedule(Config):
    """Abstract: linear warm-up over `warmup` steps, then the shape of the final class."""

    role: ClassVar[str] = "schedule"

    warmup: int = Field(0, ge=0)
    """Steps of linear warm-up from 1/warmup to 1; 0 switches it off."""

    def shape(self, progress: float) -> float:
        """Factor after the warm-up, for `progress` in [0, 1]."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def factors(self, steps: int) -> list[float]:
        """The factor of each optimizer step 0 .. steps-1.

        Raises:
            ValueError: if the warm-up is longer than the run, so that the shape never starts.
        """
        if self.warmup > steps:
            raise ValueError(f"schedule.warmup = {self.warmup} is longer than the run of {steps} steps")
        span = max(1, steps - self.warmup)
        return [
            (step + 1) / self.warmup if step < self.warmup else self.shape((step - self.warmup) / span)
            for step in range(steps)
        ]


class Constant(Schedule):
    """1 after the warm-up."""

    kind: ClassVar[Literal["constant"]] = "constant"

    def shape(self, progress: float) -> float:
        return 1.0


class Linear(Schedule):
    """Straight line from 1 down to `floor`."""

    kind: ClassVar[Literal["linear"]] = "linear"

    floor: float = Field(0.0, ge=0, le=1)
    """Factor that the line heads for at the end of the run."""

    def shape(self, progress: float) -> float:
        return line(progress, start=1.0, end=self.floor)


class Cosine(Schedule):
    """Half a cosine from 1 down to `floor` (Loshchilov & Hutter 2017, equation 5, one period)."""

    kind: ClassVar[Literal["cosine"]] = "cosine"

    floor: float = Field(0.1, ge=0, le=1)
    """Factor that the cosine heads for at the end of the run."""

    def shape(self, progress: float) -> float:
        return half_cosine(progress, start=1.0, end=self.floor)


class WSD(Schedule):
    """Warm-up, stable, decay: 1 until the last `decay` share of the run, then down to `floor`.

    `decay = 1` is a straight warm-down from the start. Source: Hu et al. 2024 (MiniCPM), with the
    shape of the decay as in Hägele et al. 2024.
    """

    kind: ClassVar[Literal["wsd"]] = "wsd"

    decay: float = Field(0.2, gt=0, le=1)
    """Share of the steps after the warm-up in which the factor falls."""
    floor: float = Field(0.0, ge=0, le=1)
    """Factor that the decay heads for at the end of the run."""
    fall: Literal["linear", "sqrt"] = "linear"
    """`sqrt` falls as 1 - sqrt(progress): steeply first."""

    def shape(self, progress: float) -> float:
        share, root = self.decay, self.fall == "sqrt"
        return late_fall(progress, start=1.0, end=self.floor, share=share, root=root)
