"""The claim that a slice of a constrained model is faster (A5), judged by timings of both.

What counting FLOPs says stands beside what the clock does. On an accelerator a small model takes as long
for one sequence as for many: then what is timed is the launching of kernels, and nothing is decided.
"""

import math

import numpy as np
import pandas as pd

from lmbench.analysis.claims import claim
from lmbench.analysis.constraint_evidence import Evidence, Tested, fixed
from lmbench.analysis.intervals import welch
from lmbench.analysis.replication import judge_ratio, ratio_in_words

WORK = 8
"""Times the work, from which on times that do not grow with it are those of launching kernels."""


def inference_tests(evidence: Evidence) -> list[Tested]:
    """A5, as far as there is evidence: the slice against the full width, at each batch size."""
    table, claimed = evidence.inference, claim("A5").claimed
    if table is None:
        return []
    found, bound = [], _launch_bound(table)
    for batch, own in table.groupby("batch", sort=True):
        whole = own[own["width"] == "full"]
        full = whole["tokens_per_second"].to_numpy(float)
        for width, cut in own[own["width"] != "full"].groupby("width", sort=False):
            compared = f"slice {width} against the full width, batch {batch}"
            if min(len(full), len(cut)) < 2:
                found.append(fixed("A5", compared, "NT", "an interval needs at least 2 timings of each"))
                continue
            known = welch(np.log(cut["tokens_per_second"].to_numpy(float)), np.log(full))
            ends = math.exp(known.value), math.exp(known.low), math.exp(known.high)
            said = ratio_in_words(*ends, known.n).replace("seeds", "timings")
            measured = f"{said} the tokens/s of the full width{_counted(whole, cut)}"
            if bound:
                found.append(fixed("A5", compared, "INC", f"{measured}; {bound}"))
                continue
            found.append(
                Tested(
                    "A5", compared, known.p,
                    lambda p, ends=ends, measured=measured: (
                        judge_ratio(*ends[1:], claimed=claimed, p_adjusted=p), measured
                    ),
                )
            )  # fmt: skip
    return found


def _launch_bound(table: pd.DataFrame) -> str:
    """What is wrong with timings that hardly grow with the work; "" where they do grow."""
    whole = table[table["width"] == "full"]
    if "seconds" not in whole:
        return ""
    each = whole.groupby("batch")["seconds"].mean()
    few, many = each.index.min(), each.index.max()
    times = float(each[many] / each[few])
    if many < WORK * few or times >= math.sqrt(many / few):
        return ""
    return (
        f"{many / few:.3g} times the work takes the full width {times:.3g} times as long, so what was timed "
        "is the launching of kernels, not their arithmetic"
    )


def _counted(whole: pd.DataFrame, cut: pd.DataFrame) -> str:
    """What arithmetic says of a slice, beside what the clock does."""
    if "flops_per_token" not in cut or cut["flops_per_token"].isna().any():
        return ""
    return f", with {whole['flops_per_token'].mean() / cut['flops_per_token'].mean():.3g} times fewer FLOPs"
