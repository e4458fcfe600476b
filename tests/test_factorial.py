"""Two-level designs: names of cells, aliases, exact effects, coverage of intervals, and what is refused."""

import math

import numpy as np
import pandas as pd
import pytest

from lmbench.analysis import factorial
from lmbench.analysis.distillation_arms import (
    FACTORS,
    cell,
    factorial_cells,
    factors_of,
    family_of,
    settings_of,
    with_settings,
)
from lmbench.analysis.factorial import cell_table, effect_sentences, effects, effects_panel, superadditivity
from lmbench.analysis.factorial_design import design_of, fraction_of
from lmbench.analysis.factorial_simple import simple_effects, simple_sentences
from lmbench.analysis.interaction import interaction

METRIC = "bits_per_byte"
HALF = ["hard", "Q+P", "Q+KD", "Q+ENT", "P+KD", "P+ENT", "KD+ENT", "Q+P+KD+ENT"]


def runs(cells, values, *, seeds=3, noise=0.0, shifts=0.0, rng=None):
    """One row a cell and seed; `values` maps tuples of factors to what they add where all are on."""
    rng = rng or np.random.default_rng(0)
    shift = shifts * rng.standard_normal(seeds)
    rows = []
    for label in cells:
        on = factors_of(label)
        mean = 2.0 + sum(value for factors, value in values.items() if set(factors) <= on)
        rows += [(label, seed, mean + shift[seed] + noise * rng.standard_normal()) for seed in range(seeds)]
    return pd.DataFrame(rows, columns=["label", "init_seed", METRIC])


def found(table, effect):
    return table.set_index("effect").loc[effect]


# ------------------------------------------------------------------ names


def test_a_cell_is_named_in_the_order_of_the_factors_and_the_empty_one_is_the_hard_student():
    assert cell({"KD", "Q"}) == "Q+KD"
    assert cell([]) == "hard"
    assert factors_of("Q+KD") == {"Q", "KD"}
    assert factors_of("hard") == factors_of("none") == frozenset()
    assert factors_of("KD+Q") is None
    assert factors_of("teacher") is None


def test_a_factor_that_the_design_lacks_is_refused():
    with pytest.raises(ValueError, match="factor 'X' is not one of the design; accepted: Q, P, KD, ENT"):
        cell({"X"})


def test_the_half_has_the_cells_with_an_even_number_of_factors():
    assert factorial_cells(half=True) == HALF
    assert len(factorial_cells()) == len(set(factorial_cells())) == 16


def test_names_of_sweeps_say_their_settings():
    assert settings_of("bits=4 ptq mse") == {"bits": 4.0, "method": "ptq mse"}
    assert settings_of("tau=2 alpha=0.5") == {"tau": 2.0, "alpha": 0.5}
    assert settings_of("V1 literal") == settings_of("Q+P") == {}
    assert [family_of(name) for name in ("teacher", "hard", "Q", "bits=4 qat", "joint", "x")] == [
        "teacher", "dense student", "factorial cell", "bits", "joint or in sequence", "other",
    ]  # fmt: skip


def test_rows_with_settings_are_those_whose_names_say_some():
    frame = pd.DataFrame({"label": ["hard", "bits=4 qat", "density=0.5"], "density": [1.0, 1.0, 0.5]})
    rows = with_settings(frame)
    assert rows["label"].tolist() == ["bits=4 qat", "density=0.5"]
    assert rows["bits"].tolist()[0] == 4
    assert math.isnan(rows["density"].iloc[0])


# ------------------------------------------------------------------ designs


def test_the_half_confuses_main_effects_with_three_factors_and_pairs_with_pairs():
    design = design_of(HALF)
    assert design.relation == ((FACTORS, 1),)
    assert str(design) == "8 of 16 cells of the 2^4 design, I = Q×P×KD×ENT"
    aliases = {"×".join(alias.words[0]): "×".join(alias.words[1]) for alias in design.effects}
    assert aliases == {
        "Q": "P×KD×ENT", "P": "Q×KD×ENT", "KD": "Q×P×ENT", "ENT": "Q×P×KD",
        "Q×P": "KD×ENT", "Q×KD": "P×ENT", "Q×ENT": "P×KD",
    }  # fmt: skip


def test_the_other_half_has_the_relation_with_a_minus():
    odd = [name for name in factorial_cells() if name not in HALF]
    design = design_of(odd)
    assert str(design).endswith("I = −Q×P×KD×ENT")
    assert effects(runs(odd, {}))["aliases"].tolist()[0] == "− P×KD×ENT"


def test_a_full_design_confuses_nothing_and_estimates_all_fifteen_effects():
    design = design_of(factorial_cells())
    assert design.relation == ()
    assert [len(alias.words) for alias in design.effects] == [1] * 15
    assert str(design) == "all 16 cells of the 2^4 design"


def test_the_largest_fraction_is_used_and_says_what_it_leaves_out():
    design = design_of([*HALF, "Q", "teacher"])
    assert (len(design.cells), design.left_out) == (8, ("Q",))
    small = design_of(["hard", "Q", "KD", "Q+KD", "P"])
    assert (small.factors, small.left_out) == (("Q", "KD"), ("P",))


