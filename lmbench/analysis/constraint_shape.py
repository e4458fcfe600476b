"""Claims about how much constraint is best: a band of C, an inverted U, bands for single parts.

Acceleration is greatest where the loss at equal cost is lowest, so the claimed inverted U of the one is
a U of the other. Equal active FLOPs decide; equal tokens stand beside them, where taking units
out can hardly help, as it saves nothing that counts.
"""

import math

import numpy as np
import pandas as pd
from scipy import stats

from lmbench.analysis.claims import BASE, SWEEP
from lmbench.analysis.constraint_arms import LONGER, PARTS, constraint_of, part_sweep, sweep
from lmbench.analysis.constraint_evidence import Evidence, Tested, fixed
from lmbench.analysis.equivalence import equivalence, ratio_in_words
from lmbench.analysis.optimum import Optimum, TwoLines, optimum, sweep_values, two_lines
from lmbench.analysis.replication import ALPHA, Verdict
from lmbench.analysis.words import in_digits, percent, seeds

BAND = (0.4, 0.6)
"""Of C, as claimed."""
PART_BANDS = {
    "heads": ("A10", (0.5, 0.6)),
    "embedding": ("A11", (0.4, 0.5)),
    "feed-forward": ("A12", (0.65, 0.7)),
}
EQUAL_TOKENS, EQUAL_FLOPS = "equal tokens", "equal active FLOPs"


def shape_tests(evidence: Evidence) -> list[Tested]:
    """A10 to A12 and A23 to A25, as far as there is evidence."""
    found = []
    for part in PARTS:
        id, band = PART_BANDS[part]
        own = part_sweep(evidence.runs, part)
        if own["c"].nunique() < 3:
            continue
        at_flops = part_sweep(evidence.at_equal_flops(list(dict.fromkeys(own["label"]))), part)
        if at_flops["c"].nunique() >= 3:
            values = sweep_values(at_flops, setting="c", value=evidence.metric)
            test = _band(id, values, band, f"{part} c, {EQUAL_FLOPS}", evidence.seed, name="c")
            found.append(_with_note(test, _read_off(at_flops, evidence) + _rates(own)))
    budgets = sweep_budgets(evidence)
    for name, own in budgets.groupby("budget", sort=False):
        values, beside = sweep_values(own, setting="C", value=evidence.metric), name == EQUAL_TOKENS
        band = _band("A23", values, BAND, f"{SWEEP}, {name}", evidence.seed, name="C")
        turn = _shape(values, f"{SWEEP}, {name}", evidence)
        found += [test._replace(is_beside=beside) for test in (band, turn)]
    return [*found, _equation(budgets, evidence.metric)]


def sweep_points(runs: pd.DataFrame, rows: pd.DataFrame, *, metric: str = "bits_per_byte") -> pd.DataFrame:
    """`sweep_budgets` of tables of runs and of tidy rows: what the figure of the sweep is drawn from."""
    return sweep_budgets(Evidence(runs=runs, rows=rows, metric=metric))


def sweep_budgets(evidence: Evidence) -> pd.DataFrame:
    """The runs of the sweep over C at both budgets, with columns C and budget; none below three levels.

    At equal active FLOPs every constant arm has a longer twin, "const C=0.3, equal FLOPs", or where one
    lacks, losses are read off the validations on the way.
    """
    own = sweep(evidence.runs)
    if own["C"].nunique() < 3:
        return own.assign(budget="").iloc[:0]
    at_flops = _longer(evidence.runs, own)
    if at_flops is None:
        at_flops = sweep(evidence.at_equal_flops(list(dict.fromkeys(own["label"]))))
    kept = ["run", "label", "init_seed", "C", evidence.metric]
    both = {EQUAL_FLOPS: at_flops, EQUAL_TOKENS: own}
    parts = [part[kept].assign(budget=name) for name, part in both.items() if part["C"].nunique() >= 3]
    return pd.concat(parts, ignore_index=True)


