"""Figures of emergence: what they draw of scores, onsets and ratios, and that their bytes never change."""

import functools
import hashlib
import math
import os
import subprocess
import sys

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from lmbench.analysis import (
    emergence_curves,
    emergence_ratios,
    emergence_survival,
    emergence_thresholds,
    style,
)
from lmbench.analysis.emergence_curves import capability_curves
from lmbench.analysis.emergence_grid import TINY
from lmbench.analysis.emergence_ratios import ratio_panel
from lmbench.analysis.emergence_survival import survival_curves
from lmbench.analysis.emergence_thresholds import threshold_panel
from lmbench.analysis.emergence_words import earlier_caption, earlier_sentences, jump_sentences, shown
from lmbench.analysis.ladders import normalise
from lmbench.analysis.stats import t_interval

STEPS = np.array([10, 20, 40, 80, 160, 320, 640, 1280])
TASKS = (("chain", "0"), ("route", "2"))
MIDDLES = {"transformer": 60.0, "lstm": 200.0}  # steps at which half of the way is gone


def ladder(tasks=TASKS):
    rows = []
    for task, level in tasks:
        for rung, value in (("chance", 0.1), ("some_literal", 0.3), ("bayes", 0.9)):
            rows.append((task, level, "score", rung, value))
        for rung, value in (("chance", 2.0), ("bayes", 0.5)):
            rows.append((task, level, "answer_nll", rung, value))
    return pd.DataFrame(rows, columns=["task", "level", "metric", "rung", "value"])


def points(tasks=TASKS, middles=MIDDLES, seeds=3):
    """Rises without noise, half as steep in the answer's NLL; the lstm never learns "route"."""
    rows = []
    for label, middle in middles.items():
        for seed in range(seeds):
            for task, level in tasks:
                never = (label, task) == ("lstm", "route")
                for metric, steepness, chance, bayes in (("score", 4, 0.1, 0.9), ("answer_nll", 2, 2.0, 0.5)):
                    gone = 0 * STEPS if never else 1 / (1 + (middle * 1.3**seed / STEPS) ** steepness)
                    rows += [
                        {
                            "run": f"{label}{seed}", "label": label, "init_seed": seed, "task": task,
                            "level": level, "metric": metric, "step": int(step), "flops": step * 1e9,
                            "tokens": step * 100, "seconds": step / 10, "n": 1000, "device": "cpu: test",
                            "value": chance + share * (bayes - chance),
                        }
                        for step, share in zip(STEPS, gone, strict=True)
                    ]  # fmt: skip
    return pd.DataFrame(rows)


def onset_rows(**runs):
    """Onsets of one capability from label = [(lower, upper), ...]; inf where censored."""
    rows = [
        {
            "run": f"{label}{seed}", "label": label, "init_seed": seed, "task": "chain", "level": "0",
            "metric": "score", "threshold": 0.5, "unit": "step", "lower": lower, "upper": upper,
            "emerged": math.isfinite(upper), "last": 160.0,
        }
        for label, bounds in runs.items()
        for seed, (lower, upper) in enumerate(bounds)
    ]  # fmt: skip
    return pd.DataFrame(rows)


BOUNDS = {
    "transformer": [(10.0, 20.0), (20.0, 40.0), (40.0, 80.0)],
    "lstm": [(20.0, 40.0), (160.0, math.inf), (80.0, math.inf)],
}


def comparison(a, task, **fields):
    row = {
        "a": a, "b": "transformer", "task": task, "level": "0", "metric": "score", "threshold": 0.5,
        "unit": "step", "ratio": 2.0, "low": 1.5, "high": 3.0, "method": "Welch's t", "bound": "", "n_a": 5,
        "n_b": 5, "emerged_a": 5, "emerged_b": 5, "restricted": 2.0, "restricted_low": 1.5,
        "restricted_high": 3.0, "confidence": 0.95, "decided": "earlier", "primary": True,
        "depends_on_metric": False, "budget": 6000.0, "latest": 6000.0, "ending_a": 0, "ending_b": 0,
    }  # fmt: skip
    return row | fields


NONE = {"ratio": math.nan, "low": math.nan, "high": math.nan, "method": "none"}
BOUND = {"bound": "lower", "ratio": math.inf, "low": 3.0, "high": math.inf, "restricted": 4.0}
BOUND |= {"restricted_low": 2.5, "restricted_high": 6.0, "emerged_b": 1}


