"""Levels of synthetic tasks that stand in the store: their ladders, and scores of finished runs on them."""

from collections.abc import Sequence

import pandas as pd

from lmbench.config import Config, from_dict, make
from lmbench.probes import LadderRungs
from lmbench.progress import Progress
from lmbench.records import ROW_COLUMNS, Records, no_items
from lmbench.store import Store
from lmbench.training.record import describe
from lmbench.training.rescore import evaluate_run


def level_scores(
    digests: Sequence[str],
    tasks: Sequence[Config],
    *,
    store: Records,
    split: str = "test",
    device: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Tidy rows of finished runs scored on levels that they need not have been trained on.

    All levels are one evaluation of each run; the rows carry the run's own digest, label and seed.

    Args:
        tasks: levels of synthetic tasks, such as a longer or a rewritten one.

    Raises:
        ValueError: as `evaluate_run`, or a level that a run's context is too short for.
    """
    asked, parts = make("task", "mixture", tasks=tuple(tasks)), []
    with Progress(len(digests), "evaluations", show=progress) as bar:
        for digest in digests:
            run = from_dict("run", store.record(digest)["run"]["config"])
            rows = evaluate_run(digest, store=store, split=split, task=asked, device=device)
            rows = rows[rows["level"] != ""].assign(run=digest, label=run.model.name, init_seed=run.init_seed)
            parts.append(rows)
            bar.update(1)
    return pd.concat(parts, ignore_index=True)


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
