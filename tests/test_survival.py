"""Interval-censored times: Turnbull's distribution, its median, and the permutation log-rank test."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from lmbench.analysis.survival import _scores, log_rank, median_interval, turnbull

NEVER = math.inf


def masses(lower, upper):
    """(lower, upper) -> mass."""
    table = turnbull(lower, upper)
    return {(row.lower, row.upper): row.mass for row in table.itertuples()}


def censored_times(n: int, *, seed: int, shift: float = 0.0, budget: float = 220.0):
    """Log-normal times as ends (exact, or right-censored at the budget), rounded so that some tie."""
    times = np.round(np.exp(np.random.default_rng(seed).normal(5 + shift, 0.5, n)), -1)
    reached = times <= budget
    return np.where(reached, times, budget), np.where(reached, times, NEVER)


def on_a_grid(times):
    grid = np.geomspace(10, 400, 20)
    place = np.searchsorted(grid, times)
    return np.r_[0.0, grid][place], np.r_[grid, NEVER][place]


# ------------------------------------------------------------------ the distribution


def test_exact_times_have_a_mass_of_one_share_each():
    assert masses([3, 1, 3, 2], [3, 1, 3, 2]) == pytest.approx({(1, 1): 0.25, (2, 2): 0.25, (3, 3): 0.5})


def test_disjoint_intervals_keep_their_shares():
    table = turnbull([0, 10, 10], [10, 20, 20])
    assert table.to_numpy().tolist() == pytest.approx(np.array([[0, 10, 1 / 3, 2 / 3], [10, 20, 2 / 3, 0]]))


def test_overlapping_intervals_put_their_mass_on_what_they_share():
    assert masses([0, 2], [3, 5]) == pytest.approx({(2, 3): 1})


def test_three_overlapping_intervals_have_their_masses_by_hand():
    # (0, 1], (0, 2] and (1, 2] hold p, p + q and q with p + q = 1: pq is greatest at a half each.
    assert masses([0, 0, 1], [1, 2, 2]) == pytest.approx({(0, 1): 0.5, (1, 2): 0.5}, abs=1e-6)
    # With two more of (0, 1] the likelihood is p^3 q.
    assert masses([0, 0, 1, 0, 0], [1, 2, 2, 1, 1]) == pytest.approx({(0, 1): 0.75, (1, 2): 0.25}, abs=1e-6)


def test_a_censored_run_gives_its_share_to_those_who_come_later():
    # 1, 2+, 3: the censored third goes to 3.
    assert masses([1, 2, 3], [1, NEVER, 3]) == pytest.approx({(1, 1): 1 / 3, (3, 3): 2 / 3}, abs=1e-6)


def test_an_interval_ends_at_its_upper_bound_and_begins_after_its_lower():
    # (0, 2] and (2, 4] share nothing, (0, 2] holds 2 itself and (2, inf) does not.
    assert masses([0, 2, 2], [2, 2, 4]) == pytest.approx({(2, 2): 2 / 3, (2, 4): 1 / 3}, abs=1e-6)
    assert masses([2, 2], [2, NEVER]) == pytest.approx({(2, 2): 0.5, (2, NEVER): 0.5})


@pytest.mark.parametrize("seed", range(5))
def test_right_censored_exact_times_have_the_curve_of_kaplan_and_meier(seed):
    lower, upper = censored_times(25, seed=seed)
    reached = upper < NEVER
    curve = stats.ecdf(stats.CensoredData(lower[reached], right=lower[~reached])).sf
    table = turnbull(lower, upper)
    exact = table[table["upper"] < NEVER]
    assert 0 < len(exact) < 25 and exact["upper"].tolist() == sorted(set(upper[reached]))
    assert exact["survival"].to_numpy() == pytest.approx(curve.evaluate(exact["upper"].to_numpy()), abs=1e-6)


def test_no_other_masses_are_more_likely():
    rng = np.random.default_rng(0)
    times = np.exp(rng.normal(5, 0.5, 40))
    lower, upper = times * rng.uniform(0.4, 0.95, 40), times * rng.uniform(1.05, 2, 40)
    table = turnbull(lower, upper)
    held = (lower[:, None] <= table["lower"].to_numpy()) & (table["upper"].to_numpy() <= upper[:, None])
    best = np.log(held @ table["mass"].to_numpy()).mean()
    for other in rng.dirichlet(np.full(len(table), 0.5), 200):
        mixed = 0.99 * table["mass"].to_numpy() + 0.01 * other
        assert np.log(held @ mixed).mean() <= best + 1e-8
    assert table["mass"].sum() == pytest.approx(1) and (np.diff(table["survival"]) <= 0).all()


def test_the_median_is_an_interval_or_not_reached():
    assert median_interval(turnbull([0, 10, 20], [10, 20, 30])) == (10, 20)
    assert median_interval(turnbull([0, 10, 90, 90], [10, 20, NEVER, NEVER])) == (10, 20)
    assert np.isnan(median_interval(turnbull([0, 90, 90], [10, NEVER, NEVER]))).all()


def test_with_all_runs_censored_nothing_is_known_but_the_budget():
    table = turnbull([90, 90, 80], [NEVER] * 3)
    assert table.to_numpy().tolist() == [[90, NEVER, 1, 0]]
    assert np.isnan(median_interval(table)).all()


# ------------------------------------------------------------------ the test


def test_the_scores_of_exact_times_are_by_hand_and_sum_to_0():
    # S = 1, 2/3, 1/3, 0: minus the differences of S log S, times 3.
    s = [x * math.log(x) if x else 0 for x in (1, 2 / 3, 1 / 3, 0)]
    expected = [3 * (before - after) for before, after in itertools.pairwise(s)]
    times = np.array([1.0, 2, 3])
    assert _scores(times, times) == pytest.approx(expected)
    lower, upper = on_a_grid(censored_times(30, seed=1)[0])
    assert _scores(lower, upper).sum() == pytest.approx(0, abs=1e-4)


def test_separated_groups_have_the_smallest_p_there_is():
    found = log_rank([1, 2, 3, 4, 5], [2, 3, 4, 5, 6], [7, 8, 9, 10, 11], [8, 9, 10, 11, NEVER])
    assert found.p == pytest.approx(2 / 252) and found.score > 0 and found[2:] == (5, 5)
    again = log_rank([7, 8, 9, 10, 11], [8, 9, 10, 11, NEVER], [1, 2, 3, 4, 5], [2, 3, 4, 5, 6])
    assert again.p == pytest.approx(found.p) and again.score == pytest.approx(-found.score, abs=1e-5)


def test_pairs_are_exchanged_within_pairs_only():
    earlier = np.array([10.0, 100, 1000, 10000])
    found = log_rank(earlier, earlier, earlier * 2, earlier * 2, paired=True)
    assert found.p == pytest.approx(2 / 16)
    assert log_rank(earlier, earlier, earlier * 2, earlier * 2).p > 0.5


def test_groups_alike_have_p_1_and_groups_that_never_learn_none():
    assert log_rank([10, 20], [20, 30], [10, 20], [20, 30]).p == 1
    assert log_rank([10, 10], [20, 20], [10, 10], [20, 20]).p == 1
    assert math.isnan(log_rank([90, 90], [NEVER, NEVER], [90, 80], [NEVER, NEVER]).p)


def test_a_group_that_never_learns_against_one_that_does():
    found = log_rank([10, 20, 30, 40], [20, 30, 40, 50], [90] * 4, [NEVER] * 4)
    assert found.p == pytest.approx(2 / 70) and found.score > 0


def test_random_permutations_estimate_the_exact_p_and_never_0():
    a, b = censored_times(6, seed=0), censored_times(6, seed=1, shift=0.6)
    exact = log_rank(*a, *b).p
    drawn = log_rank(*a, *b, permutations=900)  # of 924
    assert drawn.p != exact
    # p is twice the share on one side, in which the groups as they are count as one more draw.
    side = exact / 2
    assert abs(drawn.p - exact) < 2 / 901 + 4 * 2 * math.sqrt(side * (1 - side) / 900)
    assert drawn == log_rank(*a, *b, permutations=900)
    assert log_rank([1] * 12, [1] * 12, [2] * 12, [2] * 12, permutations=99).p == pytest.approx(2 / 100)


@pytest.mark.parametrize(("seed", "shift"), [(0, 0.0), (1, 0.3), (2, -0.4), (3, 0.6)])
def test_right_censored_exact_times_are_judged_as_by_the_usual_log_rank(seed, shift):
    a, b = censored_times(25, seed=10 + seed), censored_times(25, seed=20 + seed, shift=shift)
    sides = [stats.CensoredData(lower[upper < NEVER], right=lower[upper == NEVER]) for lower, upper in (a, b)]
    usual, found = stats.logrank(*sides), log_rank(*a, *b, permutations=1999)
    # Its statistic is above 0 where the first group has more early events than expected.
    assert np.sign(found.score) == np.sign(usual.statistic)
    # 50 runs: the asymptotic p is near the permutation's, whose own error is 0.02 at most.
    assert found.p == pytest.approx(usual.pvalue, abs=0.04)


def test_p_is_uniform_where_the_groups_do_not_differ():
    rng = np.random.default_rng(4)
    found = []
    for _ in range(300):
        lower, upper = on_a_grid(np.exp(rng.normal(5, 0.5, 10)))
        found.append(log_rank(lower[:5], upper[:5], lower[5:], upper[5:]).p)
    for level in (0.05, 0.1, 0.25, 0.5):
        # At most nominal, as p takes few values, within four errors of 300 repeats.
        assert (
            abs(np.mean(np.array(found) <= level) - level) < 4 * math.sqrt(level * (1 - level) / 300) + 0.02
        )


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        ([], [], "needs at least 1 run, got 0"),
        ([1, 2], [3], "a lower and an upper end, got 2 and 1"),
        ([3], [2], r"0 <= lower <= upper, got \(3, 2\]"),
        ([-1], [2], r"got \(-1, 2\]"),
        ([NEVER], [NEVER], r"got \(inf, inf\]"),
        ([math.nan], [2], r"got \(nan, 2\]"),
        ([0], [0], r"got \(0, 0\]"),
    ],
)
def test_times_that_are_none_are_refused(lower, upper, message):
    with pytest.raises(ValueError, match=message):
        turnbull(lower, upper)


def test_groups_that_cannot_be_tested_are_refused():
    with pytest.raises(ValueError, match="at least 2 seeds in each group, got 1 and 2"):
        log_rank([1], [2], [1, 2], [2, 3])
    with pytest.raises(ValueError, match="one run a seed in each, got 2 and 3 runs"):
        log_rank([1, 2], [2, 3], [1, 2, 3], [2, 3, 4], paired=True)
    with pytest.raises(ValueError, match="permutations is 0; it is at least 1"):
        log_rank([1, 2], [2, 3], [1, 2], [2, 3], permutations=0)
