"""Runs of the arms of an experiment under one budget, tuned and trained like any others."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from lmbench.errors import unknown
from lmbench.measure.arms import Arm, arm_table
from lmbench.run import Run
from lmbench.tasks.base import TaskConfig
from lmbench.training.costs import active_flops
from lmbench.training.plan import plan, plan_table
from lmbench.training.tune import Tuning, at_rate, tune

LONGER = ", equal FLOPs"
"""Ends the name of an arm that is trained until it has spent the FLOPs, of the units in use, of another."""


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
    _by_shape(made)
    return made


def longer_arms(
    arms: Mapping[str, Arm], task: TaskConfig, *, flops: float, named: str = "{}" + LONGER, **settings: Any
) -> dict[str, Run]:
    """A run for each arm that goes on until it has spent so many FLOPs, by a name made of the arm's.

    An arm with a share of the data passes over it more often, as all of them spend the same. FLOPs are
    those of the units in use: a mask trains for as long as the slice that it stands for.

    Args:
        flops: of training, such as `active_flops` of the arm that it is to stand beside.
        settings: as in `plan_arms`.
    """
    whole = {name: replace(arm, share=1.0) for name, arm in arms.items()}
    made = plan_arms(whole, task, equal="active_flops", budget=flops, **settings)
    return {named.format(name): run for name, run in made.items()}


def tune_arms(runs: Mapping[str, Run], *, rates: Sequence[float], **how: Any) -> Tuning:
    """A learning rate for each arm, by its name; see `tune`."""
    return tune(list(runs.values()), rates=rates, labels=list(runs), **how)


def fresh_arms(
    runs: Mapping[str, Run], tuning: Tuning, *, seeds: Sequence[int], like: str | None = None
) -> list[Run]:
    """The runs to report. An arm that is trained for longer has the rate of the same arm otherwise.

    Args:
        like: the tuned arm whose rate all take; None gives each its own.

    Raises:
        ValueError: an arm that was not tuned, a seed that rates are chosen on, or two arms that train
            the same.
    """
    _by_shape(runs)
    chosen, made = tuning.rates, []
    for name, base in runs.items():
        tuned = like or name.removesuffix(LONGER)
        if tuned not in chosen:
            raise ValueError(unknown("tuned arm", tuned, chosen))
        made += at_rate(base, chosen[tuned], seeds=seeds)
    return made


def arm_plan(runs: Mapping[str, Run], arms: Mapping[str, Arm]) -> pd.DataFrame:
    """What each run will cost, with what its arm is: the table of `plan_table` behind that of `arm_table`.

    FLOPs are those that are executed, and behind them those of the units in use.
    """
    by_name = {
        name: replace(arms[name.removesuffix(LONGER)], share=1.0) if name.endswith(LONGER) else arms[name]
        for name in runs
    }
    what = arm_table(by_name)
    active = [active_flops(run, run.steps) for run in runs.values()]
    costs = plan_table(list(runs.values())).drop(columns=["model", "parameters", "FLOPs as published"])
    return pd.concat([what, costs.assign(**{"active FLOPs": active})], axis=1)


def arm_of(runs: Mapping[str, Run], executed: Sequence[Run]) -> dict[str, str]:
    """The arm of each executed run, by digest: its config but for seeds, rate and what is scored.

    Args:
        runs: from `plan_arms` and `longer_arms`.
        executed: the same at other seeds and rates.

    Raises:
        ValueError: two arms that train the same.
    """
    by_shape = _by_shape(runs)
    return {run.digest: by_shape[_shape(run)] for run in executed}


def _by_shape(runs: Mapping[str, Run]) -> dict[str, str]:
    """Names of arms by what they train. Two that train the same would be one run with two names."""
    found: dict[str, str] = {}
    for name, run in runs.items():
        if (other := found.setdefault(_shape(run), name)) != name:
            raise ValueError(f"arms {other!r} and {name!r} train the same; leave one out")
    return found


def named(rows: pd.DataFrame, arms: Mapping[str, str]) -> pd.DataFrame:
    """Rows of a store with the names of their arms as labels."""
    return rows.assign(label=rows["run"].map(arms))


def _shape(run: Run) -> str:
    return run.with_seed(0).replace(optimizer=run.optimizer.replace(lr=1.0), test=False, track=None).digest
