"""Generalization: gaps beside the score in distribution, readings that decide no more than the tests do."""

import math

import pandas as pd
import pytest

from lmbench.analysis.against import against, flip_rows, settings
from lmbench.analysis.generalization import family_table, gaps, generalization_sentences
from lmbench.analysis.generalization_figures import curve_panel, domain_panel, family_panel
from lmbench.analysis.stats import paired_differences
from lmbench.analysis.text_domains import domain_gaps, domain_reading, domain_table

SHIFTED = "0, names=second"
FAMILIES = {"novel names": [("chain", "0", SHIFTED)]}


def rows_of(values, *, task="chain", metric="score"):
    """`values` maps (label, level) to one value a seed."""
    return pd.DataFrame(
        [
            (label, seed, task, level, metric, value)
            for (label, level), each in values.items()
            for seed, value in enumerate(each)
        ],
        columns=["label", "init_seed", "task", "level", "metric", "value"],
    )


def ladder_of(rungs, *, task="chain", metric="score"):
    """`rungs` maps a level to (chance, bayes)."""
    return pd.DataFrame(
        [
            (task, level, metric, rung, value)
            for level, ends in rungs.items()
            for rung, value in zip(("chance", "bayes"), ends, strict=True)
        ],
        columns=["task", "level", "metric", "rung", "value"],
    )


LADDER = ladder_of({"0": (0.2, 1.0), SHIFTED: (0.0, 0.5), "3": (0.2, 1.0)})
# In distribution 0.75 and 1 of the way from chance to Bayes; shifted 0.5 and 0.6.
ONE = rows_of({("mlp", "0"): (0.8, 1.0), ("mlp", SHIFTED): (0.25, 0.3)})


def two_models(*, gap, spread=0.0):
    """Both perfect in distribution; `b` loses 0.1 of the normalised score and `a` that and `gap` more."""
    noise = (spread, -spread, 0.5 * spread, -0.5 * spread, 0.0)
    values = {(label, "0"): [1.0] * 5 for label in ("a", "b")}
    values["a", SHIFTED] = [0.5 * (0.9 - gap - x) for x in noise]
    values["b", SHIFTED] = [0.45 - 1e-4 * seed for seed in range(5)]
    return rows_of(values)


# ------------------------------------------------------------------ gaps


def test_a_gap_is_the_share_of_the_learnable_that_is_lost_by_each_levels_own_ladder():
    table = gaps(ONE, LADDER, families=FAMILIES)
    assert table["normalised_within"].tolist() == pytest.approx([0.75, 1.0])
    assert table["normalised"].tolist() == pytest.approx([0.5, 0.6])
    assert table["gap"].tolist() == pytest.approx([0.25, 0.4])


def test_the_gap_of_an_nll_is_that_of_the_information_captured():
    ladder = ladder_of({"0": (2.0, 0.0), SHIFTED: (4.0, 0.0)}, metric="answer_nll")
    rows = rows_of({("mlp", "0"): (1.0,), ("mlp", SHIFTED): (3.0,)}, metric="answer_nll")
    assert gaps(rows, ladder, families=FAMILIES, metric="answer_nll")["gap"].tolist() == [0.25]


def test_the_table_has_a_row_for_each_member_and_model_and_never_a_total():
    families = FAMILIES | {"length": [("chain", "0", "3")]}
    rows = pd.concat([ONE, rows_of({("mlp", "3"): (0.4, 0.6)})])
    table = family_table(rows, LADDER, families=families).set_index("family")
    assert list(table.index) == ["novel names", "length"]
    row = table.loc["novel names"]
    assert row[["mean", "within_mean", "gap"]].tolist() == pytest.approx([0.275, 0.9, 0.325])
    assert row[["chance", "bayes", "within_chance", "within_bayes"]].tolist() == [0.0, 0.5, 0.2, 1.0]
    assert row["n"] == 2
    # t of 1 degree of freedom is 12.706; the standard error of 0.25 and 0.4 is 0.075.
    assert row["gap_high"] - row["gap"] == pytest.approx(12.7062 * 0.075, rel=1e-4)
    assert row["high"] - row["mean"] == pytest.approx(12.7062 * 0.025, rel=1e-4)
    # p of t = 0.325 / 0.075 with 1 degree of freedom, 1 - 2 atan(t) / pi; the only test of its family.
    assert row["p"] == pytest.approx(1 - 2 * math.atan(0.325 / 0.075) / math.pi)
    assert row["p_holm"] == row["p"]


