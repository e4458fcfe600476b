"""Convergence of a student to its teacher: the fitted floor, its interval, and times below a target."""

import math

import numpy as np
import pytest

from lmbench.measure.convergence import fit_floor, fraction_below, time_below

STEPS = np.arange(1, 26) * 100.0
FAST = {"n_resamples": 200, "seed": 0}


def curves(floor, *, runs=1, noise=0.02, spread=0.0, seed=0):
    """(R, T) power laws with relative errors, whose floors differ by `spread` from run to run."""
    rng = np.random.default_rng(seed)
    floor_R1 = floor * np.exp(spread * rng.normal(size=(runs, 1)))
    return (floor_R1 + 3 * STEPS**-0.5) * np.exp(noise * rng.normal(size=(runs, len(STEPS))))


@pytest.mark.parametrize(("floor", "scale", "exponent"), [(0.05, 3, 0.5), (0.0, 20, 0.8), (0.2, 1000, 1.5)])
def test_an_exact_power_law_is_found(floor, scale, exponent):
    found = fit_floor(STEPS, floor + scale * STEPS**-exponent, **FAST)
    assert found.k_inf == pytest.approx(floor, abs=1e-5)
    assert (found.scale, found.exponent) == pytest.approx((scale, exponent), rel=1e-4)
    assert not found.at_edge and (found.runs, found.points) == (1, 25)


def test_scaling_the_curve_scales_the_floor_and_the_unit_of_steps_changes_nothing():
    kl = curves(0.1, runs=3)
    one, tenfold = fit_floor(STEPS, kl, **FAST), fit_floor(STEPS / 100, 10 * kl, **FAST)
    assert tenfold.k_inf == pytest.approx(10 * one.k_inf, rel=1e-6)
    assert tenfold.low == pytest.approx(10 * one.low, rel=1e-6) and tenfold.exponent == pytest.approx(
        one.exponent
    )


@pytest.mark.parametrize("runs", [1, 4])
def test_a_floor_is_told_from_none(runs):
    positive, none = (fit_floor(STEPS, curves(floor, runs=runs), **FAST) for floor in (0.1, 0.0))
    assert positive.is_positive and positive.p < 0.05 and positive.low < 0.1 < positive.high
    assert not none.is_positive and none.p > 0.05 and none.low < 0 < none.high


@pytest.mark.parametrize(("floor", "runs", "spread"), [(0.0, 1, 0.0), (0.0, 3, 0.0), (0.1, 3, 0.1)])
def test_intervals_hold_the_floor_nearly_as_often_as_they_say(floor, runs, spread):
    """80 experiments at 95%: 66 is what a coverage of 0.9 gives less than once in 50 times."""
    held = 0
    for seed in range(80):
        kl = curves(floor, runs=runs, spread=spread, seed=seed)
        found = fit_floor(STEPS, kl, n_resamples=100, seed=seed)
        held += found.low <= floor <= found.high
    assert held >= 66


def test_the_seed_decides():
    kl = curves(0.1, runs=3)
    assert fit_floor(STEPS, kl, **FAST) == fit_floor(STEPS, kl, **FAST)
    assert fit_floor(STEPS, kl, **FAST) != fit_floor(STEPS, kl, **FAST | {"seed": 1})


def test_an_exponent_at_the_end_of_its_range_is_said():
    found = fit_floor(STEPS, 5 - 0.5 * np.log(STEPS), **FAST)
    assert found.at_edge


def test_times_below_are_intervals_and_need_to_last():
    steps = [10, 20, 30, 40]
    assert time_below(steps, [3, 0.5, 2, 0.9], epsilon=1) == (30, 40), "what is lost again does not count"
    assert time_below(steps, [3, 2, 0.9, 0.8], epsilon=1) == (20, 30)
    assert time_below(steps, [0.9, 0.5, 0.4, 0.3], epsilon=1) == (0, 10)
    assert time_below(steps, [3, 0.5, 0.4, 1.0], epsilon=1) == (40, math.inf), "right-censored"


def test_the_fraction_of_seeds_has_clopper_and_pearsons_interval():
    found = fraction_below([0.1] * 20, epsilon=0.2)
    assert found[:3] == (20, 20, 1.0) and found.low == pytest.approx(0.025 ** (1 / 20)) and found.high == 1
    assert fraction_below([0.1, 0.2, 0.3], epsilon=0.2).reached == 1
    assert fraction_below([0.1, math.inf], epsilon=0.2).value == 0.5, "a diverged seed did not reach it"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: fit_floor(STEPS[:4], curves(0.1)[:, :4], seed=0), "steps holds 4 points"),
        (lambda: fit_floor(STEPS, curves(0.1)[:, :9], seed=0), r"kl has shape \(1, 9\) for 25 steps"),
        (lambda: fit_floor(STEPS - 100, curves(0.1), seed=0), "they are more than 0 and increase"),
        (lambda: fit_floor(STEPS, curves(0.1) - 1, seed=0), "finite and more than 0"),
        (lambda: fit_floor(STEPS, curves(0.1), seed=0, confidence=1.0), "confidence = 1.0 is not accepted"),
        (lambda: time_below([1], [1.0], epsilon=0), "epsilon = 0 is not accepted"),
        (lambda: fraction_below([], epsilon=1), "kl holds 0 values"),
        (lambda: fraction_below([math.nan], epsilon=1), "kl holds 1 values of which 1 are no numbers"),
    ],
)
def test_what_is_no_curve_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
