"""What is scored while a run trains: chosen levels of synthetic tasks on a geometric grid of steps.

Emergence times are ratios, so the grid is geometric. Scores of a point are an `Evaluation` like any
other, of the weights at that step on the valid split, and stand among the run's rows under split "track".
"""

import math
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from lmbench.config import Config, one_of


class CapabilityTracker(Config):
    """Levels that are scored at each point of the grid, and others that take turns."""

    role: ClassVar[str] = "tracker"
    kind: ClassVar[Literal["capabilities"]] = "capabilities"

    primary: tuple[one_of("task"), ...] = Field(min_length=1)
    """Declared levels, scored at every point."""
    others: tuple[one_of("task"), ...] = ()
    """Further levels, of which `turns` are scored at a point."""
    turns: int = Field(1, ge=1)
    """How many of the others a point scores."""
    first: int = Field(10, ge=1)
    """First step of the grid."""
    ratio: float = Field(1.1, gt=1)
    """Between two steps of the grid; at most 1.1 for times that are reported, 1.25 for a quick look."""
    n: int = Field(1000, ge=1000)
    """Examples of each level; with fewer, a model that never learns seems to (specs of false emergence)."""

    @field_validator("primary", "others")
    @classmethod
    def _synthetic(cls, value: tuple[Config, ...]) -> tuple[Config, ...]:
        odd = [task.kind for task in value if task.levels != (task,)]
        if odd:
            raise ValueError(f"task {odd[0]!r} is not accepted: one level of a synthetic task is")
        return value

    def grid(self, steps: int) -> list[int]:
        """Steps after which levels are scored, the last step among them."""
        at, found = min(self.first, steps), []
        while at < steps:
            found.append(at)
            at = max(at + 1, math.ceil(at * self.ratio))
        return [*found, steps]

    def levels(self, point: int) -> tuple[Config, ...]:
        """Levels scored at the i-th point of the grid."""
        turns = min(self.turns, len(self.others))
        chosen = (self.others[(point * turns + k) % len(self.others)] for k in range(turns))
        return tuple(task.replace(n_eval=self.n) for task in (*self.primary, *chosen))