def comparisons():
    return pd.DataFrame(
        [
            comparison("lstm", "chain"),
            comparison("ssm", "chain", low=0.9, decided="not decided", depends_on_metric=True),
            comparison("lstm", "route", **BOUND),
            comparison("ssm", "route", ratio=0.01, low=0.0, high=0.2, bound="upper", decided="not decided"),
            comparison("lstm", "copy", **NONE, decided="not reached", emerged_a=0, emerged_b=0),
            comparison("ssm", "copy", **NONE, decided="not decided"),
        ]
    )


def drawn():
    scores = points()
    normalised = normalise(scores, ladder())
    return {
        "curves": lambda: capability_curves(scores, ladder()),
        "nll": lambda: capability_curves(scores, ladder(), metric="answer_nll", x="flops"),
        "survival": lambda: survival_curves(onset_rows(**BOUNDS)),
        "ratios": lambda: ratio_panel(comparisons()),
        "thresholds": lambda: threshold_panel(normalised, thresholds=(0.2, 0.5, 0.8)),
    }


@functools.cache
def figure(name):
    """A figure that tests only look at."""
    return drawn()[name]()


def color_of(label):
    return style.looks([label])[label].color


def lines_of(ax, color):
    return [line for line in ax.lines if matplotlib.colors.same_color(line.get_color(), color)]


def level_lines(ax):
    """Heights of the lines that go all the way across."""
    return sorted(line.get_ydata()[0] for line in ax.lines if list(line.get_xdata()) == [0, 1])


def texts(ax):
    return [text.get_text() for text in ax.texts]


# ------------------------------------------------------------------ curves


def test_a_panel_has_every_rung_with_its_name_and_the_threshold_in_its_own_units():
    ax = capability_curves(points(TASKS[:1]), ladder(), threshold=0.25).axes[0]
    assert level_lines(ax) == pytest.approx([0.1, 0.1 + 0.25 * 0.8, 0.3, 0.9])
    assert sorted(texts(ax)) == ["bayes", "chance", "some literal"]


def test_the_threshold_of_the_nll_lies_below_chance():
    assert level_lines(figure("nll").axes[0]) == pytest.approx([0.5, 2.0 - 0.5 * 1.5, 2.0])


def test_curves_are_means_over_seeds_with_t_intervals():
    rows, ax = points(), figure("curves").axes[0]
    (line,) = (line for line in lines_of(ax, color_of("lstm")) if len(line.get_xdata()) == len(STEPS))
    at = rows[(rows["label"] == "lstm") & (rows["task"] == "chain") & (rows["metric"] == "score")]
    known = t_interval(at.loc[at["step"] == 320, "value"].to_numpy())
    assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True))[320] == pytest.approx(known.value)
    band = ax.collections[1].get_paths()[0].vertices  # the second model's
    assert {known.low, known.high} <= {y for x, y in band if x == 320}


def test_there_is_a_panel_for_each_task_and_level_and_only_the_lowest_name_x():
    tasks = [(task, "0") for task in ("chain", "route", "copy", "sort", "recall")]
    fig = capability_curves(points(tasks=tasks), ladder(tasks))
    assert [ax.get_title(loc="left") for ax in fig.axes] == [f"{task}, level 0" for task, _ in tasks]
    # Three above two: the third has nothing below it.
    assert [bool(ax.get_xlabel()) for ax in fig.axes] == [False, False, True, True, True]
    assert [bool(ax.get_ylabel()) for ax in fig.axes] == [True, False, False, True, False]
    with style.context():
        fig.draw_without_rendering()
    assert all(any(label.get_text() for label in ax.get_xticklabels()) for ax in fig.axes[2:])


def test_a_capability_of_its_own_takes_a_column():
    fig = capability_curves(points(tasks=TASKS[:1]), ladder(TASKS[:1]))
    assert fig.get_figwidth() == style.COLUMN_WIDTH
    assert figure("curves").get_figwidth() == style.PAGE_WIDTH


def test_captions_of_curves_say_n_interval_examples_and_device():
    caption = figure("curves").caption
    assert "Each point is scored on 1,000 examples." in caption
    assert caption.endswith("n = 3 seeds, 95% t intervals; cpu: test.")


def test_one_seed_has_no_band_and_is_called_a_single_run():
    fig = capability_curves(points(TASKS[:1], seeds=1), ladder())
    assert fig.caption.startswith("Lines are single runs.")
    assert "n = 1 seed;" in fig.caption


