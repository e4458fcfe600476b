"""The sketches' formulas (B12, B13, C1 to C6): sizes and compute as they grow, ratios, the published bound.

The formulas are orders of growth, O(...), so a published one can only be right up to a constant: it
holds where its ratio to the count is the same for all shapes. The corrected formula, with units on both
sides, has to give the count itself.
"""

import numpy as np
import pandas as pd

from lmbench.analysis.distillation_arms import JOINT, V1, V1_CORRECTED, V2, V2_CORRECTED
from lmbench.analysis.distillation_evidence import (
    Evidence,
    judged,
    missing,
)
from lmbench.analysis.distillation_registry import words_of
from lmbench.analysis.replication import Replication

SAME_SHAPE = 0.05  # a growth law holds where its constant varies by less over the shapes
EVERYTHING = "Q+P+KD+ENT"  # the cell with all that the sketches name
TOLERANCES = {"C1": 0.05, "C2": 0.01, "C3": 0.01, "B12": 0.01, "B13": 0.05}


def formula(e: Evidence, *, number: str) -> list[Replication]:
    """B12, B13, C1, C2, C3: the published growth law, and the corrected count."""
    claim, tolerance = words_of(number), TOLERANCES[number]
    rows = pd.DataFrame() if e.formulas is None else e.formulas[e.formulas["number"] == number]
    if rows.empty:
        return [missing(claim, "its terms were not counted")]
    constants = (rows["as_published"] / rows["counted"]).to_numpy(float)
    if not np.isfinite(constants).all():
        as_written = judged(claim, "NOT", "it cannot be evaluated as written: a symbol in it has no meaning")
    elif len(constants) < 2:
        as_written = missing(claim, "one shape cannot show how anything grows")
    else:
        spread = constants.max() / constants.min()
        said = f"over {len(rows)} shapes its constant varies {spread:.3g} times"
        as_written = judged(claim, "REP" if spread <= 1 + SAME_SHAPE else "NOT", said)
    off = (rows["corrected"] / rows["counted"] - 1).abs().max()
    said = f"at most {off:.2%} off what was counted, over {len(rows)} shapes; allowed are {tolerance:.0%}"
    corrected = judged(f"{claim}, corrected", "REP" if off <= tolerance else "NOT", said)
    return [as_written, corrected]


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
    return judged(claim, "REP" if off.max() <= edge else "NOT", said)


def approximation(e: Evidence) -> Replication:
    """C4, which names no number."""
    claim = words_of("C4")
    if e.agreement is None or "approximation_ratio" not in e.agreement:
        return missing(claim, "students were not compared with the teacher token by token")
    names = ["approximation_ratio", "kl_forward", "kl_reverse", "top1_agreement"]
    means = e.agreement.groupby("label", sort=False)[names].mean()
    # The published forms, or what is nearest to them.
    published = [arm for arm in (V1, V2, V1_CORRECTED, V2_CORRECTED) if arm in means.index]
    means = means.loc[published or [arm for arm in (EVERYTHING,) if arm in means.index] or means.index]
    told = [
        f"{row.Index} {row.approximation_ratio:.3g}, KL {row.kl_forward:.3g} and reversed "
        f"{row.kl_reverse:.3g} nats, same choice {row.top1_agreement:.0%}"
        for row in means.itertuples()
    ]
    return missing(claim, f"it names no number and compares nothing with the teacher; {'; '.join(told)}")


def compression_ratio(e: Evidence) -> Replication:
    """C5, which names no number."""
    claim = words_of("C5")
    if e.artifacts is None:
        return missing(claim, "nothing was packed")
    files = e.artifacts.groupby("label", sort=False)["bytes"].mean()
    parameters = e.runs.groupby("label")["parameters"].first()
    told = []
    for label in (label for label in (V1, V2, V1_CORRECTED, V2_CORRECTED, JOINT) if label in files):
        half = 2 * parameters[label] / files[label]
        told.append(
            f"{label} {2 * half:.3g} times smaller than float32 and {half:.3g} than float16 of its shape"
        )
    return missing(claim, f"it names no number; {'; '.join(told) or 'none of its arms was packed'}")


def bound(e: Evidence) -> list[Replication]:
    """C6: how often the bound is exceeded where the true risk is known."""
    claims = {"seed": words_of("C6"), "occam": "the same bound with its networks counted rightly holds"}
    if e.coverage is None:
        return [missing(claims["seed"], "its violations were not simulated")]
    found = []
    for row in e.coverage.itertuples():
        verdict = "NOT" if row.low > row.delta else "REP" if row.rate <= row.delta else "INC"
        said = (
            f"exceeded in {row.violations} of {row.draws} draws, {row.rate:.3g} (95% interval "
            f"{row.low:.3g} to {row.high:.3g}) where {row.delta:g} are allowed"
        )
        found.append(judged(claims.get(row.form, row.form), verdict, said))
    return found
