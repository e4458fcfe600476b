"""How the values of a tensor are written: bits, what shares a scale, the type of the scales."""

import math
from dataclasses import dataclass

from lmbench.errors import nearest
from lmbench.measure.artifact.bits import TERNARY

CODE_BITS = (1, TERNARY, 2, 3, 4, 5, 6, 8)
FLOATS = {16: "float16", 32: "float32"}
FLOAT_BITS = {name: bits for bits, name in FLOATS.items()}


@dataclass(frozen=True)
class Coding:
    """How the values of one tensor are written.

    Raises:
        ValueError: bits, granularity or scales that do not exist.
    """

    bits: float
    """1, 1.58, 2, 3, 4, 5, 6 or 8 for a scale times whole numbers; 16 and 32 keep floats, without scales."""
    granularity: str | int = "row"
    """What shares a scale: "row" (along the last axis), "tensor", or so many neighbours of a row."""
    scales: str = "float32"
    """Type of the scales: "float32", or "float16", whose rounding then is part of the weights."""

    def __post_init__(self) -> None:
        if self.bits not in (*CODE_BITS, *FLOATS):
            accepted = ", ".join(str(bits) for bits in (*CODE_BITS, *FLOATS))
            raise ValueError(f"coding.bits = {self.bits!r} is not accepted; accepted: {accepted}")
        is_size = isinstance(self.granularity, int) and not isinstance(self.granularity, bool)
        if not (self.granularity in ("row", "tensor") or (is_size and 1 <= self.granularity < 2**31)):
            raise ValueError(
                f"coding.granularity = {self.granularity!r} is not accepted; accepted: 'row', 'tensor' or a "
                f"group size of at least 1.{nearest(self.granularity, ('row', 'tensor'))}"
            )
        if self.scales not in FLOAT_BITS:
            raise ValueError(
                f"coding.scales = {self.scales!r} is not accepted; accepted: {', '.join(FLOAT_BITS)}"
            )

    @property
    def is_float(self) -> bool:
        """Whether values are kept as floats."""
        return self.bits in FLOATS

    def n_scales(self, shape: tuple[int, ...]) -> int:
        """Scales of a tensor of this shape; the last group of a row may be shorter than the others."""
        if self.is_float or not math.prod(shape):
            return 0
        if self.granularity == "tensor":
            return 1
        width = shape[-1] if shape else 1
        rows = math.prod(shape) // width
        return rows if self.granularity == "row" else rows * -(-width // self.granularity)

    def value_key(self, form: str) -> str:
        """The stream of the values in this form."""
        if self.is_float:
            return FLOATS[int(self.bits)]
        return "codes/1" if self.bits == TERNARY and form != "dense" else f"codes/{self.bits:g}"
