"""k times earlier: which method speaks, what the sentence says, families of tests, promises."""

import math

import numpy as np
import pandas as pd
import pytest

from lmbench.analysis.aft import aft
from lmbench.analysis.earlier import earlier
from lmbench.analysis.earlier_table import claim_sentence, earlier_table, judge_promise
from lmbench.analysis.earlier_words import times
from lmbench.analysis.intervals import t_interval, welch
from lmbench.analysis.restricted import middle_ratio, restricted_mean_ratio

# Onsets of `route` at look-ahead 2 in a probe, in steps: 5 seeds with short convolution, 5 without.
CONV = np.array([412.0, 352, 300, 445, 520])
ATTENTION = np.array([895.0, 481, 481, 1795, 709])


def rows(label, times, *, budget=2000.0, width=1.02, units=(("step", 1.0),), **fixed):
    """Onsets of one label: each time is the geometric middle of an interval of ratio `width`."""
    fixed = {"task": "route", "level": "2", "metric": "score", "threshold": 0.5} | fixed
    made = []
    for seed, time in enumerate(times):
        late = time > budget
        lower, upper = (budget, math.inf) if late else (time / math.sqrt(width), time * math.sqrt(width))
        for unit, cost in units:
            at = {
                "unit": unit,
                "lower": cost * lower,
                "upper": cost * upper,
                "last": cost * budget,
                "latest": cost * budget,
            }
            made.append({"run": f"{label}-{seed}", "label": label, "init_seed": seed, "emerged": not late})
            made[-1] |= fixed | at
    return pd.DataFrame(made)


def both(a=CONV, b=ATTENTION, **options):
    return pd.concat([rows("conv", a, **options), rows("attention", b, **options)], ignore_index=True)


def route(onsets, a="conv", b="attention", **options):
    return earlier(onsets, a, b, task="route", level="2", permutations=199, **options)


# ------------------------------------------------------------------ method and numbers


def test_the_worked_example_is_not_decided():
    # 1.92, interval 0.99 to 3.74, p = 0.053; a percentile bootstrap would say 1.26 to 3.11.
    found = route(both())
    assert (found.ratio, found.low, found.high, found.p) == pytest.approx(
        (1.921, 0.988, 3.737, 0.0530), abs=1e-3
    )
    assert (found.method, found.decided, found.bound) == ("Welch's t", "not decided", "")
    assert (found.n_a, found.n_b, found.emerged_a, found.emerged_b) == (5, 5, 5, 5)


def test_the_sentence_of_the_worked_example_names_everything():
    assert earlier(both(), "conv", "attention", task="route", level="2").sentence == (
        "Route level 2 (score at 0.5), in steps: not decided whether conv or attention is earlier, as the "
        "interval holds 1 (fitted ratio 1.92, 95% interval of the ratio 0.988 to 3.74, p = 0.053, Welch's t "
        "on log times, 5 and 5 seeds). Emerged by 2,000 steps: conv in 5 of 5 seeds (95% interval 48% to 100%"
        "), attention in 5 of 5 seeds (95% interval 48% to 100%). Log-rank p = 0.032 of equal times."
    )


def test_the_paired_t_is_used_where_it_is_asked_for():
    found, expected = route(both(), paired=True), t_interval(np.log(ATTENTION / CONV))
    assert found.method == "paired t"
    assert (found.low, found.high) == pytest.approx((math.exp(expected.low), math.exp(expected.high)))
    assert "conv is 1.92 times earlier than attention" in found.sentence


def test_any_censoring_takes_the_censored_fit():
    onsets = both(budget=800)
    found = route(onsets)
    a, b = (onsets[onsets["label"] == label] for label in ("conv", "attention"))
    expected = aft(a["lower"], a["upper"], b["lower"], b["upper"])
    assert found.method == "AFT" and found.emerged_b == 3
    assert (found.ratio, found.low, found.high, found.p) == pytest.approx(
        (expected.ratio, expected.low, expected.high, expected.p)
    )


@pytest.mark.parametrize("width, method", [(1.4, "Welch's t"), (1.6, "AFT")])
def test_wide_intervals_are_not_taken_at_their_middles(width, method):
    assert route(both(width=width)).method == method


def test_an_onset_before_the_first_evaluation_is_censored():
    onsets = both()
    onsets.loc[0, "lower"] = 0.0
    assert route(onsets).method == "AFT"


