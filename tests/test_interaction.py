"""Two changes together: the interaction over paired seeds, its coverage and its sentence."""

import numpy as np
import pandas as pd
import pytest

from lmbench.analysis.interaction import interaction, interaction_sentence, interaction_table
from lmbench.analysis.intervals import t_interval

ARMS = {"neither": "base", "first": "sched", "second": "filtered", "both": "sched, filtered"}


def runs(*columns):
    """One column of losses for each of base, sched, filtered and both."""
    return pd.DataFrame(
        [
            {"label": label, "init_seed": seed, "bits_per_byte": value}
            for label, values in zip(ARMS.values(), columns, strict=True)
            for seed, value in enumerate(values)
        ]
    )


EXACT = runs([2.0, 2.2], [2.1, 2.3], [1.9, 2.1], [1.9, 2.0])


def test_the_interaction_is_the_difference_of_differences_of_each_seed():
    found = interaction(EXACT, **ARMS)
    # Seed 0: (1.9 - 1.9) - (2.1 - 2.0) = -0.1; seed 1: (2.0 - 2.1) - (2.3 - 2.2) = -0.2.
    assert found.interaction.value == pytest.approx(-0.15)
    assert found.interaction == pytest.approx(t_interval([-0.1, -0.2]))
    assert (found.first.value, found.second.value) == (pytest.approx(0.1), pytest.approx(-0.1))
    assert found.both.value == pytest.approx((-0.1 - 0.2) / 2)


def test_additive_effects_have_none_and_factors_have_none_on_the_log_scale():
    base = np.array([2.0, 2.3, 1.8])
    added = runs(base, base + 0.3, base - 0.2, base + 0.1)
    assert interaction(added, **ARMS).interaction.value == pytest.approx(0)
    multiplied = runs(base, base * 1.5, base * 0.8, base * 1.2)
    assert interaction(multiplied, scale="log", **ARMS).interaction.value == pytest.approx(0)
    assert interaction(multiplied, **ARMS).interaction.value != pytest.approx(0)


def test_what_a_seed_adds_to_all_arms_changes_nothing():
    shifted = EXACT.assign(bits_per_byte=EXACT["bits_per_byte"] + 5.0 * EXACT["init_seed"])
    assert interaction(shifted, **ARMS).interaction.value == pytest.approx(-0.15)


def test_the_interval_covers_the_true_interaction_in_95_percent():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(150):
        seeds = rng.standard_normal(5)
        noise = 0.1 * rng.standard_normal((4, 5))
        known = interaction(runs(*(noise + seeds + [[0], [0.3], [0.2], [0.1]])), **ARMS).interaction
        covered += known.low <= -0.4 <= known.high
    assert 0.90 <= covered / 150 <= 0.99


def test_the_table_holds_every_effect_with_its_arms():
    table = interaction_table(interaction(EXACT, **ARMS))
    assert table["effect"].tolist() == ["first", "second", "both", "interaction"]
    assert table["arms"].iloc[3] == "(sched, filtered − filtered) − (sched − base)"
    log = interaction_table(interaction(EXACT, scale="log", **ARMS))
    assert log["difference"].iloc[0] == pytest.approx(((2.1 / 2.0) * (2.3 / 2.2)) ** 0.5)


def test_the_sentence_says_which_way_or_that_it_is_not_decided():
    base = np.array([2.0, 2.3, 1.8, 2.1])
    wobble = np.array([0.0, 0.001, -0.001, 0.0])
    better = interaction_sentence(interaction(runs(base, base + 0.1, base, base - 0.1 + wobble), **ARMS))
    assert "is favourable" in better
    worse = interaction_sentence(interaction(runs(base, base + 0.1, base, base + 0.3 + wobble), **ARMS))
    assert "is unfavourable" in worse
    assert "is not decided: the interval holds 0" in interaction_sentence(interaction(EXACT, **ARMS))


def test_a_design_that_is_no_two_by_two_is_refused():
    with pytest.raises(ValueError, match="needs 4 different arms, got base, sched, filtered, base"):
        interaction(EXACT, **(ARMS | {"both": "base"}))
    with pytest.raises(ValueError, match="scale 'logs'"):
        interaction(EXACT, scale="logs", **ARMS)
    with pytest.raises(ValueError, match="at least 2 seeds, got 1"):
        interaction(EXACT[EXACT["init_seed"] == 0], **ARMS)
    with pytest.raises(ValueError, match="the log scale needs values above 0, got -1"):
        interaction(EXACT.assign(bits_per_byte=-1.0), scale="log", **ARMS)
