"""Claims of equal quality for less: fewer parameters, a share of the tokens, faster inference, coverage.

"Equal quality" is shown where an arm is no worse than the base by the margin or more; being better fulfils
it too. A selection of data has to beat a random one of the same size: if any third of the text
would do, the selection adds nothing.
"""

import numpy as np
import pandas as pd

from lmbench.analysis.claims import BASE, FILTERED, FUNNEL, RANDOM, SCHED, SMALL
from lmbench.analysis.constraint_evidence import Evidence, Tested, difference, fixed, in_words
from lmbench.analysis.constraint_inference import inference_tests
from lmbench.analysis.equivalence import Equivalence, equivalence, p_no_worse, ratio_in_words
from lmbench.analysis.formats import METRICS
from lmbench.analysis.pairing import paired_values
from lmbench.analysis.replication import ALPHA, Verdict

LEFT = 0.27
"""Of the parameters: what is left of them after the claimed reduction by 73%."""
SLICE = "C=0.5"
QUOTA = 0.9
"""Of its share of the text, which a domain must keep."""


def quality_tests(evidence: Evidence) -> list[Tested]:
    """A1, A2, A5 and A31, as far as there is evidence."""
    found = []
    for arm in (SMALL, FUNNEL):
        if evidence.has(BASE, arm):
            found.append(_smaller(evidence, evidence.runs, arm, arm))
    sliced = _sliced(evidence)
    if sliced is not None:
        found.append(_smaller(evidence, sliced, f"{SCHED} at {SLICE}", f"{SCHED}, sliced at {SLICE}"))
    for form in ("", " unique"):
        if evidence.has(BASE, FILTERED + form):
            found.append(_enough(evidence, FILTERED + form, RANDOM + form))
    return found + inference_tests(evidence) + _coverage(evidence)


# ------------------------------------------------------------------ fewer parameters


def _sliced(evidence: Evidence) -> pd.DataFrame | None:
    """The base as it is, and the schedule's weights cut out at a constraint."""
    table = evidence.widths
    if table is None or not evidence.has(BASE) or "parameters" not in table:
        return None
    own = table[(table["label"] == SCHED) & (table["width"] == SLICE)]
    if own.empty:
        return None
    base = evidence.runs[evidence.runs["label"] == BASE]
    kept = ["label", "init_seed", "parameters", evidence.metric]
    return pd.concat([base[kept], own.assign(label=f"{SCHED} at {SLICE}")[kept]])


def _smaller(evidence: Evidence, runs: pd.DataFrame, arm: str, name: str) -> Tested:
    """Whether an arm is as good as the base with 27% of its parameters."""
    known = runs.groupby("label")["parameters"].mean()
    share = float(known[arm] / known[BASE])
    sides = paired_values(runs, arm, BASE, value=evidence.metric)
    same = equivalence(*sides, margin=evidence.margin)
    measured = f"{share:.1%} of the parameters; {_relative(same, evidence)}"

    def judge(p: float) -> tuple[Verdict, str]:
        if share > LEFT:
            return "NOT", f"{measured}; more than {LEFT:.0%} are left"
        return _no_worse(same, p), measured

    return Tested("A1", f"{name} against {BASE}", p_no_worse(*sides, margin=evidence.margin), judge)


def _no_worse(same: Equivalence, p: float) -> Verdict:
    if same.decided == "higher":
        return "NOT"
    return "REP" if p < ALPHA else "INC"


def _relative(same: Equivalence, evidence: Evidence) -> str:
    row = same._asdict() | {"confidence": 0.9}
    unit = METRICS.get(evidence.metric, evidence.metric)
    return f"{ratio_in_words(row)} in {unit}, where {same.margin:.0%} counts as equal"


# ------------------------------------------------------------------ a share of the data