def test_what_lies_far_beyond_the_ladder_is_cut_off_and_the_caption_says_so():
    rows = points(TASKS[:1])
    rows.loc[(rows["metric"] == "answer_nll") & (rows["step"] == 10), "value"] = 9.0
    fig = capability_curves(rows, ladder(), metric="answer_nll")
    assert 2.0 < fig.axes[0].get_ylim()[1] < 2.5
    assert "cut off" in fig.caption
    assert "cut off" not in figure("nll").caption


def test_curves_count_runs_that_diverged():
    rows = points(TASKS[:1])
    rows.loc[(rows["run"] == "lstm0") & (rows["step"] > 40), "value"] = math.nan
    assert "1 run diverged and ends early." in capability_curves(rows, ladder()).caption


def test_curves_refuse_what_cannot_be_drawn():
    with pytest.raises(ValueError, match=r"unknown x 'flop'; .*Did you mean 'flops'\?"):
        capability_curves(points(), ladder(), x="flop")
    with pytest.raises(ValueError, match="a threshold of the normalised score lies between 0 and 1"):
        capability_curves(points(), ladder(), threshold=1.5)
    with pytest.raises(ValueError, match=r"unknown metric 'scores'; .*Did you mean 'score'\?"):
        capability_curves(points(), ladder(), metric="scores")
    with pytest.raises(ValueError, match="the score ladder has no task 'route' level '2'"):
        capability_curves(points(), ladder(TASKS[:1]))
    mixed = points().assign(device=lambda rows: "cpu: " + rows["label"])
    with pytest.raises(ValueError, match="cannot be compared over several devices"):
        capability_curves(mixed, ladder(), x="seconds")
    with pytest.raises(ValueError, match="there are no finite points of score to draw"):
        capability_curves(points().assign(value=math.nan), ladder())


# ------------------------------------------------------------------ beside the panels


def test_labels_beside_a_panel_never_overlap():
    close = ladder()
    close = pd.concat([close, *(close[close["rung"] == "chance"].assign(rung=f"r{i}") for i in range(4))])
    fig = capability_curves(points(), close)
    with style.context():
        fig.draw_without_rendering()
        for ax in fig.axes:
            boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
            assert len(boxes) == 7
            gaps = np.diff([box.y0 for box in boxes])
            assert gaps.min() >= 0.99 * TINY / 72 * fig.dpi


def test_labels_of_one_height_stand_in_the_order_of_the_legend():
    ax = survival_curves(onset_rows(lstm=[(10.0, 20.0)] * 2, transformer=[(10.0, 20.0)] * 3)).axes[0]
    heights = {text.get_text(): text.xy[1] for text in ax.texts}
    assert heights["3/3"] > heights["2/2"]  # the transformer is named first


# ------------------------------------------------------------------ survival


def test_a_survival_curve_falls_where_onsets_are_known_to_have_come():
    ax = figure("survival").axes[0]
    curve = max(lines_of(ax, color_of("transformer")), key=lambda line: len(line.get_xdata()))
    assert list(curve.get_xdata()[1:]) == [20, 40, 80]
    assert list(curve.get_ydata()) == pytest.approx([1, 2 / 3, 1 / 3, 0], abs=1e-6)
    assert curve.get_drawstyle() == "steps-post"


def test_a_box_covers_the_interval_in_which_the_curve_is_not_known():
    ax = survival_curves(onset_rows(transformer=BOUNDS["transformer"])).axes[0]
    boxes = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert [(box.get_x(), box.get_x() + box.get_width()) for box in boxes] == BOUNDS["transformer"]
    assert [box.get_y() for box in boxes] == pytest.approx([2 / 3, 1 / 3, 0], abs=1e-6)
    assert [box.get_height() for box in boxes] == pytest.approx([1 / 3] * 3)


def test_censored_runs_are_ticks_on_the_curve_which_ends_at_the_last():
    fig = figure("survival")
    ax, color = fig.axes[0], color_of("lstm")
    (ticks,) = (line for line in lines_of(ax, color) if line.get_marker() == "|")
    assert sorted(ticks.get_xdata()) == [80, 160]
    assert list(ticks.get_ydata()) == pytest.approx([2 / 3, 2 / 3])
    assert max(max(line.get_xdata()) for line in lines_of(ax, color)) == 160
    assert {"3/3", "1/3"} == set(texts(ax))
    assert "censored run" in [text.get_text() for text in fig.legends[0].texts]


