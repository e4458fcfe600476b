"""The first sketch's claims of learning (B6 to B14): entropy, distilling, convergence, agreement, synergy.

Each function judges one claim by the evidence at hand. The effect of distilling is an average over the whole
design, so that all cells count, and stands beside what it is without pruning and with it; that of
rewarding entropy is judged without a teacher and with one. In a half design what they are confused with is
said.
"""

import numpy as np
import pandas as pd
from scipy import stats

from lmbench.analysis import factorial
from lmbench.analysis.distillation_arms import HARD, LONGER, TEACHER, V1, V1_CORRECTED, factors_of
from lmbench.analysis.distillation_evidence import (
    Evidence,
    first_of,
    judged,
    lower,
    missing,
    missing_arms,
    pairs,
)
from lmbench.analysis.distillation_registry import words_of
from lmbench.analysis.factorial_design import design_of, fraction_of
from lmbench.analysis.factorial_simple import simple_effects, simple_in_words
from lmbench.analysis.intervals import holm, t_interval
from lmbench.analysis.pairing import seed_table
from lmbench.analysis.replication import Replication, judge_direction, overall
from lmbench.analysis.words import difference_in_words, in_digits, seeds

FLOOR = 0.01  # nats below which a divergence counts as 0
POINTS = 0.05  # of accuracy, over every task
MEASURES = {"ece": "calibration error", "nll": "NLL"}


def entropy(e: Evidence) -> list[Replication]:
    """B6, without a teacher and with one: the mean over both would hide that one is worse."""
    claim = words_of("B6")
    lacking = [name for name in MEASURES if name not in e.runs]
    if lacking:
        return [missing(claim, f"no {MEASURES[lacking[0]]} was measured")]
    if not has_design(e, "ENT", "KD"):
        return [missing(claim, "no cells of the design with and without ENT and KD")]
    tables = [simple_effects(e.runs, factor="ENT", given="KD", value=name) for name in MEASURES]
    # Both measures in both halves are one family.
    adjusted = holm([p for table in tables for p in table["p"]]).reshape(len(tables), 2)
    found = []
    for at, half in enumerate(("without a teacher", "with a teacher")):
        rows = [table.iloc[at] for table in tables]
        verdicts = [
            judge_direction(-row["high"], -row["low"], p_adjusted=p)
            for row, p in zip(rows, adjusted[:, at], strict=True)
        ]
        told = [
            f"{what} {_effect_in_words(row, p)}"
            for what, row, p in zip(MEASURES.values(), rows, adjusted[:, at], strict=True)
        ]
        alias = f"; confused with {rows[0]['aliases']}" if rows[0]["aliases"] else ""
        said = f"effect of ENT on {' and on '.join(told)}{alias}{_overconfidence(e, is_taught=bool(at))}"
        found.append(judged(f"{claim} {half}", overall(verdicts, needs="all"), said))
    return found


def _overconfidence(e: Evidence, *, is_taught: bool) -> str:
    """Mean confidence less accuracy of the cells where entropy is not rewarded, and where it is."""
    if "overconfidence" not in e.runs or e.runs["overconfidence"].isna().all():
        return ""
    cells = [name for name in design_of(e.runs["label"]).cells if ("KD" in factors_of(name)) == is_taught]
    off, on = (
        e.runs.loc[
            e.runs["label"].isin([name for name in cells if ("ENT" in factors_of(name)) == has]),
            "overconfidence",
        ].mean()
        for has in (False, True)
    )
    said = f"{off:+.4f} without ENT and {on:+.4f} with it".replace("-", "−")
    return f"; mean confidence less accuracy is {said}"


def distilling(e: Evidence) -> list[Replication]:
    """B7, with and without the teacher's FLOPs."""
    claim, found = words_of("B7"), []
    if has_design(e, "KD"):
        found.append(_over_the_design(e, f"{claim} at equal steps"))
    elif e.has("KD", HARD):
        both = pairs(e.runs, [("KD", HARD)], value=e.metric)
        found.append(lower(f"{claim} at equal steps", both, unit=e.unit))
    else:
        found.append(missing_arms(claim, e, "KD", HARD))
    costed = f"{claim} at equal FLOPs, the teacher's counted"
    # An arm that only has a teacher, or as little else as there is.
    taught = first_of(("KD", "KD+ENT", "Q+KD", "V2 corrected"), list(e.runs["label"]))
    if taught and e.has(LONGER):
        note = "" if taught == "KD" else "KD alone was not run"
        both = pairs(e.runs, [(taught, LONGER)], value=e.metric)
        found.append(lower(costed, both, unit=e.unit, note=note))
    elif taught and {"all_flops", "train_flops"} <= set(e.runs):
        own = e.runs[e.runs["label"] == taught]
        share = own["all_flops"].mean() / own["train_flops"].mean()
        why = f"{taught} took {share:.3g} times its own FLOPs, and no run of hard labels had so many"
        found.append(missing(costed, why))
    return found


def _over_the_design(e: Evidence, claim: str) -> Replication:
    """The effect of KD, which is a mean, beside what it is where nothing is pruned and where weights are."""
    row = factorial.effects(e.runs, value=e.metric).set_index("effect", drop=False).loc["KD"]
    alias = f"; confused with {row['aliases'].lstrip('+− ')}" if row["aliases"] else ""
    verdict = judge_direction(-row["high"], -row["low"], p_adjusted=row["p_holm"])
    said = f"effect of KD over the design {_effect_in_words(row, row['p_holm'], e.unit)}{alias}"
    if has_design(e, "KD", "P"):
        apart = simple_effects(e.runs, factor="KD", given="P", value=e.metric)
        said += f", a mean of two: {simple_in_words(apart, unit=e.unit)}"
    return judged(claim, verdict, said)