def _longer(runs: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame | None:
    """The base and the longer twins of all constant arms, under the names of these."""
    if not has_twins(runs):
        return None
    wanted = {arm + LONGER: arm for arm in set(own["label"]) - {BASE}}
    return sweep(runs[runs["label"].isin([*wanted, BASE])].replace({"label": wanted}))


def has_twins(runs: pd.DataFrame) -> bool:
    """Whether every constant arm was trained once more, at the FLOPs of the base."""
    arms = set(runs["label"])
    return {arm + LONGER for arm in arms if arm != BASE and constraint_of(arm) is not None} <= arms


# ------------------------------------------------------------------ a band


def _band(
    id: str, values: pd.DataFrame, band: tuple[float, float], compared: str, seed: int, *, name: str
) -> Tested:
    best = optimum(values, seed=seed)
    measured = (
        f"lowest at {name} = {best.best:g}, 95% interval {best.low:g} to {best.high:g}, of "
        f"{', '.join(f'{at:g}' for at in best.settings)} ({seeds(best.n)})"
    )
    verdict, reason = judge_optimum(best, band)
    return fixed(id, compared, verdict, measured + reason)


def judge_optimum(best: Optimum, band: tuple[float, float]) -> tuple[Verdict, str]:
    """Whether the best setting lies in a band, and why that is not decided where it is not.

    Between two settings nothing is known, so the best lies anywhere between the neighbours of the interval:
    a sweep shows it inside a band where they are inside too. Beyond the last setting it may go on.
    """
    if not any(band[0] <= at <= band[1] for at in best.settings):
        return "INC", f"; no setting from {band[0]:g} to {band[1]:g} was tried"
    # Below the first setting lies nothing where it is 0, no constraint.
    first = 0.0 if best.settings[0] == 0 else -math.inf
    low = max((at for at in best.settings if at < best.low), default=first)
    high = min((at for at in best.settings if at > best.high), default=math.inf)
    if high <= band[0] or low >= band[1]:
        return "NOT", ""
    if band[0] <= low and high <= band[1]:
        return "REP", ""
    if math.isinf(high):
        return "INC", "; the sweep ends inside the interval"
    return "INC", f"; with no setting between, the best may lie anywhere from {max(low, 0):g} to {high:g}"


# ------------------------------------------------------------------ a turn


def _with_note(test: Tested, note: str) -> Tested:
    def judge(p: float) -> tuple[Verdict, str]:
        verdict, measured = test.judge(p)
        return verdict, measured + note

    return test._replace(judge=judge)


def _read_off(at_flops: pd.DataFrame, evidence: Evidence) -> str:
    """Where the losses at equal FLOPs come from."""
    budget = float(at_flops["flops"].iloc[0])
    whole = evidence.rows["flops"][evidence.rows["label"] == BASE].max()
    share = f"{budget / whole:.0%} of what the base spends"
    return f"; validations on the way, at {budget:.3g} active FLOPs, {share}"


def _rates(own: pd.DataFrame) -> str:
    """Learning rates that differ among the settings: each was chosen at equal tokens."""
    if "optimizer.lr" not in own or own["optimizer.lr"].nunique() < 2:
        return ""
    each = own.groupby("optimizer.lr")["c"].unique()
    said = "; ".join(f"{lr:g} at {', '.join(f'{c:g}' for c in sorted(at))}" for lr, at in each.items())
    return f"; learning rates, chosen at equal tokens, are {said}"


def _shape(values: pd.DataFrame, compared: str, evidence: Evidence) -> Tested:
    lines = two_lines(values)
    as_claimed = lines.before.value < 0 < lines.after.value
    p = max(lines.before.p, lines.after.p) if as_claimed else 1.0
    measured = (
        f"slope of the loss up to C = {lines.turn:g} {_slope(lines.before)}, from there on "
        f"{_slope(lines.after)} ({seeds(lines.n)})"
    )
    turn, none = (values[at].to_numpy(float) for at in (lines.turn, values.columns[0]))
    if lines.turn > values.columns[0]:
        same = equivalence(turn, none, margin=evidence.margin)
        gain = ratio_in_words(same._asdict() | {"confidence": 0.9})
        at = f"C = {lines.turn:g} against {values.columns[0]:g} {gain}"
        measured += f"; {at}, where {percent(same.margin)} counts as equal"

    def judge(p: float) -> tuple[Verdict, str]:
        if p < ALPHA:
            return "REP", measured
        return ("NOT", f"{measured}; {_against(lines)}") if _against(lines) else ("INC", measured)

    return Tested("A24", compared, p, judge)


def _slope(line) -> str:
    value, low, high = in_digits(line.value, line.low, line.high, signed=True)
    return f"{value} (95% interval {low} to {high})"


def _against(lines: TwoLines) -> str:
    """What contradicts a U: the loss rises from the first constraint on, or falls to the last."""
    if lines.before.low > 0:
        return "the loss rises with the constraint from the start"
    return "the loss still falls at the end" if lines.after.high < 0 else ""


# ------------------------------------------------------------------ the equation


def _equation(budgets: pd.DataFrame, metric: str) -> Tested:
    """A25 by algebra, and the rank correlation of what it predicts with what was measured."""
    said = "dΣ/dC = (S + E)^r is above 0 throughout, so Σ is greatest at C = 1 and predicts no optimum inside"
    own = budgets[budgets["budget"] == EQUAL_FLOPS]
    if len(own):
        mean = own.groupby("C")[metric].mean()
        if mean.nunique() > 1:
            rank = stats.spearmanr(np.asarray(mean.index, float), -mean.to_numpy()).statistic
            said += f"; rank correlation of C with the gain at equal FLOPs {rank:+.2f}".replace("-", "−")
    return fixed("A25", "algebra", "NOT", said)
