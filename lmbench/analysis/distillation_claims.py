"""Every claim about quantised distillation with its verdict: what judges it, and the table.

What is claimed stands in `distillation_registry`, and here what judges it by the evidence. A claim
whose arms were not run stays in the table as not tested, with what was missing, so no preset makes
claims vanish. Verdicts follow `replication`; p values are corrected by Holm within a claim.

A claim counts once. Where it has several parts it needs all of them, and its own verdict stands before
theirs. What lmbench puts in a claim's place, a corrected formula or a bound that holds, is no claim of a
source and is never counted as one.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import pandas as pd

from lmbench.analysis import distillation_effects as effects
from lmbench.analysis import distillation_formulas as formulas
from lmbench.analysis import distillation_guarantees as guarantees
from lmbench.analysis import distillation_own as own
from lmbench.analysis import distillation_promises as promises
from lmbench.analysis import golf_claims as golf
from lmbench.analysis.distillation_arms import TEACHER
from lmbench.analysis.distillation_evidence import HOLDS, Evidence, judged
from lmbench.analysis.distillation_registry import words_of
from lmbench.analysis.replication import IN_WORDS, Replication, overall

COLUMNS = ["number", "kind", "claim", "measured", "verdict"]
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
    "B12": partial(formulas.formula, number="B12"),
    "B13": partial(formulas.formula, number="B13"),
    "B14": effects.synergy,
    "C1": partial(formulas.formula, number="C1"),
    "C2": partial(formulas.formula, number="C2"),
    "C3": partial(formulas.formula, number="C3"),
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


OWN: dict[str, Judge] = {
    "B10": own.margin_bound,
    **{number: partial(own.corrected, number=number) for number in ("B12", "B13")},
    "C1": lambda e: [*own.corrected(e, number="C1"), own.predicted_size(e)],
    **{number: partial(own.corrected, number=number) for number in ("C2", "C3")},
    "C6": own.counted_bound,
}
"""Number of a claim to what checks the formulas and theorems of lmbench's own that stand beside it."""
APART = ("C8",)
"""Claims that were declared as several ones: each of their parts is judged, and counts, by itself."""


class Finding(NamedTuple):
    """What came of a claim, of a part of one, or of what lmbench puts beside it."""

    number: str
    kind: Literal["claim", "part", "own"]
    what: Replication

    @property
    def verdict(self) -> str:
        """In words: what is lmbench's own holds or does not, and is never replicated."""
        return (HOLDS if self.kind == "own" else IN_WORDS)[self.what.verdict]


def findings(evidence: Evidence) -> list[Finding]:
    """All findings in the order of the list: a claim, its parts, and what of lmbench's own is beside it."""
    found: list[Finding] = []
    for number, judge in CLAIMS.items():
        parts = _listed(judge(evidence))
        is_one = len(parts) == 1 or number in APART or all(part.verdict == "NT" for part in parts)
        if not is_one:
            found.append(Finding(number, "claim", _of_parts(number, parts)))
        found += [Finding(number, "claim" if is_one else "part", part) for part in parts]
        beside = _listed(OWN[number](evidence)) if number in OWN else []
        found += [Finding(number, "own", one) for one in beside]
    return found


def claim_table(found: Sequence[Finding]) -> pd.DataFrame:
    """One row a finding: number, kind, claim, measured (or why it was not tested), verdict in words."""
    rows = [(one.number, one.kind, one.what.claim, one.what.measured, one.verdict) for one in found]
    return pd.DataFrame(rows, columns=COLUMNS)


def claims_reading(found: Sequence[Finding], *, notes: Sequence[str] = ()) -> str:
    """Paragraphs: how many claims have which verdict, then each with its parts, and last what was not tested.

    Args:
        notes: sentences about all of them, such as which rates were searched.
    """
    tested = [one for one in found if one.what.verdict != "NT"]
    parts = [" ".join([_opening(found), *filter(None, notes)])]
    groups = {"B": "The first sketch.", "C": "The second sketch.", "P": "The contest."}
    heads = {"claim": "{}. ", "part": "", "own": "Beside {}, lmbench's own. "}
    for letter, title in groups.items():
        texts = [
            heads[one.kind].format(one.number) + one.what.text for one in tested if one.number[0] == letter
        ]
        parts += [" ".join([title, *texts])] if texts else []
    rest = [
        f"{one.number}, {one.what.claim}: {one.what.measured}" for one in found if one.what.verdict == "NT"
    ]
    return "\n\n".join([*parts, *([f"Not tested here: {'; '.join(rest)}."] if rest else [])])


def _opening(found: Sequence[Finding]) -> str:
    """Claims counted once each by their verdicts; lmbench's own formulas apart from them."""
    tested = [one for one in found if one.what.verdict != "NT"]
    claims = [one for one in tested if one.kind == "claim"]
    counts = Counter(one.what.verdict for one in claims)
    told = ", ".join(f"{counts[verdict]} {word}" for verdict, word in IN_WORDS.items() if verdict != "NT")
    said = [f"Of {len(claims)} published claims that were tested, each counted once: {told}."]
    for number in APART:
        n, every = (sum(one.number == number for one in those) for those in (claims, found))
        said += [f"{number} counts once for each part that was tested, {n} of {every}."] if n else []
    beside = [one for one in tested if one.kind == "own"]
    holding = sum(one.what.verdict == "REP" for one in beside)
    if beside:
        said.append(f"Besides, {holding} of {len(beside)} formulas and theorems of lmbench's own hold.")
    return " ".join(said)


def tuned_sentence(tuned: Iterable[str], *, arms: Iterable[str]) -> str:
    """Which arms had a learning rate searched for them, and which took that of another.

    Args:
        tuned: arms whose rate was searched; none where one rate was given to all.
        arms: all that were trained at these rates.
    """
    tuned, arms = list(tuned), list(dict.fromkeys(arms))
    rest = [name for name in arms if name not in tuned]
    if not tuned:
        return "One learning rate was given to all arms, and none was searched."
    if not rest:
        return "A learning rate was searched for every arm."
    return (
        f"A learning rate was searched for {', '.join(tuned)} alone and all other students take it, so one "
        "that would learn better at another rate is shown worse than it could be."
    )


def teacher_sentence(evidence: Evidence) -> str:
    """That intervals say nothing of other teachers; "" where there is none."""
    if not evidence.has(TEACHER):
        return ""
    return "One teacher stands beside all seeds, so intervals are over students of that teacher alone."


def _of_parts(number: str, parts: Sequence[Replication]) -> Replication:
    """The claim itself, which needs all of its parts."""
    counts = Counter(part.verdict for part in parts)
    told = ", ".join(f"{counts[verdict]} {word}" for verdict, word in IN_WORDS.items() if counts[verdict])
    verdict = overall([part.verdict for part in parts], needs="all")
    return judged(words_of(number), verdict, f"of {len(parts)} parts, all of which it needs, {told}")


def _listed(outcome: Replication | list[Replication]) -> list[Replication]:
    return outcome if isinstance(outcome, list) else [outcome]