def test_p_values_are_adjusted_within_a_family():
    families = {"both": [("chain", "0", SHIFTED), ("chain", "0", "3")]}
    rows = pd.concat([ONE, rows_of({("mlp", "3"): (0.4, 0.6)})])
    table = family_table(rows, LADDER, families=families)
    assert table["p_holm"].max() > table["p"].max() - 1e-12
    assert table["p_holm"].min() == pytest.approx(2 * table["p"].min())


def test_one_seed_has_values_and_no_interval():
    row = family_table(ONE[ONE["init_seed"] == 0], LADDER, families=FAMILIES).iloc[0]
    assert row["gap"] == pytest.approx(0.25) and row["n"] == 1
    assert all(math.isnan(row[name]) for name in ("low", "within_high", "gap_low", "p", "p_holm"))


def test_models_stand_in_the_order_of_the_rows():
    rows = pd.concat([ONE.assign(label="z"), ONE.assign(label="a")])
    assert list(family_table(rows, LADDER, families=FAMILIES)["label"]) == ["z", "a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"families": {}}, "families is empty; it maps a family to"),
        (
            {"families": {"x": [("chian", "0", SHIFTED)]}},
            "unknown task 'chian'; accepted: chain. Did you mean",
        ),
        (
            {"families": {"x": [("chain", "0", "0, names=secnd")]}},
            "unknown level of task 'chain' '0, names=se",
        ),
        ({"metric": "scores"}, "unknown metric 'scores'; accepted: score. Did you mean 'score'?"),
        ({"rows": ONE.drop(columns="init_seed")}, "unknown column 'init_seed'"),
        (
            {"rows": ONE[1:]},
            "label 'mlp' has no value of task 'chain' level '0' for init_seed 0, only of lev",
        ),
        (
            {"rows": ONE[:-1]},
            f"has no value of task 'chain' level '{SHIFTED}' for init_seed 1, only of level",
        ),
        (
            {"rows": pd.concat([ONE, ONE])},
            "label 'mlp' has init_seed 0 of task 'chain' level '0, names=secon",
        ),
        ({"ladder": LADDER[:2]}, "the score ladder has no task 'chain' level '0, names=second'"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    given = {"rows": ONE, "ladder": LADDER, "families": FAMILIES} | change
    with pytest.raises(ValueError, match=message):
        family_table(**given)


# ------------------------------------------------------------------ in words


def test_the_model_that_loses_least_is_named_where_the_difference_is_sure():
    told = generalization_sentences(two_models(gap=0.3), LADDER, families=FAMILIES)["novel names"]
    assert "best first: b 0.1" in told
    assert "B loses least: holds (1 of 1 comparisons show it, 0 the opposite)" in told
    assert "b is lower than a: −0.29960 of the normalised score lost" in told


def test_it_is_not_decided_where_the_interval_holds_0_or_there_is_one_seed():
    rows = two_models(gap=0.02, spread=0.2)
    told = generalization_sentences(rows, LADDER, families=FAMILIES)["novel names"]
    assert "loses least: not decided" in told and "the interval holds 0" in told
    told = generalization_sentences(rows[rows["init_seed"] == 0], LADDER, families=FAMILIES)["novel names"]
    assert "loses least: not decided" in told and "an interval needs at least 2 seeds, got 1" in told


def test_the_correction_counts_all_pairs_on_all_members_of_the_family():
    """A pair that alone is below 0.05 is not decided beside the many of its family."""
    rows = two_models(gap=0.12, spread=0.12)
    p = paired_differences(
        gaps(rows, LADDER, families=FAMILIES), group="label", unit="init_seed", value="gap"
    )["p"].item()
    assert 0.025 < p < 0.05
    alone = generalization_sentences(rows, LADDER, families=FAMILIES)["novel names"]
    assert "B loses least: holds" in alone
    # The second member is the first one again, so that two tests of the same p are made.
    again = pd.concat([rows, rows.assign(task="recall")])
    ladder = pd.concat([LADDER, LADDER.assign(task="recall")])
    families = {"names": [("chain", "0", SHIFTED), ("recall", "0", SHIFTED)]}
    told = generalization_sentences(again, ladder, families=families)["names"]
    assert told.count("B loses least: not decided") == 2 and f"p = {2 * p:.3f}" in told


def test_a_model_that_learned_nothing_does_not_lose_least():
    rows = two_models(gap=0.3)
    ignorant = rows_of({("c", "0"): [0.2, 0.21, 0.2, 0.22, 0.2], ("c", SHIFTED): [0.0] * 5})
    told = generalization_sentences(pd.concat([rows, ignorant]), LADDER, families=FAMILIES)["novel names"]
    assert "B loses least: holds (1 of 1" in told
    assert "Not compared, as they do not surely reach 0.5 in distribution: c 0.01." in told
    told = generalization_sentences(pd.concat([ignorant]), LADDER, families=FAMILIES)["novel names"]
    assert "is not decided: no 2 can be compared" in told and "holds" not in told


def test_where_all_fall_to_chance_the_one_that_knew_least_does_not_win():
    known = {("a", "0"): [1.0, 0.98, 0.99, 1.0, 0.97], ("b", "0"): [0.8, 0.79, 0.81, 0.8, 0.78]}
    chance = LADDER[(LADDER["level"] == SHIFTED) & (LADDER["rung"] == "chance")]["value"].item()
    rows = rows_of(known | {("a", SHIFTED): [chance] * 5, ("b", SHIFTED): [chance] * 5})
    told = generalization_sentences(rows, LADDER, families=FAMILIES)["novel names"]
    assert "none is surely above chance, so the loss is what was known (a 0.99, b 0.75)" in told
    assert "holds" not in told and "best first" not in told


def test_each_family_has_a_paragraph_of_its_own():
    families = FAMILIES | {"length": [("chain", "0", "3")]}
    rows = pd.concat([ONE, rows_of({("mlp", "3"): (0.4, 0.6)})])
    told = generalization_sentences(rows, LADDER, families=families, known=0.0)
    assert list(told) == ["novel names", "length"]
    assert "chain 3 (in distribution: 0)" in told["length"]


# ------------------------------------------------------------------ along a shift


def test_settings_are_read_off_the_levels():
    levels = ["0", "0, rewrites=4", "0, rewrites=8, shift=4", "2, names=second"]
    assert list(settings(levels, "rewrites", usual=1).values()) == [1, 4, 8, 1]
    assert settings(levels, "shift", usual=0)["0, rewrites=8, shift=4"] == 4
    with pytest.raises(ValueError, match="level '2, names=second' says names='second', which is no number"):
        settings(levels, "names", usual=0)


def test_against_has_means_and_the_ladder_at_each_x_in_order():
    values = {("mlp", "3"): (0.4, 0.6), ("mlp", "0"): (0.8, 1.0), ("mlp", SHIFTED): (0.1, 0.1)}
    table = against(rows_of(values), x={"3": 16, 0: 4}, ladder=LADDER)
    assert table["x"].tolist() == [4, 16]
    assert table["mean"].tolist() == pytest.approx([0.9, 0.5])
    assert table["chance"].tolist() == [0.2, 0.2] and table["bayes"].tolist() == [1.0, 1.0]
    assert table["high"][0] - table["mean"][0] == pytest.approx(12.7062 * 0.1, rel=1e-4)
    assert against(rows_of(values), x={"3": 16})["chance"].isna().all()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"7": 1}, "the rows have none of the levels of x: 7"),
        ({}, "none of the levels of x: it is empty"),
        ({"0": 1, SHIFTED: 1}, "task 'chain' has two levels at x = 1; give x only one of them"),
    ],
)
def test_an_x_that_fits_no_curve_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        against(ONE, x=x)


