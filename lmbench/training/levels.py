"""Levels of synthetic tasks that stand in the store: their ladders, and scores of finished runs on them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from lmbench.asked import config_of, read_or_make
from lmbench.config import Config, discover, make
from lmbench.errors import unknown
from lmbench.probes.scores import LadderRungs
from lmbench.progress import Progress
from lmbench.records import Records
from lmbench.store import Store
from lmbench.tasks.synthetic import SyntheticTask
from lmbench.training.measured import file_rows
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

    All levels are one evaluation of each run; the rows carry the run's own digest, label and seed. A run
    that diverged will never know any, so it counts as at chance, as it does when onsets are read: left out,
    it would flatter its model.

    Args:
        tasks: levels of synthetic tasks, such as a longer or a rewritten one.

    Raises:
        ValueError: as `evaluate_run`, or a level that a run's context is too short for.
    """
    if not len(digests) or not len(tasks):
        raise ValueError(f"{len(digests)} runs and {len(tasks)} levels leave nothing to score")
    asked, parts = make("task", "mixture", tasks=tuple(tasks)), []
    with Progress(len(digests), "evaluations", show=progress) as bar:
        for done, digest in enumerate(digests):
            run = config_of(digest, store=store)
            bar.update(done, run.model.name)
            if (store.rows(digest)["metric"] == "diverged").any():
                rows = _at_chance(tasks, store=store, split=split)
            else:
                rows = evaluate_run(digest, store=store, split=split, task=asked, device=device)
            rows = rows[rows["level"] != ""].assign(run=digest, label=run.model.name, init_seed=run.init_seed)
            parts.append(rows)
    return pd.concat(parts, ignore_index=True)


def _at_chance(tasks: Sequence[Config], *, store: Records, split: str) -> pd.DataFrame:
    """Scores of one who guesses, as rows of an evaluation on no example."""
    rungs = ladders(tasks, store=store)
    return rungs[rungs["rung"] == "chance"].drop(columns="rung").assign(split=split, n=0)


class Shift(NamedTuple):
    """A level that a model knows, and the same with one thing changed."""

    family: str
    known: SyntheticTask
    shifted: SyntheticTask


class Shifts(NamedTuple):
    """Levels on which runs are scored, in pairs of a known and a shifted one."""

    pairs: tuple[Shift, ...]

    @property
    def families(self) -> dict[str, list[tuple[str, str, str]]]:
        """family -> (task, level in distribution, shifted level), as level names."""
        found: dict[str, list[tuple[str, str, str]]] = {}
        for family, known, shifted in self.pairs:
            found.setdefault(family, []).append((known.kind, known.level_name, shifted.level_name))
        return found

    @property
    def tasks(self) -> tuple[SyntheticTask, ...]:
        """All levels that are named, each once."""
        every = [task for pair in self.pairs for task in (pair.known, pair.shifted)]
        return tuple({(task.kind, task.level_name): task for task in every}.values())


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
    size, pairs = {} if n_eval is None else {"n_eval": n_eval}, []
    for row in asked:
        if len(row) != 4:
            raise ValueError(f"a shift is [family, task, fields, changed fields], got {list(row)}")
        family, kind, fields, change = row
        known, shifted = (_level(kind, fields | more | size) for more in ({}, change))
        if strict and known.level_name == shifted.level_name:
            raise ValueError(f"the shift {change} of {known.caption} changes nothing that its name tells")
        pairs.append(Shift(family, known, shifted))
    return Shifts(tuple(pairs))


def _level(kind: str, fields: Mapping[str, Any]) -> SyntheticTask:
    known = discover("task")
    if kind not in known:
        raise ValueError(unknown("task", kind, known))
    return known[kind](**fields)


def runs_of(rows: pd.DataFrame, task: SyntheticTask, *, store: Records) -> list[str]:
    """Digests of the runs, among tidy rows of runs, that were trained on a level."""
    wanted = task.as_trained
    return [digest for digest in rows["run"].unique() if wanted in _learned(digest, store)]


def _learned(digest: str, store: Records) -> tuple[SyntheticTask, ...]:
    run = config_of(digest, store=store)
    return tuple(level.as_trained for level in run.task.levels)


def shift_scores(
    rows: pd.DataFrame, asked: Shifts, *, store: Records, device: str | None = None, strict: bool = True
) -> pd.DataFrame:
    """`level_scores` of each run, whose rows are given, on those pairs of which it learned the known level.

    Args:
        strict: refuse a shifted level that was trained.

    Raises:
        ValueError: a known level that no run was trained on, or a shifted one that a run was trained on.
    """
    if not asked.pairs:
        raise ValueError("no shift is given, so there is nothing to score")
    groups: dict[tuple[SyntheticTask, ...], list[str]] = {}
    met: set[Shift] = set()
    for digest in rows["run"].unique():
        learned = _learned(digest, store)
        mine = [pair for pair in asked.pairs if pair.known.as_trained in learned]
        for _, known, shifted in mine:
            if strict and shifted.as_trained in learned and shifted.as_trained != known.as_trained:
                raise ValueError(f"{shifted.caption} is no shift: run {digest} was trained on it")
        met.update(mine)
        if mine:
            groups.setdefault(Shifts(tuple(mine)).tasks, []).append(digest)
    for pair in asked.pairs:
        if pair not in met:
            raise ValueError(f"no run was trained on {pair.known.as_trained.caption}, which is to be shifted")
    parts = [level_scores(some, tasks, store=store, device=device) for tasks, some in groups.items()]
    return pd.concat(parts, ignore_index=True)


def ladders(tasks: Sequence[Config], *, store: Records) -> pd.DataFrame:
    """The score ladders of levels, kept in the store.

    Columns: task, level, metric ("score" or "answer_nll"), rung ("chance", "bayes" or a shortcut), value.

    Raises:
        ValueError: a task without levels, or a read-only store that lacks a ladder.
    """
    if not len(tasks):
        raise ValueError("no task is given, so there is no ladder")
    parts = []
    for task in (level for one in tasks for level in one.levels or (one,)):
        asked = LadderRungs(task=task)
        rows = read_or_make(asked, what=f"the ladder of {task.caption}", store=store, make=_file)
        told = rows["metric"].str.split("|", expand=True)
        kept = rows[["task", "level", "value"]]
        parts.append(kept.assign(metric=told[0].to_numpy(), rung=told[1].to_numpy()))
    return pd.concat(parts, ignore_index=True)[["task", "level", "metric", "rung", "value"]]


def _file(asked: LadderRungs, store: Store) -> None:
    if asked.task.levels != (asked.task,):
        raise ValueError(f"task {asked.task.kind!r} has no levels, so no ladder")
    fixed = {"task": asked.task.kind, "level": asked.task.level_name, "n": 1}

    def rows() -> list[dict[str, Any]]:
        rungs = asked.task.scored_ladder().rungs()
        return [fixed | {"metric": f"{metric}|{rung}", "value": value} for metric, rung, value in rungs]

    file_rows(asked, rows, label=asked.task.kind, store=store, env={"device": None})
