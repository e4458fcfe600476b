"""Figures: what they draw, that they say where it comes from, and that their bytes never change."""

import hashlib
import io
import itertools
import json
import os
import subprocess
import sys

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from lmbench.analysis import axes, chart, figures, style
from lmbench.analysis.export import Stamp, save_figure, save_table
from lmbench.analysis.stats import paired_differences, t_interval

LOSSES = {"linear": (3.5, 3.52, 3.57), "mlp": (3.1, 3.2, 3.15), "transformer": (2.9, 2.85, 2.86)}
REFERENCES = {"uniform": 6.0, "unigram": 4.8, "zlib": 3.25, "n-gram order 4": 2.41, "bz2": 2.42}
STAMP = Stamp(commit="0c1d2e", device="cpu: test", parameters={"seeds": 3}, digests=("ab12", "cd34"))


def runs(**columns):
    """Three models with three seeds each, as `final_table` gives them."""
    rows = []
    for i, (label, losses) in enumerate(LOSSES.items(), start=1):
        for seed, loss in enumerate(losses):
            rows.append(
                {
                    "run": f"{label}{seed}", "label": label, "init_seed": seed, "bits_per_byte": loss,
                    "nll": loss * 0.69, "train_flops": i * 1e12, "parameters": i * 2e5,
                    "weights_bytes": i * 8e5,
                    "train_seconds": 10.0 * i + seed, "device": "cpu: test", "task.corpus": "plays",
                    "protocol.kind": "dense", "protocol.eval_bytes": 65536, "optimizer.lr": 1e-3,
                }
            )  # fmt: skip
    return pd.DataFrame(rows).assign(**columns)


def curve_rows():
    """Validation and training rows of the same runs at steps 10, 20 and 30."""
    table = runs()
    parts = []
    for step in (10, 20, 30):
        base = table[["run", "label", "init_seed", "device"]].assign(
            step=step, flops=step * 1e9, seconds=float(step)
        )
        falling = table["bits_per_byte"] + 10 / step
        parts.append(base.assign(split="valid", metric="bits_per_byte", value=falling))
        parts.append(base.assign(split="valid", metric="nll", value=falling * 0.69))
        parts.append(base.assign(split="train", metric="loss", value=falling * 0.68))
    return pd.concat(parts, ignore_index=True)


def tuning_runs():
    table = pd.DataFrame(
        [
            {"label": label, "optimizer.lr": rate, "bits_per_byte": loss, "device": "cpu: test"}
            for label, losses in (("mlp", (3.3, 3.1, 3.2)), ("transformer", (3.0, 2.9, np.nan)))
            for rate, loss in zip((1e-4, 1e-3, 1e-2), losses, strict=True)
        ]
    )
    return table


def sweep_runs():
    return pd.DataFrame(
        [
            {"model.n_layer": layers, "protocol.kind": protocol, "nll": 2.0 + 0.1 * layers + seed / 50}
            for layers in (4, 2, 3)
            for protocol in ("last_token", "dense")
            for seed in range(3)
        ]
    )


def race_rows():
    """The rows of `curve_rows` as two recipes of which one never reaches 2.3 nats."""
    rows = curve_rows()
    names = {"linear": "transformer_nanogpt", "transformer": "transformer_fast"}
    rows = rows[rows["label"].isin(names)].replace({"label": names})
    return rows.assign(tokens=rows["step"] * 100, jobs=1)


def exit_curves():
    points = [
        ("threshold", 0.5, 1e6, 2.1),
        ("threshold", 1.0, 2e6, 2.0),
        ("depth", 1.0, 8e5, 2.3),
        ("depth", 2.0, 2e6, 2.0),
    ]
    rows = [
        {"run": str(seed), "label": "early_exit", "policy": policy, "setting": setting, "flops": flops}
        | {"nll": nll + seed / 50}
        for policy, setting, flops, nll in points
        for seed in range(3)
    ]
    return pd.DataFrame(rows)