def test_a_seed_twice_and_an_unknown_metric_are_refused():
    with pytest.raises(
        ValueError, match="label 'mlp' has init_seed 0 of level '0' twice; keep one row a seed"
    ):
        against(pd.concat([ONE, ONE]), x={"0": 1})
    with pytest.raises(ValueError, match="unknown metric 'nll'; accepted: score"):
        against(ONE, x={"0": 1}, metric="nll")


def test_flip_curves_are_rows_with_the_budget_as_level():
    curves = pd.DataFrame(
        {"label": "mlp", "init_seed": [0, 0, 1, 1], "kind": "greedy", "budget": [0, 2, 0, 2]}
        | {"nll": [1.0, 1.5, 1.2, 1.9], "n": 10}
    )
    table = against(flip_rows(curves), x={"0": 0, "2": 2}, metric="nll")
    assert table["task"].tolist() == ["greedy", "greedy"]
    assert table["mean"].tolist() == pytest.approx([1.1, 1.7])


# ------------------------------------------------------------------ text

SCORES = pd.DataFrame(
    [
        (label, seed, text, value + 0.01 * seed)
        for label, known, held in (("lstm", 2.0, 2.3), ("mlp", 2.5, 2.6))
        for seed in range(3)
        for text, value in (("in-domain", known), ("held out", held + 0.001 * seed))
    ],
    columns=["label", "init_seed", "text", "value"],
)
REFERENCES = {
    text: pd.DataFrame(
        {"predictor": ["unigram", "ngram", "xz"], "order": [0, 4, None], "smoothing": ["", "witten_bell", ""]}
        | {"bits_per_byte": values}
    ).astype({"order": "Int64"})
    for text, values in (("in-domain", [4.7, 2.4, 2.9]), ("held out", [4.8, 2.5, 3.0]))
}


