"""Reversal: say a string backwards.

    c a f ? = f a c <eos>

Source: Delétang et al. 2023 (reverse string).
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from lmbench.tasks.strings import StringTask


class Reverse(StringTask):
    """The string from its end to its start."""

    kind: ClassVar[Literal["reverse"]] = "reverse"
    is_turned: ClassVar = True
    other_way: ClassVar = "copy"

    def solve(self, body: Sequence[str], query: Sequence[str]) -> list[str]:
        """Read from the end to the start."""
        return [*reversed(body), "<eos>"]