DRAWN = {
    "exit_panel": lambda: figures.exit_panel(exit_curves()),
    "loss_against": lambda: figures.loss_against(runs(), references=REFERENCES),
    "budget_panel": lambda: figures.budget_panel(runs(), references=REFERENCES),
    "crossing_panel": lambda: figures.crossing_panel(race_rows(), target=2.3),
    "training_curves": lambda: figures.training_curves(curve_rows(), references=REFERENCES),
    "tuning_curves": lambda: figures.tuning_curves(tuning_runs()),
    "paired_differences": lambda: figures.paired_differences(differences()),
    "rank_panel": lambda: figures.rank_panel({"parameters": runs(), "flops": runs()}, metric="bits_per_byte"),
    "sweep_panel": lambda: figures.sweep_panel(sweep_runs(), "model.n_layer", published={2: 2.3034}),
}


def test_every_public_figure_is_looked_at_below():
    assert sorted(DRAWN) == sorted(figures.__all__)


def differences():
    return paired_differences(runs(), group="label", unit="init_seed", value="bits_per_byte")


def line_through(ax, label_color):
    return [line for line in ax.lines if matplotlib.colors.same_color(line.get_color(), label_color)]


def words(fig):
    fig.draw_without_rendering()
    texts = [text for ax in fig.axes for text in [*ax.texts, ax.xaxis.label, ax.yaxis.label]]
    return [text.get_text() for text in [*texts, *fig.texts, *(t for leg in fig.legends for t in leg.texts)]]


# ------------------------------------------------------------------ style


def test_a_model_keeps_its_look_when_others_join():
    alone, together = style.looks(["mlp"]), style.looks(["zebra", "mlp", "ssm", "linear"])
    assert alone["mlp"] == together["mlp"]
    assert style.looks(["ssm"])["ssm"] == together["ssm"]


def test_known_models_come_first_and_all_looks_differ():
    names = ["zebra", "transformer", "ssm", "linear", "moe", "self_attention", "transformer_rope", "mlp"]
    looks = style.looks([*names, "transformer_modern"])
    assert list(looks)[:3] == ["linear", "mlp", "self_attention"]
    assert len({(look.color, look.marker) for look in looks.values()}) == 9


def test_known_models_differ_in_marker_alone_so_that_grey_print_tells_them_apart():
    looks = style.looks(["linear", "mlp", "self_attention", "transformer", "transformer_modern"])
    assert len({look.marker for look in looks.values()}) == 5


def test_two_unknown_names_of_one_place_are_moved_apart():
    # 1 * ord("b") + 2 * ord("a") = 292 = 1 * ord("d") + 2 * ord("`")
    assert style.looks(["ba"])["ba"] == style.looks(["d`"])["d`"]
    together = style.looks(["ba", "d`"])
    assert together["ba"] != together["d`"]


def test_the_style_leaves_no_trace():
    before = dict(matplotlib.rcParams)
    with style.context():
        assert matplotlib.rcParams["svg.hashsalt"] == "lmbench"
    assert dict(matplotlib.rcParams) == before


# ------------------------------------------------------------------ layout


def test_spread_leaves_distant_labels_alone():
    assert np.allclose(axes.spread(np.array([0.1, 0.5, 0.9]), gap=0.1, low=0, high=1), [0.1, 0.5, 0.9])


def test_spread_moves_two_equal_labels_half_a_gap_each():
    assert np.allclose(axes.spread(np.array([0.5, 0.5]), gap=0.2, low=0, high=1), [0.4, 0.6])


def test_spread_stays_within_its_bounds_and_shrinks_the_gap_where_it_must():
    assert np.allclose(axes.spread(np.array([0.0, 0.0, 0.0]), gap=0.2, low=0, high=1), [0, 0.2, 0.4])
    assert np.allclose(axes.spread(np.array([0.9, 0.9, 0.9]), gap=0.9, low=0, high=1), [0, 0.5, 1])


def test_a_caption_is_wrapped_without_losing_a_word():
    text = "n = 3 seeds, 95% t intervals; plays; protocol dense; first 65,536 bytes of each split scored"
    lines = chart.wrap(text, width=2.0)
    assert len(lines) > 2
    assert " ".join(lines) == text


