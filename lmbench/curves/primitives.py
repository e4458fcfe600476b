"""The shapes that curves are made of: one formula each.

Legend: p the share of the span that has passed, t the step.
"""

import math
from abc import ABC
from typing import Any, ClassVar, Literal

from pydantic import Field

from lmbench.curves.base import Curve, half_cosine, late_fall, line, part, progress


class Const(Curve):
    """The same number at every step."""

    kind: ClassVar[Literal["const"]] = "const"

    level: float
    """That number."""

    def at(self, step: float, *, first: float, last: float) -> float:
        """See `Curve.at`."""
        return self.level


class Between(Curve, ABC):
    """Abstract: from one number to another."""

    start: float = 1.0
    """Where the curve begins."""
    end: float = 0.0
    """Where it heads for; reached at the end of the span, which no step of it is."""


class Line(Between):
    """start + (end - start) p."""

    kind: ClassVar[Literal["linear"]] = "linear"

    def at(self, step: float, *, first: float, last: float) -> float:
        """See `Curve.at`."""
        return line(progress(step, first=first, last=last), start=self.start, end=self.end)


class HalfCosine(Between):
    """end + (start - end) (1 + cos(pi p)) / 2."""

    kind: ClassVar[Literal["cosine"]] = "cosine"

    def at(self, step: float, *, first: float, last: float) -> float:
        """See `Curve.at`."""
        return half_cosine(progress(step, first=first, last=last), start=self.start, end=self.end)


class Cubic(Between):
    """end + (start - end) (1 - p)^3: steep first, as gradual pruning raises sparsity."""

    kind: ClassVar[Literal["cubic"]] = "cubic"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"gradual_pruning": {"start": 0.0, "end": 0.9}}

    def at(self, step: float, *, first: float, last: float) -> float:
        """See `Curve.at`."""
        left = 1 - progress(step, first=first, last=last)
        return self.end + (self.start - self.end) * left**3


class WarmStableDecay(Between):
    """A line up to `start`, that number, and at last a fall to `end`."""

    kind: ClassVar[Literal["wsd"]] = "wsd"

    warmup: float = Field(0.0, ge=0, lt=1)
    """Share of the span in which the curve rises from 0; 0 leaves that out."""
    decay: float = Field(0.2, gt=0, le=1)
    """Share of what follows the warm-up in which it falls."""
    fall: Literal["linear", "sqrt"] = "linear"
    """`sqrt` falls as 1 - sqrt(p): steeply first."""

    def at(self, step: float, *, first: float, last: float) -> float:
        """See `Curve.at`."""
        stable = first + self.warmup * (last - first)
        if step < stable:
            return line(progress(step, first=first, last=stable), start=0.0, end=self.start)
        passed, root = progress(step, first=stable, last=last), self.fall == "sqrt"
        return late_fall(passed, start=self.start, end=self.end, share=self.decay, root=root)


class Sine(Curve):
    """centre + amplitude sin(radians p), or sin(radians t) at step t of the training."""

    kind: ClassVar[Literal["sine"]] = "sine"

    centre: float = 0.0
    """What it swings about."""
    amplitude: float = 1.0
    """How far; 0 is a constant."""
    radians: float = 2 * math.pi
    """Angle that is passed in the span, or in a step; 2 pi is a period."""
    per: Literal["span", "step"] = "span"
    """`step` counts from the start of the training and is the one shape that depends on its length."""

    variants: ClassVar[dict[str, dict[str, Any]]] = {
        # The preprint's section 4.2.1: ten periods; heads and feed-forward are `piecewise`.
        "constraint_preprint_embedding": {"centre": 0.45, "amplitude": 0.05, "radians": 20 * math.pi}
    }

    def at(self, step: float, *, first: float, last: float) -> float:
        """See `Curve.at`."""
        passed = step if self.per == "step" else progress(step, first=first, last=last)
        return self.centre + self.amplitude * math.sin(passed * self.radians)


class Staircase(Curve):
    """Numbers one after the other, each for an equal part of the span."""

    kind: ClassVar[Literal["staircase"]] = "staircase"

    levels: tuple[float, ...] = Field(min_length=1)
    """The numbers."""

    def at(self, step: float, *, first: float, last: float) -> float:
        """See `Curve.at`."""
        return self.levels[part(step, first=first, last=last, parts=len(self.levels))]
