"""The interval-censored fit: Welch where times are exact, known likelihoods, and every kind of censoring."""

import importlib.util
import math

import numpy as np
import pytest
from scipy import stats

from lmbench.analysis import aft as aft_module
from lmbench.analysis.aft import Profile, aft, critical
from lmbench.analysis.censored import Group, maximum
from lmbench.analysis.intervals import welch

CONV = np.array([412.0, 352, 300, 445, 520])
ATTENTION = np.array([895.0, 481, 481, 1795, 709])


def on_grid(times, *, ratio=1.1, budget=math.inf):
    """Bounds of times that are seen on the grid ratio^k up to a budget."""
    place = np.floor(np.log(times) / math.log(ratio))
    lower, upper = ratio**place, ratio ** (place + 1)
    late = upper > budget
    return np.where(late, budget, lower), np.where(late, math.inf, upper)


# ------------------------------------------------------------------ exact times


def test_exact_times_give_the_interval_and_p_of_welch():
    found = aft(CONV, CONV, ATTENTION, ATTENTION)
    expected = welch(np.log(ATTENTION), np.log(CONV))
    assert found.ratio == pytest.approx(math.exp(expected.value), rel=1e-6)
    assert (found.low, found.high) == pytest.approx(
        (math.exp(expected.low), math.exp(expected.high)), rel=1e-5
    )
    assert found.p == pytest.approx(expected.p, rel=1e-4)
    assert found.df == pytest.approx(expected.df, rel=1e-5)
    assert found.sigma_b == pytest.approx(np.log(ATTENTION).std(ddof=1), rel=1e-5)


@pytest.mark.parametrize("n_a, n_b", [(2, 2), (2, 7), (10, 3)])
def test_the_interval_is_welchs_for_any_numbers_of_seeds(n_a, n_b):
    rng = np.random.default_rng(n_a)
    a, b = np.exp(rng.normal(5, 0.2, n_a)), np.exp(rng.normal(6, 0.6, n_b))
    found, expected = aft(a, a, b, b, confidence=0.9), welch(np.log(b), np.log(a), confidence=0.9)
    assert np.log([found.low, found.high]) == pytest.approx([expected.low, expected.high], abs=1e-4)


def test_one_spread_for_both_gives_students_interval():
    found = aft(CONV, CONV, ATTENTION, ATTENTION, pooled=True)
    expected = stats.ttest_ind(np.log(ATTENTION), np.log(CONV))
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx(
        (math.exp(interval.low), math.exp(interval.high)), rel=1e-5
    )
    assert found.p == pytest.approx(expected.pvalue, rel=1e-4)
    assert found.df == 8


def test_the_critical_value_of_many_seeds_is_that_of_chi_square():
    t = stats.norm.ppf(0.975)
    assert critical(t, m_a=10**6, m_b=10**6, share_a=0.3) == pytest.approx(stats.chi2.ppf(0.95, 1), rel=1e-4)


def test_the_critical_value_of_one_noisy_group_is_the_t_of_that_group():
    # All variance in b: m log(1 + t^2 / (m - 1)), by hand 3 log(1 + 4.302653^2 / 2) = 6.9838.
    assert critical(4.302653, m_a=50, m_b=3, share_a=1e-12) == pytest.approx(6.9838, abs=1e-3)


# ------------------------------------------------------------------ likelihood


def test_likelihood_of_one_group_by_hand():
    # Standard normal: P(-1 < Z <= 1) = 0.682689, P(Z > 1) = 0.158655, and the density at 0.
    group = Group(np.exp([-1, 1, 0]), [math.e, math.inf, 1], name="a")
    expected = math.log(0.6826895) + math.log(0.1586553) - 0.5 * math.log(2 * math.pi)
    assert group.value(0.0, 0.0)[0] == pytest.approx(expected, abs=1e-6)