def _enough(evidence: Evidence, arm: str, control: str) -> Tested:
    """Whether selected data are as good as all, and better than a random selection."""
    compared = f"{arm} against {BASE} and {control}"
    if not evidence.has(control):
        return fixed("A2", compared, "NT", f"the control, {control}, was not run")
    sides = paired_values(evidence.runs, arm, BASE, value=evidence.metric)
    same = equivalence(*sides, margin=evidence.margin)
    against = difference(evidence.runs, arm, control, metric=evidence.metric)
    as_random = equivalence(
        *paired_values(evidence.runs, arm, control, value=evidence.metric), margin=evidence.margin
    )
    beats = against["high"] < 0
    unit = METRICS.get(evidence.metric, evidence.metric)
    measured = f"{_relative(same, evidence)}; against {control} {in_words(against, unit)}"

    def judge(p: float) -> tuple[Verdict, str]:
        if same.decided == "higher" or against["low"] > 0:
            return "NOT", measured
        if beats:
            return _no_worse(same, p), measured
        if as_random.decided in ("equal", "higher"):
            return "NOT", f"{measured}; the filter adds nothing to a random choice"
        return "INC", measured

    # Both have to be shown, so the larger p is that of the claim.
    p = max(p_no_worse(*sides, margin=evidence.margin), against["p"] if beats else 1.0)
    return Tested("A2", compared, p, judge)


# ------------------------------------------------------------------ coverage


def kept_data(rows: pd.DataFrame) -> pd.DataFrame:
    """What each selection of data kept, from the rows of its runs: label, init_seed, measure, value.

    Measures are shares of what the whole text holds (different n-grams, rare ones), and "quota", the
    least that a domain keeps beside what the selection keeps of the text.
    """
    front = "selection/"
    told = rows[rows["metric"].str.startswith(front)].assign(
        measure=lambda own: own["metric"].str.slice(len(front))
    )
    keys = ["label", "init_seed"]
    covered = told[told["measure"].str.startswith("covered_")]
    covered = covered.assign(measure=covered["measure"].str.removeprefix("covered_").str.replace("_", " of "))
    domains = told[told["measure"].str.startswith("kept_share_")].groupby(keys)["value"].min()
    whole = told[told["measure"] == "kept_share"].groupby(keys)["value"].first()
    quota = (domains / whole).rename("value").reset_index().assign(measure="quota")
    return pd.concat([covered[[*keys, "measure", "value"]], quota], ignore_index=True).dropna(subset="value")


def _coverage(evidence: Evidence) -> list[Tested]:
    """A31: each measure of coverage against a random selection, and the least quota of a domain."""
    table, found = evidence.coverage, []
    if table is None or not {FILTERED, RANDOM} <= set(table["label"]):
        return []
    for measure, own in table.groupby("measure", sort=False):
        compared = f"{measure}, {FILTERED} against {RANDOM}"
        filtered, control = paired_values(own, FILTERED, RANDOM, value="value")
        if measure == "quota":
            least = float(filtered.min())
            said = (
                f"the least covered domain keeps {least:.2f} of its share of the text, {QUOTA:g} asked for, "
                "as the filter fills a quota for each"
            )
            found.append(fixed("A31", f"domains of {FILTERED}", "REP" if least >= QUOTA else "NOT", said))
            continue
        if min(filtered.min(), control.min()) <= 0:
            means = f"{filtered.mean():.3g} against {control.mean():.3g}"
            said = f"{means}; 0 in some seed, which has no ratio"
            found.append(fixed("A31", compared, "INC", said))
            continue
        # Higher is better, so "no worse" asks the other way round.
        sides, same = (control, filtered), equivalence(filtered, control, margin=evidence.margin)
        said = f"{ratio_in_words(same._asdict() | {'confidence': 0.9})} of a random choice's"
        if np.ptp(filtered) == 0:
            said += (
                "; the filter keeps the same for every seed, so the interval is of the random choice alone"
            )

        def judge(p: float, same: Equivalence = same, said: str = said) -> tuple[Verdict, str]:
            return ("NOT" if same.decided == "lower" else "REP" if p < ALPHA else "INC"), said

        found.append(Tested("A31", compared, p_no_worse(*sides, margin=evidence.margin), judge))
    return found
