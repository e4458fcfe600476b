"""The registry of claims: complete, judged by what the specification says, and never a silent stand-in."""

import math

import numpy as np
import pytest

from lmbench.analysis.claims import CLAIMS, adjusted_by_family, claim, claims_table
from lmbench.analysis.intervals import holm
from lmbench.analysis.replication import half_of


def test_every_claim_is_there_once_in_order():
    assert [each.id for each in CLAIMS] == [f"A{i}" for i in range(1, 40)]


def test_a_claim_is_tested_or_says_why_not():
    for each in CLAIMS:
        assert each.out_of_reach or (each.test != "none" and each.threshold), each.id
        assert each.claim
        assert each.family


def test_benchmarks_that_small_models_cannot_answer_are_out_of_reach():
    assert all(claim(f"A{i}").out_of_reach for i in (6, 7, 8, 9))
    assert all(claim(f"A{i}").test == "none" for i in (6, 7, 8, 9))


@pytest.mark.parametrize(
    ("id", "claimed", "half"),
    [
        ("A3", 19, 4.4), ("A4", 15, 3.9), ("A5", 3.8, 1.95), ("A13", 7.3, 2.7), ("A14", 6.3, 2.5),
        ("A15", 7.8, 2.8), ("A16", 5.4, 2.3), ("A17", 8.1, 2.85), ("A28", 1.22, 1.10),
    ],
)  # fmt: skip
def test_claimed_ratios_and_their_halves_are_the_published_ones(id, claimed, half):
    assert claim(id).claimed == claimed
    assert half_of(claimed) == pytest.approx(half, abs=0.05)


def test_only_ratio_tests_have_a_claimed_ratio():
    for each in CLAIMS:
        assert math.isnan(each.claimed) == (each.test != "ratio"), each.id


def test_an_unknown_claim_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="A41"):
        claim("A41")


def test_the_table_shows_all_or_those_that_are_asked_for():
    assert len(claims_table()) == 39
    table = claims_table(["A3", "A8"])
    assert table["id"].tolist() == ["A3", "A8"]
    assert table["treatment"].iloc[0] == "sched, filtered 35% or sched"
    assert table["out of reach"].tolist()[0] == ""
    assert "chance" in table["out of reach"].tolist()[1]


def test_p_values_are_adjusted_inside_their_family_only():
    # A26 and A27 are of one family, A29 alone is another.
    found = adjusted_by_family(["A26", "A29", "A27"], [0.01, 0.03, 0.04])
    assert found == pytest.approx([holm([0.01, 0.04])[0], 0.03, holm([0.01, 0.04])[1]])
    assert np.isnan(adjusted_by_family(["A26"], [math.nan])[0])