def test_a_run_censored_where_the_curve_falls_is_a_tick_below_the_fall():
    ax = survival_curves(onset_rows(lstm=[(20.0, 40.0), (40.0, math.inf)])).axes[0]
    (ticks,) = (line for line in ax.lines if line.get_marker() == "|")
    assert (list(ticks.get_xdata()), list(ticks.get_ydata())) == ([40], [pytest.approx(0.5)])


def test_models_that_never_get_there_stay_at_one():
    fig = survival_curves(onset_rows(lstm=[(160.0, math.inf)] * 3))
    ax = fig.axes[0]
    curve = max(lines_of(ax, color_of("lstm")), key=lambda line: max(line.get_xdata()))
    assert set(curve.get_ydata()) == {1}
    assert texts(ax) == ["0/3"]
    assert "lstm 0 of 3" in fig.alt


def test_a_run_that_diverged_before_its_first_evaluation_is_counted_but_has_no_tick():
    ax = survival_curves(onset_rows(lstm=[(10.0, 20.0), (0.0, math.inf)])).axes[0]
    assert texts(ax) == ["1/2"]
    assert all(len(line.get_xdata()) == 0 for line in ax.lines if line.get_marker() == "|")


def test_survival_refuses_what_the_onsets_do_not_hold():
    rows = onset_rows(**BOUNDS)
    with pytest.raises(ValueError, match="unknown unit 'flops'"):
        survival_curves(rows, unit="flops")
    with pytest.raises(ValueError, match=r"unknown threshold '0.9'"):
        survival_curves(rows, threshold=0.9)
    with pytest.raises(ValueError, match="is empty"):
        survival_curves(rows.iloc[:0])
    with pytest.raises(ValueError, match="no run has an evaluation of score above 0 step"):
        survival_curves(onset_rows(lstm=[(0.0, math.inf)] * 2).assign(last=0.0))


# ------------------------------------------------------------------ ratios


def markers(ax, label):
    """The model's markers by place: what they are filled with."""
    found = lines_of(ax, color_of(label))
    return {
        float(line.get_ydata()[0]): line
        for line in found
        if line.get_marker() == style.looks([label])[label].marker
    }


def test_a_comparison_is_filled_where_it_is_decided():
    ax = figure("ratios").axes[0]
    # Rows: chain, lstm, ssm, route, lstm, ssm, copy, lstm, ssm.
    assert [text.get_text() for text in ax.get_yticklabels()] == [
        label or f"{task}, level 0" for task in ("chain", "route", "copy") for label in ("", "lstm", "ssm")
    ]
    assert markers(ax, "lstm")[1].get_markerfacecolor() == color_of("lstm")
    assert markers(ax, "ssm")[2].get_markerfacecolor() == "white"


def test_arrows_say_that_an_interval_goes_on():
    ax = figure("ratios").axes[0]
    arrows = {
        (line.get_marker(), float(line.get_ydata()[0])): float(line.get_xdata()[0])
        for line in ax.lines
        if line.get_marker() in ("<", ">")
    }
    left, right = ax.get_xlim()
    assert arrows == {(">", 4): right, ("<", 5): left}


def test_a_median_that_was_not_reached_gives_a_bound_from_restricted_means():
    row = shown(comparison("lstm", "route", **BOUND))
    assert row == (4.0, 2.5, math.inf, "≥ 2.5, g = 4")
    turned = {"bound": "upper", "ratio": 0.0, "low": 0.0, "high": 0.3, "restricted": 0.25, "decided": "later"}
    row = shown(comparison("lstm", "route", **turned, restricted_low=0.2) | {"restricted_high": 0.4})
    assert row == (0.25, 0.0, 0.4, "≤ 0.4, g = 0.25")
    # Nothing is claimed of an order that is not decided.
    row = shown(comparison("lstm", "route", **BOUND, decided="not decided"))
    assert row.text == "fitted ∞ [3, ∞]"


def test_words_stand_where_there_is_no_ratio():
    ax = figure("ratios").axes[0]
    assert "not reached by either" in texts(ax)
    assert "both by the first evaluation" in texts(ax)
    assert {7, 8}.isdisjoint(markers(ax, "lstm") | markers(ax, "ssm"))


