"""In which order capabilities emerge within a model: medians, paired ratios, sign tests and their words."""

import math

import pandas as pd
import pytest

from lmbench.analysis.order import onset_table, order_sentences, order_table

NEVER = math.inf
T_95 = 4.302653  # 97.5% point of Student's t with 2 degrees of freedom
LN2 = math.log(2)


def onsets(cells, **fixed):
    """Rows from {(label, task, level): [(lower, upper) of each seed]}."""
    rows = [
        {
            "run": f"{label}{seed}", "label": label, "init_seed": seed, "task": task, "level": level,
            "metric": "score", "threshold": 0.5, "unit": "step", "lower": float(lower), "upper": upper,
            "emerged": math.isfinite(upper), "loss": math.nan, "last": 1280.0, "latest": 1280.0,
        }
        | fixed
        for (label, task, level), bounds in cells.items()
        for seed, (lower, upper) in enumerate(bounds)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def of(**capabilities):
    """Onsets of one model; each capability is a task's level 0."""
    return onsets({("ssm", task, "0"): bounds for task, bounds in capabilities.items()})


def at(*times):
    """Intervals of a grid whose steps grow by a quarter."""
    return [(time, 1.25 * time) for time in times]


def only(table):
    (row,) = table.to_dict("records")
    return row


# ------------------------------------------------------------------ when each emerges


def test_the_median_is_the_interval_by_which_half_of_the_runs_got_there():
    table = onset_table(of(recall=[(80, 160)] * 3, chain=[(10, 20), (20, 40), (20, 40)]))
    assert table["task"].tolist() == ["chain", "recall"], "earliest first"
    assert table[["median_low", "median_high"]].to_numpy().tolist() == [[20, 40], [80, 160]]
    assert table[["n", "emerged"]].to_numpy().tolist() == [[3, 3], [3, 3]]
    assert table["last"].tolist() == [1280, 1280]


def test_the_mean_is_geometric_over_the_middles_of_the_intervals():
    row = only(onset_table(of(chain=[(10, 20), (20, 40), (40, 80)])))
    # The middles are sqrt(200) times 1, 2 and 4: the deviation of the logs is ln 2.
    half = T_95 * LN2 / math.sqrt(3)
    mean = math.sqrt(800)
    assert row["mean"] == pytest.approx(mean)
    assert (row["low"], row["high"]) == pytest.approx((mean / math.exp(half), mean * math.exp(half)))


@pytest.mark.parametrize("bounds", [(0, 20), (160, NEVER)])
def test_a_run_that_is_censored_on_either_side_leaves_a_median_and_no_mean(bounds):
    row = only(onset_table(of(chain=[(20, 40), (20, 40), bounds])))
    assert (row["median_low"], row["median_high"]) == (20, 40)
    assert all(math.isnan(row[name]) for name in ("mean", "low", "high"))


def test_one_seed_has_a_mean_and_no_interval():
    row = only(onset_table(of(chain=[(10, 40)])))
    assert row["mean"] == pytest.approx(20)
    assert math.isnan(row["low"]) and math.isnan(row["high"])


def test_the_mean_of_runs_between_the_same_two_evaluations_is_not_known_exactly():
    row = only(onset_table(of(chain=[(10, 20)] * 3)))
    # What a grid of ratio 2 leaves open has a deviation of ln 2 / sqrt(12).
    half = T_95 * LN2 / math.sqrt(12) / math.sqrt(3)
    mean = math.sqrt(200)
    assert (row["low"], row["high"]) == pytest.approx((mean / math.exp(half), mean * math.exp(half)))


def test_the_share_that_emerged_has_clopper_and_pearsons_interval():
    cells = {"chain": [(10, 20)] * 3, "recall": [(10, 20), (1280, NEVER), (1280, NEVER)]}
    table = onset_table(of(**cells)).set_index("task")
    assert table["emerged"].to_dict() == {"chain": 3, "recall": 1}
    assert (table.loc["chain", "share_low"], table.loc["chain", "share_high"]) == pytest.approx(
        (0.025 ** (1 / 3), 1)
    )
    assert table.loc["recall", "share_low"] == pytest.approx(1 - 0.975 ** (1 / 3))


def test_a_median_that_is_not_reached_is_no_number_and_stands_last():
    table = onset_table(of(recall=[(10, 20), (1280, NEVER), (1280, NEVER)], chain=[(640, 1280)] * 3))
    assert table["task"].tolist() == ["chain", "recall"]
    assert table["median_high"].isna().tolist() == [False, True]
    assert table["median_low"].isna().tolist() == [False, True]


def test_models_stand_apart():
    table = onset_table(onsets({("b", "chain", "0"): [(10, 20)], ("a", "chain", "0"): [(40, 80)]}))
    assert table[["label", "median_high"]].to_numpy().tolist() == [["a", 80], ["b", 20]]
    assert order_table(onsets({("b", "chain", "0"): [(10, 20)], ("a", "recall", "0"): [(40, 80)]})).empty


@pytest.mark.parametrize("asked", [{"unit": "tokens"}, {"metric": "answer_nll"}, {"threshold": 0.7}])
def test_onsets_of_another_unit_metric_or_threshold_do_not_count(asked):
    column, value = next(iter(asked.items()))
    mine = of(chain=[(10, 20)] * 2, recall=[(20, 40)] * 2)
    rows = pd.concat([mine, mine.assign(lower=640.0, upper=1280.0, **{column: value})])
    assert onset_table(rows)["median_high"].tolist() == [20, 40]
    assert onset_table(rows, **asked)["median_high"].tolist() == [1280, 1280]
    with pytest.raises(ValueError, match="^there are no onsets of answer_nll at threshold 0.25 in flops$"):
        onset_table(rows, unit="flops", threshold=0.25, metric="answer_nll")
    with pytest.raises(ValueError, match="^there are no onsets of score at threshold 0.9 in step$"):
        order_table(rows, threshold=0.9)


# ------------------------------------------------------------------ in which order


def test_neighbours_are_compared_by_the_ratio_of_each_run():
    # Four, two and eight times later: the logs are 2, 1 and 3 ln 2.
    row = only(order_table(of(chain=at(10, 20, 10), recall=at(40, 40, 80))))
    assert (row["first"], row["then"], row["n"]) == ("chain 0", "recall 0", 3)
    half = math.exp(T_95 * LN2 / math.sqrt(3))
    assert (row["ratio"], row["low"], row["high"]) == pytest.approx((4, 4 / half, 4 * half))
    # With 2 degrees of freedom p is 1 - t / sqrt(t^2 + 2), and t is 2 ln 2 / (ln 2 / sqrt 3).
    assert row["p"] == pytest.approx(1 - math.sqrt(12 / 14))


def test_what_seeds_share_does_not_blur_a_paired_ratio():
    """Times differ a thousandfold between seeds, ratios little; no order of the rows changes that."""
    rows = of(chain=at(10, 300, 10_000), recall=at(20, 1200, 80_000))
    half = math.exp(T_95 * LN2 / math.sqrt(3))
    for order in (rows, rows[::-1], rows.sample(frac=1, random_state=0)):
        row = only(order_table(order))
        assert (row["ratio"], row["low"]) == pytest.approx((4, 4 / half))


@pytest.mark.parametrize("chain", [at(10, 10, 10), at(10, 30, 17)])
def test_seeds_that_agree_up_to_the_grid_are_not_certain(chain):
    """Each ratio is 2, to the last digit or nearly so: what the grid leaves open decides, not rounding."""
    row = only(order_table(of(chain=chain, recall=[(2 * low, 2 * high) for low, high in chain])))
    error = math.log(1.25) * math.sqrt(2 / 12) / math.sqrt(3)  # both times are known to ln 1.25 / sqrt(12)
    assert (row["ratio"], row["low"]) == pytest.approx((2, 2 * math.exp(-T_95 * error)))
    t = LN2 / error
    assert row["p"] == pytest.approx(1 - t / math.sqrt(t**2 + 2))


def test_times_that_are_known_to_wide_intervals_have_a_sign_test_and_no_ratio():
    chain, recall = [(10, 15)] * 3, [(40, 60)] * 3
    assert only(order_table(of(chain=chain, recall=recall)))["ratio"] == pytest.approx(4)
    row = only(order_table(of(chain=chain, recall=[(40, 60), (40, 60), (40, 61)])))
    assert math.isnan(row["ratio"]) and row["p"] == pytest.approx(2 / 2**3)


def test_the_estimate_decides_which_of_two_came_first():
    """Medians say chain before recall, the ratios of the runs say recall before chain."""
    row = only(order_table(of(chain=at(100, 100, 4000), recall=at(110, 110, 40))))
    assert (row["first"], row["then"]) == ("recall 0", "chain 0")
    mean = (1.1 * 1.1 / 100) ** (1 / 3)
    assert row["ratio"] == pytest.approx(1 / mean)
    assert row["low"] < row["ratio"] < row["high"]
    # The same by signs: medians of 20 and 25, but recall is earlier in two of three runs.
    chain, recall = [(0, 4), (19, 20), (29, 30)], [(24, 25), (17, 18), (27, 28)]
    assert onset_table(of(chain=chain, recall=recall))["task"].tolist() == ["chain", "recall"]
    row = only(order_table(of(chain=chain, recall=recall)))
    assert (row["first"], row["then"], row["p"]) == ("recall 0", "chain 0", 1)


def test_neighbours_are_neighbours_in_time_whatever_their_names():
    table = order_table(of(route=[(10, 20)] * 2, chain=[(40, 80)] * 2, recall=[(20, 40)] * 2))
    assert table[["first", "then"]].to_numpy().tolist() == [["route 0", "recall 0"], ["recall 0", "chain 0"]]


def test_a_capability_that_no_run_shows_is_in_no_pair():
    table = order_table(of(chain=[(10, 20)] * 2, route=[(1280, NEVER)] * 2, recall=[(20, 40)] * 2))
    assert table[["first", "then"]].to_numpy().tolist() == [["chain 0", "recall 0"]]


def test_a_pair_with_a_censored_run_has_a_sign_test_and_no_ratio():
    chain, recall = [(10, 20)] * 5, [(40, 80)] * 4 + [(1280, NEVER)]
    row = only(order_table(of(chain=chain, recall=recall)))
    assert all(math.isnan(row[name]) for name in ("ratio", "low", "high"))
    assert (row["p"], row["n"]) == (pytest.approx(2 / 2**5), 5)


def test_a_sign_test_counts_what_is_ordered_for_certain():
    chain = [(0, 20)] * 4 + [(40, 80), (0, 20)]
    recall = [(40, 80)] * 4 + [(20, 40), (10, 40)]
    # Four before, one after; the last run's intervals overlap and say nothing. P(0, 1, 4 or 5 of 5) = 12/32.
    row = only(order_table(of(chain=chain, recall=recall)))
    assert (row["p"], row["n"]) == (pytest.approx(12 / 32), 6)


def test_a_pair_that_no_run_orders_has_no_p():
    row = only(order_table(of(chain=[(0, 20)] * 3, recall=[(0, 40)] * 3)))
    assert math.isnan(row["p"]) and math.isnan(row["p_holm"])


def test_one_seed_decides_nothing():
    row = only(order_table(of(chain=[(10, 20)], recall=[(20, 40)])))
    assert (row["p"], row["n"]) == (1, 1)
    assert math.isnan(row["low"]) and math.isnan(row["high"])


def test_p_values_are_adjusted_over_the_whole_table():
    """Two models of two pairs each: four tests are one family."""
    early, late = [(10, 20)] * 6, [(40, 80)] * 5 + [(1280, NEVER)]
    latest = [(160, 320)] * 5 + [(1280, NEVER)]
    cells = {(label, task, "0"): bounds for label in ("a", "b")
             for task, bounds in (("chain", early), ("recall", late), ("route", latest))}  # fmt: skip
    table = order_table(onsets(cells))
    p = [2 / 2**6, 2 / 2**5] * 2
    assert table["p"].tolist() == pytest.approx(p)
    assert table["p_holm"].tolist() == pytest.approx([4 * p[0], 2 * p[1]] * 2)
    assert list(table) == ["label", "first", "then", "ratio", "low", "high", "p", "p_holm", "n"]


# ------------------------------------------------------------------ in words

FAR = {
    "chain": at(16, 20, 16, 20),
    "recall": at(160, 320, 80, 320),
}


def test_a_decided_order_is_told_with_its_medians():
    rows = of(**FAR, route=[(1280, NEVER)] * 4)
    assert order_table(rows)["p_holm"].item() < 0.05
    assert order_sentences(rows) == [
        "ssm: in order of their medians chain 0 (16.0 to 20.0 steps, 4 of 4), "
        "recall 0 (160 to 200 steps, 4 of 4); not reached by 1.28 k steps: route 0; "
        "decided between neighbours: chain 0 before recall 0."
    ]


def test_an_order_is_decided_at_the_level_that_was_asked_for():
    p = order_table(of(**FAR))["p_holm"].item()
    assert order_sentences(of(**FAR), alpha=1.01 * p)[0].endswith("neighbours: chain 0 before recall 0.")
    assert order_sentences(of(**FAR), alpha=0.99 * p)[0].endswith("neighbours: none.")


def test_an_order_that_seeds_do_not_agree_on_is_not_decided():
    rows = of(chain=[(10, 20)] * 3, recall=[(20, 40), (40, 80), (0, 20)])
    assert order_sentences(rows)[0].endswith("; decided between neighbours: none.")


def test_a_median_that_is_not_reached_is_told_by_the_runs_that_got_there():
    (said,) = order_sentences(of(chain=[(10, 20), (1280, NEVER), (1280, NEVER)]))
    assert said == "ssm: reached without a median: chain 0 (1 of 3 seeds)."


def test_levels_without_a_median_have_no_place_in_the_order():
    (said,) = order_sentences(of(chain=[(1280, NEVER), (1280, NEVER), (10, 20)], recall=[(20, 40)] * 3))
    assert said.startswith(
        "ssm: in order of their medians recall 0 (20.0 to 40.0 steps, 3 of 3); reached without a median: "
        "chain 0 (1 of 3 seeds); "
    )


def test_levels_that_nobody_reached_are_told_by_when_they_could_have_been():
    parts = [of(chain=[(1280, NEVER)] * 2), of(route=[(1280, NEVER)] * 2).assign(latest=640.0),
             of(recall=[(640, NEVER), (1280, NEVER)]).assign(latest=640.0)]  # fmt: skip
    assert order_sentences(pd.concat(parts)) == [
        "ssm: nothing emerged; not reached by 1.28 k steps: chain 0; not reached by 640 steps: route 0, "
        "recall 0 (1 more at the end)."
    ]


def test_an_order_in_every_seed_that_no_sign_test_can_decide_is_told_as_such():
    wide = {"chain": [(10, 20)] * 4, "recall": [(40, 80)] * 4}
    (said,) = order_sentences(of(**wide))
    assert said.endswith(
        "; decided between neighbours: none; in 4 of 4 seeds, which a sign test cannot decide among 1 pair "
        "(p at least 0.125, before the adjustment): chain 0 before recall 0."
    )


def test_a_model_without_any_onset_is_told_by_its_budget():
    rows = of(chain=[(1280, NEVER)] * 2, recall=[(1280, NEVER)] * 2)
    assert order_sentences(rows) == ["ssm: nothing emerged; not reached by 1.28 k steps: chain 0, recall 0."]


def test_a_capability_of_one_seed_is_told_without_an_order():
    assert order_sentences(of(chain=[(10, 20)], recall=[(20, 40)])) == [
        "ssm: in order of their medians chain 0 (10.0 to 20.0 steps, 1 of 1), "
        "recall 0 (20.0 to 40.0 steps, 1 of 1); decided between neighbours: none."
    ]


@pytest.mark.parametrize(
    "unit, said",
    [
        ("tokens", "40.0 tokens"), ("bytes", "40.0 bytes"), ("flops", "40.0 FLOPs"),
        ("seconds", "40.0 seconds"),
    ],
)  # fmt: skip
def test_times_are_told_in_their_unit(unit, said):
    rows = of(chain=[(20, 40)] * 2).assign(unit=unit)
    assert order_sentences(rows, unit=unit) == [
        f"ssm: in order of their medians chain 0 (20.0 to {said}, 2 of 2)."
    ]


def test_each_model_has_a_sentence_of_its_own():
    rows = onsets({("b", "chain", "0"): [(10, 20)] * 2, ("a", "chain", "0"): [(1280, NEVER)] * 2})
    assert [said.partition(":")[0] for said in order_sentences(rows)] == ["a", "b"]


def test_what_was_there_at_the_first_point_is_told_so():
    (said,) = order_sentences(of(chain=[(0, 20)] * 3))
    assert said == "ssm: in order of their medians chain 0 (by the first point, 20.0 steps, 3 of 3)."