def test_reference_labels_never_overlap():
    fig = figures.loss_against(runs(), references=REFERENCES)
    fig.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in fig.axes[0].texts), key=lambda box: box.y0)
    assert len(boxes) == len(REFERENCES)
    assert all(below.y1 <= above.y0 + 1 for below, above in itertools.pairwise(boxes))
    assert all(box.x0 > fig.axes[0].get_window_extent().x1 for box in boxes)


@pytest.mark.parametrize("span", [1.0, 1.01, 3.0, 40.0, 1e3, 1e9])
def test_a_log_axis_has_between_two_and_five_labels(span):
    _, (ax,) = chart.new(width=3.4, height=2.0)
    axes.log_axis(ax, pd.Series([2.1e12, 2.1e12 * span]))
    low, high = ax.get_xlim()
    assert 2 <= sum(low <= tick <= high for tick in ax.get_xticks()) <= 5
    assert high / low >= 5


def test_a_log_axis_refuses_what_it_cannot_show():
    _, (ax,) = chart.new(width=3.4, height=2.0)
    with pytest.raises(
        ValueError, match=r"train_flops = 0 cannot stand on a logarithmic axis; it must be above 0"
    ):
        axes.log_axis(ax, pd.Series([0.0, 1.0], name="train_flops"))


# ------------------------------------------------------------------ what the figures draw


def test_error_bars_are_t_intervals():
    fig = figures.loss_against(runs())
    known = t_interval(LOSSES["mlp"])
    color = style.looks(["mlp"])["mlp"].color
    bars = [c for c in fig.axes[0].collections if matplotlib.colors.same_color(c.get_color(), color)]
    (bar,) = [segment for c in bars for segment in c.get_segments()]
    assert np.allclose(sorted(bar[:, 1]), [known.low, known.high])


def test_the_pareto_front_joins_only_models_that_nothing_beats():
    table = runs(train_flops=[1e12] * 3 + [3e12] * 3 + [2e12] * 3)  # mlp: dearer and worse than transformer
    front = line_through(figures.loss_against(table).axes[0], style.PALE)[0]
    assert set(front.get_xdata()) == {1e12, 2e12}


def test_a_front_of_one_model_is_a_ring_and_the_legend_shows_it():
    best = runs(train_flops=[3e12] * 3 + [2e12] * 3 + [1e12] * 3)  # transformer: cheapest and best
    assert rings(figures.loss_against(best)) == [(1e12, pytest.approx(2.87))]
    assert rings(figures.loss_against(runs())) == []
    legend = {line.get_label(): line for line in figures.loss_against(best).legends[0].legend_handles}
    assert legend["Pareto front"].get_marker() == "o"


def rings(fig):
    lines = line_through(fig.axes[0], style.PALE)
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines if line.get_marker() == "o"]


def test_figures_name_n_grams_shortly():
    found = pd.DataFrame(
        {
            "predictor": ["ngram", "ngram", "unigram"], "order": [5, 4, 0],
            "smoothing": ["modified_kneser_ney", "witten_bell", "add_half"],
            "bits_per_byte": [2.41, 2.62, 3.3], "nll": [2.41, 2.62, 3.3],
        }
    )  # fmt: skip
    expected = {"2.41 5-gram mod. KN", "2.62 4-gram WB", "3.30 unigram"}
    for fig in (
        figures.budget_panel(runs(), references=found),
        figures.training_curves(curve_rows(), references=found),
    ):
        assert expected <= {text.get_text() for text in fig.axes[-1].texts}


def test_references_below_the_data_are_always_in_view_and_far_ones_above_are_named_with_an_arrow():
    fig = figures.loss_against(runs(), references=REFERENCES)
    low, high = fig.axes[0].get_ylim()
    assert low < 2.41 < 3.25 < high < 4.8
    assert "6.00 uniform ↑" in words(fig)
    assert "2.42 bz2" in words(fig)


