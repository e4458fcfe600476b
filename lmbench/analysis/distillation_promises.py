"""The first sketch's promises (B1 to B5): size, compute, quality, 8 bits, 90% sparsity.

Each function judges one claim by the evidence at hand. Two rules depart from the common one. "8 times
smaller by 8 bits" and its like are arithmetic, so reaching half of it on the log scale (2.8 times) is no
replication: the packed files must be 8 times smaller. And "10 times less compute" must hold of counted
multiply-adds *and* of the clock, in a form that skips zeros.
"""

import itertools
import math

import pandas as pd

from lmbench.analysis.compression import CLAIMED_SIZE, size_ratio
from lmbench.analysis.compression_speed import CLAIMED_MACS, NO_KERNEL, fewer_macs, skipping_speeds
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
)
from lmbench.analysis.distillation_registry import words_of
from lmbench.analysis.equivalence import MARGIN, equivalences, ratio_in_words
from lmbench.analysis.intervals import holm
from lmbench.analysis.replication import ALPHA, Replication, Verdict, judge_ratio, overall
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
    """B2: multiply-adds and the clock; a count alone is no saving, so without a clock it is at best open."""
    claim = words_of("B2")
    if not {"macs", "nonzero_macs", "density"} <= set(e.runs):
        return missing(claim, "multiply-adds were not counted")
    arms = sparse_arms(e.runs)
    if not arms:
        return missing(claim, "no arm keeps about 10% of its weights")
    none = pd.DataFrame({"label": [], "form": []})
    times = none if e.speeds is None else e.speeds
    # The arm that is pruned and little else, where it was timed.
    arm = first_of(arms, list(times["label"])) or arms[0]
    counted = float(fewer_macs(e.runs)[arm])
    said = f"{arm}: {counted:.3g} times fewer multiply-adds, counted from the weights"
    verdicts = [judge_ratio(counted, counted, claimed=CLAIMED_MACS)]
    timed = skipping_speeds(times, arm)
    if timed.empty:
        verdict = verdicts[0] if verdicts[0] != "REP" else "INC"
        return judged(claim, verdict, f"{said}; seconds were not tested: {NO_KERNEL}")
    for row in timed.itertuples():
        told = times_in_words(row.ratio, row.low, row.high, row.n).replace("seed", "timing")
        said += f"; {told} faster as {row.form}"
    best = timed.assign(p_holm=holm(timed["p"].to_numpy(float))).loc[timed["ratio"].idxmax()]
    how = {"claimed": CLAIMED_MACS, "p_adjusted": best["p_holm"]}
    verdicts.append(judge_ratio(best["low"], best["high"], **how))
    return judged(claim, overall(verdicts, needs="all"), said)


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


def eight_bits(e: Evidence, *, margin: float = MARGIN) -> list[Replication]:
    """B4, of weights rounded after training and of weights trained so: each way needs all of its arms."""
    claim, labels = words_of("B4"), list(dict.fromkeys(e.runs["label"]))
    ways = {"rounded after training": ("ptq", "gptq"), "trained": ("qat",)}
    arms = {way: [arm for arm in labels if _is_eight(arm, methods)] for way, methods in ways.items()}
    if not any(arms.values()) and e.has("Q"):
        arms["trained"] = ["Q"]
    if not any(arms.values()) or not e.has(HARD):
        return [missing(claim, f"no arm of 8 bits beside {HARD}")]
    chosen = [(arm, HARD) for way in arms.values() for arm in way]
    table = equivalences(e.runs, chosen, metric=e.metric, margin=margin)
    found = []
    for way, own in arms.items():
        rows = table[table["a"].isin(own)].to_dict("records")
        told = "; ".join(f"{row['a']} {row['decided']}, {ratio_in_words(row)}" for row in rows)
        verdict = overall([_is_enough(row) for row in rows], needs="all")
        said = f"against {HARD} within {margin:.0%}: {told}"
        name = f"{claim}, {way}"
        found.append(judged(name, verdict, said) if rows else missing(name, f"no arm of 8 bits was {way}"))
    return found


def _is_enough(row: dict) -> Verdict:
    """Equal has to hold after Holm's correction over all arms of 8 bits; better is enough as well."""
    if row["decided"] == "lower" or (row["decided"] == "equal" and row["p_holm"] < ALPHA):
        return "REP"
    return "NOT" if row["decided"] == "higher" else "INC"


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
    return judged(claim, overall([verdict, control], needs="all"), said)


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


def _is_eight(arm: str, ways: tuple[str, ...]) -> bool:
    settings = settings_of(arm)
    return settings.get("bits") == 8 and str(settings.get("method", "")).startswith(ways)