def test_seeds_in_one_interval_do_not_make_a_difference_certain():
    # Middles 100 and 105, within the grid's own width: without a floor the interval would be a point.
    found = route(both([100.0] * 3, [105.0] * 3, width=1.1))
    assert found.method == "Welch's t" and found.low < 1 < found.high
    wide = middle_ratio([1] * 3, [1.1] * 3, [1.1] * 3, [1.21] * 3)
    floor = math.log(1.1) / math.sqrt(12)
    pattern = floor * np.array([-1, 0, 1])
    expected = welch(math.log(1.1) + pattern, pattern)
    assert (wide.low, wide.high) == pytest.approx((math.exp(expected.low), math.exp(expected.high)))


def test_more_than_half_censored_prints_at_least():
    found = route(both(CONV, 3 * ATTENTION))
    assert (found.bound, found.emerged_b, found.decided) == ("lower", 2, "earlier")
    assert (
        f"conv is ≥ {found.restricted_low:.3g} times earlier than attention (ratio of restricted geometric "
        f"means {found.restricted:.3g}, 95% interval {found.restricted_low:.3g} to" in found.sentence
    )
    assert "Fisher's exact p = 0.167 of equal shares" in found.sentence
    assert found.restricted < found.ratio


def test_a_group_that_never_got_there_has_no_ratio_of_medians():
    found = route(both(CONV, 10 * ATTENTION))
    assert (found.ratio, found.high, found.bound) == (math.inf, math.inf, "lower")
    assert "no finite ratio of medians, 95% interval of the ratio 4" in found.sentence
    assert "to infinity" in found.sentence


def test_later_is_told_from_the_side_of_the_earlier():
    one, other = route(both(CONV, 3 * ATTENTION)), route(both(CONV, 3 * ATTENTION), "attention", "conv")
    assert (other.decided, other.bound) == ("later", "upper")
    assert other.ratio == pytest.approx(1 / one.ratio, rel=1e-5)
    assert other.sentence.split(". Emerged")[0] == one.sentence.split(". Emerged")[0]


def test_all_censored_is_a_sentence_and_no_number():
    found = route(both(budget=100))
    assert found.decided == "not reached" and found.method == "none"
    assert all(math.isnan(x) for x in (found.ratio, found.low, found.high, found.p, found.restricted))
    assert found.sentence == (
        "Route level 2 (score at 0.5): not reached: 0 of 5 seeds by 100 steps in conv, "
        "0 of 5 seeds by 100 steps in attention."
    )


def test_all_there_at_the_first_evaluation_is_not_known():
    onsets = both().assign(lower=0.0)
    found = route(onsets)
    assert math.isnan(found.ratio)
    assert found.sentence.endswith("as onsets lie before the first evaluation or were never seen.")


def test_a_group_that_diverged_before_its_first_evaluation_is_not_known():
    onsets = both()
    onsets.loc[onsets["label"] == "attention", ["lower", "upper", "emerged"]] = [0.0, math.inf, False]
    assert math.isnan(route(onsets).ratio)


def test_too_few_onsets_give_no_interval_and_decide_nothing():
    found = route(both(budget=310))
    assert (found.low, found.high, found.decided) == (0, math.inf, "not decided")
    assert "too few onsets are bounded on both sides for an interval" in found.sentence


def test_levels_may_be_numbers():
    onsets = both().assign(level=2)
    assert earlier(onsets, "conv", "attention", task="route", level=2, permutations=99).n_a == 5


# ------------------------------------------------------------------ restricted mean


def test_restricted_means_by_hand():
    # Budget 8: logs of min(T, 8) in units of log 2 are 0, 2 and 2, 3: means 1 and 2.5, a factor 2^1.5.
    found = restricted_mean_ratio([1, 4], [1, 4], [4, 8], [4, math.inf])
    expected = welch(math.log(2) * np.array([2.0, 3.0]), math.log(2) * np.array([0.0, 2.0]))
    assert found.value == pytest.approx(2**1.5)
    assert (found.low, found.high) == pytest.approx((math.exp(expected.low), math.exp(expected.high)))


def test_times_before_the_first_evaluation_are_cut_off_there_in_both_groups():
    # First evaluation 2: the times 1 of both groups count as 2.
    found = restricted_mean_ratio([0, 4], [2, 4], [1, 8], [1, 8])
    assert found.value == pytest.approx(math.sqrt((2 * 8) / (2 * 4)))


