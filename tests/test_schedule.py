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


def test_a_warmup_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="schedule.warmup = 11 is longer than the run of 10 steps"):
        make("schedule", "constant", warmup=11).factors(10)