def convergence(e: Evidence) -> Replication:
    """B8."""
    claim = words_of("B8")
    if e.floors is None or e.floors.empty:
        return missing(claim, "no long run's divergence was followed")
    verdicts, told = [], []
    for row in e.floors.itertuples():
        is_zero = row.low <= 0 and row.high < FLOOR
        verdicts.append("REP" if is_zero else "NOT" if row.low > 0 else "INC")
        value, low, high = in_digits(row.k_inf, row.low, row.high)
        told.append(f"{row.label} {value} nats (95% interval {low} to {high}, {seeds(row.n)})")
    said = f"fitted floor of KL: {'; '.join(told)}; with its entropy term the sketch's loss falls below 0"
    return judged(claim, overall(verdicts, needs="all"), said)


def pac(e: Evidence) -> Replication:
    """B9, which names no number."""
    claim = words_of("B9")
    if e.reached is None or e.reached.empty:
        return missing(claim, "too few cheap seeds were run to count")
    told = [
        f"{row.label} below {row.epsilon:g} nats in {row.reached} of {row.n} (95% interval of the share "
        f"{row.low:.2f} to {row.high:.2f})"
        for row in e.reached.itertuples()
    ]
    return missing(claim, f"no epsilon, delta or number of steps was claimed; found {'; '.join(told)}")


def agreement(e: Evidence) -> Replication:
    """B10, which names no constant; the bound that stands in its place is `distillation_own`'s."""
    claim = words_of("B10")
    if e.agreement is None or e.agreement.empty:
        return missing(claim, "students were not compared with the teacher token by token")
    means = e.agreement.groupby("label", sort=False)[["teacher_accuracy", "student_accuracy", "kl_forward"]]
    means = means.mean()
    gaps, kl = means["teacher_accuracy"] - means["student_accuracy"], means["kl_forward"]
    said = f"its term has no constant; found that {gaps.min():.3f} to {gaps.max():.3f} of accuracy are lost"
    if kl.nunique() > 2:
        slope = stats.theilslopes(gaps.to_numpy(), np.sqrt(2 * kl.to_numpy()))[0]
        said += f", which over {len(means)} arms grows by {slope:.3g} per sqrt(2 KL)"
    return missing(claim, said)


def every_task(e: Evidence) -> Replication:
    """B11."""
    claim = words_of("B11")
    arm = None if e.tasks is None else first_of((V1, V1_CORRECTED, "Q+P+KD+ENT"), list(e.tasks["label"]))
    if arm is None or TEACHER not in set(e.tasks["label"]):
        return missing(claim, "the student and the teacher were not scored on other tasks")
    gaps, over = {}, []
    for task, rows in e.tasks.groupby("task", sort=False):
        table = seed_table(rows, [TEACHER, arm], value="accuracy")
        gap = table[TEACHER] - table[arm]
        if len(gap) < 2:
            return missing(claim, "an interval needs at least 2 seeds")
        gaps[task] = t_interval(gap)
        over.append(t_interval(gap - POINTS).p if gaps[task].value > POINTS else 1.0)
    worst = max(gaps, key=lambda task: gaps[task].value)
    if all(gap.high <= POINTS for gap in gaps.values()):
        verdict = "REP"
    else:
        verdict = "NOT" if min(holm(over)) < factorial.ALPHA else "INC"
    value, low, high = in_digits(*gaps[worst][:3])
    mean = np.mean([gap.value for gap in gaps.values()])
    said = (
        f"{arm} loses most on {worst}: {value} (95% interval {low} to {high}, {seeds(gaps[worst].n)}); "
        f"mean of {len(gaps)} tasks {mean:.3f}"
    )
    return judged(claim, verdict, said)


def synergy(e: Evidence) -> Replication:
    """B14."""
    claim = words_of("B14")
    if not has_design(e, "Q", "P", "KD", "ENT"):
        return missing(claim, "the cells that were run are no design of all four")
    found = factorial.superadditivity(e.runs, value=e.metric)
    design = design_of(e.runs["label"])
    number = difference_in_words(
        found.value, found.low, found.high, found.p, found.n, unit=e.unit, confidence=0.95
    ).replace("Holm's p", "p")
    verdict = judge_direction(-found.high, -found.low, p_adjusted=found.p)
    how = ", if no three or four of them interact" if design.relation else ""
    said = f"all together less the sum of each {number}; below 0 is synergy{how}"
    if e.artifacts is not None and set(design.cells) <= set(e.artifacts["label"]):
        logs = e.artifacts.assign(log_bytes=np.log10(e.artifacts["bytes"].astype(float)))
        bits = factorial.superadditivity(logs, value="log_bytes")
        said += f"; the file of all together is {10**bits.value:.3g} times what their savings multiply to"
    return judged(claim, verdict, said)


def has_design(e: Evidence, *factors: str) -> bool:
    """Whether the cells are a design that has these factors."""
    design = fraction_of(e.runs["label"])
    return design is not None and set(factors) <= set(design.factors)


def _effect_in_words(row: pd.Series, p: float, unit: str = "") -> str:
    return difference_in_words(
        row["difference"], row["low"], row["high"], p, row["n"], unit=unit, confidence=0.95
    ).replace("  ", " ")
