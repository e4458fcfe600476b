"""Copying: say a string again.

    c a f ? = c a f <eos>

Source: Delétang et al. 2023 (duplicate string); Jelassi et al. 2024.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from lmbench.tasks.strings import StringTask


class Copy(StringTask):
    """The string itself."""

    kind: ClassVar[Literal["copy"]] = "copy"
    is_turned: ClassVar = False
    other_way: ClassVar = "backwards"

    def solve(self, body: Sequence[str], query: Sequence[str]) -> list[str]:
        """Read from the start to the end."""
        return [*body, "<eos>"]
