"""Every claim about quantised distillation with its verdict, as a table and as paragraphs.

What is claimed stands in `distillation_registry`, and here what judges it by the evidence. A claim
whose arms were not run stays in the table as not tested, with what was missing, so no preset makes
claims vanish. Verdicts follow `replication`; p values are corrected by Holm within a claim.
"""

from collections.abc import Callable, Sequence

import pandas as pd

from lmbench.analysis import distillation_effects as effects
from lmbench.analysis import distillation_formulas as formulas
from lmbench.analysis import distillation_guarantees as guarantees
from lmbench.analysis import distillation_promises as promises
from lmbench.analysis import golf_claims as golf
from lmbench.analysis.distillation_evidence import Evidence
from lmbench.analysis.replication import IN_WORDS, Replication

COLUMNS = ["number", "claim", "measured", "verdict"]
Judge = Callable[[Evidence], Replication | list[Replication]]
CLAIMS: dict[str, Judge] = {
    "B1": promises.size,
    "B2": promises.compute,
    "B3": promises.quality,
    "B4": promises.eight_bits,
    "B5": promises.sparsity,
    "B6": effects.entropy,
    "B7": effects.distilling,
    "B8": effects.convergence,
    "B9": effects.pac,
    "B10": effects.agreement,
    "B11": effects.every_task,
    "B12": lambda e: formulas.formula(e, number="B12"),
    "B13": lambda e: formulas.formula(e, number="B13"),
    "B14": effects.synergy,
    "C1": lambda e: [*formulas.formula(e, number="C1"), formulas.predicted_size(e)],
    "C2": lambda e: formulas.formula(e, number="C2"),
    "C3": lambda e: formulas.formula(e, number="C3"),
    "C4": formulas.approximation,
    "C5": formulas.compression_ratio,
    "C6": formulas.bound,
    "C7": guarantees.joint,
    "C8": guarantees.pruning,
    "C9": guarantees.temperature,
    "C10": guarantees.generalises,
    "C11": guarantees.activations,
    "C12": guarantees.flexible,
    "C13": guarantees.guides,
    "P6": lambda _: golf.capacity(),
    "P7": golf.two_bits,
    "P8": golf.equal_bytes,
    "P9": golf.large_teacher,
}
"""Number of a claim to what judges it; a claim of several parts gives several findings."""


def findings(evidence: Evidence) -> list[tuple[str, Replication]]:
    """Every claim's number with its finding, in the order of the list; several where it has parts."""
    found = []
    for number, judge in CLAIMS.items():
        outcome = judge(evidence)
        found += [(number, one) for one in (outcome if isinstance(outcome, list) else [outcome])]
    return found


def claim_table(found: Sequence[tuple[str, Replication]]) -> pd.DataFrame:
    """One row a finding: number, claim, measured (or why it was not tested), verdict in words."""
    rows = [(number, one.claim, one.measured, IN_WORDS[one.verdict]) for number, one in found]
    return pd.DataFrame(rows, columns=COLUMNS)


def claims_reading(found: Sequence[tuple[str, Replication]]) -> str:
    """Paragraphs: how many findings have which verdict, then each one, and last what was not tested."""
    tested = [(number, one) for number, one in found if one.verdict != "NT"]
    counts = [(word, sum(one.verdict == verdict for _, one in tested)) for verdict, word in IN_WORDS.items()]
    said = ", ".join(f"{count} {word}" for word, count in counts if word != IN_WORDS["NT"])
    opening = f"Of {len(tested)} claims and parts of claims that were tested: {said}."
    groups = {"B": "The first sketch.", "C": "The second sketch.", "P": "The contest."}
    parts = [opening]
    for letter, title in groups.items():
        texts = [f"{number}. {one.text}" for number, one in tested if number[0] == letter]
        parts += [" ".join([title, *texts])] if texts else []
    rest = [f"{number}, {one.claim}: {one.measured}" for number, one in found if one.verdict == "NT"]
    return "\n\n".join([*parts, *([f"Not tested here: {'; '.join(rest)}."] if rest else [])])
