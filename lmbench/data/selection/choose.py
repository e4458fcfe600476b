"""The stages in their order: duplicates out, preference inside each domain, quotas, order.

A pure function of the units, what is known of them (duplicates, scores) and a generator. The
control is the same function with rule "random": the same share, the same exact number of tokens
and the same generator, without strata or scores.

Legend: U unit, K kept unit, D domain.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from lmbench.data.selection import quotas
from lmbench.data.selection.dedup import Found
from lmbench.data.selection.report import Report, domain_table, removed
from lmbench.data.selection.scores import percentile
from lmbench.data.selection.units import Units

Rule = Literal["random", "stratified", "filtered"]
Band = Literal["low", "mid", "high"]


@dataclass(frozen=True)
class Selection:
    """Which units are learned from, and in what order."""

    index_K: np.ndarray
    """Kept units, in the order of the text."""
    kept: Units
    """The same as units; one of each domain may be shorter than it was."""
    difficulty_K: np.ndarray
    """Percentile of each within its domain, easy to hard; 0 where nothing is paced."""
    report: Report

    @property
    def order(self) -> np.ndarray:
        """Indices from the easiest unit to the hardest, in the order of the text where equal."""
        return self.index_K[np.argsort(self.difficulty_K, kind="stable")]


def choose(
    units: Units,
    *,
    share: float,
    rule: Rule,
    generator: np.random.Generator,
    duplicates: Mapping[str, Found] | None = None,
    weights_D: np.ndarray | None = None,
    score_U: np.ndarray | None = None,
    band: Band = "mid",
    difficulty_U: np.ndarray | None = None,
    counts: Mapping[str, float] | None = None,
) -> Selection:
    """Select units.

    Args:
        share: of the tokens of the whole text; fewer are kept where duplicates leave fewer.
        rule: "random" draws from all units alike, "stratified" fills a quota for each domain at random,
            "filtered" fills it by score.
        generator: decides what is random, and between equal scores.
        duplicates: stage -> what it found; a unit is counted by the first that did.
        weights_D: of the quotas; None is the natural shares.
        score_U: of each unit; only "filtered" reads it.
        band: keeps the lowest scores of each domain, those nearest to its median, or the highest.
        difficulty_U: higher is harder; None orders nothing.
        counts: operations that the scores took, for the report.

    Raises:
        ValueError: nothing is left to keep.
    """
    is_left = np.ones(len(units), dtype=bool)
    stages, operations = [], dict(counts or {})
    for stage, found in (duplicates or {}).items():
        gone = [unit for unit in sorted(found.copy_of) if is_left[unit]]
        is_left[gone] = False
        stages.append(removed(stage, units, gone))
        operations |= found.counts
    left = np.flatnonzero(is_left)
    total = round(share * int(units.tokens_U.sum()))
    if not len(left) or total < 1:
        raise ValueError(
            f"select.share = {share} of a text of {int(units.tokens_U.sum())} tokens leaves nothing to keep"
        )
    ranked = left[_preference(units, left, rule=rule, score_U=score_U, band=band, generator=generator)]
    chosen, tokens, quota_D = _fill(units, ranked, total=total, rule=rule, weights_D=weights_D)
    in_order = np.argsort(chosen)
    index_K, end_K = chosen[in_order], (units.start_U[chosen] + tokens)[in_order]
    kept = units.take(index_K, end=end_K)
    stages.append(_left_out(units, left, index_K, kept))
    difficulty_K = np.zeros(len(kept))
    if difficulty_U is not None:
        difficulty_K = percentile(difficulty_U[index_K], domain_U=kept.domain_U)
    report = Report(domain_table(units, kept, quota_D), pd.DataFrame(stages), operations)
    return Selection(index_K, kept, difficulty_K, report)


def _preference(units, left, *, rule, score_U, band, generator) -> np.ndarray:
    """Positions in `left`, the most wanted first within each domain."""
    ties = generator.permutation(len(left))  # drawn under every rule: arms of a seed stay comparable
    if rule != "filtered":
        return np.argsort(ties)
    if score_U is None:
        raise ValueError("rule = 'filtered' needs a score of each unit")
    rank = percentile(score_U[left], domain_U=units.domain_U[left])
    key = {"low": rank, "mid": np.abs(rank - 0.5), "high": -rank}[band]
    return np.lexsort((ties, key))


def _fill(units, ranked, *, total, rule, weights_D) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Units, tokens of each that are kept, and the quotas (D,)."""
    if rule == "random":
        chosen, tokens = quotas.fill(ranked, tokens_U=units.tokens_U, quota=total)
        all_D = units.per_domain(units.tokens_U)
        return chosen, tokens, quotas.largest_remainder(int(tokens.sum()), all_D)
    is_left = np.zeros(len(units))
    is_left[ranked] = units.tokens_U[ranked]
    available_D = units.per_domain(is_left).astype(np.int64)
    weights_D = quotas.natural(units.per_domain(units.tokens_U)) if weights_D is None else weights_D
    quota_D = quotas.allot(total, weights_D, available_D=available_D)
    parts = [
        quotas.fill(ranked[units.domain_U[ranked] == domain], tokens_U=units.tokens_U, quota=int(quota))
        for domain, quota in enumerate(quota_D)
    ]
    chosen, tokens = (np.concatenate(column) for column in zip(*parts, strict=True))
    return chosen, tokens, quota_D


def _left_out(units: Units, left: np.ndarray, index_K: np.ndarray, kept: Units) -> dict[str, object]:
    """What quota and score left out, the cut ends of the last units included."""
    row = removed("quota", units, np.setdiff1d(left, index_K))
    whole = units.take(index_K)
    row["tokens"] += int(whole.tokens_U.sum() - kept.tokens_U.sum())
    row["bytes"] += int(whole.bytes_U.sum() - kept.bytes_U.sum())
    return row
