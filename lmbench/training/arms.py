"""Runs of the arms of an experiment under one budget, tuned and trained like any others."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lmbench.measure.arms import Arm
from lmbench.run import Run
from lmbench.tasks.base import TaskConfig
from lmbench.training.plan import plan


def plan_arms(
    arms: Mapping[str, Arm], task: TaskConfig, *, equal: str, budget: float, **settings: Any
) -> dict[str, Run]:
    """A run for each arm, by name, under an equal budget; an arm with a share has that part of it.

    Args:
        equal, budget, settings: as in `plan`.

    Raises:
        ValueError: as `plan`, or two arms that train the same.
    """
    made: dict[str, Run] = {}
    for name, arm in arms.items():
        how = {"equal": equal, "budget": arm.share * budget, "methods": arm.methods}
        (made[name],) = plan([arm.model], task, **how | settings)
    seen: dict[str, str] = {}
    for name, run in made.items():
        if run.digest in seen:
            raise ValueError(f"arms {seen[run.digest]!r} and {name!r} train the same; leave one out")
        seen[run.digest] = name
    return made


def arm_of(runs: Mapping[str, Run], executed: Sequence[Run]) -> dict[str, str]:
    """The arm of each executed run, by digest: its config but for seeds, rate and what is scored.

    Args:
        runs: from `plan_arms`.
        executed: the same at other seeds and rates.
    """
    by_shape = {_shape(run): name for name, run in runs.items()}
    return {run.digest: by_shape[_shape(run)] for run in executed}


def named(rows: pd.DataFrame, arms: Mapping[str, str]) -> pd.DataFrame:
    """Rows of a store with the names of their arms as labels."""
    return rows.assign(label=rows["run"].map(arms))


def _shape(run: Run) -> str:
    return run.with_seed(0).replace(optimizer=run.optimizer.replace(lr=1.0), test=False, track=None).digest
