"""The first sketch's promises (B1 to B5): size, compute, quality, 8 bits, 90% sparsity.

Each function judges one claim by the evidence at hand. Two rules depart from the common one. "8 times
smaller by 8 bits" and its like are arithmetic, so reaching half of it on the log scale (2.8 times) is no
replication: the packed files must be 8 times smaller. And "10 times less compute" must hold of counted
multiply-adds *and* of the clock.
"""

import itertools
import math

import pandas as pd

from lmbench.analysis.compression import CLAIMED_SIZE, size_ratio
from lmbench.analysis.compression_speed import CLAIMED_MACS, exact_speeds, fewer_macs
from lmbench.analysis.distillation_arms import (
    HARD,
    SMALL,
    TEACHER,
    V1,
    V1_CORRECTED,
    settings_of,
)
from lmbench.analysis.distillation_evidence import (
    Evidence,
    first_of,
    in_words,
    judged,
    missing,
    missing_arms,
    pair,
    ratio_to_hard,
    share_in_words,
    weakest,
)
from lmbench.analysis.distillation_registry import words_of
from lmbench.analysis.equivalence import MARGIN, equivalences, ratio_in_words
from lmbench.analysis.intervals import holm
from lmbench.analysis.replication import ALPHA, Replication, Verdict, judge_ratio
from lmbench.analysis.replication import ratio_in_words as times_in_words

EIGHT_BITS = (
    "bits=8 qat",
    "Q",
    "Q+KD",
    "Q+ENT",
    "bits=8 ptq",
    "bits=8 ptq mse",
    "bits=8 ptq absmax",
    "bits=8 gptq",
)
FEW = 0.05  # "a few percentage points", of the perplexity
SPARSE = (0.07, 0.13)  # densities that count as 90% zeros


def size(e: Evidence) -> Replication:
    """B1."""
    claim = words_of("B1")
    arm = None if e.artifacts is None else first_of(EIGHT_BITS, list(e.artifacts["label"]))
    if arm is None:
        return missing(claim, "no dense arm of 8 bits was packed")
    found = size_ratio(e.artifacts, e.runs, label=arm)
    verdict = "NOT" if found.high < CLAIMED_SIZE else "REP" if found.low >= CLAIMED_SIZE else "INC"
    told = times_in_words(found.value, found.low, found.high, found.n)
    return judged(claim, verdict, f"{arm}: {told} smaller than float32; from 32 bits to 8 is 4 times")


def compute(e: Evidence) -> Replication:
    """B2."""
    claim = words_of("B2")
    if not {"macs", "nonzero_macs", "density"} <= set(e.runs):
        return missing(claim, "multiply-adds were not counted")
    arms = sparse_arms(e.runs)
    if not arms:
        return missing(claim, "no arm keeps about 10% of its weights")
    macs, times = (
        fewer_macs(e.runs),
        pd.DataFrame({"label": [], "form": []}) if e.speeds is None else e.speeds,
    )
    # The arm that is pruned and little else, where it was timed.
    arm = first_of(arms, list(times["label"])) or arms[0]
    timed = exact_speeds(times, arm)
    counted = float(macs[arm])
    said, verdicts = f"{arm}: {counted:.3g} times fewer multiply-adds", [_exact(counted)]
    if timed.empty:
        verdict = verdicts[0] if verdicts[0] != "REP" else "INC"
        return judged(claim, verdict, f"{said}; no form of it was timed")
    for row in timed.itertuples():
        told = times_in_words(row.ratio, row.low, row.high, row.n).replace("seed", "timing")
        said += f"; {told} faster as {row.form}"
    best = timed.assign(p_holm=holm(timed["p"].to_numpy(float))).loc[timed["ratio"].idxmax()]
    how = {"claimed": CLAIMED_MACS, "p_adjusted": best["p_holm"]}
    verdicts.append(judge_ratio(best["low"], best["high"], **how))
    return judged(claim, weakest(verdicts), said)


