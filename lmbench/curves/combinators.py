"""Curves of curves: one after the other, again, times, plus, clipped; and the published constraints.

Whatever is published as a constraint in the course of a training is a variant here: C(t), or
c_k(t) where each component has its own. Several of them contradict each other, and the code
that published them never applied one.
"""

import math
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from lmbench.curves.base import Curve, CurveField, part
from lmbench.curves.primitives import Const, Line, Sine, Staircase


class Piecewise(Curve):
    """Curves one after the other, each over a part of the span that is given by its end."""

    kind: ClassVar[Literal["piecewise"]] = "piecewise"

    pieces: tuple[CurveField, ...] = Field(min_length=1)
    """The curves, or numbers."""
    ends: tuple[float, ...] = ()
    """Share of the span at which each but the last gives way to the next."""

    variants: ClassVar[dict[str, dict[str, Any]]] = {
        # The published base C(t). The oscillation passes 20 radians, 3.18 periods, and not 20 periods:
        # its mean is .5015 and it ends at .5456, from where it jumps to .5.
        "constraint": {
            "pieces": (
                Line(start=0.3, end=0.5),
                Sine(centre=0.5, amplitude=0.05, radians=20.0),
                Line(start=0.5, end=0.3),
            ),
            "ends": (0.1, 0.9),
        },
        # Parts of it left out, for ablations.
        "constraint_without_oscillation": {
            "pieces": (Line(start=0.3, end=0.5), Const(level=0.5), Line(start=0.5, end=0.3)),
            "ends": (0.1, 0.9),
        },
        "constraint_without_warmup": {
            "pieces": (Sine(centre=0.5, amplitude=0.05, radians=20.0), Line(start=0.5, end=0.3)),
            "ends": (0.9,),
        },
        "constraint_without_relaxation": {
            "pieces": (Line(start=0.3, end=0.5), Sine(centre=0.5, amplitude=0.05, radians=20.0)),
            "ends": (0.1,),
        },
        # The preprint's section 4.2.1, component by component (the embedding's is a `sine`).
        "constraint_preprint_heads": {"pieces": (Line(start=0.3, end=0.5), Const(level=0.5)), "ends": (0.1,)},
        "constraint_preprint_feedforward": {"pieces": (Const(level=0.0), Const(level=0.65)), "ends": (0.05,)},
    }

    @model_validator(mode="after")
    def _ends_fit(self) -> Self:
        rising = all(one < other for one, other in zip((0.0, *self.ends), (*self.ends, 1.0), strict=True))
        if len(self.ends) != len(self.pieces) - 1 or not rising:
            raise ValueError(
                f"ends = {list(self.ends)} must be {len(self.pieces) - 1} rising shares between 0 and 1, "
                f"one fewer than the {len(self.pieces)} pieces"
            )
        return self

    def at(self, step: float, *, first: float, last: float) -> float:
        """See `Curve.at`."""
        edges = [first, *(first + end * (last - first) for end in self.ends), last]
        # The end of a training belongs to the last piece, and so does what rounding puts behind it.
        at = next((n for n, edge in enumerate(edges[1:-1]) if step < edge), len(self.pieces) - 1)
        return self.pieces[at].at(step, first=edges[at], last=edges[at + 1])


class Repeat(Curve):
    """A curve several times, each over an equal part of the span."""

    kind: ClassVar[Literal["repeat"]] = "repeat"

    curve: CurveField
    """What is repeated."""
    times: int = Field(ge=1)
    """How often; 1 is the curve itself."""

    def at(self, step: float, *, first: float, last: float) -> float:
        """See `Curve.at`."""
        length = (last - first) / self.times
        start = first + part(step, first=first, last=last, parts=self.times) * length
        return self.curve.at(step, first=start, last=start + length)


class Scale(Curve):
    """One curve times another, or times a number."""

    kind: ClassVar[Literal["scale"]] = "scale"

    curve: CurveField
    """What is multiplied."""
    by: CurveField
    """The factor."""

    variants: ClassVar[dict[str, dict[str, Any]]] = {
        # CompressionFunnelPattern: five stages, .3 to .7, at whose beginnings up to 30% is taken back.
        "constraint_pattern": {
            "curve": Staircase(levels=(0.3, 0.4, 0.5, 0.6, 0.7)),
            "by": Repeat(
                times=5, curve=Piecewise(pieces=(Line(start=0.7, end=1.0), Const(level=1.0)), ends=(0.2,))
            ),
        }
    }

    def at(self, step: float, *, first: float, last: float) -> float:
        """See `Curve.at`."""
        span = {"first": first, "last": last}
        return self.curve.at(step, **span) * self.by.at(step, **span)


class Add(Curve):
    """The sum of curves."""

    kind: ClassVar[Literal["add"]] = "add"

    curves: tuple[CurveField, ...] = Field(min_length=1)
    """What is added up."""

    def at(self, step: float, *, first: float, last: float) -> float:
        """See `Curve.at`."""
        return sum(curve.at(step, first=first, last=last) for curve in self.curves)


class Clip(Curve):
    """A curve, never below or above two numbers."""

    kind: ClassVar[Literal["clip"]] = "clip"

    curve: CurveField
    """What is clipped."""
    low: float = 0.0
    """The least value."""
    high: float = 1.0
    """The largest value."""

    variants: ClassVar[dict[str, dict[str, Any]]] = {
        # The example script's two: stages with a period of a sine each, and "scaffold", whose period
        # is 628 steps in trainings of any length.
        "constraint_example_funnel": {
            "curve": Add(
                curves=(
                    Staircase(levels=(0.3, 0.4, 0.5, 0.6, 0.7)),
                    Sine(amplitude=0.05, radians=10 * math.pi),
                )
            )
        },
        "constraint_example_scaffold": {
            "curve": Piecewise(
                pieces=(Line(start=0.3, end=0.7), Sine(centre=0.7, amplitude=0.05, radians=0.01, per="step")),
                ends=(0.1,),
            )
        },
    }

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} must not be above high = {self.high}")
        return self

    def at(self, step: float, *, first: float, last: float) -> float:
        """See `Curve.at`."""
        return min(self.high, max(self.low, self.curve.at(step, first=first, last=last)))
