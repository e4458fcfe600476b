"""The second sketch's claims of learning (C7 to C13): joint, pruning, temperature, flexibility, bounds.

Each function judges one claim by the evidence at hand.
"""

import math

import pandas as pd

from lmbench.analysis.compression import joint_table
from lmbench.analysis.compression_speed import NO_KERNEL, fewer_macs, skipping_speeds
from lmbench.analysis.distillation_arms import HARD, JOINT, SEQUENTIAL, V2, V2_CORRECTED
from lmbench.analysis.distillation_evidence import (
    Evidence,
    first_of,
    in_words,
    judged,
    lower,
    missing,
    missing_arms,
    pairs,
    ratio_to_hard,
    share_in_words,
)
from lmbench.analysis.distillation_promises import sparse_arms
from lmbench.analysis.distillation_registry import words_of
from lmbench.analysis.equivalence import MARGIN, equivalences, ratio_in_words
from lmbench.analysis.factorial import ALPHA
from lmbench.analysis.intervals import holm
from lmbench.analysis.replication import Replication, judge_direction, overall
from lmbench.analysis.replication import ratio_in_words as times_in_words
from lmbench.analysis.temperature_grid import grid_sentences, grid_tests

ALONE = ("density=0.1", "P")  # pruned and nothing else
EQUAL_FILES = 1.05  # files further apart than this are not of equal bits


def joint(e: Evidence) -> list[Replication]:
    """C7, against each order apart; files that came out unequal decide nothing."""
    claim = words_of("C7")
    if not e.has(JOINT) or not any(e.has(label) for label in SEQUENTIAL):
        return [missing_arms(claim, e, JOINT, *SEQUENTIAL)]
    runs, metric = e.runs, e.metric
    if e.artifacts is not None:
        files = e.artifacts[["label", "init_seed", "bytes", "packed_bits_per_byte"]]
        packed = files[files["label"].isin([JOINT, *SEQUENTIAL])]
        if set(packed["label"]) >= {JOINT}:
            runs, metric = runs.merge(packed, on=["label", "init_seed"]), "packed_bits_per_byte"
    table = joint_table(runs, metric=metric)
    return [_against(claim, table.iloc[[at]]) for at in range(len(table))]


def _against(claim: str, row: pd.DataFrame) -> Replication:
    """Joint against one order: a row of `joint_table`, whose p values cover both."""
    name = f"{claim}, against {row['b'].iloc[0]}"
    ratios = {_word(column): float(row[column].iloc[0]) for column in row if column.endswith(" ratio")}
    took = ", ".join(f"{ratio:.3g} times its {what}" for what, ratio in ratios.items())
    found = lower(name, row, unit="bits per byte", note=f"joint takes {took}" if took else "")
    size = ratios.get("bytes", 1.0)
    if max(size, 1 / size) <= EQUAL_FILES:
        return found
    return judged(name, "INC", f"{found.measured}, which is not at equal bits, so nothing is decided")


def pruning(e: Evidence) -> list[Replication]:
    """C8: size, multiply-adds and time apart; zeros that no kernel skips save neither of the last two."""
    claim, arms, found = words_of("C8"), sparse_arms(e.runs), []
    if not arms:
        return [missing(claim, "no arm of 10% density was run")]
    timed = [] if e.speeds is None else [arm for arm in ALONE if len(skipping_speeds(e.speeds, arm))]
    arm = first_of(ALONE, timed) or first_of(ALONE, arms) or arms[0]
    size = None if e.artifacts is None else ratio_to_hard(e.artifacts, arms=ALONE, factor="P", value="bytes")
    if size is not None:
        (ratio, what) = size
        # Bytes fell by the inverse of what they became.
        low, value, high = 1 / ratio.high, 1 / ratio.value, 1 / ratio.low
        verdict = judge_direction(math.log(low), math.log(high), p_adjusted=ratio.p)
        told = times_in_words(value, low, high, ratio.n)
        found.append(judged(f"{claim} in bytes", verdict, f"{what}: {told} smaller"))
    skipped = pd.DataFrame({"p": []}) if e.speeds is None else skipping_speeds(e.speeds, arm)
    if {"macs", "nonzero_macs"} <= set(e.runs):
        macs = float(fewer_macs(e.runs)[arm])
        name, said = f"{claim} in multiply-adds", f"{arm}: {macs:.3g} times fewer without those of zeros"
        unused = f"{said}, counted from the weights, which is no saving that ran: {NO_KERNEL}"
        verdict = "REP" if macs > 1 else "NOT"
        found.append(missing(name, unused) if skipped.empty else judged(name, verdict, f"{said}, counted"))
    if skipped.empty:
        return [*found, missing(f"{claim} in seconds", NO_KERNEL)]
    for row in skipped.assign(p_holm=holm(skipped["p"].to_numpy(float))).itertuples():
        told = times_in_words(row.ratio, row.low, row.high, row.n).replace("seed", "timing")
        verdict = judge_direction(row.low - 1, row.high - 1, p_adjusted=row.p_holm)
        found.append(judged(f"{claim} in seconds as {row.form}", verdict, f"{arm}: {told} faster"))
    return found


