"""The arms of the study of constraints by name, and what belongs together.

base                            full width, all data
small                           the widths of C = 0.5 from scratch
funnel                          the published funnel at its default of 0.5, from scratch
const C=0.3                     a constant constraint in the course of training
heads c=0.5                     a constant share of one kind of unit taken out, the others whole
sched                           the published schedule
sched without oscillation       the same without one of its parts
base, random 35%                a share of the data: as many tokens seen
base, filtered 35% unique       the same tokens kept, and as many seen as without a selection
sched, sliced                   the schedule with slices in place of masks, which saves time
sched, equal FLOPs              trained for longer, with as many active FLOPs as the base
"""

import re

import pandas as pd

from lmbench.analysis.checks import require
from lmbench.analysis.claims import BASE, BOTH, SCHED

PARTS = ("heads", "embedding", "feed-forward")
MEAN_C = 0.481
"""Mean of the published schedule over a training: what a constant constraint is to be compared at."""
_CONSTANT = re.compile(r"const C=(\d*\.?\d+)")
_PART = re.compile(rf"({'|'.join(PARTS)}) c=(\d*\.?\d+)")
_DATA = re.compile(r"(.+), (\w+) 35%( unique)?")
CONTROL = "random"
SLICED = f"{SCHED}, sliced"
LONGER = ", equal FLOPs"
"""Ends the name of an arm that is trained until it has spent the active FLOPs of the base."""
RACED = (BOTH, SCHED, BOTH + LONGER, SCHED + LONGER, SLICED)
"""Arms that are said to reach the base's loss at less cost."""


def constraint_of(arm: str) -> float | None:
    """C of a constant arm, 0 of the base; None of any other."""
    found = _CONSTANT.fullmatch(arm)
    return 0.0 if arm == BASE else float(found[1]) if found else None


def sweep(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the base and of constant constraints, with a column C."""
    require(runs, "label")
    level = runs["label"].map(constraint_of).astype(float)
    return runs.assign(C=level)[level.notna()].sort_values("C", kind="stable").reset_index(drop=True)


def part_sweep(runs: pd.DataFrame, part: str) -> pd.DataFrame:
    """The runs in which a share c of one kind of unit is taken out, and the base, with a column c."""
    require(runs, "label")
    found = runs["label"].map(_PART.fullmatch)
    share = [
        0.0 if arm == BASE else float(match[2]) if match and match[1] == part else float("nan")
        for arm, match in zip(runs["label"], found, strict=True)
    ]
    out = runs.assign(c=share)
    return out[out["c"].notna()].sort_values("c", kind="stable").reset_index(drop=True)


def data_pairs(arms: list[str]) -> list[tuple[str, str]]:
    """Each selection against a random one of the same share, form and architecture, where both are there."""
    pairs = []
    for arm in arms:
        found = _DATA.fullmatch(arm)
        if found and found[2] != CONTROL:
            control = f"{found[1]}, {CONTROL} 35%{found[3] or ''}"
            pairs += [(arm, control)] * (control in arms)
    return pairs


def data_arms(arms: list[str]) -> list[str]:
    """The arms that train on a share of the data."""
    return [arm for arm in arms if _DATA.fullmatch(arm)]


def ablation_pairs(arms: list[str]) -> list[tuple[str, str]]:
    """The published schedule against each of its variants that is there and ends at the same widths.

    Without relaxation it ends narrower, so a comparison of final losses would be one of sizes; see
    `constraint_schedule` for that at fixed widths.
    """
    same = [arm for arm in arms if arm.startswith("sched without") and not arm.endswith("relaxation")]
    return [(SCHED, arm) for arm in same if SCHED in arms]


def arm_pairs(arms: list[str]) -> list[tuple[str, str]]:
    """The comparisons of final losses, declared before any run: each arm against the base, each selection
    against random selection, the schedule against its variants."""
    against = [(arm, BASE) for arm in arms if arm != BASE and BASE in arms]
    return [*against, *data_pairs(arms), *ablation_pairs(arms)]


def nearest_constant(arms: list[str], level: float = MEAN_C) -> str | None:
    """The constant arm whose C is nearest to a level, no further than 0.05 from it."""
    levels = {arm: constraint_of(arm) for arm in arms if arm != BASE and constraint_of(arm) is not None}
    best = min(levels, key=lambda arm: abs(levels[arm] - level), default=None)
    return best if best is not None and abs(levels[best] - level) <= 0.05 else None
