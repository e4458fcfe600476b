"""Gains outside the distribution: Fieller's interval, and gains that are only a better score inside it."""

import math

import numpy as np
import pandas as pd
import pytest

from lmbench.analysis.constraint_claims import findings, judged_claims, untested_claims
from lmbench.analysis.constraint_evidence import Evidence
from lmbench.analysis.constraint_shifts import FAMILIES, Gain, judge_gain, relative_gain, shift_tests
from lmbench.analysis.intervals import Estimate, t_interval
from lmbench.analysis.replication import half_of
from tests.constraint_frames import frames

NOISE = np.array([-0.01, 0.0, 0.01, 0.005, -0.005])


def gaps_of(*, family="novel domain", **arms):
    """A table of gaps; each arm is (shifted, in distribution), with the same small spread in both."""
    parts = []
    for i, (arm, (shifted, within)) in enumerate(arms.items()):
        own = pd.DataFrame({"label": arm, "init_seed": range(len(NOISE))})
        own["normalised"] = shifted + NOISE * (1 + 0.3 * i)
        own["normalised_within"] = within + NOISE
        parts.append(own.assign(gap=own["normalised_within"] - own["normalised"]))
    fixed = {"family": family, "task": "chain", "within_level": "0, names=first"}
    return pd.concat(parts, ignore_index=True).assign(**fixed, level="0, names=second")


def judge(table):
    """Verdicts and words of the tests of a table, without an adjustment."""
    tests = shift_tests(Evidence(runs=pd.DataFrame(), rows=pd.DataFrame(), shifted=table))
    return [test.judge(test.p) for test in tests]


# ------------------------------------------------------------------ the interval


def test_of_a_base_without_spread_the_interval_is_that_of_the_mean():
    gain, known = relative_gain([2.0, 3.0, 4.0], [2.0, 2.0, 2.0]), t_interval([2.0, 3.0, 4.0])
    assert gain == pytest.approx((1.5, known.low / 2, known.high / 2))


def test_at_both_ends_the_paired_test_is_at_its_limit():
    a, b = np.array([0.50, 0.58, 0.61, 0.55]), np.array([0.40, 0.43, 0.50, 0.41])
    gain = relative_gain(a, b)
    assert gain.ratio == pytest.approx(a.mean() / b.mean()) and gain.low < gain.ratio < gain.high
    for end in (gain.low, gain.high):
        assert t_interval(a - end * b).p == pytest.approx(0.05)


def test_of_a_base_at_chance_there_is_no_ratio():
    assert all(map(math.isnan, relative_gain([0.5, 0.6, 0.7], [0.1, -0.1, 0.05])))
    assert all(map(math.isnan, relative_gain([0.5, 0.6, 0.7], [-0.5, -0.5, -0.5])))


def test_a_ratio_needs_pairs():
    with pytest.raises(ValueError, match="as many values of both, at least 2; got 1 and 1"):
        relative_gain([1.0], [1.0])


# ------------------------------------------------------------------ the verdicts


def test_a_gain_of_half_the_claim_whose_gap_closes_is_replicated():
    ((verdict, said),) = judge(gaps_of(base=(0.60, 0.90), sched=(0.70, 0.90)))
    assert verdict == "REP"
    assert "1.17 times" in said and "0.70 against 0.60; in distribution 0.90 against 0.90" in said
    assert "gap −0.1000" in said
    assert half_of(1.17) == pytest.approx(1.082, abs=1e-3)
    assert judge(gaps_of(base=(0.60, 0.90), sched=(0.635, 0.90)))[0][0] == "DIR"


def test_a_gain_that_stands_in_distribution_too_decides_nothing():
    ((verdict, said),) = judge(gaps_of(base=(0.60, 0.80), sched=(0.70, 0.95)))
    assert verdict == "INC"
    assert said.endswith("more was learned in distribution, and the gap is not shown to close")


def test_a_loss_is_not_replicated_whatever_the_gap_does():
    # Less is known in distribution, so the gap closes; the shifted score is lower all the same.
    assert judge(gaps_of(base=(0.70, 0.95), sched=(0.60, 0.65)))[0][0] == "NOT"


def test_without_knowledge_or_room_nothing_is_tested():
    ((verdict, said),) = judge(gaps_of(base=(0.0, 0.02), sched=(0.0, 0.60)))
    assert verdict == "NT"
    assert "too little was learned to carry over: 0.60 in sched and 0.02 in base of the best score" in said
    ((verdict, said),) = judge(gaps_of(base=(0.98, 0.99), sched=(0.99, 0.99)))
    assert verdict == "NT" and "no room for half of the claim: base has 0.98 of the best score" in said


def test_without_an_interval_a_gain_is_not_decided():
    unknown, gap = Gain(math.nan, math.nan, math.nan), Estimate(-0.1, -0.2, -0.05, 0.01, 5, 4)
    assert judge_gain(unknown, gap, claimed=1.17, p_adjusted=0.0)[0] == "INC"
    # A sign that the adjustment takes away is none.
    assert judge_gain(Gain(1.2, 1.1, 1.3), gap, claimed=1.17, p_adjusted=0.2)[0] == "INC"


def test_each_family_is_of_one_claim_and_only_arms_of_the_claim_are_tested():
    for id, family in FAMILIES.items():
        table = gaps_of(family=family, base=(0.6, 0.9), sched=(0.7, 0.9), small=(0.7, 0.9))
        (test,) = shift_tests(Evidence(runs=pd.DataFrame(), rows=pd.DataFrame(), shifted=table))
        assert (test.id, test.compared.split(",")[0]) == (id, "sched against base")
    table = gaps_of(family="length", base=(0.6, 0.9), sched=(0.7, 0.9))
    assert not shift_tests(Evidence(runs=pd.DataFrame(), rows=pd.DataFrame(), shifted=table))


def test_claims_of_generalization_are_judged_where_shifts_were_scored_and_else_not_tested():
    runs, rows = frames(("base", "small"), seeds=3)
    table = gaps_of(base=(0.60, 0.90), sched=(0.70, 0.90))
    with_shifts = findings(runs, rows, shifted=table)
    assert set(FAMILIES) & set(judged_claims(with_shifts)["id"]) == {"A19"}
    without = findings(runs, rows)
    assert set(FAMILIES) <= set(untested_claims(without)["id"])
    assert "needs base and sched, scored for normalised score on novel domains" in (
        without[without["id"] == "A19"]["measured"].item()
    )