def test_slopes_of_the_likelihood_are_its_differences():
    group = Group([0, 100, 150, 300, 200], [50, 120, 150, math.inf, 205], name="a")
    at, step = (5.1, -0.8), 1e-6
    _, by_mu, by_log_sigma = group.value(*at)
    differences = [
        (group.value(at[0] + dx, at[1] + dy)[0] - group.value(at[0] - dx, at[1] - dy)[0]) / (2 * step)
        for dx, dy in ((step, 0), (0, step))
    ]
    assert (by_mu, by_log_sigma) == pytest.approx(differences, rel=1e-6)


def test_the_likelihood_far_in_both_tails_is_finite_and_mirrored():
    right = Group([math.exp(29), 1], [math.exp(30), 2], name="a").value(0.0, 0.0)
    left = Group([math.exp(-30), 0.5], [math.exp(-29), 1], name="a").value(0.0, 0.0)
    assert right[0] == pytest.approx(left[0], rel=1e-12)
    assert right[1] == pytest.approx(-left[1], rel=1e-12)
    assert right[0] < -400


def test_fit_of_one_group_agrees_with_scipys_censored_fit():
    lower = np.array([0, 100, 150, 210, 260, 400, 400])
    upper = np.array([90, 120, 180, 230, 300, math.inf, math.inf])
    group = Group(lower, upper, name="a")
    (mu, log_sigma), _ = maximum(
        lambda x: group.value(x[0], x[1]), start=(5, 0), bounds=(group.reach, (-9.0, 3.0))
    )
    data = stats.CensoredData(
        left=[math.log(90)],
        right=np.log([400, 400]),
        interval=np.log(np.stack([lower, upper], axis=1)[1:5]),
    )
    expected = stats.norm.fit(data)
    assert (mu, math.exp(log_sigma)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("shift", [-1.0, 0.0, 3.0])
@pytest.mark.parametrize("ratio, budget", [(1.1, math.inf), (1.1, 800), (4, 1100), (1.02, 600)])
def test_no_other_means_and_spreads_lose_less(ratio, budget, shift):
    # Everything between the two hills, by brute force: a's mean and both spreads on fine grids.
    fit = Profile(*on_grid(CONV, ratio=ratio), *on_grid(ATTENTION, ratio=ratio, budget=budget)).fit
    share = np.concatenate([[0], half := np.geomspace(1e-5, 0.5, 60), 1 - half[:-1], [1]])
    mu = fit.mu_a - share * (shift - fit.near)
    total = 0.0
    for group, means, (low, _) in ((fit.a, mu, fit.spreads[0]), (fit.b, mu + shift, fit.spreads[1])):
        logs = np.linspace(low, 2, 150)[:, None] + 0 * means
        total = total + group.values(means + 0 * logs, logs).max(axis=0)
    least = 2 * (fit.most - total.max())
    assert fit.lost(shift) == pytest.approx(least, rel=0.02, abs=0.01)
    assert fit.lost(shift) <= least + 1e-6


@pytest.mark.skipif(importlib.util.find_spec("lifelines") is None, reason="lifelines is not installed")
def test_fit_agrees_with_lifelines():
    import lifelines
    import pandas as pd

    a, b = on_grid(CONV), on_grid(ATTENTION, budget=800)
    frame = pd.DataFrame({"lower": np.r_[a[0], b[0]], "upper": np.r_[a[1], b[1]], "b": [0] * 5 + [1] * 5})
    fitter = lifelines.LogNormalAFTFitter(penalizer=0.0)
    fitter.fit_interval_censoring(frame, "lower", "upper", ancillary=True)
    found, mu = Profile(*a, *b).fit, fitter.params_["mu_"]
    assert found.shift == pytest.approx(mu["b"], abs=1e-3)
    assert found.most == pytest.approx(fitter.log_likelihood_, abs=1e-3)


# ------------------------------------------------------------------ censored times


def test_a_fine_grid_changes_the_interval_by_less_than_its_ratio():
    exact = aft(CONV, CONV, ATTENTION, ATTENTION)
    found = aft(*on_grid(CONV, ratio=1.02), *on_grid(ATTENTION, ratio=1.02))
    assert np.log([found.ratio, found.low, found.high]) == pytest.approx(
        np.log([exact.ratio, exact.low, exact.high]), abs=math.log(1.02)
    )


def test_censoring_the_slower_group_widens_the_interval_upwards():
    full, cut = aft(*on_grid(CONV), *on_grid(ATTENTION)), aft(*on_grid(CONV), *on_grid(ATTENTION, budget=800))
    assert cut.high > full.high
    assert cut.high / cut.ratio > full.high / full.ratio
    assert not cut.pooled and cut.bound == ""


def test_exchanging_the_groups_inverts_the_ratio():
    a, b = on_grid(CONV), on_grid(ATTENTION, budget=800)
    one, other = aft(*a, *b), aft(*b, *a)
    assert other.ratio == pytest.approx(1 / one.ratio, rel=1e-6)
    assert (other.low, other.high) == pytest.approx((1 / one.high, 1 / one.low), rel=1e-4)
    assert other.p == pytest.approx(one.p, rel=1e-4)


def test_the_higher_hill_is_found_from_either_side():
    # a in one interval, b wide: at ratio 1 b gives way. Starting on the wrong side loses 45 instead of 36.
    a, b = ([100] * 5, [110] * 5), on_grid(np.exp(np.random.default_rng(0).normal(7, 0.3, 6)))
    assert Profile(*a, *b).fit.lost(0.0) == pytest.approx(36.25, abs=0.01)
    assert Profile(*b, *a).fit.lost(0.0) == pytest.approx(36.25, abs=0.01)


def test_the_unit_of_the_times_does_not_matter():
    a, b = on_grid(CONV), on_grid(ATTENTION, budget=800)
    one, other = aft(*a, *b), aft(*(1e12 * x for x in (*a, *b)))
    assert (other.ratio, other.low, other.high) == pytest.approx((one.ratio, one.low, one.high), rel=1e-4)


def test_a_group_that_never_got_there_gives_a_lower_bound_only():
    found = aft(*on_grid(CONV), [900.0] * 5, [math.inf] * 5)
    assert (found.ratio, found.high, found.bound) == (math.inf, math.inf, "lower")
    assert 1.5 < found.low < 900 / np.exp(np.log(CONV).mean())
    assert found.pooled, "five censored runs show no spread of their own"
    assert found.p < 0.05


def test_the_lower_bound_from_the_other_side_is_an_upper_one():
    one, other = (
        aft(*on_grid(CONV), [900.0] * 5, [math.inf] * 5),
        aft([900.0] * 5, [math.inf] * 5, *on_grid(CONV)),
    )
    assert (other.ratio, other.low, other.bound) == (0, 0, "upper")
    assert other.high == pytest.approx(1 / one.low, rel=1e-4)


def test_a_group_that_was_there_at_the_first_evaluation_gives_a_lower_bound_only():
    found = aft([0.0] * 5, [10.0] * 5, *on_grid(ATTENTION))
    assert (found.ratio, found.high, found.bound) == (math.inf, math.inf, "lower")
    assert 10 < found.low < ATTENTION.mean() / 10


def test_seeds_in_one_interval_are_as_uncertain_as_the_grid_is_wide():
    # Five seeds a group in (100, 110] and (200, 220]: the spread is log(1.1) / sqrt(12) before its n - 1.
    found = aft([100] * 5, [110] * 5, [200] * 5, [220] * 5)
    assert found.sigma_a == pytest.approx(math.log(1.1) / math.sqrt(12) * math.sqrt(5 / 4), rel=1e-6)
    assert found.ratio == pytest.approx(2, rel=1e-6)
    assert found.low < 1.97 and found.high > 2.03


def test_exact_times_without_spread_have_a_narrow_interval_and_no_error():
    found = aft([100] * 3, [100] * 3, [200] * 3, [200] * 3)
    assert found.low < 2 < found.high < 2.01


def test_too_few_runs_that_emerged_allow_every_ratio():
    found = aft([100, 500], [110, math.inf], [500, 500], [math.inf, math.inf])
    assert (found.low, found.high) == (0, math.inf)
    assert math.isnan(found.p)


def test_a_run_that_was_never_observed_says_nothing():
    a, b = on_grid(CONV), on_grid(ATTENTION, budget=800)
    extra = np.r_[b[0], 0.0], np.r_[b[1], math.inf]
    one, other = aft(*a, *b), aft(*a, *extra)
    assert (other.ratio, other.low, other.high) == pytest.approx((one.ratio, one.low, one.high), rel=1e-9)


@pytest.mark.parametrize("budget", [500, 800, math.inf])
def test_holds_says_what_the_interval_says(budget):
    profile = Profile(*on_grid(CONV), *on_grid(ATTENTION, budget=budget))
    low, high = profile.interval(confidence=0.9)
    inside = [low * 1.001, math.sqrt(low * min(high, 1e6)), min(high * 0.999, 1e6)]
    assert all(profile.holds(ratio, confidence=0.9) for ratio in inside)
    assert not profile.holds(low * 0.999, confidence=0.9)
    assert math.isinf(high) or not profile.holds(high * 1.001, confidence=0.9)


@pytest.mark.parametrize("budget", [500, 800, math.inf])
def test_p_is_where_the_interval_ends_at_1(budget):
    a, b = on_grid(CONV), on_grid(ATTENTION, budget=budget)
    p = aft(*a, *b).p
    ended = aft(*a, *b, confidence=1 - p)
    assert min(abs(math.log(x)) for x in (ended.low, ended.high) if 0 < x < math.inf) < 1e-4


def test_the_calibration_is_wider_than_chi_square(monkeypatch):
    a, b = on_grid(CONV), on_grid(ATTENTION, budget=800)
    calibrated = aft(*a, *b)
    monkeypatch.setattr(aft_module, "critical", lambda t, **_: stats.chi2.ppf(0.95, 1))
    large_sample = Profile(*a, *b).interval()
    assert calibrated.low < large_sample[0] < large_sample[1] < calibrated.high


# ------------------------------------------------------------------ refusals


def test_one_seed_is_refused():
    with pytest.raises(ValueError, match=r"^an interval needs at least 2 seeds, got 1$"):
        aft([1], [2], [1, 2], [2, 3])


def test_both_groups_beyond_observation_are_refused():
    with pytest.raises(
        ValueError, match=r"^not reached by the budget by all 2 and 3 seeds, so there is no ratio$"
    ):
        aft([9] * 2, [math.inf] * 2, [9] * 3, [math.inf] * 3)
    with pytest.raises(ValueError, match=r"^reached at the first evaluation by all 2 and 2 seeds"):
        aft([0] * 2, [9] * 2, [0] * 2, [9] * 2)


def test_a_group_that_was_never_observed_is_refused():
    with pytest.raises(ValueError, match=r"^no run of group b was observed: all 2 lie in \(0, inf\]$"):
        aft([1, 2], [2, 3], [0, 0], [math.inf] * 2)


@pytest.mark.parametrize("lower, upper", [(-1, 2), (3, 2), (math.nan, 2), (0, 0), (math.inf, math.inf)])
def test_bounds_that_are_no_interval_are_refused(lower, upper):
    with pytest.raises(
        ValueError, match=r"^run 1 of group a has the bounds .*; accepted: 0 <= lower <= upper"
    ):
        aft([1, lower], [2, upper], [1, 2], [2, 3])


def test_bounds_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match=r"^group b has 3 lower and 2 upper bounds; a run has both$"):
        aft([1, 2], [2, 3], [1, 2, 3], [2, 3])
