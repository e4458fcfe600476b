"""Several levels of synthetic tasks, learned by one model and scored level by level."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from lmbench.config import make, one_of
from lmbench.tasks.base import TaskConfig, TaskData
from lmbench.tasks.synthetic import SyntheticTask, check_apart
from lmbench.tasks.synthetic_data import SyntheticData

DEFAULT = ("chain", "audit", "retry", "scm", "route", "reports")
"""The five capabilities: reasoning, self-correction (two), counterfactuals, planning, uncertainty."""


class Mixture(TaskConfig):
    """Each training example is of one level, drawn by weight; scores of each level stand apart."""

    kind: ClassVar[Literal["mixture"]] = "mixture"

    tasks: tuple[one_of("task"), ...] = Field(
        default_factory=lambda: tuple(make("task", name) for name in DEFAULT), min_length=1
    )
    """Levels, such as {kind = "chain", level = 1}."""
    weights: tuple[float, ...] = ()
    """How often training draws each, up to a factor; () draws all alike."""

    @model_validator(mode="after")
    def _fitting(self) -> "Mixture":
        odd = [task.kind for task in self.tasks if not isinstance(task, SyntheticTask)]
        if odd:
            raise ValueError(f"tasks holds {odd[0]!r}, which is not a synthetic task")
        named = [(task.kind, task.level_name) for task in self.tasks]
        twice = [name for name in named if named.count(name) > 1]
        if twice:
            raise ValueError(f"tasks holds {twice[0][0]} level {twice[0][1]} twice")
        check_apart(self.tasks, self.tasks)
        if self.weights and (len(self.weights) != len(self.tasks) or min(self.weights) <= 0):
            raise ValueError(
                f"weights = {list(self.weights)} is not accepted: one number above 0 for each of the "
                f"{len(self.tasks)} tasks"
            )
        return self

    def load(self) -> TaskData:
        weights = self.weights or (1.0,) * len(self.tasks)
        return SyntheticData(self, entries=list(zip(self.tasks, weights, strict=True)))

    def load_like(self, trained: TaskData) -> TaskData:
        """See `SyntheticTask.load_like`."""
        for task in self.tasks:
            task.load_like(trained)
        return self.load()

    def refuse_leak(self, scored: TaskConfig, *, split: str) -> None:
        """See `TaskConfig.refuse_leak`."""
        check_apart(self.tasks, scored.levels)

    @property
    def levels(self) -> tuple[TaskConfig, ...]:
        return self.tasks

    @property
    def caption(self) -> str:
        return f"a mixture of {', '.join(f'{task.kind} {task.level_name}' for task in self.tasks)}"
