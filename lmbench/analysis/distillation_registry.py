"""The claims about quantised distillation as data: what is said, of which arms, and what would decide it.

B1 to B14 are of the first sketch (a student that is quantised, sparse, and rewarded for entropy), C1 to C13
of the second (quantising and pruning learned together while distilling), P6 to P9 of the contest seed's
list (few bits in 16 MB). All are fixed before any run. The arms are named in `distillation_arms`.
"""

from collections.abc import Iterable

import pandas as pd

from lmbench.analysis.claims import Claim
from lmbench.errors import unknown

TEACHER, HARD, V1, V2 = "teacher", "hard", "V1", "V2"
LOSS, CELLS = "bits per byte", "cells of the 2^4 design"
CLAIMS: tuple[Claim, ...] = (
    Claim("B1", "8 bits make a model 8 times smaller", "8 times", "float32 of its shape", ("8 bits",),
          "packed bytes", "exact", "the interval reaches 8 times", "cost", 8.0),
    Claim("B2", "90% sparsity makes inference 10 times cheaper", "10 times", HARD, ("density=0.1",),
          "multiply-adds, and seconds", "ratio", "at least 3.16 times, in both", "cost", 10.0),
    Claim("B3", "quantising, pruning and distilling cost a few per cent of quality", "a few per cent", HARD,
          (V1,), "perplexity", "band", "at most 5% more perplexity", "quality"),
    Claim("B4", "8 bits are enough", "8 bits", HARD, ("bits=8",), LOSS, "equivalence", "equal to within 1%",
          "quality"),
    Claim("B5", "90% of the weights can go", "90%", HARD, ("density=0.1",), LOSS, "band",
          "within 5%, and no worse than a dense net of as many weights", "quality"),
    Claim("B6", "rewarding entropy prevents over-confidence", "", CELLS, ("ENT",),
          "calibration error and NLL", "direction", "both lower", "design"),
    Claim("B7", "distilling beats hard labels", "", CELLS, ("KD",), LOSS, "direction",
          "lower at equal steps, and at equal FLOPs with the teacher's", "design"),
    Claim("B8", "the distillation loss falls to 0", "0", TEACHER, (V1, V2), "fitted floor of KL", "band",
          "an interval with 0 and below 0.01 nats", "convergence"),
    Claim("B9", "with high probability the loss is small after enough steps", "", TEACHER, (V1,),
          "share of seeds", "none", "no number is claimed", "convergence"),
    Claim("B10", "the student is as accurate as the teacher less a term of the divergence", "", TEACHER,
          (V1,), "accuracy, KL of a token", "exact",
          "no token beyond the margin bound, and a bound that allows less than all", "agreement"),
    Claim("B11", "on every task the student loses at most 5 points", "", TEACHER, (V1,), "accuracy of a task",
          "band", "5 points or less on all tasks", "agreement"),
    Claim("B12", "time grows as S B D + S B^2 s", "O()", "", (V1,), "multiply-adds", "exact",
          "one constant a term for all shapes; corrected: within 1%", "formulas"),
    Claim("B13", "space grows as S B + S^2 s", "O()", "", (V1,), "bytes", "exact",
          "one constant a term for all shapes; corrected: within 5%", "formulas"),
    Claim("B14", "quantising, pruning, distilling and entropy do more together than the sum of each", "",
          CELLS, ("Q+P+KD+ENT",), LOSS, "interaction", "less than the sum of each", "design"),
    Claim("C1", "the student's size grows as V d q + L d^2 q", "O()", "", (V2,), "bytes", "exact",
          "one constant a term for all shapes; corrected: within 5%", "formulas"),
    Claim("C2", "the student's compute grows as n L h d k q", "O()", "", (V2,), "multiply-adds", "exact",
          "one constant a term for all shapes; corrected: within 1%", "formulas"),
    Claim("C3", "the teacher's size and compute grow as V d + L d^2 and n L h d^2", "O()", "", (TEACHER,),
          "multiply-adds, parameters", "exact",
          "one constant a term for all shapes; corrected: within 1%", "formulas"),
    Claim("C4", "the approximation ratio says how near the student is to its teacher", "", TEACHER, (V2,),
          "ratio, KL, same choice", "none", "no number is claimed", "agreement"),
    Claim("C5", "the compression ratio is the teacher's size over the student's", "", "float32 and float16",
          (V2,), "packed bytes", "none", "no number is claimed", "cost"),
    Claim("C6", "the published bound of generalisation holds", "1 − delta", "", ("generators of known risk",),
          "share of draws above it", "exact", "no more than delta", "bounds"),
    Claim("C7", "quantising and pruning jointly beats one after the other", "", "in sequence", ("joint",),
          f"{LOSS}, reloaded", "direction", "lower than both orders, equal steps and bits", "joint"),
    Claim("C8", "pruning makes the model cheaper", "", HARD, ("density=0.1",),
          "bytes, multiply-adds, seconds", "direction", "each judged by itself", "cost"),
    Claim("C9", "temperature and balance matter", "", "their other levels", ("tau=… alpha=…",), LOSS, "shape",
          "levels differ (F test over seeds)", "temperature"),
    Claim("C10", "distilling improves generalisation", "", HARD, (V2,), f"{LOSS}, also of other domains",
          "direction", "lower on both", "quality"),
    Claim("C11", "quantising activations to 8 bits does no harm", "8 bits", "bits=8 qat",
          ("bits=8 qat activations",), LOSS, "equivalence", "equal to within 1%", "quality"),
    Claim("C12", "the same mechanisms fit every architecture", "", "", ("all models",), "runs", "exact",
          "all finish without code of their own", "flexibility"),
    Claim("C13", "bounds can choose the settings", "", "chosen by validation", ("chosen by the bound",),
          "regret", "direction", "no worse by 1% or more", "bounds"),
    Claim("P6", "few bits fit so many parameters into 16 MB", "32, 21, 16 million at 2, 3, 4 bits", "", (),
          "parameters", "exact", "within 5%", "golf"),
    Claim("P7", "2 bits lose 15 to 20% after training, and about 4% trained", "15 to 20%, 4%", HARD,
          ("bits=2 ptq", "bits=2 qat"), LOSS, "band", "inside 15 to 20%, and 2 to 8%", "golf"),
    Claim("P8", "at equal bytes fewer bits are better", "", "equal bytes, more bits",
          ("bits=2 qat",), LOSS, "direction", "lower", "golf"),
    Claim("P9", "a 7-billion teacher fits into the budget of a 32-million student", "7e9, 32e6", "", (),
          "FLOPs", "exact", "its passes leave FLOPs to train with", "golf"),
)  # fmt: skip


def words_of(id: str) -> str:
    """What a claim says.

    Raises:
        ValueError: no such claim.
    """
    known = {each.id: each.claim for each in CLAIMS}
    if id not in known:
        raise ValueError(unknown("claim", id, known))
    return known[id]


def declared_table(ids: Iterable[str] | None = None) -> pd.DataFrame:
    """The claims as they are declared, all or some of them.

    Returns:
        Columns number, claim, claimed, against, metric, replicated if.
    """
    chosen = CLAIMS if ids is None else [each for id in ids for each in CLAIMS if words_of(id) == each.claim]
    rows = [(each.id, each.claim, each.number, each.baseline, each.metric, each.threshold) for each in chosen]
    return pd.DataFrame(rows, columns=["number", "claim", "claimed", "against", "metric", "replicated if"])
