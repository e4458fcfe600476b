"""Onsets: the score ladder, both rules, censoring, false emergence, shares, dependence on the metric."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lmbench.analysis.emerged import emerged_table, fisher, metric_dependence, metric_order
from lmbench.analysis.ladders import normalise
from lmbench.analysis.onset import Onset, onset, onsets

RULES = ("isotonic", "three")
EVALUATIONS = 120
CHANCE = 0.1

LADDER = pd.DataFrame(
    [
        ("chain", "0", "score", "chance", 0.1),
        ("chain", "0", "score", "last token", 0.4),
        ("chain", "0", "score", "bayes", 0.9),
        ("chain", "0", "answer_nll", "chance", 3.0),
        ("chain", "0", "answer_nll", "bayes", 1.0),
    ],
    columns=["task", "level", "metric", "rung", "value"],
)


def scored(*values: tuple[str, float], level: str = "0") -> pd.DataFrame:
    rows = [("chain", level, metric, value) for metric, value in values]
    return pd.DataFrame(rows, columns=["task", "level", "metric", "value"])


def series(values, *, run="r0", label="conv", seed=0, metric="score", steps=None, **fixed) -> pd.DataFrame:
    """Normalised points of one run, every 10 steps of 64 tokens, 1e6 FLOPs and 0.5 s."""
    steps = 10 * np.arange(1, len(values) + 1) if steps is None else np.asarray(steps)
    fixed = {"run": run, "label": label, "init_seed": seed, "task": "chain", "level": "0"} | fixed
    at = {"step": steps, "tokens": 64 * steps, "flops": 1e6 * steps, "seconds": 0.5 * steps}
    return pd.DataFrame(fixed | at | {"metric": metric, "normalised": values})


def at_steps(values, **options) -> Onset:
    return onset(10 * np.arange(1, len(values) + 1), values, **options)


def never_learned(n_items: int, runs: int, *, seed: int) -> np.ndarray:
    """Scores [runs, evaluations] of models that guess."""
    return np.random.default_rng(seed).binomial(n_items, CHANCE, (runs, EVALUATIONS)) / n_items


def share_with_onset(scores: np.ndarray, threshold: float, rule: str) -> float:
    normalised = (scores - CHANCE) / (1 - CHANCE)
    return float(
        np.mean([at_steps(own, threshold=threshold, rule=rule).upper < math.inf for own in normalised])
    )


# ------------------------------------------------------------------ the ladder


def test_a_guesser_has_0_and_the_oracle_1_whichever_way_the_metric_points():
    points = scored(("score", 0.1), ("score", 0.9), ("score", 0.3), ("answer_nll", 3.0), ("answer_nll", 1.5))
    points.index = [7, 3, 5, 1, 0]
    found = normalise(points, LADDER)
    assert found["normalised"].tolist() == pytest.approx([0, 1, 0.25, 0, 0.75])
    assert found.index.tolist() == [7, 3, 5, 1, 0] and "normalised" not in points


def test_levels_may_be_numbers_and_a_diverged_value_stays_not_a_number():
    for points, ladder in (
        (scored(("score", 0.5)), LADDER.assign(level=0)),
        (scored(("score", 0.5)).assign(level=0), LADDER),
    ):
        assert normalise(points, ladder)["normalised"].tolist() == pytest.approx([0.5])
    assert math.isnan(normalise(scored(("score", math.nan)), LADDER)["normalised"][0])


def test_a_ladder_that_cannot_normalise_is_refused():
    with pytest.raises(
        ValueError, match="has no task 'chain' level '1' metric 'score', only 2 others. Did you"
    ):
        normalise(scored(("score", 0.5), level="1"), LADDER)
    flat = LADDER.assign(value=0.25)
    with pytest.raises(ValueError, match="task 'chain' level '0' metric 'score' has bayes = chance = 0.25"):
        normalise(scored(("score", 0.5)), flat)
    with pytest.raises(
        ValueError, match="needs a finite bayes of task 'chain' level '0' metric 'score', got nan"
    ):
        normalise(scored(("score", 0.5)), LADDER[LADDER["rung"] == "chance"])
    with pytest.raises(ValueError, match="has chance of task 'chain' level '0' metric 'score' twice"):
        normalise(scored(("score", 0.5)), pd.concat([LADDER, LADDER]))
    with pytest.raises(ValueError, match="unknown column 'rung'"):
        normalise(scored(("score", 0.5)), LADDER.drop(columns="rung"))


# ------------------------------------------------------------------ one series


@pytest.mark.parametrize("rule", RULES)
def test_an_onset_lies_after_the_last_point_below_and_up_to_the_first_above(rule):
    assert at_steps([0, 0.1, 0.2, 0.7, 0.9, 1], rule=rule) == pytest.approx(
        (30, 40, math.nan, 6), nan_ok=True
    )


@pytest.mark.parametrize("rule", RULES)
def test_a_score_at_the_threshold_counts_as_reached(rule):
    assert at_steps([0, 0.5, 0.5, 0.5], rule=rule)[:2] == (10, 20)


@pytest.mark.parametrize("rule", RULES)
def test_a_run_above_from_the_first_point_is_censored_from_0(rule):
    assert at_steps([0.6, 0.9, 0.9], rule=rule)[:2] == (0, 10)


@pytest.mark.parametrize("rule", RULES)
def test_a_run_that_never_learns_is_censored_at_its_last_point(rule):
    found = at_steps([0, 0.1, 0, 0.1], rule=rule)
    assert found[:2] == (40, math.inf) and math.isnan(found.loss)


@pytest.mark.parametrize("rule", RULES)
def test_what_shows_in_fewer_than_three_last_points_is_censored_before_them(rule):
    assert at_steps([0, 0, 0, 0, 0, 1], rule=rule)[:2] == (50, math.inf)
    assert at_steps([0, 0, 0, 0, 1, 1], rule=rule)[:2] == (40, math.inf)
    assert at_steps([0, 0, 0, 1, 1, 1], rule=rule)[:2] == (30, 40)


def test_one_lucky_point_is_no_onset_and_one_unlucky_point_after_it_no_loss():
    lucky = [0, 0.6, 0.2, 0.8, 0.9, 1, 0.3, 1, 1]
    # Fitted 0, 0.4, 0.4, then 0.75 from the fourth point on.
    assert at_steps(lucky)[:2] == (30, 40) and math.isnan(at_steps(lucky).loss)
    assert at_steps(lucky, threshold=0.4)[:2] == (10, 20)
    assert at_steps(lucky, rule="three") == pytest.approx((30, 40, math.nan, 9), nan_ok=True)


def test_a_capability_that_goes_soon_is_no_onset_for_good_but_one_of_three_in_a_row():
    values = [0] * 4 + [1] * 5 + [0] * 20
    assert at_steps(values)[:2] == (290, math.inf)
    assert at_steps(values, rule="three") == (40, 50, 100, 29)


@pytest.mark.parametrize("rule", RULES)
def test_a_loss_takes_three_points_in_a_row_after_the_onset(rule):
    assert at_steps([0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 1], rule=rule) == (30, 40, 90, 12)
    assert math.isnan(at_steps([0, 0, 0, 1, 1, 1, 1, 1, 0, 0], rule=rule).loss)


def test_one_spike_of_an_unbounded_metric_does_not_undo_an_onset():
    values = np.r_[np.zeros(10), np.ones(30), -500, np.ones(4)]
    assert at_steps(values)[:2] == (100, 110)
    assert at_steps(values, rule="three")[:2] == (100, 110)


def onset_from_the_definitions(y, threshold, rule):
    """Index of the point of onset (len(y) + 1 if there is none), with loops: the slow form."""
    n = len(y)
    for i in range(n - 2):
        if rule == "three":
            found = (y[i : i + 3] >= threshold).all()
        else:  # min-max formula of the isotonic fit at i
            fit = max(min(y[a : b + 1].mean() for b in range(i, n)) for a in range(i + 1))
            found = fit >= threshold
        if found:
            return i + 1
    return math.inf


@pytest.mark.parametrize("rule", RULES)
def test_the_onset_equals_its_definition_on_random_scores(rule):
    rng = np.random.default_rng(3)
    for _ in range(60):
        y = np.clip(np.linspace(-0.3, 1, 14) + rng.normal(0, 0.4, 14), -1, 2)
        threshold = rng.uniform(0.1, 0.9)
        found = onset(range(1, 15), y, threshold=threshold, rule=rule)
        assert found.upper == onset_from_the_definitions(y, threshold, rule)


@pytest.mark.parametrize(
    ("at", "values", "options", "message"),
    [
        ([1, 2], [0, 1], {}, "an onset needs at least 3 points, this run has 2"),
        ([1, 2, 3], [0, 1], {}, "one score a position, got 2 scores of 3 positions"),
        ([1, 3, 3], [0, 1, 1], {}, "positions of this run must be above 0 and increase; 3 does not"),
        ([0, 1, 2], [0, 1, 1], {}, "positions of this run must be above 0 and increase; 0 does not"),
        ([1, 2, 3], [0, math.nan, 1], {}, "scores are finite numbers, got nan; cut a diverged run there"),
        ([1, 2, 3], [0, 1, 1], {"threshold": 1.0}, "lies between 0 and 1, as 0.5; got 1"),
        ([1, 2, 3], [0, 1, 1], {"rule": "thre"}, "unknown onset rule 'thre'; .* Did you mean 'three'"),
    ],
)
def test_a_series_without_a_meaning_is_refused(at, values, options, message):
    with pytest.raises(ValueError, match=message):
        onset(at, values, **options)


# ------------------------------------------------------------------ false emergence and bias


@pytest.mark.parametrize("rule", RULES)
def test_1000_items_give_no_false_onset_at_half_of_what_can_be_learned(rule):
    assert share_with_onset(never_learned(1000, 500, seed=0), 0.5, rule) == 0


def chance_of_three_in_a_row(p: float, n: int) -> float:
    """Exact probability of three successes in a row in n trials, by the length of the last streak."""
    streak = np.array([1.0, 0, 0])
    for _ in range(n):
        streak = np.array([(1 - p) * streak.sum(), p * streak[0], p * streak[1]])
    return 1 - streak.sum()


def test_three_in_a_row_of_100_items_is_false_as_often_as_its_probability_says():
    p = float(stats.binom.sf(15, 100, CHANCE))  # more than 15 of 100: above chance + 0.05
    expected = chance_of_three_in_a_row(p, EVALUATIONS)
    assert expected == pytest.approx(0.007, abs=0.001)
    scores, above = never_learned(100, 2000, seed=1), (0.155 - CHANCE) / (1 - CHANCE)
    # The first hit that the rules are there to replace.
    assert (scores > 0.155).any(axis=1).mean() > 0.98
    error = math.sqrt(expected / len(scores))
    assert abs(share_with_onset(scores, above, "three") - expected) < 4 * error
    assert share_with_onset(scores, above, "isotonic") < 0.005


def test_the_isotonic_onset_of_a_smooth_curve_is_less_biased_than_its_first_hit():
    rng, grid = np.random.default_rng(2), np.geomspace(50, 5000, EVALUATIONS)
    true = 1 / (1 + (500 / grid) ** 1.5)  # normalised 0.5 at 500
    scores = (rng.binomial(100, CHANCE + (1 - CHANCE) * true, (500, len(grid))) / 100 - CHANCE) / (1 - CHANCE)
    found = np.log([onset(grid, own).upper for own in scores]) - math.log(500)
    first = np.log(grid[(scores >= 0.5).argmax(axis=1)]) - math.log(500)
    # Half a step of the grid, 2%, is due to counting the upper end.
    assert 0 < found.mean() < 0.03
    assert first.mean() < -0.08
    assert found.std() < first.std()


# ------------------------------------------------------------------ tables of runs


def test_each_series_has_a_row_for_each_threshold_and_unit():
    values = [0, 0.1, 0.3, 0.6, 0.8, 1, 1]
    table = onsets(series(values), thresholds=(0.2, 0.1 + 0.2))
    assert len(table) == 2 * 4 and table["n_points"].eq(7).all() and table["emerged"].all()
    half = table[table["threshold"] == 0.3].set_index("unit")
    assert half["lower"].to_dict() == {"step": 20, "tokens": 1280, "flops": 2e7, "seconds": 10}
    assert half["upper"].to_dict() == {"step": 30, "tokens": 1920, "flops": 3e7, "seconds": 15}
    assert half["last"].to_dict() == {"step": 70, "tokens": 4480, "flops": 7e7, "seconds": 35}


def test_the_latest_onset_leaves_three_points_and_later_ones_are_censored_below_the_last():
    table = onsets(pd.concat([series([0] * 4 + [1] * 3), series([0] * 5 + [1] * 2, run="r1", seed=1)]),
                   units=("step",)).set_index("run")  # fmt: skip
    assert table["latest"].to_dict() == {"r0": 50, "r1": 50} and set(table["last"]) == {70}
    assert table["emerged"].to_dict() == {"r0": True, "r1": False}
    assert (table["upper"]["r0"], table["lower"]["r1"]) == (50, 50), "above at the end, before the last"


@pytest.mark.parametrize("rule", RULES)
def test_the_table_holds_the_onset_of_each_series_in_any_order_of_the_rows(rule):
    rng = np.random.default_rng(5)
    parts = [
        series(np.linspace(0, 1, 20) + rng.normal(0, 0.3, 20), run=f"r{seed}", seed=seed, metric=metric)
        for seed in range(3)
        for metric in ("score", "answer_nll")
    ]
    table = onsets(pd.concat(parts).sample(frac=1, random_state=0), rule=rule, units=("step",))
    for part in parts:
        own = table[(table["run"] == part["run"][0]) & (table["metric"] == part["metric"][0])].iloc[0]
        expected = onset(part["step"], part["normalised"], rule=rule)
        got = (own["lower"], own["upper"], own["loss"], own["n_points"])
        assert got == pytest.approx(expected, nan_ok=True)
        assert own["emerged"] == (expected.upper < math.inf)


def test_losses_are_given_in_every_unit():
    table = onsets(series([0, 1, 1, 1, 1, 1, 0, 0, 0]), rule="three").set_index("unit")
    assert table["loss"].to_dict() == {"step": 70, "tokens": 4480, "flops": 7e7, "seconds": 35}


@pytest.mark.parametrize("rule", ["isotonic", "three"])
def test_a_diverged_run_is_one_that_did_not_get_there_by_the_budget(rule):
    """Not one that was followed no further: it counts as at chance from where it broke."""
    table = onsets(series([0, 0, 0.1, 0, math.nan, 1, 1, 1]), rule=rule, units=("step",)).iloc[0]
    assert (table["lower"], table["upper"], table["n_points"]) == (80, math.inf, 8)
    at_once = onsets(series([math.nan] * 4), rule=rule, units=("step",)).iloc[0]
    assert (at_once["lower"], at_once["upper"]) == (40, math.inf)


def test_what_a_run_had_learned_before_it_diverged_is_lost():
    broke = series([0, 1, 1, 1, *[math.nan] * 8])
    assert onsets(broke, units=("step",)).iloc[0]["upper"] == math.inf, "an isotonic onset is for good"
    three = onsets(broke, rule="three", units=("step",)).iloc[0]
    assert (three["lower"], three["upper"], three["loss"]) == (10, 20, 50)


def test_seconds_of_runs_that_shared_a_device_with_others_are_refused():
    table = pd.concat([series([0, 1, 1, 1]).assign(jobs=1), series([0, 1, 1, 1]).assign(jobs=10, run="b")])
    with pytest.raises(ValueError, match=r"different numbers of others \(1, 10\) are not compared"):
        onsets(table.assign(seconds=table["step"], device="cpu"), units=("seconds",))


def test_points_that_make_no_series_are_refused():
    points = series([0, 0.5, 1, 1])
    with pytest.raises(ValueError, match=r"run 'r0' \(task 'chain', level '0', metric 'score'\) has 2"):
        onsets(points[:2])
    with pytest.raises(
        ValueError, match="positions of run 'r0' .* must be above 0 and increase; 10 does not"
    ):
        onsets(pd.concat([points, points[:1]]))
    with pytest.raises(
        ValueError, match="seconds of run 'r0' .* must be above 0 and never fall with the step"
    ):
        onsets(points.assign(seconds=[1.0, 2, 1.5, 3]))
    with pytest.raises(ValueError, match="unknown column 'token'.* Did you mean 'tokens'"):
        onsets(points, units=("token",))
    with pytest.raises(ValueError, match="lies between 0 and 1, as 0.5; got none"):
        onsets(points, thresholds=())
    two = pd.concat([points.assign(device="cpu: a"), series([0, 0, 1, 1], run="r1").assign(device="cpu: b")])
    with pytest.raises(ValueError, match="cannot be compared over several devices"):
        onsets(two)
    assert len(onsets(two, units=("step",))) == 2


# ------------------------------------------------------------------ shares


LEARNS, FAILS = [0, 0, 0.6, 1, 1, 1], [0, 0, 0.1, 0, 0.1, 0]


def runs(**emerged: str) -> pd.DataFrame:
    """Onsets of one run for each letter: + learns, - fails."""
    parts = [
        series(LEARNS if sign == "+" else FAILS, run=f"{label}{seed}", label=label, seed=seed)
        for label, signs in emerged.items()
        for seed, sign in enumerate(signs)
    ]
    return onsets(pd.concat(parts))


def test_the_share_that_emerged_has_its_exact_interval_and_counts_a_run_once():
    table = emerged_table(runs(conv="+++", attention="-----")).set_index("label")
    assert table["n"].to_dict() == {"conv": 3, "attention": 5}
    assert table["emerged"].to_dict() == {"conv": 3, "attention": 0}
    # All of 3: 0.025 ** (1/3) to 1. None of 5: 0 to 1 - 0.025 ** (1/5).
    assert table.loc["conv", ["share", "low", "high"]].tolist() == pytest.approx([1, 0.2924, 1], abs=1e-4)
    assert table.loc["attention", ["share", "low", "high"]].tolist() == pytest.approx(
        [0, 0, 0.5218], abs=1e-4
    )


def test_a_table_too_coarse_for_its_runs_is_refused():
    table = runs(conv="+-")
    assert emerged_table(table, by=("task",))["emerged"].tolist() == [1]
    both = pd.concat([table, table.assign(threshold=0.7)])
    with pytest.raises(ValueError, match="run 'conv0' would count several times; add threshold to `by`"):
        emerged_table(both, by=("label",))
    with pytest.raises(ValueError, match="confidence is 2"):
        emerged_table(table, confidence=2)


def test_fishers_test_has_its_value_by_hand():
    # Both failures of 12 runs on one side: 2 * (6 choose 2) / (12 choose 2).
    assert fisher((6, 6), (4, 6)) == pytest.approx(2 * 15 / 66)
    assert fisher((0, 5), (5, 5)) == pytest.approx(2 / 252)
    assert fisher((3, 3), (5, 5)) == 1
    with pytest.raises(ValueError, match=r"0 <= emerged <= n and n >= 1, got \(7, 6\)"):
        fisher((7, 6), (4, 6))


# ------------------------------------------------------------------ metrics


STEPS = np.round(100 * 1.2 ** np.arange(16)).astype(int)


def both_metrics(**curves: tuple[list[float], list[float]]) -> pd.DataFrame:
    """Onsets of 3 alike runs a label with a curve of the score and one of the answer's NLL."""
    parts = [
        series(values, run=f"{label}{seed}", label=label, seed=seed, metric=metric, steps=STEPS)
        for label, own in curves.items()
        for seed in range(3)
        for metric, values in zip(("score", "answer_nll"), own, strict=True)
    ]
    return onsets(pd.concat(parts), thresholds=(0.25, 0.5, 0.75))