def test_without_censoring_it_is_the_ratio():
    found = route(both())
    assert (found.restricted, found.restricted_low) == pytest.approx((found.ratio, found.low))


def test_nothing_between_the_first_evaluation_and_the_budget_is_no_ratio():
    assert math.isnan(restricted_mean_ratio([1, 0], [2, math.inf], [1, 4], [2, 5]).value)


# ------------------------------------------------------------------ refusals


def test_fewer_than_two_seeds_are_refused():
    with pytest.raises(
        ValueError, match=r"^an interval needs at least 2 seeds, got 1 of 'attention' in route level 2$"
    ):
        route(both(b=ATTENTION[:1]))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"task": "rout"}, "unknown task 'rout'.*Did you mean 'route'"),
        ({"level": "3"}, "unknown level '3'"),
        ({"unit": "steps"}, "unknown unit 'steps'.*Did you mean 'step'"),
        ({"threshold": 0.7}, "unknown threshold '0.7'"),
        ({"metric": "scores"}, "unknown metric 'scores'"),
    ],
)
def test_a_name_that_is_not_there_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        earlier(both(), "conv", "attention", **{"task": "route", "level": "2"} | options)


def test_an_unknown_label_is_refused():
    with pytest.raises(ValueError, match="unknown label 'lstm'"):
        route(both(), "lstm")


def test_pairs_with_other_seeds_are_refused():
    with pytest.raises(ValueError, match="need the same init_seeds, once each; only one of them has 4$"):
        route(both(b=ATTENTION[:4]), paired=True)


def test_a_run_twice_is_refused():
    with pytest.raises(ValueError, match="^run 'conv-0' has two onsets of route level 2$"):
        route(pd.concat([both(), both().head(1)]))


def test_a_missing_column_is_refused():
    with pytest.raises(ValueError, match="last"):
        route(both().drop(columns="last"))


# ------------------------------------------------------------------ table


def many():
    """Two tasks, both metrics, two thresholds, two units, and a third label."""
    units = (("step", 1.0), ("flops", 1e6))
    parts = []
    for task, slower in (("route", 1.0), ("chain", 3.0)):
        for metric, factor in (("score", 1.0), ("answer_nll", 2.0)):
            for threshold, share in ((0.5, 1.0), (0.3, 0.8)):
                fixed = {
                    "task": task,
                    "metric": metric,
                    "threshold": threshold,
                    "units": units,
                    "budget": 9e4,
                }
                parts += [rows("conv", share * CONV, **fixed), rows("lstm", share * CONV * 1.01, **fixed)]
                parts.append(rows("attention", share * factor * slower * ATTENTION, **fixed))
    return pd.concat(parts, ignore_index=True)


def test_the_primary_family_is_holms_and_the_rest_is_benjamini_hochbergs():
    table = earlier_table(many(), reference="attention", permutations=49)
    assert len(table) == 2 * 2 * 2 * 2 * 2
    primary = table[table["primary"]]
    assert set(zip(primary["metric"], primary["threshold"], primary["unit"], strict=True)) == {
        ("score", 0.5, "step")
    }
    # Two pairs by two tasks: the smallest p counts four times.
    assert len(primary) == 4
    assert primary["p_holm"].min() == pytest.approx(4 * primary["p"].min())
    rest = table[~table["primary"]]
    assert rest["p_holm"].isna().all() and primary["q"].isna().all()
    assert (rest["q"] >= rest["p"]).all() and (rest["q"] <= 1).all()


def test_a_verdict_of_one_metric_only_depends_on_the_metric():
    table = earlier_table(
        many(), pairs=[("conv", "attention")], units=["step"], thresholds=[0.5], permutations=49
    )
    by_task = {task: set(own) for task, own in table.groupby("task")["depends_on_metric"]}
    # route: 1.92 is not decided by the score, and twice that is by the NLL; chain: both are.
    assert by_task == {"route": {True}, "chain": {False}}
    alone = earlier_table(many(), reference="attention", metrics=["score"], units=["step"], permutations=49)
    assert set(alone["depends_on_metric"]) == {None}


def test_decisions_are_made_by_the_adjusted_p():
    onsets = pd.concat(
        [both(CONV, 1.1 * ATTENTION, task=task) for task in ("route", "chain", "recall")], ignore_index=True
    )
    table = earlier_table(onsets, permutations=49)
    assert (table["low"] > 1).all() and (table["p"] < 0.05).all()
    assert (table["p_holm"] > 0.05).all() and set(table["decided"]) == {"not decided"}


