"""What the claims about quantised distillation are judged by, and how a judgement is made and said.

Every kind of evidence but the runs may be missing: a claim that needs it is then not tested, and says
what was missing. Verdicts are those of `replication`. A formula or theorem of lmbench's own, which no source
claimed, is checked: it holds or it does not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lmbench.analysis.checks import require
from lmbench.analysis.compression import log_ratio
from lmbench.analysis.distillation_arms import HARD
from lmbench.analysis.factorial import effects
from lmbench.analysis.factorial_design import fraction_of
from lmbench.analysis.formats import METRICS
from lmbench.analysis.intervals import Estimate
from lmbench.analysis.replication import (
    Replication,
    Verdict,
    judge_direction,
    not_tested,
    overall,
    sentence,
)
from lmbench.analysis.stats import paired_differences
from lmbench.analysis.words import capital, difference_in_words, percent, seeds

UNIT = "init_seed"
CONFIDENCE = 0.95
HOLDS: Mapping[str, str] = {
    "REP": "holds",
    "NOT": "does not hold",
    "INC": "not decided",
    "NT": "not tested",
}
"""Verdicts on what no source claimed: lmbench's own formulas and theorems."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that was measured; frames that were not made are None."""

    runs: pd.DataFrame
    """One row a run: label, init_seed, the metric, nll, accuracy, parameters, density, effective_density,
    train_flops, teacher_flops, all_flops; where measured macs, nonzero_macs, ece, overconfidence
    (mean confidence less accuracy), ood_bits_per_byte."""
    artifacts: pd.DataFrame | None = None
    """One row a packed file: label, init_seed, bytes, predicted_bytes, float_ and packed_bits_per_byte."""
    speeds: pd.DataFrame | None = None
    """From `compression_speed.speed_table`."""
    agreement: pd.DataFrame | None = None
    """label, init_seed and the measures of `measure.agreement.agreement`."""
    floors: pd.DataFrame | None = None
    """label, k_inf, low, high, n: of KL over training, from `measure.convergence.fit_floor`."""
    reached: pd.DataFrame | None = None
    """label, epsilon, reached, n, low, high: from `measure.convergence.fraction_below`."""
    tasks: pd.DataFrame | None = None
    """label, task, init_seed, accuracy; the teacher is one of the labels."""
    formulas: pd.DataFrame | None = None
    """From `measure.distillation_laws`: number, quantity, reading, varied, value, shape, first and second
    (terms as published), corrected, counted."""
    coverage: pd.DataFrame | None = None
    """form ("seed" or "occam"), violations, draws, rate, low, high, delta."""
    regret: Estimate | None = None
    """From `bounds_table.selection_regret`, as a share of the loss."""
    composed: pd.DataFrame | None = None
    """model, methods, finished (bool): which architectures took which methods without code of their own."""
    metric: str = "bits_per_byte"

    @property
    def unit(self) -> str:
        """Of the metric."""
        return METRICS.get(self.metric, self.metric)

    def has(self, *labels: str) -> bool:
        """Whether all these arms were run."""
        return set(labels) <= set(self.runs["label"])


def missing(claim: str, what: str) -> Replication:
    """A claim whose evidence these settings did not make."""
    return not_tested(claim, what)


def missing_arms(claim: str, evidence: Evidence, *labels: str) -> Replication:
    """A claim whose arms were not run."""
    lacking = [label for label in labels if not evidence.has(label)]
    return missing(claim, f"no run of {', '.join(lacking)}")


def judged(claim: str, verdict: Verdict, measured: str) -> Replication:
    """A claim with a verdict and what it rests on."""
    return Replication(claim, verdict, measured, sentence(claim, verdict, measured))


def checked(claim: str, verdict: Verdict, measured: str) -> Replication:
    """A formula or theorem of lmbench's own, and what it rests on."""
    return Replication(claim, verdict, measured, f"{capital(claim)}: {HOLDS[verdict]} ({measured}).")


def pair(evidence: Evidence, a: str, b: str, *, value: str = "") -> Any:
    """The row of `stats.paired_differences` for a less b."""
    return pairs(evidence.runs, [(a, b)], value=value or evidence.metric).iloc[0]


def pairs(runs: pd.DataFrame, arms: Sequence[tuple[str, str]], *, value: str) -> pd.DataFrame:
    """Paired differences of these arms, one family for Holm's correction."""
    require(runs, value)
    names = {name for both in arms for name in both}
    rows = runs[runs["label"].isin(names)]
    return paired_differences(rows, group="label", unit=UNIT, value=value, pairs=list(arms))


def ratio_to_hard(
    frame: pd.DataFrame, *, arms: Sequence[str], factor: str, value: str
) -> tuple[Estimate, str] | None:
    """How many times its value a factor makes of the dense student's, and of which arms that is said.

    The first of the arms that is there is compared with the dense student; where none is, the factor's
    effect over all cells of the design counts, on the log scale. None without either.
    """
    labels = list(frame["label"])
    arm = first_of(arms, labels)
    if arm is not None and HARD in labels:
        return log_ratio(frame, arm, HARD, value=value), f"{arm} against {HARD}"
    design = fraction_of(labels)
    if design is None or factor not in design.factors:
        return None
    logs = frame.assign(log=np.log(frame[value].astype(float)))
    row = effects(logs, value="log").set_index("effect").loc[factor]
    ends = (math.exp(row[name]) for name in ("difference", "low", "high"))
    alias = f" and {row['aliases'].lstrip('+− ')}" if row["aliases"] else ""
    return Estimate(
        *ends, row["p"], int(row["n"]), row["n"] - 1.0
    ), f"effect of {factor}{alias} over the design"


def lower(
    claim: str, found: pd.DataFrame, *, unit: str, higher_is_better: bool = False, note: str = ""
) -> Replication:
    """Judge that a is lower than b in every row of a table of paired differences."""
    side = 1 if higher_is_better else -1
    verdicts, said = [], []
    for row in found.itertuples():
        low, high = sorted((side * row.low, side * row.high)) if row.n > 1 else (np.nan, np.nan)
        verdicts.append(judge_direction(low, high, p_adjusted=row.p_holm))
        said.append(f"{row.a} less {row.b} {in_words(row, unit)}")
    return judged(claim, overall(verdicts, needs="all"), "; ".join([*said, *filter(None, [note])]))


def in_words(row: Any, unit: str) -> str:
    """A difference with its interval."""
    return difference_in_words(
        row.difference, row.low, row.high, row.p_holm, row.n, unit=unit, confidence=CONFIDENCE
    )


def share_in_words(value: float, low: float, high: float, n: int) -> str:
    """`+1.2% (95% interval −0.3% to +2.7%, 5 seeds)`, of a ratio less 1."""
    if np.isnan(low):
        return f"{value:+.1%} ({seeds(n)}, no interval)".replace("-", "−")
    spread = f"{percent(CONFIDENCE)} interval {low:+.1%} to {high:+.1%}, {seeds(n)}"
    return f"{value:+.1%} ({spread})".replace("-", "−")


def first_of(names: Sequence[str], known: Mapping[str, Any] | Sequence[str]) -> str | None:
    """The first name that is there."""
    return next((name for name in names if name in set(known)), None)