JUMP, RAMP, FLAT = [0] * 8 + [1] * 8, list(np.linspace(0, 1, 16)), [0] * 16


def test_a_jump_of_the_score_alone_depends_on_the_metric():
    table = metric_dependence(both_metrics(a=(JUMP, RAMP), b=(JUMP, JUMP), c=(RAMP, RAMP), d=(JUMP, FLAT)))
    table = table.set_index("label")
    assert table["score_jump"].to_dict() == {"a": "sharp", "b": "sharp", "c": "smooth", "d": "sharp"}
    assert table["nll_jump"].to_dict() == {"a": "smooth", "b": "sharp", "c": "smooth", "d": "not reached"}
    assert table["dependent"].to_dict() == {"a": "yes", "b": "no", "c": "no", "d": "yes"}
    assert table["score_emerged"].eq(3).all() and table["nll_emerged"].to_dict()["d"] == 0


def test_a_grid_too_coarse_or_a_run_past_the_foot_at_once_decides_nothing():
    once = metric_dependence(both_metrics(a=([0.5] * 3 + [1] * 13, RAMP))).iloc[0]
    assert (once["score_jump"], once["dependent"]) == ("not decided", "not decided")
    # From below 0.25 at 1.2 to above 0.75 at 1: a factor 1.2, which is within 1.5 and not within 1.1.
    assert metric_dependence(both_metrics(a=(JUMP, RAMP)), factor=1.1)["score_jump"][0] == "not decided"


