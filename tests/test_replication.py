"""Verdicts on claimed effects: each rule at its edges, and sentences that say what was found."""

import math

import numpy as np
import pytest

from lmbench.analysis.intervals import t_interval
from lmbench.analysis.replication import (
    IN_WORDS,
    half_of,
    judge_band,
    judge_direction,
    judge_ratio,
    not_tested,
    ratio_in_words,
    replicate,
)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (4.5, 9.0, "REP"),  # beyond sqrt(19) = 4.36
        (4.0, 9.0, "DIR"),  # above 1; half of the claim not reached by all of it
        (1.2, 3.0, "DIR"),
        (0.9, 3.0, "NOT"),  # half excluded, sign open
        (0.5, 0.9, "NOT"),  # reversed
        (0.9, 5.0, "INC"),  # holds 1 and half of the claim
        (0.0, 2.0, "NOT"),  # a bound: never reached, and at most twice as cheap
        (0.0, 6.0, "INC"),
        (math.nan, math.nan, "INC"),
    ],
)
def test_each_interval_of_a_claim_of_19_times_has_its_verdict(low, high, verdict):
    assert judge_ratio(low, high, claimed=19) == verdict


def test_half_a_claim_is_its_root():
    assert half_of(19) == pytest.approx(4.3589, abs=1e-4)
    assert half_of(1.22) == pytest.approx(1.1045, abs=1e-4)


def test_a_sign_that_does_not_survive_the_family_is_no_sign():
    assert judge_ratio(4.5, 9.0, claimed=19, p_adjusted=0.06) == "INC"
    assert judge_ratio(1.2, 3.0, claimed=19, p_adjusted=0.06) == "NOT"  # half is excluded all the same
    assert judge_ratio(1.2, 3.0, claimed=19, p_adjusted=math.nan) == "NOT"
    assert judge_direction(0.1, 0.3, p_adjusted=0.05) == "INC"


def test_a_direction_needs_an_interval_on_its_side():
    assert judge_direction(0.1, 0.3) == "REP"
    assert judge_direction(-0.3, -0.1) == "NOT"
    assert judge_direction(-0.1, 0.3) == "INC"


def test_a_band_holds_the_whole_interval_or_none_of_it():
    assert judge_band(0.4, 0.6, band=(0.4, 0.6)) == "REP"
    assert judge_band(0.1, 0.3, band=(0.4, 0.6)) == "NOT"
    assert judge_band(0.3, 0.5, band=(0.4, 0.6)) == "INC"


def test_a_null_effect_is_called_replicated_or_smaller_in_at_most_5_percent():
    rng = np.random.default_rng(0)
    found = []
    for logs in rng.normal(0, 0.3, (3000, 5)):
        known = t_interval(logs)
        found.append(judge_ratio(math.exp(known.low), math.exp(known.high), claimed=4.0, p_adjusted=known.p))
    assert (found.count("REP") + found.count("DIR")) / 3000 <= 0.025 + 0.009  # one side of 5%
    assert found.count("NOT") / 3000 > 0.9


def test_a_true_effect_of_the_claimed_size_is_called_not_replicated_in_at_most_5_percent():
    rng = np.random.default_rng(0)
    verdicts = []
    for logs in rng.normal(math.log(4), 1.0, (3000, 5)):
        known = t_interval(logs)
        ends = math.exp(known.low), math.exp(known.high)
        verdicts.append(judge_ratio(*ends, claimed=4.0, p_adjusted=known.p))
    assert verdicts.count("NOT") / 3000 <= 0.025 + 0.009
    assert verdicts.count("INC") / 3000 > 0.3  # such a spread cannot tell


def test_the_text_names_verdict_interval_claim_half_and_what_would_refute_it():
    found = replicate("less computation", ratio=2.0, low=1.5, high=2.7, claimed=19, n=5, unit="fewer FLOPs")
    assert found.verdict == "DIR"
    assert found.text == (
        "Less computation: right direction, smaller (2 times (95% interval 1.5 to 2.7, 5 seeds) fewer FLOPs; "
        "claimed 19, half of it on the log scale 4.36; the interval excludes 1, and half of the claim is "
        "excluded). What would have refuted it: an interval wholly below 4.36 that does not lie above 1."
    )


def test_an_objection_leaves_it_inconclusive_and_is_said():
    found = replicate(
        "less time", ratio=9.0, low=8.0, high=10.0, claimed=15, n=3, objection="runs shared the device"
    )
    assert found.verdict == "INC"
    assert "runs shared the device" in found.text


def test_one_seed_and_an_adjusted_p_are_given_as_reasons():
    alone = replicate("x", ratio=9.0, low=math.nan, high=math.nan, claimed=15, n=1)
    assert alone.verdict == "INC"
    assert "needs at least 2 seeds, got 1" in alone.text
    adjusted = replicate("x", ratio=9.0, low=5.0, high=12.0, claimed=15, n=3, p_adjusted=0.2)
    assert "the adjusted p, 0.200, is not below 0.05" in adjusted.text


def test_bounds_are_said_as_bounds():
    assert ratio_in_words(math.nan, 0.0, 2.0, 3) == "at most 2 times (95% bound, 3 seeds)"
    assert ratio_in_words(math.nan, 3.0, math.inf, 3) == "at least 3 times (95% bound, 3 seeds)"
    assert ratio_in_words(math.nan, 0.0, math.inf, 3) == "no ratio (3 seeds)"
    assert ratio_in_words(2.0, 1.0, math.inf, 3) == "2 times (95% interval 1 upwards, 3 seeds)"


def test_what_was_not_tested_says_why():
    found = not_tested("equal on MMLU", "no model of this size can")
    assert found.verdict == "NT"
    assert found.text == "Equal on MMLU: not tested (no model of this size can)."
    assert set(IN_WORDS) == {"REP", "DIR", "NOT", "INC", "NT"}


def test_a_claim_whose_side_is_not_above_1_is_refused():
    with pytest.raises(ValueError, match="claimed is 0.5; turn the ratio round"):
        judge_ratio(1, 2, claimed=0.5)
