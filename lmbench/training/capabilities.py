"""The capability tracker at work: what a point of its grid scores, and what all points cost.

Points are scored inside the program that trains, for all replicas of a group at once; each run has
its own rows, and nothing is shared between runs.
"""

from functools import lru_cache

import pandas as pd

from lmbench.config import Config, make
from lmbench.measure.flops import ledger
from lmbench.probes import LadderRungs
from lmbench.records import ROW_COLUMNS, Records, no_items
from lmbench.run import Run
from lmbench.store import Store
from lmbench.tasks.base import TaskData, load_task
from lmbench.training.record import describe


@lru_cache(maxsize=256)
def tracked_task(run: Run, *, point: int) -> Config:
    """The mixture of levels that the i-th point of a run's tracker scores."""
    return make("task", "mixture", tasks=run.track.levels(point))


def check_tracker(run: Run, data: TaskData) -> None:
    """What only training can know of a tracker.

    Raises:
        ValueError: a run whose vocabulary is another, a level that its context is too short for, or one
            that is named twice.
    """
    for point in range(min(len(run.track.grid(run.steps)), 1 + len(run.track.others))):
        tracked = load_task(tracked_task(run, point=point))
        if tracked.vocab_size != data.vocab_size:
            raise ValueError(
                f"the tracker scores tasks of {tracked.vocab_size} symbols; {run.task.caption} has "
                f"{data.vocab_size} token ids"
            )
        tracked.check_split("valid", run.protocol, run.model.seq_len)


def tracker_flops(run: Run) -> int:
    """Forward passes of all points of a run's tracker."""
    forward = ledger(run.model, readout="all").forward
    grid = run.track.grid(run.steps)
    sequences = (task.n_eval * task.rewrites for at in range(len(grid)) for task in run.track.levels(at))
    return forward * sum(sequences)


def ladders(task: Config, *, store: Records) -> pd.DataFrame:
    """The score ladder of a synthetic task or of each level of a mixture, kept in the store.

    Columns: task, level, metric ("score" or "answer_nll"), rung ("chance", "bayes" or a shortcut), value.

    Raises:
        ValueError: a task without levels, or a read-only store that lacks the ladder.
    """
    asked = LadderRungs(task=task)
    if not store.has(asked.digest):
        if not isinstance(store, Store):
            raise ValueError(f"the reference results {store.root} lack the ladder of {task.caption}")
        store.ensure(asked.digest, lambda: _file(asked, store))
    rows = store.frame([asked.digest])
    told = rows["metric"].str.split("|", expand=True)
    return rows[["task", "level"]].assign(metric=told[0], rung=told[1], value=rows["value"])


def _file(asked: LadderRungs, store: Store) -> None:
    if not asked.task.levels:
        raise ValueError(f"task {asked.task.kind!r} has no levels, so no ladder")
    fixed = dict.fromkeys(ROW_COLUMNS, 0) | {"evaluation": "", "split": "", "n": 1}
    rows = [
        fixed | {"task": one.kind, "level": one.level_name, "metric": f"{metric}|{rung}", "value": value}
        for one in asked.task.levels
        for metric, rung, value in one.ladder().rungs()
    ]
    with store.claim(asked.digest) as folder:
        if folder is not None:
            store.finish(
                asked.digest,
                run=describe(asked, label=asked.task.kind),
                env={"device": None},
                rows=pd.DataFrame(rows),
                items=no_items(),
            )