def test_an_nll_that_rises_in_two_steps_decides_no_dependence_on_the_metric():
    """It passes 0.25 by the format, rests, and then falls with the score: smooth from the lower foot only."""
    steps = [0] * 2 + [0.4] * 6 + [1] * 8
    row = metric_dependence(both_metrics(a=(JUMP, steps))).iloc[0]
    assert (row["score_jump"], row["nll_jump"]) == ("sharp", "smooth")
    assert (row["score_jump_half"], row["nll_jump_half"]) == ("sharp", "sharp")
    assert row["dependent"] == "not decided"


def test_two_metrics_may_put_two_labels_in_opposite_orders():
    late = [0] * 10 + [1] * 6
    table = metric_order(both_metrics(a=(JUMP, late), b=(late, JUMP), c=(JUMP, late)))
    said = {(row.a, row.b): (row.score_earlier, row.nll_earlier, row.agrees) for row in table.itertuples()}
    assert said == {
        ("a", "b"): ("a", "b", False),
        ("a", "c"): ("neither", "neither", True),
        ("b", "c"): ("c", "b", False),
    }


def test_a_run_that_never_gets_there_is_the_later_one():
    table = metric_order(both_metrics(a=(FLAT, FLAT), b=(JUMP, FLAT)))
    assert table[["score_earlier", "nll_earlier", "agrees"]].to_numpy().tolist() == [["b", "neither", False]]


def test_dependence_needs_both_metrics_and_all_thresholds():
    table = both_metrics(a=(JUMP, RAMP))
    with pytest.raises(ValueError, match="unknown threshold '0.75'; accepted: 0.25, 0.5"):
        metric_dependence(table[table["threshold"] < 0.7])
    with pytest.raises(ValueError, match="unknown metric 'answer_nll'; accepted: score"):
        metric_order(table[table["metric"] == "score"])
    with pytest.raises(ValueError, match="unknown unit 'steps'.* Did you mean 'step'"):
        metric_dependence(table, unit="steps")
    lacking = table[(table["run"] != "a1") | (table["metric"] == "score")]
    with pytest.raises(ValueError, match="run 'a1' has no answer_nll of chain 0, only the other metric"):
        metric_dependence(lacking)