def test_the_table_of_domains_has_models_with_intervals_and_predictors_without():
    table = domain_table(SCORES, references=REFERENCES).set_index("predictor")
    assert list(table.index) == ["lstm", "mlp", "unigram", "n-gram order 4", "xz"]
    assert table["n"].tolist() == [3, 3, 0, 0, 0]
    assert table["gap"].tolist() == pytest.approx([0.301, 0.101, 0.1, 0.1, 0.1])
    assert table.loc["lstm", "gap_low"] < 0.301 < table.loc["lstm", "gap_high"]
    assert table.loc["xz", ["gap_low", "held_out_high"]].isna().all()
    assert domain_table(SCORES, references={})["predictor"].tolist() == ["lstm", "mlp"]
    short = domain_table(SCORES, references=REFERENCES, is_short=True)
    assert short["predictor"].tolist() == ["lstm", "mlp", "4-gram", "xz"]
    assert short["held_out"].tolist()[2:] == [2.5, 3.0]


def test_the_reading_names_the_model_and_the_step_of_the_predictors():
    told = domain_reading(SCORES, domain="songs", references=REFERENCES)
    assert "Mlp loses least from the known domains to songs: holds" in told
    assert "The step costs, in bits per byte: " in told and "n-gram order 4 +0.100, xz +0.100" in told
    assert "On the known domains lstm has 2.010 and n-gram order 4, the best of the" in told
    alone = domain_reading(SCORES[SCORES["label"] == "mlp"], domain="songs", references={})
    assert alone == (
        "Mlp loses least from the known domains to songs: not decided, as no other model is compared."
    )


