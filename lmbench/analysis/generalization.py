"""Generalization: what finished runs lose when the test differs from training in one declared way.

Each family of shifts (novel names, rewritten statements, held-out pairs, greater length) ranks models
differently (Sun, Williams and Hupkes 2023), so families are reported apart and never added up, and every
value stands beside the same weights' value in distribution. Both are normalised by their own score
ladder, 0 for a guesser and 1 for the Bayes-optimal score, because a shift can change what chance is; the
gap is the share of the learnable that is lost. The unit is the training, so intervals are over seeds.

A level is told by the text of its rows, such as "0, rewrites=8, shift=4".
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lmbench.analysis.checks import require
from lmbench.analysis.intervals import holm, t_interval
from lmbench.analysis.ladders import ENDS, normalise
from lmbench.analysis.stats import paired_differences, summarise
from lmbench.analysis.verdict import judge, ranking_sentence
from lmbench.errors import unknown

Families = Mapping[str, Sequence[tuple[str, str, str]]]
"""Family to its members: (task, level in distribution, shifted level)."""
SAME = 1e-12  # spread of gaps below which they are equal
MEMBER = ["family", "task", "within_level", "level"]
UNIT = "of the normalised score"
COLUMNS = ("label", "init_seed", "task", "level", "metric", "value")


def gaps(
    rows: pd.DataFrame, ladder: pd.DataFrame, *, families: Families, metric: str = "score"
) -> pd.DataFrame:
    """What each run loses to each shift.

    Args:
        rows: tidy rows of test evaluations: label, init_seed, task, level, metric, value.
        ladder: rows with task, level, metric, rung, value of both levels of each member.

    Returns:
        One row for each member, label and seed: family, task, within_level, level, label, init_seed,
        value and within (of the metric, shifted and in distribution), normalised and
        normalised_within, and gap, the latter minus the former.

    Raises:
        ValueError: no family, a column, metric, task or level that the rows lack, a seed that has only
            one of the two levels, or one that has a level twice.
    """
    if not any(families.values()):
        raise ValueError("families is empty; it maps a family to (task, level, shifted level)")
    for column in COLUMNS:
        require(rows, column)
    if metric not in set(rows["metric"]):
        raise ValueError(unknown("metric", metric, set(rows["metric"])))
    chosen = rows[rows["metric"] == metric].astype({"level": str})
    parts = []
    for family, members in families.items():
        for task, within_level, level in members:
            here = normalise(_at(chosen, task, str(level)), ladder)
            before = normalise(_at(chosen, task, str(within_level)), ladder)
            how = {"on": ["label", "init_seed"], "suffixes": ("", "_within")}
            _check_pairs(here.merge(before, how="outer", **how), task, str(within_level), str(level))
            joined = here.merge(before, **how)  # in the order of the rows, which an outer join is not
            parts.append(
                joined.assign(family=family, task=task, within_level=str(within_level), level=str(level))
            )
    table = pd.concat(parts, ignore_index=True).rename(columns={"value_within": "within"})
    table["gap"] = table["normalised_within"] - table["normalised"]
    numbers = ["value", "within", "normalised", "normalised_within", "gap"]
    return table[[*MEMBER, "label", "init_seed", *numbers]]


def family_table(
    rows: pd.DataFrame,
    ladder: pd.DataFrame,
    *,
    families: Families,
    metric: str = "score",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """One row for each member of a family and label; there is no total over members or families.

    Returns:
        family, task, within_level, level, label, n (seeds); mean, low, high of the metric on the shifted
        level, with its chance and bayes; the same in distribution with the prefix `within_`; normalised_mean
        and normalised_within_mean; gap, gap_low, gap_high of the normalised values, paired by seed; p of a
        gap of 0 by the paired t test, and p_holm, adjusted over the rows of the family. With one seed
        intervals and p are NaN; p also where all seeds lose exactly as much.

    Raises:
        ValueError: as `gaps`.
    """
    every, by = gaps(rows, ladder, families=families, metric=metric), [*MEMBER, "label"]
    table = None
    prefixes = {"value": "", "within": "within_", "gap": "gap_"}
    prefixes |= {name: f"{name}_" for name in ("normalised", "normalised_within")}
    for column, prefix in prefixes.items():
        part = summarise(every, by=by, value=column, confidence=confidence).drop(columns="sd")
        names = {"mean": column if column == "gap" else f"{prefix}mean"}
        names |= {name: f"{prefix}{name}" for name in ("low", "high")}
        part = part.rename(columns=names)
        table = part if table is None else table.merge(part.drop(columns="n"), on=by)
    for prefix, level in (("", "level"), ("within_", "within_level")):
        for end in ENDS:
            keys = zip(table["task"], table[level], strict=True)
            table[f"{prefix}{end}"] = [rung(ladder, *key, metric=metric, name=end) for key in keys]
    tested = every.groupby(by, sort=False)["gap"]
    # Seeds that all lose the same to the last digit have learned nothing: a t of no spread is no test.
    p = {key: t_interval(part).p if np.ptp(part) > SAME else math.nan for key, part in tested}
    table["p"] = [p[tuple(key)] for key in table[by].to_numpy()]
    table["p_holm"] = table.groupby("family", sort=False)["p"].transform(lambda part: holm(part.to_numpy()))
    ends = [f"{prefix}{end}" for prefix in ("", "within_") for end in ENDS]
    first = [*by, "n", "mean", "low", "high", "within_mean", "within_low", "within_high"]
    first += ["normalised_mean", "normalised_within_mean"]
    return table[[*first, "gap", "gap_low", "gap_high", "p", "p_holm", *ends]]


def rung(ladder: pd.DataFrame, task: str, level: str, *, metric: str, name: str) -> float:
    """The value of one rung of a score ladder; NaN where there is none."""
    is_there = (ladder["task"] == task) & (ladder["level"].astype(str) == level)
    found = ladder[is_there & (ladder["metric"] == metric) & (ladder["rung"] == name)]["value"]
    return float(found.iloc[0]) if len(found) else math.nan


def _at(rows: pd.DataFrame, task: str, level: str) -> pd.DataFrame:
    """Rows of one level, one for each label and seed."""
    if task not in set(rows["task"]):
        raise ValueError(unknown("task", task, set(rows["task"])))
    of_task = rows[rows["task"] == task]
    found = of_task[of_task["level"] == level]
    if found.empty:
        raise ValueError(unknown(f"level of task {task!r}", level, set(of_task["level"])))
    twice = found.duplicated(["label", "init_seed"])
    if twice.any():
        first = found[twice].iloc[0]
        raise ValueError(
            f"label {first['label']!r} has init_seed {first['init_seed']} of task {task!r} level {level!r} "
            "twice; keep one row a seed"
        )
    return found[list(COLUMNS)]


def _check_pairs(joined: pd.DataFrame, task: str, within_level: str, level: str) -> None:
    for column, lacking, there in (("value", level, within_level), ("value_within", within_level, level)):
        odd = joined[joined[column].isna()]
        if len(odd):
            label, seed = odd.iloc[0][["label", "init_seed"]]
            raise ValueError(
                f"label {label!r} has no value of task {task!r} level {lacking!r} for init_seed {seed}, only "
                f"of level {there!r}; a gap needs both"
            )


# ------------------------------------------------------------------ in words


def generalization_sentences(
    rows: pd.DataFrame,
    ladder: pd.DataFrame,
    *,
    families: Families,
    metric: str = "score",
    known: float = 0.5,
    confidence: float = 0.95,
) -> dict[str, str]:
    """A paragraph for each family: on each of its members, which model loses least, if that is decided.

    All pairs of models on all members of a family are one family of tests. A model that has learned
    nothing has nothing to lose, so only those are compared whose normalised value in distribution is
    at least `known` with its whole interval; the others are named. Where all that are left fall to chance,
    the one that knew least would lose least, so none is said to.

    Raises:
        ValueError: as `gaps`, or models of different seeds.
    """
    every = gaps(rows, ladder, families=families, metric=metric)
    told = {}
    for family, table in every.groupby("family", sort=False):
        members = [_Member(own, known, confidence) for _, own in table.groupby(MEMBER, sort=False)]
        adjusted = holm(np.concatenate([member.pairs["p"] for member in members]))
        for member in members:
            member.pairs["p_holm"], adjusted = adjusted[: len(member.pairs)], adjusted[len(member.pairs) :]
        told[family] = " ".join(member.sentences() for member in members)
    return told


class _Member:
    """One member of a family: which models can be compared on it, and what their comparison says."""

    def __init__(self, own: pd.DataFrame, known: float, confidence: float) -> None:
        first, self.known, self.confidence = own.iloc[0], known, confidence
        self.name = f"{first['task']} {first['level']} (in distribution: {first['within_level']})"
        within = summarise(own, by="label", value="normalised_within", confidence=confidence)
        # Of a single seed there is no interval, and its value must do.
        least = within["low"].fillna(within["mean"])
        self.weak = within[least < known]
        self.own = own[own["label"].isin(within[least >= known]["label"])]
        self.pairs = pd.DataFrame({"p": np.zeros(0)})
        self.is_lost = False
        if self.own["label"].nunique() > 1:
            left = summarise(self.own, by="label", value="normalised", confidence=confidence)
            self.is_lost = not (left["low"].fillna(left["mean"]) > 0).any()
        if self.own["label"].nunique() > 1 and not self.is_lost:
            self.pairs = paired_differences(
                self.own, group="label", unit="init_seed", value="gap", confidence=confidence
            )

    def sentences(self) -> str:
        """Ranking, comparison, and who is left out."""
        said = []
        if not self.own.empty:
            table = summarise(self.own, by="label", value="gap", confidence=self.confidence)
            unit = f"loss {UNIT} on {self.name}"
            if not self.is_lost:
                said.append(ranking_sentence(table, label="label", unit=unit, confidence=self.confidence))
            if self.is_lost:
                names = ", ".join(f"{row.label} {row.mean:.2f}" for row in table.itertuples())
                said.append(
                    f"On {self.name} none is surely above chance, so the loss is what was known ({names}), "
                    "and who loses least is not asked."
                )
            elif len(table) > 1:
                best = table.loc[table["mean"].idxmin(), "label"]
                said.append(judge(f"{best} loses least", self._of(best), unit=f"{UNIT} lost").text)
        if self.own["label"].nunique() < 2:
            said.append(f"Which model loses least on {self.name} is not decided: no 2 can be compared.")
        if len(self.weak):
            names = ", ".join(f"{row.label} {row.mean:.2f}" for row in self.weak.itertuples())
            said.append(f"Not compared, as they do not surely reach {self.known:g} in distribution: {names}.")
        return " ".join(said)

    def _of(self, best: str) -> pd.DataFrame:
        """The comparisons of one label, as differences of it minus the other."""
        pairs = self.pairs.copy()
        turned = pairs["b"] == best
        pairs.loc[turned, ["a", "b"]] = pairs.loc[turned, ["b", "a"]].to_numpy()
        pairs.loc[turned, "difference"] *= -1
        pairs.loc[turned, ["low", "high"]] = -pairs.loc[turned, ["high", "low"]].to_numpy()
        return pairs[pairs["a"] == best]
