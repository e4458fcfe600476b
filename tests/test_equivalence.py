"""Equality within a margin: exact intervals, wrong decisions no more often than allowed, and its words."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lmbench.analysis.equivalence import equivalence, equivalence_sentence, equivalences, p_no_worse
from lmbench.analysis.pairing import paired_values

SAME = np.array([2.0, 2.1, 1.9])


def runs(**arms):
    return pd.DataFrame(
        [
            {"label": label, "init_seed": seed, "bits_per_byte": value}
            for label, values in arms.items()
            for seed, value in enumerate(values)
        ]
    )


def decisions(true_ratio, *, n, spread, draws=1500, margin=0.01):
    """Shares of simulated experiments that end in each decision."""
    rng = np.random.default_rng(1)
    base = 2 * np.exp(0.1 * rng.standard_normal((draws, n)))
    arm = base * true_ratio * np.exp(spread * rng.standard_normal((draws, n)))
    found = [equivalence(a, b, margin=margin).decided for a, b in zip(arm, base, strict=True)]
    return {name: found.count(name) / draws for name in ("equal", "lower", "higher", "not decided")}


def test_the_interval_is_the_90_percent_t_interval_of_the_log_ratio():
    logs = np.array([-0.001, 0.0, 0.004])
    found = equivalence(SAME * np.exp(logs), SAME)
    half = stats.t.ppf(0.95, 2) * logs.std(ddof=1) / math.sqrt(3)
    assert math.log(found.ratio) == pytest.approx(0.001)
    assert math.log(found.low) == pytest.approx(0.001 - half)
    assert math.log(found.high) == pytest.approx(0.001 + half)
    assert found.n == 3


def test_p_is_below_alpha_exactly_where_the_interval_lies_inside_of_the_margin():
    logs = np.array([-0.001, 0.0, 0.004])
    wide = 0.001 + stats.t.ppf(0.95, 2) * logs.std(ddof=1) / math.sqrt(3)
    just, barely = math.expm1(wide * 1.001), math.expm1(wide * 0.999)
    assert equivalence(SAME * np.exp(logs), SAME, margin=just).decided == "equal"
    assert equivalence(SAME * np.exp(logs), SAME, margin=just).p < 0.05
    assert equivalence(SAME * np.exp(logs), SAME, margin=barely).decided == "not decided"
    assert equivalence(SAME * np.exp(logs), SAME, margin=barely).p > 0.05


def test_arms_beyond_the_margin_are_lower_or_higher():
    wobble = np.exp([0.0, 0.001, -0.001])
    assert equivalence(SAME * 0.95 * wobble, SAME).decided == "lower"
    assert equivalence(SAME * 1.05 * wobble, SAME).decided == "higher"


def test_arms_that_agree_in_every_seed_are_equal_and_a_single_seed_decides_nothing():
    assert equivalence(SAME, SAME).decided == "equal"
    assert equivalence(SAME, SAME).p == 0
    alone = equivalence([2.0], [2.0])
    assert alone.decided == "not decided"
    assert math.isnan(alone.low)


def test_unequal_arms_are_called_equal_in_at_most_5_percent():
    for true_ratio, spread in ((1.01, 0.002), (1 / 1.01, 0.005)):
        found = decisions(true_ratio, n=5, spread=spread)
        assert found["equal"] <= 0.05 + 0.017  # three standard errors of 1500 draws


def test_arms_at_the_margin_are_called_worse_in_at_most_5_percent():
    assert decisions(1.01, n=5, spread=0.002)["higher"] <= 0.05 + 0.017


def test_seeds_that_spread_widely_leave_it_undecided_and_never_widen_the_margin():
    found = decisions(1.0, n=3, spread=0.05)
    assert found["not decided"] > 0.9
    assert equivalence(SAME * [0.9, 1.1, 1.0], SAME).margin == 0.01


def test_equal_arms_with_little_spread_are_found_equal():
    assert decisions(1.0, n=5, spread=0.003)["equal"] > 0.95


def test_no_worse_is_fulfilled_by_being_better():
    wobble = np.exp([0.0, 0.001, -0.001])
    assert p_no_worse(SAME * 0.9 * wobble, SAME) < 0.001
    assert p_no_worse(SAME * 1.1 * wobble, SAME) > 0.999
    assert p_no_worse(SAME * 1.1, SAME * 1.1) == 0


def test_a_table_has_a_row_a_pair_and_adjusts_all_of_them():
    table = equivalences(
        runs(a=SAME * [1.001, 1, 0.999], b=SAME, c=SAME * [1.3, 1.31, 1.29]), [("a", "b"), ("c", "b")]
    )
    assert list(table["decided"]) == ["equal", "higher"]
    assert table["p_holm"].iloc[0] == pytest.approx(2 * table["p"].iloc[0])
    assert (table["confidence"] == 0.9).all()


def test_seeds_are_paired_by_their_number_and_not_by_their_row():
    frame = runs(a=[1.0, 2.0, 3.0], b=[1.0, 2.0, 3.0])
    turned = pd.concat([frame[frame["label"] == "a"].iloc[::-1], frame[frame["label"] == "b"]])
    a, b = paired_values(turned, "a", "b", value="bits_per_byte")
    assert a.tolist() == b.tolist() == [1.0, 2.0, 3.0]


def test_the_sentence_says_which_side_and_why_it_does_not_know():
    table = equivalences(
        runs(a=SAME * [1.001, 1, 0.999], b=SAME, c=SAME * [1.3, 1.31, 1.29], d=SAME * [0.9, 1.1, 1]),
        [("a", "b"), ("c", "b"), ("d", "b")],
    )
    equal, worse, open_ = (equivalence_sentence(row) for row in table.to_dict("records"))
    assert equal.startswith("a equals b to within 1%: +0.00% (90% interval −0.17% to +0.17%, 3 seeds)")
    assert "higher than b by more than 1% (worse)" in worse
    assert open_.endswith("the interval is wider than the margin, which stays as it was fixed.")


def test_values_that_leave_no_ratio_and_a_margin_that_is_none_are_refused():
    with pytest.raises(ValueError, match="a ratio needs values above 0, got 0"):
        equivalence([0.0, 1.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="margin is 0; it is relative and lies between 0 and 1"):
        equivalence(SAME, SAME, margin=0)
    with pytest.raises(ValueError, match="alpha is 0.5; it lies between 0 and 0.5"):
        equivalence(SAME, SAME, alpha=0.5)
    with pytest.raises(ValueError, match="got 3 and 2 values"):
        equivalence(SAME, SAME[:2])


def test_arms_that_do_not_match_are_refused():
    frame = runs(a=SAME, b=SAME[:2])
    with pytest.raises(ValueError, match="need the same init_seeds; only one has 2"):
        equivalences(frame, [("a", "b")])
    with pytest.raises(ValueError, match="'c'"):
        equivalences(frame, [("a", "c")])
    with pytest.raises(ValueError, match="'a' has init_seed 0 twice"):
        paired_values(pd.concat([frame, frame]), "a", "b", value="bits_per_byte")
    with pytest.raises(ValueError, match="of bits_per_byte in a are not finite"):
        paired_values(runs(a=[1.0, math.nan], b=[1.0, 1.0]), "a", "b", value="bits_per_byte")