def test_the_budget_panel_shows_four_costs_on_one_loss_axis_at_page_width():
    fig = figures.budget_panel(runs())
    assert [ax.get_xlabel() for ax in fig.axes] == [
        "training FLOPs", "parameters", "weights (bytes)", "training time (s)",
    ]  # fmt: skip
    assert len({ax.get_ylim() for ax in fig.axes}) == 1
    assert fig.get_figwidth() == 7.0


def test_curves_are_means_over_seeds_and_leave_later_splits_without_a_band():
    fig = figures.training_curves(curve_rows(), x="step", metric="nll", splits=("valid", "train"))
    ax = fig.axes[0]
    main, thin = line_through(ax, style.looks(["mlp"])["mlp"].color)
    assert main.get_linewidth() > thin.get_linewidth()
    assert np.allclose(main.get_ydata(), [(3.15 + 10 / step) * 0.69 for step in (10, 20, 30)])
    assert np.allclose(thin.get_ydata(), [(3.15 + 10 / step) * 0.68 for step in (10, 20, 30)])
    assert len(ax.collections) == 3
    assert ax.get_xscale() == "linear"


def test_curves_say_how_many_runs_diverged():
    lost = curve_rows().iloc[:1].assign(split="train", metric="diverged", value=7.0)
    fig = figures.training_curves(pd.concat([curve_rows(), lost]))
    assert "1 diverged and end early" in fig.caption
    assert "diverged" not in figures.training_curves(curve_rows()).caption


def test_curves_are_cut_off_above_the_ceiling_and_say_so():
    whole, cut = (figures.training_curves(curve_rows(), x="step", ceiling=c) for c in (None, 3.6))
    assert whole.axes[0].get_ylim()[1] > 4.0
    assert cut.axes[0].get_ylim()[1] == 3.6
    assert cut.axes[0].get_ylim()[0] == pytest.approx(whole.axes[0].get_ylim()[0], abs=0.1)
    assert "Losses above 3.6, a uniform guess, are cut off." in cut.caption.replace("\n", " ")
    assert "cut off" not in whole.caption


def test_a_ceiling_above_all_losses_changes_no_axis():
    whole, same = (figures.training_curves(curve_rows(), ceiling=c) for c in (None, 99.0))
    assert whole.axes[0].get_ylim() == same.axes[0].get_ylim()
    assert "cut off" not in same.caption


def test_a_ceiling_below_all_losses_would_leave_nothing_and_is_not_used():
    whole, same = (figures.training_curves(curve_rows(), ceiling=c) for c in (None, 1.0))
    assert whole.axes[0].get_ylim() == same.axes[0].get_ylim()
    assert "cut off" not in same.caption


def test_references_above_the_ceiling_do_not_raise_it():
    given = {"zlib": 3.25, "uniform": 3.7}
    fig = figures.training_curves(curve_rows(), x="step", ceiling=3.6, references=given)
    assert fig.axes[0].get_ylim()[1] == 3.6
    assert {"3.25 zlib", "3.70 uniform ↑"} <= set(words(fig))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_curves_leave_out_losses_that_are_not_finite_and_count_their_runs(value):
    rows = curve_rows()
    # Two rows of one run, which also has a row that says it diverged, and one of another.
    rows.loc[(rows["run"] == "mlp0") & (rows["step"] > 10), "value"] = value
    rows.loc[(rows["run"] == "linear2") & (rows["step"] > 20), "value"] = value
    lost = rows[rows["run"] == "mlp0"].iloc[:1].assign(split="train", metric="diverged", value=17.0)
    fig = figures.training_curves(pd.concat([rows, lost]), x="step")
    assert "2 diverged and end early." in fig.caption
    (line,) = line_through(fig.axes[0], style.looks(["mlp"])["mlp"].color)
    assert np.allclose(line.get_ydata(), [3.15 + 1, 3.175 + 0.5, 3.175 + 1 / 3])
    with pytest.raises(ValueError, match="no rows of bits_per_byte on valid to draw; 9 runs diverged"):
        figures.training_curves(curve_rows().assign(value=value))


