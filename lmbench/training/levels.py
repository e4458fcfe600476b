"""Levels of synthetic tasks that stand in the store: their ladders, and scores of finished runs on them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

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
        for done, digest in enumerate(digests):
            run = from_dict("run", store.record(digest)["run"]["config"])
            bar.update(done, run.model.name)
            rows = evaluate_run(digest, store=store, split=split, task=asked, device=device)
            rows = rows[rows["level"] != ""].assign(run=digest, label=run.model.name, init_seed=run.init_seed)
            parts.append(rows)
    return pd.concat(parts, ignore_index=True)


def runs_of(rows: pd.DataFrame, task: Config) -> list[str]:
    """Digests of the runs, among tidy rows of runs, that learned some level of a task's kind."""
    learned = rows[(rows["split"] == "test") & (rows["task"] == task.kind)]
    return list(learned["run"].unique())


def shift_scores(
    rows: pd.DataFrame, tasks: Sequence[Config], *, store: Records, device: str | None = None
) -> pd.DataFrame:
    """`level_scores` of each run, whose rows are given, on those of the levels whose task it learned."""
    asked: dict[tuple[str, ...], tuple[list[str], list[Config]]] = {}
    for digest in rows["run"].unique():
        mine = [task for task in tasks if digest in runs_of(rows, task)]
        key = tuple(f"{task.kind} {task.level_name}" for task in mine)
        asked.setdefault(key, ([], mine))[0].append(digest)
    parts = [
        level_scores(digests, mine, store=store, device=device) for digests, mine in asked.values() if mine
    ]
    return pd.concat(parts, ignore_index=True)


class Shifts(NamedTuple):
    """Levels on which runs are scored, in pairs of a known and a shifted one."""

    families: dict[str, list[tuple[str, str, str]]]
    """family -> (task, level in distribution, shifted level), as level names."""
    tasks: tuple[Config, ...]
    """All levels that are named, each once."""


def shifts(asked: Sequence[Sequence[Any]], *, n_eval: int | None = None, strict: bool = True) -> Shifts:
    """Levels from plain values, as a notebook's parameters hold them.

    Args:
        asked: rows of family, task, fields of the level in distribution, and the fields that shift it, such
            as `["novel domain", "chain", {"level": 1, "names": "first"}, {"names": "second"}]`.
        n_eval: examples of each level; None is the task's own number.
        strict: refuse a shift that changes nothing; else it is the level in distribution.

    Raises:
        ValueError: an unknown task or field, or a shift that changes nothing.
    """
    families: dict[str, list[tuple[str, str, str]]] = {}
    tasks: dict[tuple[str, str], Config] = {}
    for family, kind, fields, change in asked:
        size = {} if n_eval is None else {"n_eval": n_eval}
        known, shifted = (make("task", kind, **(fields | more | size)) for more in ({}, change))
        if strict and known.level_name == shifted.level_name:
            raise ValueError(f"the shift {change} of {known.caption} changes nothing that its name tells")
        tasks |= {(one.kind, one.level_name): one for one in (known, shifted)}
        families.setdefault(family, []).append((kind, known.level_name, shifted.level_name))
    return Shifts(families, tuple(tasks.values()))


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