def test_a_dagger_marks_what_depends_on_the_metric():
    fig = figure("ratios")
    assert [text for text in texts(fig.axes[0]) if "†" in text] == ["2 [0.9, 3] †"]
    assert "†: score and answer NLL do not say the same." in fig.caption
    assert "†" not in ratio_panel(comparisons().iloc[:1]).caption


def test_ratios_far_from_one_are_not_told_to_their_digits():
    row = shown(comparison("ssm", "chain", ratio=0.02, low=5e-9, high=2e4, decided="not decided"))
    assert row.text == "0.02 [< 0.001, > 1000]"


def test_a_panel_of_comparisons_without_any_ratio_is_drawn():
    fig = ratio_panel(comparisons().iloc[4:5])
    assert "not reached by either" in fig.alt


def many_comparisons():
    reached = [comparison("lstm", "chain"), *(comparison("ssm", f"task {i}") for i in range(8))]
    neither = {**NONE, "decided": "not reached", "emerged_a": 0, "emerged_b": 0}
    return pd.DataFrame(reached + [comparison(a, f"task {i}", **neither) for a in "abcd" for i in range(12)])


def test_a_forest_longer_than_a_page_leaves_out_what_nobody_reached():
    fig = ratio_panel(many_comparisons())
    assert "not reached by either" not in texts(fig.axes[0])
    assert "48 rows that no run of either reached are left out, among them all of task 8" in fig.caption
    assert "task 7" not in fig.caption and "task 11" in fig.caption
    short = ratio_panel(many_comparisons().iloc[:12])
    assert "not reached by either" in texts(short.axes[0]) and "left out" not in short.caption
    nobody = many_comparisons().assign(decided="not reached")
    assert "not reached by either" in texts(ratio_panel(nobody).axes[0])


def test_many_comparisons_are_told_by_capability():
    table = many_comparisons().assign(sentence="One sentence.", budget=6000.0)
    few = table.iloc[:20].assign(decided="earlier", p=0.01, p_holm=0.02)
    assert earlier_sentences(few) == ["One sentence."] * 20
    marked = earlier_sentences(few.iloc[:2], shortcuts={("chain", "0")})
    assert marked == ["One sentence. ‡", "One sentence."]
    said = earlier_sentences(table, shortcuts={("task 0", "0")})
    assert said[2].startswith("Task 0 0 ‡, beside") and "at a ‡ a shortcut alone comes near" in said[0]
    assert len(said) == 1 + 9 + 1 and "One sentence." not in said
    assert said[0].startswith(
        "Times earlier by the score at 0.5, in steps, with 95% intervals; decided after"
    )
    assert "over 57 comparisons" in said[0]
    assert said[1].startswith("Chain 0, beside transformer (") and "earlier: lstm 2 [" in said[1]
    assert said[2].endswith("; reached by neither: a, b, c, d.")
    assert said[-1] == "Reached by no run of any: task 8 0, task 9 0, task 10 0, task 11 0."


def test_runs_above_at_the_end_are_told_beside_those_that_emerged():
    table = many_comparisons().assign(sentence="", latest=5045.0, ending_a=2, ending_b=1)
    said = earlier_sentences(table)
    assert (
        "'more at the end' are runs above at their last points, too few for an onset, and censored" in said[0]
    )
    assert said[1].startswith(
        "Chain 0, beside transformer (5 of 5 seeds by 5,045 steps, scored until 6,000, 1 more at the end): "
        "earlier: lstm 2 [1.5, 3] (5 of 5, 2 more at the end)"
    )
    assert said[2].endswith(
        "; reached by neither: " + ", ".join(f"{a} (2 more at the end)" for a in "abcd") + "."
    )


def test_a_caption_tells_declared_rows_from_explored_ones():
    table = comparisons().assign(primary=[True] * 2 + [False] * 4)
    assert earlier_caption(table) == (
        "2 rows are declared (primary) and decided after Holm's adjustment. The other 4 are explored and "
        "adjusted apart, by Benjamini and Hochberg, so the same numbers may have another verdict there."
    )
    assert "explored" not in earlier_caption(comparisons())


def test_a_row_that_flops_decide_otherwise_is_marked():
    there = comparisons().iloc[:2].assign(unit="flops", primary=False, low=0.4, high=0.6, p=1e-4)
    table = pd.concat([comparisons().iloc[:2].assign(p=1e-4), there], ignore_index=True)
    fig = ratio_panel(table)
    assert [text for text in texts(fig.axes[0]) if text.endswith("§")] == ["5/5, 5/5 §"] * 2
    assert "§: another verdict in FLOPs" in fig.caption
    assert "§" not in ratio_panel(comparisons()).caption


