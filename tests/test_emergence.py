"""Capability emergence put together: what is tracked, what the ladder says, seeds needed, the reading."""

import math

import pandas as pd
import pytest

from lmbench.analysis.emergence import (
    MOST_SEEDS,
    RATIOS,
    emergence_reading,
    ladder_table,
    passed_without,
    seeds_needed,
    tracked,
)
from lmbench.analysis.planning import plan_seeds

NEVER = math.inf


def ladder(**levels):
    """Rungs from task = {rung: score}; the NLL's are 2 nats and 0 everywhere, every level is 0."""
    rows = [
        (task, "0", metric, rung, value)
        for task, scores in levels.items()
        for metric, rungs in (("score", scores), ("answer_nll", {"chance": 2.0, "bayes": 0.0}))
        for rung, value in rungs.items()
    ]
    return pd.DataFrame(rows, columns=["task", "level", "metric", "rung", "value"])


LADDER = ladder(
    chain={"chance": 0.25, "some_literal": 0.625, "last_word": 0.34375, "bayes": 1.0},
    route={"chance": 0.25, "bayes": 0.75},
)


def onsets(label="ssm", *, task="chain", bounds, metrics=("score", "answer_nll"), shift=1.0, **fixed):
    """One row a run, metric and threshold; each threshold is passed `shift` times later than the last."""
    return pd.DataFrame(
        [
            {
                "run": f"{label}{seed}", "label": label, "init_seed": seed, "task": task, "level": "0",
                "metric": metric, "threshold": threshold, "unit": "step",
                "lower": lower * shift**place if math.isfinite(upper) else lower,
                "upper": upper * shift**place, "emerged": math.isfinite(upper), "loss": math.nan,
                "last": 1280.0, "latest": 1280.0, "n_points": 9,
            } | fixed
            for metric in metrics
            for place, threshold in enumerate((0.25, 0.5, 0.75))
            for seed, (lower, upper) in enumerate(bounds)
        ]
    )  # fmt: skip


# ------------------------------------------------------------------ points and the ladder


def rows_of(run, *, label="ssm", steps=(10, 20, 40), init_seed=0, diverged=None):
    """Tidy rows of a run: points of both metrics, one beside them, a test score, and where it diverged."""
    rows = [("track", metric, step, step / 100) for step in steps for metric in ("score", "answer_nll")]
    rows += [("track", "locus", 10, 0.1), ("test", "score", 40, 0.9)]
    rows += [("train", "diverged", diverged, float(diverged))] if diverged else []
    table = pd.DataFrame(rows, columns=["split", "metric", "step", "value"])
    table["level"] = table["split"].map({"track": "0", "test": "0"}).fillna("")
    same = {"run": run, "label": label, "init_seed": init_seed, "task": "chain", "n": 1000, "device": "cpu"}
    return table.assign(tokens=table["step"] * 64, evaluation=run + table["step"].astype(str), **same)


def test_the_tracker_s_points_are_its_split_and_both_metrics():
    rows = pd.concat([rows_of("a"), rows_of("b", init_seed=1)])
    points = tracked(rows)
    assert points["run"].tolist() == ["a"] * 6 + ["b"] * 6
    assert points.index.tolist() == list(range(12))
    assert points["value"].tolist() == [0.1, 0.1, 0.2, 0.2, 0.4, 0.4] * 2
    assert set(points["split"]) == {"track"} and set(points["metric"]) == {"score", "answer_nll"}
    assert points["bytes"].tolist() == [640, 640, 1280, 1280, 2560, 2560] * 2, "a symbol is a byte"
    for lacking in (rows[rows["split"] != "track"], rows[rows["metric"] == "locus"], rows[:0]):
        with pytest.raises(
            ValueError,
            match=r"^the runs hold no tracked points; train them with track = CapabilityTracker\(\.\.\.\)$",
        ):
            tracked(lacking)


@pytest.mark.parametrize("seen", [(10, 20), (10,), ()])
def test_a_run_that_diverged_has_the_rest_of_its_grid_without_values(seen):
    lost = rows_of("lost", init_seed=7, steps=seen, diverged=25)
    points = tracked(pd.concat([rows_of("whole"), lost, rows_of("other", label="lstm", steps=(5, 80))]))
    mine = points[points["run"] == "lost"].sort_values(["metric", "step"], kind="stable")
    assert mine["step"].tolist() == [10, 20, 40] * 2 and mine["metric"].nunique() == 2
    assert mine["value"].notna().tolist() == [step in seen for step in (10, 20, 40)] * 2
    assert set(mine["init_seed"]) == {7} and set(mine["label"]) == {"ssm"} and set(mine["split"]) == {"track"}
    assert mine["tokens"].tolist() == [640, 1280, 2560] * 2
    assert len(points) == 6 + 6 + 4 and points.index.tolist() == list(range(16))


