"""What stands against a reading of emergence: costs of a step, an assumption of spread, plateaus."""

import math

import numpy as np
import pandas as pd

from lmbench.analysis.emergence_doubts import (
    LAST,
    assumption_sentence,
    changed_verdicts,
    cost_sentences,
    plateau_sentence,
)

STEPS = np.round(100 * 1.2 ** np.arange(LAST)).astype(int)


def comparison(task="sort", **fields):
    """A declared row: twice as early, decided."""
    row = {
        "a": "loop", "b": "plain", "task": task, "level": "0", "metric": "score", "threshold": 0.5,
        "unit": "step", "ratio": 2.0, "low": 1.5, "high": 3.0, "p": 1e-4, "method": "Welch's t", "bound": "",
        "restricted": 2.0, "restricted_low": 1.5, "restricted_high": 3.0, "confidence": 0.95,
        "decided": "earlier", "primary": True, "fisher_p": 1e-4, "log_rank_p": 1e-4,
        "depends_on_metric": False,
    }  # fmt: skip
    return row | fields


def in_flops(task="sort", **fields):
    known = {"unit": "flops", "primary": False, "ratio": 0.5, "low": 0.4, "high": 0.7}
    return comparison(task, **known | fields)


def costs(**each):
    """Onsets of 100 steps, from label = FLOPs of a step."""
    rows = [
        {"label": label, "unit": unit, "last": 100.0 * times}
        for label, flops in each.items()
        for unit, times in (("step", 1.0), ("flops", flops))
    ]
    return pd.DataFrame(rows)


# ------------------------------------------------------------------ costs


def test_a_winner_in_steps_that_loses_in_flops_is_named_with_the_cost_of_its_step():
    table = pd.DataFrame([comparison(), in_flops()])
    assert cost_sentences(costs(plain=1e6, loop=4e6), table) == [
        "Times the FLOPs of a step of plain, a step costs: loop 4. Of 1 declared verdicts 1 are others in "
        "FLOPs, adjusted alike; earlier in steps and later in FLOPs: loop on sort 0 (2 [1.5, 3]; "
        "0.5 [0.4, 0.7])."
    ]


def test_verdicts_that_are_the_same_in_flops_are_counted_only():
    table = pd.DataFrame([comparison(), in_flops(ratio=2.0, low=1.5, high=3.0)])
    (said,) = cost_sentences(costs(plain=1e6, loop=1e6), table)
    assert said.endswith("Of 1 declared verdicts 0 are others in FLOPs, adjusted alike.")


def test_verdicts_in_flops_are_adjusted_by_holm_and_not_by_the_rates_of_the_table():
    """0.03 alone would decide it; over two comparisons it is 0.06."""
    rows = [comparison(), comparison("copy"), in_flops(p=0.03), in_flops("copy", p=0.2, decided="later")]
    changed = changed_verdicts(pd.DataFrame(rows), unit="flops")
    assert changed[["task", "decided", "decided_there"]].to_numpy().tolist() == [
        ["sort", "earlier", "not decided"], ["copy", "earlier", "not decided"]
    ]  # fmt: skip


def test_what_nobody_reached_is_no_other_verdict_in_flops():
    nobody = {"decided": "not reached", "p": math.nan, "low": math.nan, "high": math.nan}
    assert changed_verdicts(pd.DataFrame([comparison(**nobody), in_flops(**nobody)]), unit="flops").empty


def test_a_table_in_steps_only_has_no_costs():
    assert cost_sentences(costs(plain=1e6, loop=4e6), pd.DataFrame([comparison()])) == []


# ------------------------------------------------------------------ assumptions


def test_decisions_that_rest_on_one_spread_are_counted_and_those_without_support_named():
    pooled = {"method": "AFT with one spread"}
    rows = [comparison(), comparison("copy", **pooled)]
    rows.append(comparison("recall", **pooled, fisher_p=0.02, log_rank_p=0.02))
    said = assumption_sentence(pd.DataFrame(rows))
    assert said.startswith("2 of 3 decisions rest on 'AFT with one spread': it assumes")
    # 0.02 is the largest of three, so Holm leaves it as it is: both tests bear it out.
    assert said.endswith("Fisher's exact test of equal shares or the log-rank test, each after the same "
                         "adjustment, bears out each of them.")  # fmt: skip
    rows[-1] |= {"fisher_p": 0.06, "log_rank_p": 0.06}
    said = assumption_sentence(pd.DataFrame(rows))
    assert said.endswith("bears out 1 of them: loop on recall 0.")


def test_without_such_a_decision_no_assumption_is_named():
    undecided = comparison(method="AFT with one spread", decided="not decided")
    assert assumption_sentence(pd.DataFrame([comparison(), undecided])) == ""


# ------------------------------------------------------------------ plateaus


def points(*runs, **fixed):
    """Scores of one model, a run each."""
    same = {"label": "ssm", "task": "copy", "level": "0", "metric": "score"} | fixed
    parts = [
        pd.DataFrame({"run": f"r{i}", "step": STEPS, "normalised": y} | same) for i, y in enumerate(runs)
    ]
    return pd.concat(parts)


NOISE = 0.05 * np.array([1, -1] * (LAST // 2))
RISE = np.linspace(0, 1, LAST)


def test_scores_that_stay_at_the_threshold_are_a_plateau():
    said = plateau_sentence(points(0.48 + NOISE, 0.52 + NOISE, RISE))
    assert said.startswith("A plateau at the threshold, not a rise: ssm on copy 0 (2 of 3 runs). ")


def test_a_rise_through_the_threshold_and_a_plateau_elsewhere_are_none():
    assert plateau_sentence(points(RISE + NOISE)) == ""
    assert plateau_sentence(points(0.9 + NOISE)) == ""
    assert plateau_sentence(points(0.5 + NOISE, RISE)) == "", "half of the runs are not most"
    assert plateau_sentence(points(0.5 + NOISE), threshold=0.9) == ""