def test_a_sentence_says_what_the_adjusted_p_decides():
    onsets = pd.concat(
        [both(CONV, 1.1 * ATTENTION, task=task) for task in ("route", "chain", "recall")], ignore_index=True
    )
    row = earlier_table(onsets, permutations=49).iloc[0]
    assert "is 2.11 times earlier" in route(onsets[onsets["task"] == "route"]).sentence
    assert (
        f"not decided whether conv or attention is earlier, as Holm's p = {row['p_holm']:.3f} over 3 "
        "comparisons (fitted ratio 2.11" in row["sentence"]
    )
    explored = earlier_table(onsets.assign(unit="tokens"), permutations=49)
    assert explored["p_holm"].isna().all()


def test_a_sentence_is_of_the_last_step_at_which_an_onset_can_be():
    onsets = both(budget=800).assign(latest=500.0)
    slow = (onsets["label"] == "attention") & ~onsets["emerged"]
    found = route(onsets.assign(lower=onsets["lower"].mask(slow, 700.0)))
    assert (found.latest, found.budget, found.ending_a, found.ending_b) == (500, 800, 0, 2)
    assert "Emerged by 500 steps, scored until 800: conv in 5 of 5 seeds" in found.sentence
    assert ", 2 more were above at the end and are censored." in found.sentence


def test_not_reached_stays_in_the_family():
    onsets = pd.concat(
        [both(CONV, 3 * ATTENTION, budget=9e4), both(task="chain", budget=100)], ignore_index=True
    )
    table = earlier_table(onsets, permutations=49).set_index("task")
    assert table.loc["chain", "decided"] == "not reached"
    assert math.isnan(table.loc["chain", "p_holm"])
    assert table.loc["route", "p_holm"] == pytest.approx(2 * table.loc["route", "p"])


def test_a_task_that_one_label_lacks_is_not_compared():
    onsets = pd.concat([both(), rows("conv", CONV, task="chain")], ignore_index=True)
    assert set(earlier_table(onsets, permutations=49)["task"]) == {"route"}
    with pytest.raises(ValueError, match="^no task and level has onsets of both labels"):
        earlier_table(rows("conv", CONV).assign(task="chain"))


def test_names_of_the_table_are_checked():
    with pytest.raises(ValueError, match="unknown label 'lstm'"):
        earlier_table(both(), reference="lstm")
    with pytest.raises(ValueError, match="unknown unit 'tokens'"):
        earlier_table(both(), units=["tokens"])


# ------------------------------------------------------------------ promises


@pytest.mark.parametrize(
    "low, high, p, expected",
    [
        (1.2, 4.0, 0.01, "refuted"),
        (0.5, 4.0, 0.5, "refuted"),
        (1.2, 9.0, 0.01, "consistent"),
        (1.2, 9.0, 0.06, "not decided"),
        (0.9, 9.0, 0.06, "not decided"),
        (8.0, math.inf, 0.001, "exceeded"),
        (math.nan, math.nan, math.nan, "not decided"),
    ],
)
def test_promises(low, high, p, expected):
    assert judge_promise(low, high, adjusted_p=p, claimed=7.3, alpha=0.05) == expected


def test_the_sentence_of_a_promise_counts_and_names_the_rows():
    table = earlier_table(
        many(), pairs=[("conv", "attention")], units=["step"], thresholds=[0.5], permutations=49
    )
    said = claim_sentence(table[table["metric"] == "score"], 7.3)
    assert said.startswith("The promise of 7.3 times earlier: 1 refuted, 1 consistent. ")
    assert (
        "Refuted for conv against attention in route level 2 (score at 0.5, steps): 1.92 times, "
        "95% interval 0.988 to 3.74, 5 and 5 seeds; metric-dependent." in said
    )


def test_the_sentence_of_a_promise_says_where_nobody_got():
    said = claim_sentence(earlier_table(both(budget=100), permutations=49), 7.3)
    assert said.endswith("(score at 0.5, steps): no run of either got there by 100 steps.")


def test_a_promise_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"^claimed_ratio is 1; a promise of 'times earlier' is above 1$"):
        claim_sentence(earlier_table(both(), permutations=49), 1)


def test_a_bound_beside_1_is_not_printed_as_1():
    assert times(2.0, 0.9996, 3.0) == ("2", "0.9996", "3")
    assert times(1234.0, 1.0, math.inf) == ("1,234", "1", "infinity")