def temperature(e: Evidence) -> list[Replication]:
    """C9: each setting apart."""
    claim = words_of("C9")
    if not any("tau=" in label or "alpha=" in label for label in e.runs["label"]):
        return [missing(claim, "no arm sets a temperature or alpha")]
    tests = grid_tests(e.runs, metric=e.metric)
    found = []
    for row, said in zip(tests.itertuples(), grid_sentences(tests, unit=e.unit), strict=True):
        verdict = "REP" if row.p_holm < ALPHA else "INC"
        found.append(judged(f"the {row.setting} matters", verdict, said.partition(": ")[2].rstrip(".")))
    return found or [missing(claim, "each setting has a single level")]


def generalises(e: Evidence) -> list[Replication]:
    """C10: on the test text, and on other domains where they were scored."""
    claim = words_of("C10")
    if not (e.has(V2_CORRECTED) or e.has(V2)) or not e.has(HARD):
        return [missing_arms(claim, e, V2_CORRECTED, HARD)]
    found = [_whole_sketch(e, f"{claim} on the test text", value=e.metric, unit=e.unit)]
    name = f"{claim} on other domains"
    if "ood_bits_per_byte" in e.runs:
        return [*found, _whole_sketch(e, name, value="ood_bits_per_byte", unit="bits per byte")]
    return [*found, missing(name, "no other domain was scored")]


def _whole_sketch(e: Evidence, claim: str, *, value: str, unit: str) -> Replication:
    """The second sketch, which prunes and quantises too, and beside it what distilling does alone."""
    arms = [(name, HARD) for name in (V2, V2_CORRECTED, "KD") if e.has(name)]
    table = pairs(e.runs, arms, value=value)
    is_sketch = table["a"] != "KD"
    found = lower(claim, table[is_sketch], unit=unit)
    alone = [in_words(row, unit) for row in table[~is_sketch].itertuples()]
    said = f"the second sketch as a whole, pruned and quantised too: {found.measured}"
    said += f"; beside it distilling alone, KD less {HARD}, {alone[0]}" if alone else ""
    return judged(claim, found.verdict, said)


def activations(e: Evidence) -> Replication:
    """C11: weights alone against weights and activations of 8 bits."""
    claim = words_of("C11")
    # The cell Q is of 8 bits in weights and activations alike.
    b, a = "bits=8 qat", first_of(("bits=8 qat activations", "Q"), list(e.runs["label"]))
    if a is None or not e.has(b):
        return missing_arms(claim, e, *({"Q", b} if a is None else {b}))
    row = equivalences(e.runs, [(a, b)], metric=e.metric).iloc[0].to_dict()
    verdict = {"equal": "REP", "lower": "REP", "higher": "NOT"}.get(row["decided"], "INC")
    return judged(claim, verdict, f"{a} against {b}: {row['decided']}, {ratio_in_words(row)} in {e.unit}")


def flexible(e: Evidence) -> Replication:
    """C12."""
    claim = words_of("C12")
    if e.composed is None or e.composed.empty:
        return missing(claim, "no other architecture took them")
    done = e.composed["finished"].astype(bool)
    failed = [f"{row.model} with {row.methods}" for row in e.composed[~done].itertuples()]
    said = f"{int(done.sum())} of {len(done)} combinations of {e.composed['model'].nunique()} models trained"
    said += f", not {', '.join(failed)}" if failed else " without code of their own"
    return judged(claim, overall(["REP" if ok else "NOT" for ok in done], needs="all"), said)


def guides(e: Evidence) -> Replication:
    """C13."""
    claim = words_of("C13")
    if e.regret is None:
        return missing(claim, "no settings were chosen by a bound")
    found = e.regret
    # An interval that holds 0 and much more shows nothing, so it also has to end within the margin.
    verdict = "NOT" if found.low > 0 else "REP" if found.high < MARGIN else "INC"
    said = f"the arm that the bound chose is {share_in_words(*found[:3], found.n)} worse than validation's"
    return judged(claim, verdict, said)


def _word(column: str) -> str:
    return column.removesuffix(" ratio").replace("train_flops", "training FLOPs")