def test_a_fit_beyond_observation_is_told_to_have_no_marker():
    fig = ratio_panel(pd.DataFrame([comparison("lstm", "route", **BOUND, decided="not decided")]))
    assert "Fitted 0 or ∞: there is an interval and no marker." in fig.caption
    assert "Fitted 0 or ∞" not in ratio_panel(comparisons()).caption


def test_ratios_refuse_several_references_and_unknown_ones():
    table = pd.concat([comparisons(), comparisons().assign(b="gru")])
    with pytest.raises(ValueError, match="ratios have one reference, the table has transformer, gru"):
        ratio_panel(table)
    with pytest.raises(ValueError, match=r"unknown reference 'grus'; .*Did you mean 'gru'\?"):
        ratio_panel(table, reference="grus")
    assert "earlier than gru" in ratio_panel(table, reference="gru").axes[0].get_xlabel()
    with pytest.raises(ValueError, match=r"unknown column 'ratio'"):
        ratio_panel(comparisons().drop(columns="ratio"))


# ------------------------------------------------------------------ thresholds


def panel(**how):
    return threshold_panel(normalise(points(), ladder()), thresholds=(0.2, 0.5, 0.8), **how)


def test_the_median_onset_is_drawn_over_the_threshold_for_both_metrics():
    ax = figure("thresholds").axes[0]
    curves = [line for line in lines_of(ax, color_of("transformer")) if len(line.get_xdata()) == 3]
    full, dashed = sorted(curves, key=lambda line: line.get_linestyle())
    # The middle seed is half way at 78 steps: between 40 and 80 for both, symmetric on the log axis.
    assert full.get_xdata()[1] == pytest.approx(math.sqrt(40 * 80))
    assert dashed.get_xdata()[1] == pytest.approx(math.sqrt(40 * 80))
    # Of the score 0.2 is reached at 78 / 4^(1/4) = 55 and 0.8 at 110; of the NLL at 39 and 156.
    assert full.get_xdata()[[0, 2]] == pytest.approx([math.sqrt(40 * 80), math.sqrt(80 * 160)])
    assert dashed.get_xdata()[[0, 2]] == pytest.approx([math.sqrt(20 * 40), math.sqrt(80 * 160)])
    assert full.get_markerfacecolor() == color_of("transformer")
    assert dashed.get_markerfacecolor() == "white"


def test_a_median_that_is_not_reached_is_an_arrow_beside_the_panel_at_its_own_threshold():
    fig = figure("thresholds")
    chain, route = fig.axes
    arrows = [line for line in route.lines if line.get_marker() == ">"]
    assert [list(line.get_xydata()[0]) for line in arrows] == [[1.0, 0.2]] * 2  # both metrics of the lstm
    at = [line.get_transform().transform(line.get_xydata())[0] for line in arrows]
    assert route.bbox.x1 < at[0][0] < at[1][0], "apart to the side, for a height would be a threshold"
    assert all(matplotlib.colors.same_color(line.get_color(), color_of("lstm")) for line in arrows)
    assert not [line for line in lines_of(chain, color_of("transformer")) if line.get_marker() == ">"]
    assert "Arrows" in fig.caption
    assert "lstm not by 1280" in fig.alt


def test_no_line_leads_from_a_curve_to_the_arrow_of_a_threshold_that_was_missed():
    rows = points(tasks=TASKS[:1])
    rows = rows[rows["step"] <= 640]
    ax = threshold_panel(normalise(rows, ladder()), thresholds=(0.2, 0.5, 0.9), metrics=["answer_nll"]).axes[
        0
    ]
    (arrow,) = (line for line in lines_of(ax, color_of("lstm")) if line.get_marker() == ">")
    assert arrow.get_linestyle() == "None" and len(arrow.get_xdata()) == 1
    assert arrow.get_ydata()[0] == 0.5


def test_one_metric_is_enough_for_a_threshold_panel_and_three_are_too_many():
    legend = panel(metrics=["score"]).legends[0]
    assert [text.get_text() for text in legend.texts][-1] == "score"
    with pytest.raises(ValueError, match="a threshold panel tells 1 or 2 apart"):
        panel(metrics=["score", "answer_nll", "locus"])
    with pytest.raises(ValueError, match="unknown metric 'locus'"):
        panel(metrics=["locus"])
    with pytest.raises(ValueError, match="unknown unit 'bytes'"):
        panel(unit="bytes")


