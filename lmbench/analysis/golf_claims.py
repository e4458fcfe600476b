"""Claims of the contest seed about bits (rows 6 to 9 of its list): what fits 16 MB, and what few bits cost.

The first is arithmetic; the others need sweeps of bits, arms of equal bytes, and the teacher's FLOPs.
"""

from lmbench.analysis.compression import log_ratio
from lmbench.analysis.distillation_arms import EQUAL_BYTES, FEWEST, HARD, rounding_note, settings_of
from lmbench.analysis.distillation_evidence import Evidence, judged, missing, share_in_words
from lmbench.analysis.distillation_registry import words_of
from lmbench.analysis.intervals import Estimate, holm
from lmbench.analysis.replication import ALPHA, Replication, judge_band, overall

BUDGET = 16_000_000  # bytes, decimal
FITTING = {2: 32e6, 3: 21e6, 4: 16e6}  # parameters said to fit by their bits
POST, TRAINED = (0.15, 0.20), (0.02, 0.08)  # "15-20%", and "about 4%" to within a factor of two
TEACHER_PARAMETERS, STUDENT_PARAMETERS = 7e9, 32e6


def capacity() -> list[Replication]:
    """P6: parameters in 16 MB at 2, 3 and 4 bits, nothing else stored."""
    found = []
    for bits, claimed in FITTING.items():
        counted = 8 * BUDGET / bits
        said = f"counted {counted / 1e6:.1f} million without scales, {counted / claimed:.2g} times as many"
        name = f"{bits} bits put about {claimed / 1e6:.0f} million parameters into 16 MB"
        found.append(judged(name, "REP" if abs(counted / claimed - 1) < 0.05 else "NOT", said))
    return found


def two_bits(e: Evidence) -> list[Replication]:
    """P7: what 2 bits cost after training, where only three of their four values are used, and trained."""
    claims = {
        "2 bits after training lose 15 to 20%": (("ptq", "gptq"), POST),
        "training with 2 bits loses about 4%": (("qat",), TRAINED),
    }
    found = []
    for claim, (methods, band) in claims.items():
        arms = [arm for arm in dict.fromkeys(e.runs["label"]) if _is(arm, bits=2, methods=methods)]
        if not arms or not e.has(HARD):
            found.append(missing(claim, f"no arm of 2 bits by {' or '.join(methods)} beside {HARD}"))
        for arm in arms if e.has(HARD) else ():
            loss = log_ratio(e.runs, arm, HARD, value=e.metric)
            low, high = loss.low - 1, loss.high - 1
            note = rounding_note([arm])
            said = f"{_share(loss)} in {e.unit}, against the same net in float{f'; {note}' if note else ''}"
            found.append(judged(f"{claim} ({arm})", judge_band(low, high, band=band), said))
    return found


def equal_bytes(e: Evidence, *, tolerance: float = 0.1) -> Replication:
    """P8: the student of 2 bits against narrower ones of more bits that fill the same file.

    It has to be better than each of them, and one that is better refutes it, by p values that Holm
    corrects. Of files that came out unequal by more than the tolerance, a better net in the smaller
    one still decides.
    """
    claim, labels = words_of("P8"), list(dict.fromkeys(e.runs["label"]))
    others = [label for label in labels if label.startswith(f"{EQUAL_BYTES} ")]
    if e.artifacts is None or not others or not e.has(FEWEST):
        return missing(claim, "no nets of different width were packed to equal bytes")
    files = e.artifacts.groupby("label")["bytes"].mean()
    losses = [log_ratio(e.runs, FEWEST, other, value=e.metric) for other in others]
    verdicts, told = [], []
    for other, loss, p in zip(others, losses, holm([loss.p for loss in losses]), strict=True):
        times = float(files[FEWEST] / files[other])
        side = -1 if loss.high < 1 else int(loss.low > 1 and p < ALPHA)
        # Unequal files decide nothing where the better net has the larger one.
        is_fair = max(times, 1 / times) <= 1 + tolerance or side * (times - 1) > 0
        verdicts.append({-1: "REP", 0: "INC", 1: "NOT"}[side if is_fair else 0])
        note = "" if is_fair else ", which is too far apart to decide"
        told.append(f"against {other} {_share(loss)}, its file {_percent(times)} in bytes{note}")
    said = f"{FEWEST} in {e.unit} {'; '.join(told)}"
    if "train_flops" in e.runs:
        flops = e.runs.groupby("label")["train_flops"].mean()
        most = float((flops[FEWEST] / flops[others]).max())
        said += f"; trained with up to {most:.3g} times their FLOPs in as many steps"
    return judged(claim, overall(verdicts, needs="all"), said)


def large_teacher(e: Evidence) -> Replication:
    """P9: what a teacher's forward passes cost beside the student's training, in FLOPs of a token."""
    claim = words_of("P9")
    ratio = 2 * TEACHER_PARAMETERS / (6 * STUDENT_PARAMETERS)
    said = f"2 N of the teacher is {ratio:.0f} times 6 N of the student, so its passes take all of the budget"
    if {"teacher_flops", "train_flops"} <= set(e.runs) and (e.runs["teacher_flops"] > 0).any():
        own = e.runs[e.runs["teacher_flops"] > 0]
        share = float((own["teacher_flops"] / own["train_flops"]).mean())
        said += f"; the teacher here takes {share:.3g} times what its student takes"
    return judged(claim, "NOT", said)


def _is(arm: str, *, bits: int, methods: tuple[str, ...]) -> bool:
    settings = settings_of(arm)
    return settings.get("bits") == bits and str(settings.get("method", "")).startswith(methods)


def _percent(ratio: float) -> str:
    return f"{ratio - 1:+.1%}".replace("-", "−")


def _share(loss: Estimate) -> str:
    return share_in_words(loss.value - 1, loss.low - 1, loss.high - 1, loss.n)
