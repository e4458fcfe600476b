"""How many seeds a claim needs: power against simulation, half-widths, pilots."""

import math

import numpy as np
import pytest
from scipy import stats

from lmbench.analysis.planning import Spread, half_width, plan_seeds, plan_sentence, power_of, sigma_of
from tests.test_earlier import ATTENTION, both


@pytest.mark.parametrize("n, factor", [(3, 2.21), (5, 1.67), (10, 1.39), (20, 1.25)])
def test_half_widths_at_the_usual_spread(n, factor):
    # By hand for 5: t(0.975; 8) = 2.306, times 0.35 sqrt(2 / 5) = 0.2214, is log 1.666.
    assert half_width(0.35, n) == pytest.approx(factor, abs=0.006)


def test_half_width_of_unequal_spreads_uses_welchs_df():
    # One spread negligible: the t of that group alone, 4.3027 * 0.35 / sqrt(3).
    assert half_width(1e-9, 3, sigma_b=0.35) == pytest.approx(
        math.exp(4.302653 * 0.35 / math.sqrt(3)), rel=1e-6
    )


@pytest.mark.parametrize("n, ratio, sigma_b", [(3, 3.0, 0.35), (5, 2.0, 0.35), (5, 2.0, 0.1)])
def test_power_is_that_of_simulated_welch_tests(n, ratio, sigma_b):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 0.35, (20_000, n)), rng.normal(math.log(ratio), sigma_b, (20_000, n))
    simulated = np.mean(stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue < 0.05)
    # Three standard errors of 20,000 experiments are at most 0.011.
    assert power_of(0.35, ratio, n=n, sigma_b=sigma_b) == pytest.approx(simulated, abs=0.011)


def test_power_without_a_difference_is_the_level():
    # Welch's test is a little careful with 10 and 10: its true level lies just below 0.05.
    assert power_of(0.35, 1 + 1e-9, n=10) == pytest.approx(0.05, abs=0.002)


def test_the_plan_is_the_least_number_that_has_the_power():
    n = plan_seeds(0.35, 1.5)
    assert n == 13
    assert power_of(0.35, 1.5, n=n) >= 0.8 > power_of(0.35, 1.5, n=n - 1)


def test_three_seeds_do_not_show_a_factor_of_two():
    assert plan_seeds(0.35, 2.0) == 6
    assert power_of(0.35, 2.0, n=3) < 0.45


def test_earlier_and_later_take_as_many_seeds():
    assert plan_seeds(0.35, 1.5) == plan_seeds(0.35, 1 / 1.5)


def test_a_large_effect_takes_two():
    assert plan_seeds(0.01, 10.0) == 2


def test_sigma_of_a_pilot_and_its_chi_square_interval():
    found = sigma_of(both(), "attention", task="route", level="2")
    sd = np.log(ATTENTION).std(ddof=1)
    assert (found.sigma, found.n, found.emerged) == (pytest.approx(sd), 5, 5)
    # Quantiles of chi-square with 4 df: 0.484419 and 11.143287.
    assert found.low == pytest.approx(sd * math.sqrt(4 / 11.143287), rel=1e-6)
    assert found.high == pytest.approx(sd * math.sqrt(4 / 0.484419), rel=1e-5)


def test_sigma_of_a_censored_pilot_is_larger_than_that_of_the_runs_that_got_there():
    found = sigma_of(both(budget=800), "attention", task="route", level="2")
    assert (found.n, found.emerged) == (5, 3)
    assert found.sigma > np.log(ATTENTION[ATTENTION < 800]).std(ddof=1)


def test_the_sentence_carries_the_pilots_own_uncertainty():
    said = plan_sentence(Spread(0.35, 0.21, 1.0, 6, 5), 1.5)
    assert said == (
        "To show that a model is 1.5 times earlier (two-sided Welch's t on log times, p < 0.05, power 80%) "
        "takes 13 seeds a group, if log T has the pilot's standard deviation of 0.35. The pilot "
        "(5 of 6 seeds emerged) knows it to 0.21 to 1 (95% interval), which makes 6 to 97. With 13 the "
        "ratio is known to a factor of 1.33."
    )
    assert "6 to more than 50" in plan_sentence(Spread(0.35, 0.21, 1.0, 6, 5), 1.5, most=50)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: plan_seeds(0.35, 1.0), r"^ratio is 1; it is above 0 and not 1"),
        (lambda: plan_seeds(0.0, 2.0), r"^sigma is 0; a standard deviation of log times is above 0"),
        (lambda: plan_seeds(0.3, 2.0, sigma_b=-1.0), r"^sigma_b is -1; a standard deviation"),
        (lambda: plan_seeds(0.3, 2.0, power=1.0), r"^power is 1; it lies between 0 and 1"),
        (lambda: plan_seeds(0.35, 1.01, most=100), r"^a ratio of 1.01 takes more than 100 seeds a group"),
        (lambda: half_width(0.35, 1), r"^an interval needs at least 2 seeds, got 1$"),
        (
            lambda: sigma_of(both(budget=450), "attention", task="route", level="2"),
            r"^a spread needs at least 2 runs that emerged between two evaluations, got 0 of 5 seeds of 'att",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