def test_seconds_are_those_of_learning_without_what_compiling_a_step_took():
    """0.1 s a step once it is compiled, which takes 24 s before the first point of one of the two."""
    timed = [rows_of("a"), rows_of("b", label="lstm")]
    timed = [
        one.assign(seconds=one["step"] * 0.1 + start) for one, start in zip(timed, (24, 0.5), strict=True)
    ]
    points = tracked(pd.concat(timed))
    assert points["seconds"].tolist() == pytest.approx([1, 1, 2, 2, 4, 4] * 2)


def test_a_run_that_diverged_after_one_point_took_the_seconds_of_its_model():
    whole = rows_of("whole").assign(seconds=lambda rows: rows["step"] * 0.1 + 24)
    lost = rows_of("lost", init_seed=7, steps=(10,), diverged=15).assign(seconds=30.0)
    points = tracked(pd.concat([whole, lost]))
    mine = points[points["run"] == "lost"].sort_values(["metric", "step"], kind="stable")
    assert mine["seconds"].tolist() == pytest.approx([1, 2, 4] * 2)


def test_a_model_of_which_every_run_diverged_is_refused():
    rows = pd.concat([rows_of("a"), rows_of("b", label="lstm", steps=(10,), diverged=15)])
    with pytest.raises(ValueError, match="^every run of 'lstm' diverged; lower its learning rates$"):
        tracked(rows)


def test_the_ladder_has_one_row_a_level_with_the_best_of_its_shortcuts():
    chain, route = ladder_table(LADDER).to_dict("records")
    assert chain == {
        "task": "chain", "level": "0", "chance": 0.25, "best shortcut": "some literal", "its score": 0.625,
        "bayes": 1.0, "nats at chance": 2.0, "nats at bayes": 0.0,
    }  # fmt: skip
    assert (route["chance"], route["bayes"], route["best shortcut"]) == (0.25, 0.75, "")
    assert math.isnan(route["its score"])


def test_a_shortcut_passes_a_threshold_by_its_normalised_score():
    # Of the 0.75 between chance and Bayes it has 0.375, the other shortcut 0.09375.
    found = passed_without(LADDER, threshold=0.5)
    assert found.to_dict("records") == [
        {"task": "chain", "level": "0", "shortcut": "some literal", "normalised": 0.5}
    ]
    assert passed_without(LADDER, threshold=0.51).empty
    assert passed_without(LADDER, threshold=0.1)["shortcut"].tolist() == ["some literal", "last word"]


def test_a_shortcut_is_normalised_by_its_own_level():
    two = ladder(
        chain={"chance": 0.0, "guess": 0.4, "bayes": 1.0}, recall={"chance": 0.0, "guess": 0.4, "bayes": 0.5}
    )
    found = passed_without(two)
    assert found[["task", "normalised"]].to_numpy().tolist() == [["recall", 0.8]]
    assert passed_without(ladder(route={"chance": 0.25, "bayes": 0.75}), threshold=0.01).empty


# ------------------------------------------------------------------ seeds needed


def test_the_seeds_of_a_claim_are_those_of_welch_s_test_at_this_spread():
    """Middles that double have a deviation of ln 2, so a ratio of 2 is one deviation: 17 a group."""
    row = seeds_needed(onsets(bounds=[(10, 20), (20, 40), (40, 80)])).iloc[0]
    assert (row["label"], row["task"], row["level"], row["n"]) == ("ssm", "chain", "0", 3)
    assert row["spread"] == pytest.approx(math.log(2))
    # Chi-square with 2 degrees of freedom is exponential: its quantiles are -2 log(1 - q).
    edges = [math.log(2) * math.sqrt(2 / (-2 * math.log(q))) for q in (0.025, 0.975)]
    assert (row["low"], row["high"]) == pytest.approx(tuple(edges))
    assert row["2x"] == 17
    assert [row[f"{ratio:g}x"] for ratio in RATIOS] == [plan_seeds(math.log(2), ratio) for ratio in RATIOS]


def test_more_seeds_than_anybody_trains_are_no_number():
    row = seeds_needed(onsets(bounds=[(10, 20), (200, 400), (4000, 8000)])).iloc[0]
    assert math.isnan(row["1.25x"])
    with pytest.raises(ValueError, match=f"takes more than {MOST_SEEDS} seeds a group"):
        plan_seeds(row["spread"], 1.25)
    assert row["3x"] == plan_seeds(row["spread"], 3)


@pytest.mark.parametrize(
    "bounds", [[(10, 20)], [(10, 20), (1280, NEVER), (1280, NEVER)], [(10, 20), (0, 10), (0, 10)]]
)
def test_a_spread_takes_two_runs_that_emerged_between_evaluations(bounds):
    table = seeds_needed(onsets(bounds=bounds))
    assert table.empty
    assert list(table)[:7] == ["label", "task", "level", "n", "spread", "low", "high"]
    assert list(table)[7:] == ["1.25x", "1.5x", "2x", "3x"]


def test_a_censored_run_counts_among_the_seeds_of_a_spread():
    rows = seeds_needed(onsets(bounds=[(10, 20), (20, 40), (40, 80), (1280, NEVER)]))
    assert rows["n"].item() == 4 and rows["spread"].item() > math.log(2)