def test_scores_that_are_not_pairs_are_refused():
    with pytest.raises(
        ValueError, match="label 'mlp' init_seed 2 has only one of 'in-domain' and 'held out'"
    ):
        domain_gaps(SCORES[:-1])
    with pytest.raises(ValueError, match="label 'lstm' has init_seed 0 twice; keep one row a seed and text"):
        domain_gaps(pd.concat([SCORES, SCORES[:1]]))
    with pytest.raises(
        ValueError, match="unknown text 'heldout'; accepted: held out, in-domain. Did you mean"
    ):
        domain_gaps(SCORES.replace("held out", "heldout"))
    lacking = REFERENCES | {"held out": REFERENCES["held out"][:2]}
    with pytest.raises(
        ValueError, match="reference predictor 'xz' is given for one of 'in-domain' and 'held"
    ):
        domain_table(SCORES, references=lacking)


# ------------------------------------------------------------------ figures


def test_the_figure_of_families_has_a_panel_each_with_its_members_and_shortcuts():
    families = FAMILIES | {"length": [("chain", "0", "3")]}
    rows = pd.concat([two_models(gap=0.3), rows_of({(name, "3"): [0.6] * 5 for name in "ab"})])
    shortcut = LADDER[:1].assign(level="3", rung="last value", value=0.6)
    fig = family_panel(rows, pd.concat([LADDER, shortcut]), families=families)
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["novel names", "length"]
    assert [tick.get_text() for tick in fig.axes[1].get_yticklabels()] == ["chain 3"]
    assert [text.get_text().strip() for text in fig.axes[1].texts] == ["last value"]
    assert fig.axes[1].texts[0].get_position()[0] == pytest.approx(0.5)  # (0.6 - 0.2) / 0.8
    assert fig.caption == (
        "Markers are means over 5 seeds, bars their 95% t intervals. "
        "Dotted: the best shortcut on the shifted level."
    )
    assert "length, chain 3, a 0.50 of 1.00" in fig.alt
    assert fig.svg() == family_panel(rows, pd.concat([LADDER, shortcut]), families=families).svg()


def test_the_figure_along_a_shift_has_a_panel_a_task_and_the_ladder():
    rows = pd.concat([ONE, rows_of({("mlp", "3"): (0.4, 0.6)})])
    both = pd.concat([rows, rows.assign(task="recall")])
    ladder = pd.concat([LADDER, LADDER.assign(task="recall")])
    fig = curve_panel(both, x={"0": 2, "3": 8}, x_name="length", ladder=ladder, trained_to=2, is_log=True)
    assert [ax.get_title() for ax in fig.axes] == ["chain", "recall"]
    drawn = [line.get_ydata().tolist() for line in fig.axes[0].lines]
    assert [0.2, 0.2] in drawn and [1.0, 1.0] in drawn and [0.9, 0.5] in drawn
    assert fig.axes[0].get_xscale() == "log"
    assert fig.caption.endswith("Shaded: seen in training, up to 2.")
    assert "chain mlp 0.9 at 2, 0.5 at 8" in fig.alt
    with pytest.raises(ValueError, match="length = 0 cannot stand on a logarithmic axis"):
        curve_panel(rows, x={"0": 0, "3": 8}, x_name="length", is_log=True)


def test_the_figure_of_domains_has_a_row_a_predictor():
    table = domain_table(SCORES, references=REFERENCES)
    fig = domain_panel(table, domain="songs")
    names = [tick.get_text() for tick in fig.axes[0].get_yticklabels()]
    assert names == list(table["predictor"])
    assert "Songs left out of training. Markers are means over 3 seeds" in fig.caption
    assert "lstm 2.010 and 2.311" in fig.alt
    with pytest.raises(ValueError, match="the table has reference predictors only"):
        domain_panel(table[table["n"] == 0], domain="songs")


def test_a_figure_of_one_seed_says_that_it_has_no_intervals():
    fig = family_panel(ONE[ONE["init_seed"] == 0], LADDER, families=FAMILIES)
    assert fig.caption == "Markers are means over 1 seed, without intervals."
