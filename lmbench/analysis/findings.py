"""The five key findings of the published study as claims that data can refute.

The study ("Architectural Trade-offs in Small Language Models Under Compute Constraints",
arXiv 2512.20877) drew them from one seed each. Here each is a function of a tidy table
with one row a label and seed, and of the pairs (a, b) in which the finding says that a has
the lower loss. Differences are paired by seed, and the pairs of one finding are one family
for Holm's correction.
"""

from collections.abc import Sequence

import pandas as pd

from lmbench.analysis.stats import paired_differences
from lmbench.analysis.verdict import Verdict, judge

FLOPS_TOLERANCE = 0.02  # two budgets that differ by less count as equal
Pairs = Sequence[tuple[str, str]]


def attention_beats_mlp_per_flop(
    table: pd.DataFrame, *, pairs: Pairs, unit: str, seed: str = "seed", confidence: float = 0.95
) -> Verdict:
    """Pairs (attention model, MLP). `table` needs a column flops: training FLOPs of each run.

    The claim is per FLOP, so a pair is judged only where its loser did not get less
    compute: a model that wins with more FLOPs has shown nothing.

    Raises:
        ValueError: no column flops.
    """
    if "flops" not in table:
        raise ValueError("a claim per FLOP needs a column 'flops' in the table")
    claim = "attention-based models reach a lower loss than MLPs per training FLOP"
    found = _differences(table, pairs, seed=seed, confidence=confidence)
    flops = table.groupby("label")["flops"].mean()
    ratio = (found["a"].map(flops) / found["b"].map(flops)).to_numpy()
    more, less = ratio > 1 + FLOPS_TOLERANCE, ratio < 1 / (1 + FLOPS_TOLERANCE)
    winner_had_more = ((found["difference"] < 0) & more) | ((found["difference"] > 0) & less)
    objection = [
        f"the lower one had more FLOPs (ratio of {row.a} to {row.b} {x:.3g})" if unfair else ""
        for row, x, unfair in zip(found.itertuples(), ratio, winner_had_more, strict=True)
    ]
    return judge(claim, found.assign(objection=objection), unit=unit, confidence=confidence)


def depth_or_context_degrades(
    table: pd.DataFrame, *, pairs: Pairs, unit: str, seed: str = "seed", confidence: float = 0.95
) -> Verdict:
    """Pairs (fewer layers or less context, more), trained with the same settings and steps."""
    claim = "more depth or context, without more optimization, raises the loss"
    return _judged(claim, table, pairs, unit=unit, seed=seed, confidence=confidence)


def learned_positions_beat_rope(
    table: pd.DataFrame, *, pairs: Pairs, unit: str, seed: str = "seed", confidence: float = 0.95
) -> Verdict:
    """Pairs (learned positions, RoPE), alike in all else."""
    claim = "RoPE gives a higher loss than learned positions"
    return _judged(claim, table, pairs, unit=unit, seed=seed, confidence=confidence)


def nonlinear_beats_linear(
    table: pd.DataFrame, *, pairs: Pairs, unit: str, seed: str = "seed", confidence: float = 0.95
) -> Verdict:
    """Pairs (nonlinear model, linear model)."""
    claim = "nonlinear models reach a lower loss than the linear one"
    return _judged(claim, table, pairs, unit=unit, seed=seed, confidence=confidence)


def capacity_must_match_compute(
    table: pd.DataFrame,
    *,
    pairs: Pairs,
    unit: str,
    longer: pd.DataFrame | None = None,
    seed: str = "seed",
    confidence: float = 0.95,
) -> Verdict:
    """Pairs (smaller, larger), trained with few steps (`table`) and with more (`longer`).

    "Additional parameters need sufficient optimization steps" speaks of two budgets: the
    loss of the smaller minus that of the larger must be lower with few steps than with more.
    With `longer=None` only its first half is judged: the larger has the higher loss here.
    """
    if longer is None:
        claim = "at this one budget of steps, more parameters raise the loss"
        return _judged(claim, table, pairs, unit=unit, seed=seed, confidence=confidence)
    claim = "larger models need more steps: few steps favour the smaller model more than many do"
    few, many = "{} minus {} with few steps", "{} minus {} with many steps"
    gaps = [
        _gap(part, *pair, seed=seed).assign(label=name.format(*pair))
        for pair in pairs
        for name, part in ((few, table), (many, longer))
    ]
    names = [(few.format(*pair), many.format(*pair)) for pair in pairs]
    return _judged(claim, pd.concat(gaps), names, unit=unit, seed=seed, confidence=confidence)


def _judged(
    claim: str, table: pd.DataFrame, pairs: Pairs, *, unit: str, seed: str, confidence: float
) -> Verdict:
    found = _differences(table, pairs, seed=seed, confidence=confidence)
    return judge(claim, found, unit=unit, confidence=confidence)


def _differences(table: pd.DataFrame, pairs: Pairs, *, seed: str, confidence: float) -> pd.DataFrame:
    return paired_differences(table, group="label", unit=seed, pairs=pairs, confidence=confidence)


def _gap(table: pd.DataFrame, small: str, large: str, *, seed: str) -> pd.DataFrame:
    """Value of `small` minus value of `large` for each seed."""
    rows = table[table["label"].isin([small, large])]
    # The comparison refuses seeds that do not match, names that do not exist and doubled rows.
    paired_differences(rows, group="label", unit=seed, pairs=[(small, large)])
    wide = rows.pivot(index=seed, columns="label", values="value")
    return (wide[small] - wide[large]).rename("value").reset_index()