def test_seeds_are_planned_for_what_was_asked():
    rows = pd.concat(
        [
            onsets(bounds=[(10, 20), (20, 40), (40, 80)]),
            onsets("lstm", bounds=[(10, 20), (40, 80), (160, 320)]),
            onsets(task="route", bounds=[(1280, NEVER)] * 3),
        ]
    )
    rows.loc[(rows["metric"] == "answer_nll") | (rows["threshold"] == 0.75), "lower"] = 0
    table = seeds_needed(rows)
    assert table[["label", "task"]].to_numpy().tolist() == [["ssm", "chain"], ["lstm", "chain"]]
    assert table["spread"].tolist() == pytest.approx([math.log(2), math.log(4)])
    assert seeds_needed(rows, metric="answer_nll").empty
    assert seeds_needed(rows, threshold=0.75).empty
    assert len(seeds_needed(rows, threshold=0.25)) == 2
    assert seeds_needed(rows, unit="tokens").empty


# ------------------------------------------------------------------ the reading

EARLIER = pd.DataFrame({"primary": [True, False], "sentence": ["A declared ratio.", "An explored one."]})
EARLIER = EARLIER.assign(decided="earlier", p=0.01, p_holm=0.02, task="chain", level="0", unit="step")
EARLIER = EARLIER.assign(method="Welch's t", fisher_p=1.0, log_rank_p=0.01, confidence=0.95)
POINTS = onsets(bounds=[(10, 20)]).assign(step=20, normalised=1.0)


def test_a_reading_tells_orders_declared_ratios_and_what_depends_on_the_metric():
    steep = onsets(bounds=[(9, 10), (19, 20)], metrics=("score",), shift=1.01)
    gentle = onsets(bounds=[(9, 10), (19, 20)], metrics=("answer_nll",), shift=10)
    said = emergence_reading(pd.concat([steep, gentle]), EARLIER, points=POINTS, ladder=LADDER, threshold=0.5)
    paragraphs = said.split("\n\n")
    assert len(paragraphs) == 4
    assert paragraphs[0].startswith("ssm: in order of their medians chain 0 (9.09 to 10.1 steps, 2 of 2)")
    assert paragraphs[1] == "A declared ratio. ‡"
    assert paragraphs[2] == (
        "Of 1 rise (a model in a task and level), 1 is metric-dependent, that is sharp in one metric only, "
        "both from 0.25 and from 0.5 to 0.75. "
        "ssm in chain level 0 is sharp in the score and smooth in the answer NLL (2 seeds)."
    )
    assert paragraphs[3] == (
        "‡ Shortcuts alone have a normalised score of at least 0.45, that is near 0.5 or above it, so that "
        "passing it does not show the capability itself: on chain 0 'some literal' (0.50)."
    )


def test_a_reading_warns_of_shortcuts_on_the_levels_that_were_tracked_only():
    both = ladder(
        chain={"chance": 0, "guess": 0.9, "bayes": 1}, recall={"chance": 0, "guess": 0.9, "bayes": 1}
    )
    said = emergence_reading(
        onsets(task="recall", bounds=[(10, 20)] * 2), EARLIER, points=POINTS, ladder=both
    )
    assert said.count("'guess'") == 1 and "on recall 0 'guess' (0.90)" in said
    assert "An explored one." not in said


def test_a_reading_is_of_the_threshold_that_was_asked_for():
    rows = onsets(bounds=[(10, 20)] * 2, shift=4.0)
    at = {threshold: emergence_reading(rows, EARLIER, points=POINTS, ladder=LADDER, threshold=threshold)
          for threshold in (0.25, 0.5, 0.75)}  # fmt: skip
    assert "chain 0 (10.0 to 20.0 steps" in at[0.25]
    assert "chain 0 (40.0 to 80.0 steps" in at[0.5]
    assert "chain 0 (160 to 320 steps" in at[0.75]
    assert "at least 0.2, that is near 0.25" in at[0.25] and "'some literal'" not in at[0.75]
    with pytest.raises(ValueError, match="at threshold 0.6"):
        emergence_reading(rows, EARLIER, points=POINTS, ladder=LADDER, threshold=0.6)


def test_a_reading_is_in_the_unit_that_was_asked_for():
    rows = onsets(bounds=[(10, 20)] * 2)
    both = pd.concat([rows, rows.assign(unit="tokens", lower=rows["lower"] * 100, upper=rows["upper"] * 100)])
    assert "2.00 k tokens" in emergence_reading(both, EARLIER, points=POINTS, ladder=LADDER, unit="tokens")
    assert "20.0 steps" in emergence_reading(both, EARLIER, points=POINTS, ladder=LADDER)


def test_a_reading_where_nothing_emerged_holds_no_time():
    said = emergence_reading(
        onsets(bounds=[(1280, NEVER)] * 2), EARLIER[:0], points=POINTS, ladder=LADDER, threshold=0.75
    )
    assert said.split("\n\n")[0] == "ssm: nothing emerged; not reached by 1.28 k steps: chain 0."
    assert len(said.split("\n\n")) == 2, "the dependence on the metric follows"
