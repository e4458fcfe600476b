"""The generalisation bound of a published sketch, literally, beside what it should have been.

The sketch ("Quantized Knowledge Distillation", V2) bounds the risk by

    R_emp + sqrt((ln prod_p b_p + ln(1/delta)) / (2 n)),   b_p the bits of parameter p.

Parameters of b bits have 2^b values, so the number of networks is prod 2^b_p and its logarithm is
sum b_p ln 2: at 8 bits 2.67 times as much, and at 1 bit, where ln 1 = 0, infinitely many times. It also
takes the loss to lie in [0, 1] and says nothing of what is drawn independently. It is kept to be shown
wrong (`measure.bounds_coverage`); what may be believed is `measure.bounds.occam`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from lmbench.measure.bound_losses import Smoothed, ZeroOne, at_least
from lmbench.measure.bounds import gap


@dataclass(frozen=True, kw_only=True)
class SeedBound:
    """What the sketch promises, and the same with the right count of networks and the loss's width."""

    valid: ClassVar[bool] = False
    value: float
    """As written; not a bound."""
    corrected: float
    """R_emp + width sqrt((sum b ln 2 + ln(1/delta)) / (2 n)), for weights of fixed width without a file."""
    complexity: float
    """ln prod_p b_p, in nats."""
    corrected_complexity: float
    """sum_p b_p ln 2, in nats."""

    @property
    def text(self) -> str:
        """Both numbers and why the first is invalid."""
        return (
            f"As published {self.value:.4g} (invalid: it counts {self.complexity:.4g} nats of networks, "
            f"which are {self.corrected_complexity:.4g}), corrected {self.corrected:.4g}."
        )


def seed_literal(
    empirical_risk: float,
    *,
    parameters: Mapping[int, int],
    n: int,
    loss: Smoothed | ZeroOne,
    delta: float = 0.05,
) -> SeedBound:
    """The published form of a network.

    Args:
        parameters: bits to the number of parameters that have so many, such as {8: 50_000}.
        n: documents; the sketch divides by the size of the data set.
        loss: of the correction; the sketch has width 1 whatever the loss is.

    Raises:
        ValueError: no parameters, or bits or counts below 1.
    """
    if not parameters:
        raise ValueError("parameters is empty; give bits to counts, as {8: 50000}")
    for bits, count in parameters.items():
        at_least(bits, 1, name="bits")
        at_least(count, 1, name=f"parameters[{bits}]")
    literal = math.fsum(count * math.log(bits) for bits, count in parameters.items())
    bits = sum(bits * count for bits, count in parameters.items())
    how = {"m": n, "delta": delta}
    return SeedBound(
        value=empirical_risk + gap(bits=literal / math.log(2), width=1.0, **how),
        corrected=empirical_risk + gap(bits=bits, width=loss.width, **how),
        complexity=literal,
        corrected_complexity=bits * math.log(2),
    )