def test_cells_that_are_no_design_are_refused():
    assert fraction_of(["hard", "Q"]) is None
    with pytest.raises(ValueError, match="half design of two or more factors: 'hard', 'Q'; needed"):
        design_of(["hard", "Q", "teacher"])


# ------------------------------------------------------------------ effects


def test_effects_are_exact_without_noise_and_an_interaction_is_half_of_what_one_changes_in_the_other():
    values = {("Q",): 0.1, ("KD",): -0.05, ("Q", "KD"): 0.04}
    table = effects(runs(factorial_cells(), values))
    assert found(table, "Q")["difference"] == pytest.approx(0.1 + 0.02)
    assert found(table, "KD")["difference"] == pytest.approx(-0.05 + 0.02)
    assert found(table, "Q×KD")["difference"] == pytest.approx(0.02)
    rest = table[~table["effect"].isin(["Q", "KD", "Q×KD"])]
    assert rest["difference"].to_numpy() == pytest.approx(0, abs=1e-12)


def test_simple_effects_are_those_without_the_other_factor_and_with_it():
    table = simple_effects(
        runs(factorial_cells(), {("KD",): -0.08, ("P", "KD"): 0.09}), factor="KD", given="P"
    )
    assert table["difference"].tolist() == pytest.approx([-0.08, 0.01])
    assert table["is_on"].tolist() == [False, True] and set(table["aliases"]) == {""}
    half = simple_effects(runs(HALF, {}), factor="KD", given="P")
    assert half["aliases"].tolist() == ["Q×ENT", "Q×ENT"]
    with pytest.raises(ValueError, match="unknown factor of the design 'ENT'; accepted: P, Q"):
        simple_effects(runs(["hard", "Q", "P", "Q+P"], {}), factor="ENT", given="P")


def test_an_interaction_is_half_the_difference_of_its_simple_effects():
    rows = runs(factorial_cells(), {("P", "KD"): 0.3}, noise=0.01, seeds=4)
    apart = simple_effects(rows, factor="KD", given="P")["difference"]
    assert found(effects(rows), "P×KD")["difference"] == pytest.approx((apart[1] - apart[0]) / 2)


def test_a_decided_interaction_is_told_with_both_simple_effects():
    rows = runs(factorial_cells(), {("KD",): -0.08, ("P", "KD"): 0.09}, noise=1e-4, seeds=3)
    (said,) = simple_sentences(rows, effects(rows), unit="bits per byte")
    assert said.startswith("P×KD apart: KD without P −0.0") and ", with P +0.0" in said
    assert simple_sentences(runs(HALF, {}), effects(runs(HALF, {})), unit="bits per byte") == []


def test_in_the_half_an_effect_is_the_sum_of_its_aliases():
    table = effects(runs(HALF, {("Q", "KD"): 0.04, ("P", "ENT"): 0.06}))
    row = found(table, "Q×KD")
    assert row["difference"] == pytest.approx(0.02 + 0.03)
    assert row["aliases"] == "+ P×ENT"


def test_an_interaction_of_two_factors_is_half_of_the_two_by_two_interaction():
    rows = runs(["hard", "Q", "P", "Q+P"], {("Q", "P"): 0.3}, noise=0.1, seeds=4)
    both = interaction(rows, neither="hard", first="Q", second="P", both="Q+P").interaction
    row = found(effects(rows), "Q×P")
    assert 2 * row["difference"] == pytest.approx(both.value)
    assert (2 * row["low"], 2 * row["high"]) == pytest.approx((both.low, both.high))
    assert row["p"] == pytest.approx(both.p)


def test_what_a_seed_shifts_in_all_cells_changes_no_interval():
    rows = runs(HALF, {("P",): 0.1}, noise=0.02)
    shifted = rows.assign(**{METRIC: rows[METRIC] + 10.0 * rows["init_seed"]})
    columns = ["difference", "low", "high", "p"]
    np.testing.assert_allclose(effects(rows)[columns], effects(shifted)[columns], rtol=1e-9, atol=1e-9)


def test_holms_family_are_the_effects_up_to_the_order_asked_for():
    rows = runs(factorial_cells(), {}, noise=0.1)
    assert effects(rows)["p_holm"].notna().sum() == 10
    assert effects(rows, order=1)["p_holm"].notna().sum() == 4
    assert effects(rows, order=4)["p_holm"].notna().all()