# ------------------------------------------------------------------ sentences


def rise(label, score, nll, dependent, task="copy", half=None):
    return {
        "label": label, "task": task, "level": "0", "n": 10, "score_jump": score, "nll_jump": nll,
        "score_jump_half": score, "nll_jump_half": half or nll, "dependent": dependent,
    }  # fmt: skip


def test_sentences_name_the_rises_that_are_sharp_in_one_metric_only():
    rows = [
        rise("lstm", "sharp", "smooth", "yes"),
        rise("ssm", "not reached", "sharp", "yes"),
        rise("transformer", "sharp", "sharp", "no"),
        rise("transformer", "smooth", "smooth", "no", task="chain"),
        rise("gru", "not decided", "smooth", "not decided"),
        rise("hgrn", "sharp", "smooth", "not decided", half="sharp"),
    ]
    assert jump_sentences(pd.DataFrame(rows)) == (
        "Of 6 rises (a model in a task and level), 2 are metric-dependent, that is sharp in one metric only, "
        "both from 0.25 and from 0.5 to 0.75. "
        "lstm in copy level 0 is sharp in the score and smooth in the answer NLL (10 seeds). "
        "ssm in copy level 0 is sharp in the answer NLL and not finished in the score (10 seeds). "
        "Sharp in both: transformer in copy level 0. "
        "Not decided, as the answer NLL rises in two steps, smooth from 0.25 and as sharp as the score from "
        "0.5: hgrn in copy level 0. "
        "Not decided, as evaluations lie too far apart, the rise is not finished in one metric or the two "
        "feet say different things: gru in copy level 0."
    )


def test_sentences_say_that_no_rise_depends_on_the_metric():
    said = (
        "Of 1 rise (a model in a task and level), none is metric-dependent, that is sharp in one metric "
        "only, both from 0.25 and from 0.5 to 0.75."
    )
    assert jump_sentences(pd.DataFrame([rise("lstm", "smooth", "smooth", "no")])) == said
    with pytest.raises(ValueError, match="is empty"):
        jump_sentences(pd.DataFrame([rise("lstm", "smooth", "smooth", "no")]).iloc[:0])


# ------------------------------------------------------------------ all of them


@pytest.mark.parametrize("name", sorted(drawn()))
def test_every_figure_of_emergence_fits_its_canvas_and_says_what_it_shows(name):
    fig = figure(name)
    assert "seeds" in fig.caption
    assert any(character.isdigit() for character in fig.alt)
    assert "\n" not in fig.caption + fig.alt
    for dpi in (300, 100):  # the last as it was
        with style.context():
            fig.set_dpi(dpi)
            fig.draw_without_rendering()
            boxes = [ax.get_tightbbox() for ax in fig.axes]
            captions = [text.get_window_extent() for text in fig.texts]
            legends = [legend.get_window_extent() for legend in fig.legends]
        for box in [*boxes, *captions, *legends]:
            assert min(box.x0, box.y0, fig.bbox.x1 - box.x1, fig.bbox.y1 - box.y1) >= -0.01 * dpi
        assert max(box.y1 for box in captions) <= min(box.y0 for box in boxes) + 0.01 * dpi
        for legend in legends:
            assert legend.y0 >= max(box.y1 for box in boxes) - 0.01 * dpi


def digests():
    rows = points(TASKS[1:], seeds=2)
    charts = [
        capability_curves(rows, ladder()),
        survival_curves(onset_rows(**BOUNDS)),
        ratio_panel(comparisons().iloc[:3]),
        threshold_panel(normalise(rows, ladder()), thresholds=(0.5,)),
    ]
    return [hashlib.sha256(chart.svg()).hexdigest() for chart in charts]


def test_figures_of_emergence_have_the_same_bytes_in_every_process():
    # Another hash seed and another day: neither may show.
    environment = os.environ | {"PYTHONHASHSEED": "12345", "SOURCE_DATE_EPOCH": "86400"}
    code = "from tests.test_emergence_figures import digests; print(digests())"
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert there.stdout.strip() == str(digests())


def test_modules_of_emergence_name_their_metrics_alike():
    for module in (emergence_curves, emergence_ratios, emergence_survival, emergence_thresholds):
        assert set(module.METRICS) == {"score", "answer_nll"}
