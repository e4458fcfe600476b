"""What lmbench puts beside the sketches' claims: corrected formulas, bounds that hold, a prediction of size.

No source claimed these, so none is replicated: each is checked by counting, by packing or by drawing, and it
holds or it does not. One that does not hold is a mistake of ours, or says where our reading ends.
"""

import pandas as pd

from lmbench.analysis.distillation_evidence import Evidence, checked, missing
from lmbench.analysis.distillation_formulas import by_quantity, exceeded, furthest_off
from lmbench.analysis.distillation_registry import words_of
from lmbench.analysis.replication import Replication

TOLERANCES = {"C1": 0.05, "C2": 0.01, "C3": 0.01, "B12": 0.01, "B13": 0.05}
VACUOUS = 0.999  # a share of tokens that a bound cannot be said to limit


def corrected(e: Evidence, *, number: str) -> list[Replication]:
    """B12, B13, C1, C2, C3 with units on both sides: they have to give the count itself."""
    claim, edge = words_of(number), TOLERANCES[number]
    parts = by_quantity(e, number=number)
    if not parts:
        return [missing(f"{claim}, corrected", "its terms were not counted")]
    return [_corrected(f"{claim}{name}, corrected", rows, edge) for name, rows in parts.items()]


def _corrected(claim: str, rows: pd.DataFrame, tolerance: float) -> Replication:
    off, n = furthest_off(rows), rows["shape"].nunique()
    said = f"at most {off:.2%} off what was counted, over {n} shapes; allowed are {tolerance:.0%}"
    return checked(claim, "REP" if off <= tolerance else "NOT", said)


def predicted_size(e: Evidence) -> Replication:
    """C1 on the files: what was predicted before packing."""
    claim = "the corrected formula of size tells the packed file's bytes"
    if e.artifacts is None:
        return missing(claim, "nothing was packed")
    # A file that stands under two names counts once.
    files = e.artifacts.drop_duplicates("record") if "record" in e.artifacts else e.artifacts
    off = (files["bytes"] / files["predicted_bytes"] - 1).abs()
    worst = files.loc[off.idxmax(), "label"]
    edge = TOLERANCES["C1"]
    near = int((off <= edge).sum())
    said = f"{near} of {len(off)} files within {edge:.0%}, the furthest {off.max():.1%} ({worst})"
    return checked(claim, "REP" if off.max() <= edge else "NOT", said)


def counted_bound(e: Evidence) -> Replication:
    """C6 with the networks that can be chosen among counted by the bits of their files."""
    claim = "the same bound with its networks counted rightly"
    found = exceeded(e, form="occam")
    return missing(claim, "its violations were not simulated") if found is None else checked(claim, *found)


def margin_bound(e: Evidence) -> Replication:
    """B10 as a theorem, Pr[choices differ] <= Pr[margin <= sqrt(2 KL)], by Pinsker's inequality."""
    claim = "student and teacher differ no more often than the teacher's margin is small"
    if e.agreement is None or e.agreement.empty:
        return missing(claim, "students were not compared with the teacher token by token")
    rows = e.agreement
    violations = int(rows["margin_violations"].sum())
    means = rows.groupby("label", sort=False)["margin_bound"].mean()
    said = (
        f"Pr[choices differ] <= Pr[margin <= sqrt(2 KL)] with {violations} violations; it allows up to "
        f"{means.max():.3f} of the tokens to differ"
    )
    is_vacuous = bool((means >= VACUOUS).all())
    said += ", which is anything" if is_vacuous else ""
    return checked(claim, "NOT" if violations else "INC" if is_vacuous else "REP", said)
