"""The claims of constraint acceleration as data: what is said, of which arms, and what would decide it.

A case study claims that a language model trained under constraints (fewer units in use along a
schedule, a third of the data) matches one of four times its size at a nineteenth of the
computation. Every claim that can be told apart stands here with its number, fixed before any
run. One that cannot be tested at this scale, or not with these arms, says why; nothing else is
measured in its place. The arms are named in `constraint_arms`.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import pandas as pd

from lmbench.analysis.replication import Needs
from lmbench.errors import unknown

Test = Literal["ratio", "direction", "equivalence", "band", "shape", "interaction", "exact", "none"]
BASE, SMALL, FUNNEL, SCHED = "base", "small", "funnel", "sched"
FILTERED, RANDOM = "base, filtered 35%", "base, random 35%"
BOTH = "sched, filtered 35%"
SWEEP = "const C=…"
LOSS = "bits per byte"


class Claim(NamedTuple):
    """One claim and how it is tested."""

    id: str
    claim: str
    number: str
    """As claimed, in words; "" where the claim names none."""
    baseline: str
    treatment: tuple[str, ...]
    metric: str
    test: Test
    threshold: str
    """What counts as replicated."""
    family: str
    """Claims whose p values are adjusted together."""
    claimed: float = float("nan")
    """The ratio of a "ratio" test, above 1."""
    out_of_reach: str = ""
    """Why it is not tested; "" where it is."""
    needs: Needs = "any"
    """Which of its parts it needs: several arms or tasks are named with "or", widths and measures are not."""


_UNFILTERED = "the schedule without the filter: tasks made by rule have no documents to choose among"
_SCALE = "no model of this size rises above chance on it"
_PROBE = "a probe of the weights, without a number in the claim; nothing here measures it"


def _emergence(id: str, what: str, times: float, tasks: str) -> Claim:
    return Claim(
        id, f"{what} emerges earlier", f"{times:g} times", BASE, (SCHED, SMALL),
        f"time of emergence of {tasks}, in tokens and in active FLOPs", "ratio",
        f"at least {times**0.5:.3g} times, in tokens and in FLOPs; {_UNFILTERED}", "emergence", times,
    )  # fmt: skip


def _shift(id: str, what: str, percent: int) -> Claim:
    return Claim(
        id, f"better on {what}", f"+{percent}%", BASE, (SCHED,), f"normalised score on {what}", "ratio",
        f"at least half of it, and the gap to what was learned closes; {_UNFILTERED}", "generalization",
        1 + percent / 100,
    )  # fmt: skip


def _reduction(id: str, part: str, low: int, high: int) -> Claim:
    return Claim(
        id, f"taking out {low} to {high}% of the {part} is best", f"{low} to {high}%", BASE,
        (f"{part} c=…",), f"{LOSS} at equal FLOPs", "band", "the interval of the best share lies inside",
        "widths",
    )  # fmt: skip


CLAIMS: tuple[Claim, ...] = (
    Claim("A1", "73% fewer parameters at the same quality", "−73%", BASE, (SMALL, SCHED), LOSS, "equivalence",
          "at most 27% of the parameters, and equal or better", "quality"),
    Claim("A2", "a filtered 35% of the tokens is enough", "35%", BASE, (FILTERED,), LOSS, "equivalence",
          "equal or better, and better than a random 35%", "quality"),
    Claim("A3", "less computation to the same loss", "19 times (10.6 by the claim's own sizes)", BASE,
          (BOTH, SCHED), "active FLOPs to the baseline's final loss", "ratio", "at least 4.36 times", "cost",
          19.0),
    Claim("A4", "less time to the same loss", "15 times", BASE, (BOTH, SCHED),
          "seconds to the baseline's final loss", "ratio", "at least 3.87 times", "cost", 15.0),
    Claim("A5", "faster inference", "3.8 times", BASE, ("sched",), "tokens/s of the slice", "ratio",
          "at least 1.95 times at every batch size", "inference", 3.8, needs="all"),
    Claim("A6", "equal on GLUE", "83.2 and 83.5", BASE, (BOTH,), "GLUE", "none", "", "benchmarks",
          out_of_reach=f"{_SCALE}; a small stand-in would answer another question"),
    Claim("A7", "equal on HellaSwag", "79.8 and 80.1", BASE, (BOTH,), "HellaSwag", "none", "", "benchmarks",
          out_of_reach=f"{_SCALE}; the claimed baseline of 1.3 billion parameters exceeds the 79.3 of "
          "GPT-3 with 175 billion"),
    Claim("A8", "equal on MMLU", "67.3 and 66.9", BASE, (BOTH,), "MMLU", "none", "", "benchmarks",
          out_of_reach="models below a billion parameters answer it by chance"),
    Claim("A9", "equal on GSM8K", "62.5 and 63.2", BASE, (BOTH,), "GSM8K", "none", "", "benchmarks",
          out_of_reach=f"{_SCALE}; synthetic arithmetic would be another claim"),
    _reduction("A10", "heads", 50, 60),
    _reduction("A11", "embedding", 40, 50),
    _reduction("A12", "feed-forward", 65, 70),
    _emergence("A13", "basic reasoning", 7.3, "chain or recall"),
    _emergence("A14", "self-correction", 6.3, "audit or retry"),
    _emergence("A15", "counterfactual reasoning", 7.8, "scm"),
    _emergence("A16", "planning over several steps", 5.4, "route"),
    _emergence("A17", "an estimate of uncertainty", 8.1, "reports"),
    Claim("A18", "metacognition in smaller models than usual", "", BASE, (SCHED,), "smallest size", "none",
          "", "emergence",
          out_of_reach="metacognition is not defined, and a ladder of sizes is not trained here"),
    _shift("A19", "novel domains", 17),
    _shift("A20", "adversarial examples", 23),
    _shift("A21", "learning from few examples", 15),
    _shift("A22", "new combinations", 19),
    Claim("A23", "acceleration is greatest at a constraint between 0.4 and 0.6", "0.4 to 0.6", BASE, (SWEEP,),
          f"{LOSS} at equal tokens and at equal active FLOPs", "band",
          "the interval of the best C lies inside, at equal FLOPs", "optimum"),
    Claim("A24", "too little and too much constraint are both worse", "inverted U", BASE, (SWEEP,),
          f"{LOSS} at equal tokens and at equal active FLOPs", "shape",
          "two slopes of opposite signs, at equal FLOPs", "optimum"),
    Claim("A25", "the residue equation predicts this optimum", "Σ = C (S + E)^r", BASE, (SWEEP,), "algebra",
          "exact", "an interior maximum in C", "optimum"),
    Claim("A26", "oscillation prevents plateaus", "±0.05", "sched without oscillation", (SCHED,), LOSS,
          "direction", "lower, and not equal to within the margin", "schedule"),
    Claim("A27", "starting at a constraint of 0.3 and rising helps", "0.3 to 0.5", "sched without warm-up",
          (SCHED,), LOSS, "direction", "lower", "schedule"),
    Claim("A28", "a graduated constraint beats a constant one", "+22%", "const C=0.5", (SCHED,),
          "tokens and active FLOPs to the constant one's final loss", "ratio", "at least 1.10 times",
          "schedule", 1.22),
    Claim("A29", "constraints on architecture and data together are best", "", BASE, (BOTH,), LOSS,
          "interaction", "a favourable interaction, and lower than any of the others", "interaction",
          needs="all"),
    Claim("A30", "relaxing at the end integrates", "90 to 100% of the steps", "sched without relaxation",
          (SCHED,), f"{LOSS} at fixed widths", "direction", "lower at every width", "schedule",
          needs="all"),
    Claim("A31", "the filter keeps what the text covers", "35%", RANDOM, (FILTERED,), "coverage",
          "direction", "no less than a random 35%, each domain at 0.9 of its quota", "coverage",
          needs="all"),
    Claim("A32", "constrained models factorise and compress", "", SMALL, (SCHED,), "effective rank", "none",
          "", "mechanism", out_of_reach=_PROBE),
    Claim("A33", "attention separates what from where", "", SMALL, (SCHED,), "variance of logits", "none", "",
          "mechanism", out_of_reach=_PROBE),
    Claim("A34", "processing becomes recursive, with more functional depth", "", SMALL, (SCHED,), "depth",
          "none", "", "mechanism",
          out_of_reach="recursion is not defined; no depth of a computation is measured here"),
    Claim("A35", "it works with fewer layers", "", BASE, (SCHED,), LOSS, "none", "", "widths",
          out_of_reach="neither the published funnel nor its schedule changes the number of layers"),
    Claim("A36", "the representations are easier to interpret", "", BASE, (SCHED,), "", "none", "",
          "mechanism", out_of_reach="ease of interpretation is not defined"),
    Claim("A37", "principles are learned in place of examples", "", BASE, (SCHED,), "memorisation", "none",
          "", "mechanism", out_of_reach="nothing is planted in the text that could only be memorised"),
    Claim("A38", "simplified relative positions do no harm", "", BASE, ("few-bucket positions",), LOSS,
          "none", "", "quality",
          out_of_reach="the published option is an empty branch of code; there is nothing to add"),
    Claim("A39", "energy and carbon fall as computation does", "19 times", BASE, (BOTH,), "joules", "none",
          "", "cost",
          out_of_reach="no device here reports its energy; FLOPs and seconds stand under A3 and A4"),
)  # fmt: skip


def claim(id: str) -> Claim:
    """The claim of this id.

    Raises:
        ValueError: no such claim.
    """
    known = {each.id: each for each in CLAIMS}
    if id not in known:
        raise ValueError(unknown("claim", id, known))
    return known[id]


def claims_table(ids: Iterable[str] | None = None) -> pd.DataFrame:
    """The registry as a table, all claims or some of them.

    Returns:
        Columns id, claim, claimed, baseline, treatment, metric, replicated if, out of reach.
    """
    chosen = CLAIMS if ids is None else [claim(id) for id in ids]
    rows = [
        {
            "id": each.id, "claim": each.claim, "claimed": each.number, "baseline": each.baseline,
            "treatment": " or ".join(each.treatment), "metric": each.metric, "replicated if": each.threshold,
            "out of reach": each.out_of_reach,
        }
        for each in chosen
    ]  # fmt: skip
    return pd.DataFrame(rows)


def adjusted_by_family(ids: list[str], p_values: list[float]) -> list[float]:
    """Holm's p of each test inside its claim's family; several tests of one claim count each."""
    from lmbench.analysis.intervals import holm

    families = pd.Series([claim(id).family for id in ids])
    out = pd.Series(p_values, dtype=float)
    for _, places in families.groupby(families).groups.items():
        out.loc[places] = holm(out.loc[places].to_numpy())
    return out.tolist()
