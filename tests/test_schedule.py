"""Schedules: values that can be checked by hand."""

import pytest

from lmbench.config import kinds, make


def test_constant_is_one():
    assert make("schedule", "constant").factors(3) == [1.0, 1.0, 1.0]


def test_warmup_rises_linearly_to_one_in_every_kind():
    for name in kinds("schedule"):
        factors = make("schedule", name, warmup=4).factors(8)
        assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0], name


def test_linear_falls_in_equal_steps():
    assert make("schedule", "linear").factors(4) == [1.0, 0.75, 0.5, 0.25]


def test_cosine_is_half_way_at_half_time():
    factors = make("schedule", "cosine", floor=0.1).factors(10)
    assert factors[0] == 1.0
    assert factors[5] == pytest.approx(0.55)


def test_wsd_is_stable_and_falls_in_equal_steps_over_its_last_share():
    assert make("schedule", "wsd", decay=0.5).factors(8) == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert make("schedule", "wsd", decay=0.25, floor=0.5).factors(8) == [1, 1, 1, 1, 1, 1, 1, 0.75]


def test_wsd_spares_its_last_fifth_by_default():
    factors = make("schedule", "wsd").factors(10)
    assert factors[:9] == [1.0] * 9
    assert factors[9] == pytest.approx(0.5)


def test_wsd_rises_stays_and_falls():
    assert make("schedule", "wsd", warmup=2, decay=0.5).factors(6) == [0.5, 1.0, 1.0, 1.0, 1.0, 0.5]


def test_wsd_with_a_square_root_falls_steeply_first():
    factors = make("schedule", "wsd", decay=1, fall="sqrt").factors(16)
    assert [factors[step] for step in (0, 1, 4, 9)] == [1.0, 0.75, 0.5, 0.25]
    floored = make("schedule", "wsd", decay=1, fall="sqrt", floor=0.2).factors(4)
    assert floored[1] == pytest.approx(1 - 0.8 * 0.5)


@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_wsd_that_decays_from_the_start_is_the_linear_schedule(floor):
    linear = make("schedule", "linear", warmup=4, floor=floor).factors(20)
    assert make("schedule", "wsd", warmup=4, decay=1, floor=floor).factors(20) == pytest.approx(linear)


@pytest.mark.parametrize("name", sorted(kinds("schedule")))
def test_a_factor_is_positive_and_at_most_one(name):
    factors = make("schedule", name, warmup=3).factors(50)
    assert all(0 < factor <= 1 for factor in factors)


def test_a_warmup_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="schedule.warmup = 11 is longer than the run of 10 steps"):
        make("schedule", "constant", warmup=11).factors(10)