def quality(e: Evidence) -> list[Replication]:
    """B3, against the dense student and against the teacher, of the sketch to the letter and corrected.

    To the letter, 90% of the weights are *not* zero: little is lost because little is taken.
    """
    claim = words_of("B3")
    arms = [arm for arm in (V1, V1_CORRECTED) if e.has(arm)] or ["Q+P+KD+ENT"] * e.has("Q+P+KD+ENT")
    if not arms or "nll" not in e.runs:
        return [missing(claim, "no NLL was measured") if arms else missing_arms(claim, e, V1)]
    found = []
    for arm, base in itertools.product(arms, [base for base in (HARD, TEACHER) if e.has(base)]):
        row = pair(e, arm, base, value="nll")
        value, low, high = (math.expm1(x) for x in (row.difference, row.low, row.high))
        verdict = "REP" if high <= FEW else "NOT" if low > FEW else "INC"
        said = f"perplexity of {arm} against {base} {share_in_words(value, low, high, row.n)}"
        if "accuracy" in e.runs:
            said += f", and {in_words(pair(e, arm, base, value='accuracy'), 'accuracy')}"
        found.append(judged(f"{claim}, {arm} against {base}", verdict, said))
    return found or [missing_arms(claim, e, HARD, TEACHER)]


def eight_bits(e: Evidence, *, margin: float = MARGIN) -> Replication:
    """B4."""
    claim = words_of("B4")
    ways = ("qat", "ptq", "gptq")
    arms = [arm for arm in dict.fromkeys(e.runs["label"]) if _is_eight(arm, ways)]
    arms = arms or [arm for arm in EIGHT_BITS[1:2] if e.has(arm)]
    if not arms or not e.has(HARD):
        return missing(claim, f"no arm of 8 bits beside {HARD}")
    table = equivalences(e.runs, [(arm, HARD) for arm in arms], metric=e.metric, margin=margin)
    # Any way that is shown to be equal will do, so each has to hold after the correction.
    is_enough = ((table["decided"] == "equal") & (table["p_holm"] < ALPHA)) | (table["decided"] == "lower")
    verdict = "REP" if is_enough.any() else "NOT" if (table["decided"] == "higher").all() else "INC"
    told = [f"{row['a']} {row['decided']}, {ratio_in_words(row)}" for row in table.to_dict("records")]
    return judged(claim, verdict, f"against {HARD} within {margin:.0%}: {'; '.join(told)}")


def sparsity(e: Evidence) -> Replication:
    """B5: little is lost, and a small dense net of as many weights, trained alike, has not learned more."""
    claim, only_pruned = words_of("B5"), ("density=0.1", "P")
    found = ratio_to_hard(e.runs, arms=only_pruned, factor="P", value=e.metric)
    if found is None or not sparse_arms(e.runs):
        return missing(claim, f"no arm of 10% density beside {HARD}")
    loss, what = found
    said = f"{what} {share_in_words(loss.value - 1, loss.low - 1, loss.high - 1, loss.n)} in {e.unit}"
    verdict = "REP" if loss.high <= 1 + FEW else "NOT" if loss.low > 1 + FEW else "INC"
    arm = first_of(only_pruned, list(e.runs["label"]))
    if not e.has(SMALL) or arm is None:
        lacking = "the dense net of as many weights" if arm else "an arm that is pruned and nothing else"
        verdict = "NOT" if verdict == "NOT" else "INC"
        return judged(claim, verdict, f"{said}; {lacking}, which decides, was not run")
    row = equivalences(e.runs, [(arm, SMALL)], metric=e.metric).iloc[0].to_dict()
    control, shown = _control(row)
    said += f"; {arm} against a dense net of as many weights {ratio_in_words(row)}: {shown}"
    return judged(claim, weakest([verdict, control]), said)


def _control(row: dict) -> tuple[Verdict, str]:
    """Whether the sparse net is no worse than the small dense one, and what that says of sparsity."""
    edge = 1 + row["margin"]
    if row["decided"] == "lower":
        return "REP", "the sparse one is better"
    if row["decided"] == "equal":
        return "REP", "the small dense one does as well"
    if row["high"] < edge:
        return "REP", "the sparse one is no worse, and whether it is better is not decided"
    if row["low"] > edge:
        return "NOT", "the small dense one is better"
    return "INC", "which is better is not decided"


def sparse_arms(runs: pd.DataFrame) -> list[str]:
    """Arms of about 10% density, unquantised ones first."""
    if "density" not in runs:
        return []
    means = runs.groupby("label", sort=False)["density"].mean()
    found = [label for label, density in means.items() if SPARSE[0] <= density <= SPARSE[1]]
    return sorted(
        found,
        key=lambda label: (not label.startswith("density="), "Q" in label.split("+"), len(label)),
    )


def _exact(ratio: float) -> str:
    """Of a counted ratio, which has no interval."""
    return judge_ratio(ratio, ratio, claimed=CLAIMED_MACS)


def _is_eight(arm: str, ways: tuple[str, ...]) -> bool:
    settings = settings_of(arm)
    return settings.get("bits") == 8 and str(settings.get("method", "")).startswith(ways)