def test_tuning_rings_the_lowest_mean_and_crosses_what_diverged():
    ax = figures.tuning_curves(tuning_runs()).axes[0]
    rings = [line for line in ax.lines if line.get_markersize() == 10]
    assert [(ring.get_xdata()[0], ring.get_ydata()[0]) for ring in rings] == [(1e-3, 3.1), (1e-3, 2.9)]
    (cross,) = [line for line in ax.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert list(cross.get_xdata()) == [1e-2]


def test_tuning_takes_the_rates_it_is_given_and_refuses_others():
    ax = figures.tuning_curves(tuning_runs(), chosen={"mlp": 1e-2}).axes[0]
    rings = [line for line in ax.lines if line.get_markersize() == 10]
    assert [ring.get_xdata()[0] for ring in rings] == [1e-2]
    with pytest.raises(
        ValueError, match=r"unknown learning rate of mlp '0.5'; accepted: 0.0001, 0.001, 0.01"
    ):
        figures.tuning_curves(tuning_runs(), chosen={"mlp": 0.5})


def fills(table):
    lines = figures.paired_differences(table).axes[0].lines
    return [line.get_markerfacecolor() for line in lines if line.get_marker() == "o"]


def test_a_difference_is_filled_where_its_sign_is_decided():
    table = pd.DataFrame({"a": "x", "b": ["y", "z"], "difference": [0.5, 0.1], "n": 3})
    table = table.assign(low=[0.4, -0.1], high=[0.6, 0.3])
    assert fills(table) == [style.INK, "white"]
    # An interval alone knows nothing of the other comparisons; Holm's p does.
    assert fills(table.assign(p_holm=[0.06, 0.2])) == ["white", "white"]
    assert fills(table.assign(p_holm=[0.04, 0.04])) == [style.INK, "white"]


def test_long_names_of_a_pair_stand_on_two_lines():
    names = {"linear": "transformer_modern", "mlp": "transformer_rope"}
    ax = figures.paired_differences(differences().replace(names)).axes[0]
    assert ax.get_yticklabels()[0].get_text() == "transformer_modern\n− transformer_rope"
    assert ax.get_window_extent().width > 0.3 * ax.figure.bbox.width


def test_differences_show_holms_p():
    shown = words(figures.paired_differences(differences(), runs=runs()))
    assert "p (Holm)" in shown
    assert any(
        "p < 0.05 (Holm, 3 comparisons). plays; protocol dense" in text.replace("\n", " ") for text in shown
    )


def test_a_sweep_sorts_its_levels_and_shows_published_values_hollow():
    ax = figures.sweep_panel(sweep_runs(), "model.n_layer", published={3: 2.28, 2: 2.3034}).axes[0]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["2", "3", "4"]
    (hollow,) = [line for line in ax.lines if line.get_marker() == "D"]
    assert hollow.get_markerfacecolor() == "none"
    assert dict(zip(np.round(hollow.get_xdata()), hollow.get_ydata(), strict=True)) == {1: 2.28, 0: 2.3034}


def test_a_sweep_over_names_keeps_their_order():
    table = sweep_runs().replace({"model.n_layer": {4: "rope", 2: "alibi", 3: "none"}})
    ax = figures.sweep_panel(table, "model.n_layer").axes[0]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["rope", "alibi", "none"]


def test_captions_say_n_interval_corpus_protocol_bytes_and_device():
    said = "n = 3 seeds, 95% t intervals; plays; protocol dense; first 65,536 bytes of each split scored; "
    said += "cpu: test."
    assert figures.loss_against(runs()).caption.endswith(said)
    assert figures.budget_panel(runs()).caption.endswith(said)
    swapped = figures.loss_against(runs(**{"task.substitute": "valid"})).caption
    assert "train = first 90% of valid and valid = its last 10%" in swapped


def test_one_seed_has_no_interval_and_says_so():
    fig = figures.loss_against(runs().query("init_seed == 0"))
    assert fig.caption.startswith("n = 1 seed; plays")


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_every_figure_has_axis_labels_a_description_and_fits_its_canvas(name):
    fig = DRAWN[name]()
    assert isinstance(fig, Figure)
    assert fig.caption
    assert any(character.isdigit() for character in fig.alt)
    assert all(ax.get_xlabel() for ax in fig.axes)
    for dpi in (72, 100, 150, 300):  # hinting would make text wider at some of them
        with style.context():
            fig.set_dpi(dpi)
            fig.draw_without_rendering()
            boxes = [ax.get_tightbbox() for ax in fig.axes]
            captions = [text.get_window_extent() for text in fig.texts]
            legends = [legend.get_window_extent() for legend in fig.legends]
        for box in [*boxes, *captions, *legends]:
            assert min(box.x0, box.y0, fig.bbox.x1 - box.x1, fig.bbox.y1 - box.y1) >= -0.01 * dpi
        assert max(box.y1 for box in captions) <= min(box.y0 for box in boxes) + 0.01 * dpi


# ------------------------------------------------------------------ refusals


def test_figures_refuse_an_empty_table():
    with pytest.raises(ValueError, match="the table is empty: there are no finished runs to show"):
        figures.loss_against(runs().iloc[:0])


def test_figures_refuse_times_of_several_devices_but_not_their_flops():
    table = runs()
    table.loc[0, "device"] = "NVIDIA H200"
    figures.loss_against(table, cost="train_flops")
    with pytest.raises(
        ValueError, match=r"train_seconds cannot be compared over several devices \(NVIDIA H200, cpu"
    ):
        figures.loss_against(table, cost="train_seconds")
    with pytest.raises(ValueError, match="cannot be compared over several devices"):
        figures.budget_panel(table)
    rows = curve_rows()
    rows.loc[0, "device"] = "NVIDIA H200"
    with pytest.raises(ValueError, match="cannot be compared over several devices"):
        figures.training_curves(rows, x="seconds")


def test_times_of_runs_that_shared_a_device_are_shown_and_the_caption_says_so():
    table = runs(jobs=[1] * 3 + [8] * 6)
    assert figures.budget_panel(table).caption.endswith("; cpu: test; 1 to 8 runs at a time.")
    fig = figures.training_curves(curve_rows().assign(jobs=8), x="seconds")
    assert fig.caption.endswith("; cpu: test; 8 runs at a time.")


def test_figures_name_the_nearest_column():
    with pytest.raises(ValueError, match=r"unknown column 'train_flop'; .*Did you mean 'train_flops'\?"):
        figures.loss_against(runs(), cost="train_flop")
    with pytest.raises(ValueError, match=r"unknown x 'stp'; accepted: .*Did you mean 'step'\?"):
        figures.training_curves(curve_rows(), x="stp")


def test_curves_refuse_a_metric_that_was_not_measured():
    with pytest.raises(ValueError, match="there are no rows of accuracy on valid to draw"):
        figures.training_curves(curve_rows(), metric="accuracy")


def test_a_sweep_refuses_a_published_level_that_was_not_run():
    with pytest.raises(
        ValueError, match=r"published value for model.n_layer = 8, which was not run; levels: \[2, 3, 4\]"
    ):
        figures.sweep_panel(sweep_runs(), "model.n_layer", published={8: 2.0})


def test_a_sweep_that_only_diverged_is_refused():
    with pytest.raises(ValueError, match="every run of the sweep diverged: bits_per_byte is nowhere finite"):
        figures.tuning_curves(tuning_runs().assign(bits_per_byte=np.nan))


def regimes(*names):
    """A sweep over layers under some regimes, regime i lying at 2 + i."""
    return pd.DataFrame(
        [
            {"model.n_layer": layers, "regime": name, "nll": 2.0 + i + 0.1 * layers + seed / 50}
            for layers in (4, 2)
            for i, name in enumerate(names)
            for seed in range(3)
        ]
    )


def test_a_sweep_has_a_line_for_each_value_of_the_column_it_is_told():
    fig = figures.sweep_panel(
        regimes("published", "short", "long"), "model.n_layer", by="regime", published={2: 2.5},
        published_in="short",
    )  # fmt: skip
    lines = [line for line in fig.axes[0].lines if line.get_marker() in "os^" and len(line.get_xdata()) == 2]
    means = [np.round(line.get_ydata().astype(float), 6).tolist() for line in lines]
    assert means == [[2.22, 2.42], [3.22, 3.42], [4.22, 4.42]]
    assert [text.get_text() for text in fig.legends[0].texts] == [
        "published", "short", "long", "as published (1 seed)",
    ]  # fmt: skip
    (hollow,) = [line for line in fig.axes[0].lines if line.get_marker() == "D"]
    assert hollow.get_xdata()[0] == lines[1].get_xdata()[0], "beside the regime in which it was published"
    assert len({line.get_xdata()[0] for line in lines}) == 3, "intervals stand side by side"


def test_a_sweep_refuses_more_regimes_than_it_can_tell_apart():
    with pytest.raises(ValueError, match="regime has 4 values; a sweep figure shows at most 3"):
        figures.sweep_panel(regimes("a", "b", "c", "d"), "model.n_layer", by="regime")
    with pytest.raises(ValueError, match=r"unknown column 'regimes'; .*Did you mean 'regime'\?"):
        figures.sweep_panel(regimes("a"), "model.n_layer", by="regimes")


# ------------------------------------------------------------------ bytes

DRAW = """
import hashlib
from tests.test_figures import figures, runs, REFERENCES
print(hashlib.sha256(figures.budget_panel(runs(), references=REFERENCES).svg()).hexdigest())
"""


def test_an_svg_has_the_same_bytes_in_every_process():
    here = hashlib.sha256(figures.budget_panel(runs(), references=REFERENCES).svg()).hexdigest()
    # Another hash seed and another day: neither may show.
    environment = os.environ | {"PYTHONHASHSEED": "12345", "SOURCE_DATE_EPOCH": "86400"}
    there = subprocess.run(
        [sys.executable, "-c", DRAW], capture_output=True, text=True, check=True, env=environment
    )
    assert there.stdout.strip() == here


def test_a_figure_shows_itself_in_a_notebook_with_its_description():
    fig = figures.tuning_curves(tuning_runs())
    data, about = fig._repr_mimebundle_()
    assert data["image/svg+xml"].startswith("<?xml")
    assert about["image/svg+xml"]["alt"] == fig.alt
    assert "chosen: mlp 0.001, transformer 0.001" in fig.alt


def test_saved_figures_are_stamped_with_where_they_come_from(tmp_path):
    from PIL import Image

    fig = figures.tuning_curves(tuning_runs())
    files = save_figure(fig, tmp_path / "figures", "tuning", stamp=STAMP)
    assert [file.name for file in files] == ["tuning.svg", "tuning.png", "tuning.json"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(
        file.name for file in files
    )
    stamp = json.loads(files[2].read_text())
    assert stamp["commit"] == "0c1d2e"
    assert stamp["digests"] == ["ab12", "cd34"]
    assert stamp["caption"] == fig.caption
    assert stamp["files"]["tuning.svg"] == hashlib.sha256(files[0].read_bytes()).hexdigest()
    assert b"<dc:date>" not in files[0].read_bytes()
    with Image.open(io.BytesIO(files[1].read_bytes())) as image:
        assert image.width == round(3.4 * 300)


def test_a_name_that_is_a_path_is_refused(tmp_path):
    for name in ("a/b", "../a", "", ".hidden"):
        with pytest.raises(ValueError, match="is not a plain file name without folders"):
            save_table(runs(), tmp_path, name, stamp=STAMP)
    assert not list(tmp_path.iterdir())


def test_a_measured_tick_without_room_has_no_label():
    with style.context():
        fig, (ax,) = chart.new(width=3.4, height=2.0)
        axes.measured_ticks(ax, [0.0, 0.1, 0.4, 0.45, 0.5, 0.7], is_log=False)
        fig.canvas.draw()
        assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "0.1", "0.4", "", "0.5", "0.7"]
        axes.measured_ticks(ax, [1, 1.58, 2, 3, 4, 5, 6, 8], is_log=True)
        fig.canvas.draw()
        assert all(text.get_text() for text in ax.get_xticklabels())
