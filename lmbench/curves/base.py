"""Curves: a number as a pure function of the step of a training, from primitives and combinators.

A curve holds no state, so a training that goes on after a kill finds the same numbers. What
changes in the course of a training is an instance: a density (gradual pruning, Zhu and Gupta
2017, eq. 1, is `cubic`), a temperature, a constraint (`constraint` is the published schedule,
`constraint_*` are three more that were published beside it), the factors of
`lmbench.schedule`. A curve lies over a span of steps, the whole training at the outside and a
part of it inside `piecewise` and `repeat`; its progress is the share of the span that has
passed, so that nearly all curves have one shape in trainings of any length.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator

from lmbench.config import Config, make, one_of

# ------------------------------------------------------------------ shapes


def line(progress: float, *, start: float, end: float) -> float:
    """Straight from start to end while progress goes from 0 to 1."""
    return start + (end - start) * progress


def half_cosine(progress: float, *, start: float, end: float) -> float:
    """Half a cosine from start to end: flat, steep, flat."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def late_fall(progress: float, *, start: float, end: float, share: float, root: bool = False) -> float:
    """`start` until the last `share` of the progress, then to `end` as a line, or as a square root."""
    into = max(0.0, (progress - (1 - share)) / share)
    return line(math.sqrt(into) if root else into, start=start, end=end)


# ------------------------------------------------------------------ curves


class Curve(Config, ABC):
    """Abstract: a number for each step."""

    role: ClassVar[str] = "curve"

    def value(self, step: float, *, steps: int) -> float:
        """The number at this step, the first being 0, of a training of so many.

        Raises:
            ValueError: a training without steps, or a step outside of it.
        """
        if steps < 1:
            raise ValueError(f"steps = {steps} leaves a curve nothing to lie over; accepted: 1 or more")
        if not 0 <= step <= steps:
            raise ValueError(f"step = {step} is not in this training; accepted: 0 to {steps}")
        return self.at(step, first=0.0, last=float(steps))

    def values(self, steps: int) -> list[float]:
        """The numbers at steps 0 .. steps-1."""
        return [self.value(step, steps=steps) for step in range(max(1, steps))]

    @abstractmethod
    def at(self, step: float, *, first: float, last: float) -> float:
        """The number at a step of the training, of a curve that lies over [first, last)."""


def per_component(curve: Curve, *, by: Mapping[str, Curve], step: float, steps: int) -> dict[str, float]:
    """The value of a curve times that of each component's own, by component."""
    level = curve.value(step, steps=steps)
    return {name: factor.value(step, steps=steps) * level for name, factor in by.items()}


def progress(step: float, *, first: float, last: float) -> float:
    """The share of [first, last) that has passed."""
    return (step - first) / (last - first)


def part(step: float, *, first: float, last: float, parts: int) -> int:
    """Which of so many equal parts of [first, last) the step lies in; its end belongs to the last."""
    return min(int((step - first) / ((last - first) / parts)), parts - 1)


def _curve(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return make("curve", "const", level=value) if is_number else value


CurveField = Annotated[one_of("curve"), BeforeValidator(_curve)]
"""Type of a field that is a curve, or a number for one that does not change."""
