"""The best setting of a sweep: its interval covers the true one, and a U is only found where there is one."""

import numpy as np
import pandas as pd
import pytest

from lmbench.analysis.optimum import optimum, optimum_sentence, sweep_values, two_lines

SETTINGS = np.array([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
NEARLY_FLAT = -0.05 * SETTINGS
CURVES = {
    "sharp": 10 * (SETTINGS - 0.4) ** 2,
    "shallow": 0.5 * (SETTINGS - 0.4) ** 2,
    "at the first": SETTINGS,
    "nearly flat": NEARLY_FLAT,
    "first of equals": np.where(SETTINGS == 0, 0.0, 0.05),
}


def draw(curve, *, n, spread, rng):
    """Values of n seeds; a seed shifts all of its settings alike."""
    noise = spread * rng.standard_normal((n, len(curve))) + rng.standard_normal((n, 1))
    return pd.DataFrame(curve + noise, columns=SETTINGS[: len(curve)])


def frame(values):
    return values.rename_axis(columns="C", index="init_seed").stack().rename("loss").reset_index()


def test_the_best_setting_is_that_of_the_lowest_mean():
    values = pd.DataFrame([[3, 1, 2], [3, 1.2, 2.1], [3.1, 1.1, 2]], columns=[0.0, 0.3, 0.5])
    found = optimum(values)
    assert (found.best, found.low, found.high, found.n) == (0.3, 0.3, 0.3, 3)
    assert not found.at_edge
    assert found.share > 0.95


def test_settings_that_do_not_differ_all_stay_in_the_interval():
    rng = np.random.default_rng(3)
    found = optimum(draw(np.zeros(8), n=5, spread=0.1, rng=rng))
    assert (found.low, found.high) == (0.0, 0.7)
    assert found.at_edge


def test_what_a_seed_adds_to_all_settings_changes_nothing():
    values = draw(CURVES["shallow"], n=4, spread=0.05, rng=np.random.default_rng(1))
    shifted = values.add([10.0, -4.0, 3.0, 0.0], axis=0)
    assert optimum(shifted)[:3] == optimum(values)[:3]


def test_equal_seeds_of_the_resampling_give_equal_intervals():
    values = draw(CURVES["shallow"], n=4, spread=0.05, rng=np.random.default_rng(1))
    assert optimum(values, seed=5) == optimum(values, seed=5)


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("n", [3, 5])
def test_the_interval_covers_the_best_setting_in_at_least_95_percent(name, n):
    rng, best = np.random.default_rng(11), SETTINGS[CURVES[name].argmin()]
    covered = 0
    for i in range(120):
        found = optimum(draw(CURVES[name], n=n, spread=0.1, rng=rng), seed=i, n_resamples=500)
        covered += found.low <= best <= found.high
    assert covered / 120 >= 0.95 - 0.04  # two standard errors


def test_a_clear_minimum_has_a_narrow_interval():
    rng = np.random.default_rng(2)
    found = [optimum(draw(CURVES["sharp"], n=5, spread=0.02, rng=rng)) for _ in range(30)]
    assert all((one.low, one.high) == (0.4, 0.4) for one in found)


@pytest.mark.parametrize(
    "curve",
    [SETTINGS, 0 * SETTINGS, np.minimum(SETTINGS, 0.35), np.maximum(SETTINGS - 0.35, 0), SETTINGS**3],
    ids=["line", "flat", "rises, then flat", "flat, then rises", "convex"],
)
def test_a_monotone_curve_is_called_a_u_in_at_most_5_percent(curve):
    rng = np.random.default_rng(4)
    found = [two_lines(draw(curve, n=5, spread=0.05, rng=rng)) for _ in range(300)]
    assert sum(one.is_u for one in found) / 300 <= 0.05 + 0.026  # two standard errors
    assert sum(one.is_inverted for one in found) / 300 <= 0.05 + 0.026


def test_a_u_and_its_mirror_are_found():
    rng = np.random.default_rng(5)
    curve = 4 * (SETTINGS - 0.4) ** 2
    up = two_lines(draw(curve, n=5, spread=0.05, rng=rng))
    down = two_lines(draw(-curve, n=5, spread=0.05, rng=rng))
    assert (up.is_u, up.is_inverted) == (True, False)
    assert (down.is_u, down.is_inverted) == (False, True)
    assert up.before.value < 0 < up.after.value
    assert down.after.value < 0 < down.before.value
    assert down.before.low < down.before.value < down.before.high
    assert 0.2 <= up.turn <= 0.6


def test_slopes_are_those_of_lines_through_the_settings_on_either_side():
    values = pd.DataFrame([[1.0, 0.0, 2.0], [1.0, 0.0, 2.2], [1.1, 0.1, 2.2]], columns=[0.0, 0.5, 1.0])
    found = two_lines(values)
    assert found.turn == 0.5
    assert found.before.value == pytest.approx(-2.0)
    assert found.after.value == pytest.approx((4.0 + 4.4 + 4.2) / 3)
    assert found.is_u


def test_the_sentence_names_the_settings_and_an_end_in_the_interval():
    values = pd.DataFrame([[1, 2, 3], [1.1, 2, 3.2], [1, 2.1, 3]], columns=[0.0, 0.3, 0.5])
    said = optimum_sentence(optimum(values), unit="bits per byte")
    assert said.startswith(
        "The lowest bits per byte is at C = 0 of 3 settings from 0 to 0.5 (95% interval 0 to 0, 3 seeds)."
    )
    assert said.endswith("so the best C may lie beyond it.")


def test_a_sweep_needs_settings_seeds_and_pairs():
    values = draw(SETTINGS[:3], n=3, spread=0.1, rng=np.random.default_rng(0))
    long = frame(values)
    assert sweep_values(long.sample(frac=1, random_state=0), setting="C", value="loss").shape == (3, 3)
    with pytest.raises(ValueError, match="at least 3 settings, got 2"):
        sweep_values(long[long["C"] < 0.15], setting="C", value="loss")
    with pytest.raises(ValueError, match="at least 2 seeds, got 1"):
        sweep_values(long[long["init_seed"] == 0], setting="C", value="loss")
    with pytest.raises(ValueError, match="init_seed 2 has no run at C 0.2"):
        sweep_values(long.iloc[:-1], setting="C", value="loss")
    with pytest.raises(ValueError, match="C 0 has init_seed 0 twice"):
        sweep_values(pd.concat([long, long.iloc[:1]]), setting="C", value="loss")