def test_intervals_cover_the_true_effects_and_holm_keeps_the_family_error():
    rng, truth = np.random.default_rng(7), {"Q": 0.05, "P": 0.1, "KD": -0.05, "Q×P": 0.01}
    values = {("Q",): 0.04, ("P",): 0.09, ("KD",): -0.05, ("Q", "P"): 0.02}
    hits, together, wrong = [], [], 0
    for _ in range(150):
        rows = runs(HALF, values, seeds=4, noise=0.05, shifts=0.3, rng=rng)
        table, both = effects(rows).set_index("effect"), superadditivity(rows)
        together.append(both.low <= 0.02 <= both.high)
        true = pd.Series(truth).reindex(table.index, fill_value=0.0)
        hits += ((table["low"] <= true) & (true <= table["high"])).tolist()
        wrong += bool((table["p_holm"][true == 0] < 0.05).any())
    assert len(hits) == 1050
    assert 0.93 < np.mean(hits) < 0.97  # 0.95, and three standard errors of 1050 are 0.02
    assert 0.9 < np.mean(together) < 0.99
    assert wrong / 150 < 0.05 + 0.05


def test_one_seed_has_effects_without_intervals_and_decides_nothing():
    table = effects(runs(HALF, {("P",): 0.1}, seeds=1))
    assert found(table, "P")["difference"] == pytest.approx(0.1)
    assert table[["low", "high", "p", "p_holm"]].isna().all(axis=None)
    assert all("is not decided" in text for text in effect_sentences(table, unit="bits per byte"))


# ------------------------------------------------------------------ synergy


def test_together_against_the_sum_of_each_is_exact_in_the_full_design_and_in_the_half():
    values = {("Q",): 0.3, ("ENT",): -0.1, ("Q", "KD"): 0.04, ("P", "ENT"): -0.06}
    for cells in (factorial_cells(), HALF):
        assert superadditivity(runs(cells, values)).value == pytest.approx(-0.02)


def test_the_half_cannot_see_an_interaction_of_four_for_itself_but_the_full_design_can():
    values = {("Q", "P", "KD", "ENT"): -0.5}
    assert superadditivity(runs(factorial_cells(), values)).value == pytest.approx(-0.5)
    assert superadditivity(runs(HALF, values)).value == pytest.approx(1.5 * -0.5)


def test_a_design_that_does_not_say_it_is_refused():
    odd = [name for name in factorial_cells() if name not in HALF]
    with pytest.raises(ValueError, match="I = −Q×P×KD×ENT does not say what the factors do together"):
        superadditivity(runs(odd, {}))


# ------------------------------------------------------------------ words, tables, refusals


def test_sentences_say_the_side_the_interval_and_the_aliases():
    rng = np.random.default_rng(3)
    rows = runs(HALF, {("P",): 0.2, ("KD",): -0.2}, noise=0.01, seeds=5, rng=rng)
    said = effect_sentences(effects(rows), unit="bits per byte")
    assert len(said) == 7
    assert ": half the difference of differences is " in said[4] and "half" not in said[1]
    assert said[1].startswith("P (together with Q×KD×ENT) worsens the score on average: +0.2")
    assert said[2].startswith("KD (together with Q×P×ENT) improves the score on average: −0.")
    assert "5 seeds" in said[0]
    higher = effect_sentences(effects(rows), unit="accuracy", better="higher")
    assert "P (together with Q×KD×ENT) improves" in higher[1]


def test_the_table_of_cells_says_what_is_on():
    table = cell_table(runs([*HALF[::-1]], {("P",): 0.1}))
    assert table["cell"].tolist()[0] == "hard"
    assert table["cell"].tolist()[-1] == "Q+P+KD+ENT"
    assert table.set_index("cell").loc["Q+P", ["Q", "P", "KD", "ENT"]].tolist() == [True, True, False, False]
    assert table.set_index("cell").loc["Q+P", "mean"] == pytest.approx(2.1)


def test_seeds_that_lack_a_cell_or_have_it_twice_and_diverged_runs_are_refused():
    rows = runs(HALF, {})
    with pytest.raises(ValueError, match="cell 'Q\\+P' has no init_seed 1; every init_seed must have"):
        effects(rows[(rows["label"] != "Q+P") | (rows["init_seed"] != 1)])
    with pytest.raises(ValueError, match="cell 'hard' has init_seed 0 twice; keep one row a init_seed"):
        effects(pd.concat([rows, rows.iloc[:1]]))
    with pytest.raises(ValueError, match="1 of 24 values of bits_per_byte in the cells"):
        effects(rows.assign(**{METRIC: rows[METRIC].where(rows.index != 5)}))
    with pytest.raises(ValueError, match="unknown column 'nll'"):
        effects(rows, value="nll")


def test_the_figure_fills_what_is_decided_and_its_caption_names_the_relation():
    rows = runs(HALF, {("P",): 0.2}, noise=0.01, seeds=5)
    table = effects(rows)
    fig = effects_panel(table, design=design_of(HALF))
    assert "8 of 16 cells of the 2^4 design, I = Q×P×KD×ENT." in fig.caption
    assert "Holm, 7 effects" in fig.caption
    fills = [line.get_markerfacecolor() for line in fig.axes[0].lines if line.get_marker() == "o"]
    decided = [factorial.is_decided(row) for row in table.itertuples()]
    assert [fill != "white" for fill in fills] == decided
    assert decided[1]
    assert not all(decided)
    assert fig.svg() == effects_panel(table, design=design_of(HALF)).svg()
