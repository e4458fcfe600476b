"""Time to quality: first crossings, censoring, ratios, what is said of them, and the recipes raced."""

import math
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lmbench.analysis.crossing_panel import crossing_panel
from lmbench.analysis.crossing_reading import amount, crossing_reading, is_decided
from lmbench.analysis.intervals import t_interval, welch
from lmbench.analysis.readable import readable
from lmbench.analysis.time_to_quality import (
    crossing_ratios,
    crossing_table,
    crossings,
    differing_settings,
    spent,
    with_optimizer,
)
from lmbench.assignments import make_run
from lmbench.config import make
from lmbench.measure.flops import parameters
from lmbench.notebook import notebooks, parameters_of, presets
from lmbench.store import Store
from lmbench.training.execute import fit_model, run_all

NOTEBOOK = "03_time_to_quality"
TARGET = 2.0


def run_rows(label, seed, values, *, every=10, seconds=1.0, jobs=1, device="cpu: test", optimizer=0.0):
    """Tidy rows of one run validated every `every` steps; a step takes `seconds` s, 100 FLOPs, 8 targets."""
    fixed = {"run": f"{label}{seed}", "label": label, "init_seed": seed, "device": device, "jobs": jobs}
    rows = []
    for i, value in enumerate(values, start=1):
        step = i * every
        spent_ = {"step": step, "seconds": step * seconds, "flops": step * 100.0, "tokens": step * 8}
        rows.append(fixed | spent_ | {"split": "valid", "metric": "nll", "value": value})
        rows.append(fixed | spent_ | {"split": "train", "metric": "loss", "value": value - 0.1})
    last = rows[-1] | {"split": "", "metric": "optimizer_flops", "value": optimizer * rows[-1]["step"]}
    return [*rows, last]


def race(**crossing_steps):
    """Rows of recipes whose seeds cross at the listed steps of 100, validated every step; 0 never crosses."""
    rows = []
    for label, steps in crossing_steps.items():
        for seed, step in enumerate(steps):
            values = [3.0 if step == 0 or at < step else 1.5 for at in range(1, 101)]
            rows += run_rows(label, seed, values, every=1)
    return pd.DataFrame(rows)


def crossed(**crossing_steps):
    return crossings(race(**crossing_steps), target=TARGET)


def one(rows, **options):
    """The crossing of a single run."""
    return crossings(pd.DataFrame(rows), target=TARGET, **options).iloc[0]


def ratio(table, cost):
    return crossing_ratios(table).set_index("cost").loc[cost]


# ------------------------------------------------------------------ crossings


def test_the_first_validation_at_or_below_the_target_counts_also_when_the_loss_rises_again():
    found = one(run_rows("a", 0, [3.0, 2.5, 2.0, 1.8, 2.6]))
    assert found["reached"]
    assert (found["step"], found["seconds"], found["flops"], found["tokens"]) == (30, 30.0, 3000.0, 240)
    assert (found["before_step"], found["before_seconds"], found["before_tokens"]) == (20, 20.0, 160)
    assert (found["best"], found["best_seconds"]) == (1.8, 40.0)


def test_the_order_of_the_rows_does_not_matter():
    rows = run_rows("a", 0, [3.0, 2.5, 2.0, 1.8, 2.6])
    pd.testing.assert_series_equal(one(rows), one(rows[::-1]))


def test_training_losses_below_the_target_are_no_crossing():
    assert not one(run_rows("a", 0, [2.05, 2.01]))["reached"]


def test_a_crossing_at_the_first_validation_has_nothing_before_it():
    found = one(run_rows("a", 0, [1.9]))
    assert found["reached"]
    assert (found["before_step"], found["before_flops"]) == (0, 0)


@pytest.mark.parametrize("values", [[3.0, 2.5, 2.1], [3.0, 2.5, math.nan]])
def test_a_run_that_never_gets_there_is_censored_at_what_it_spent(values):
    found = one(run_rows("a", 0, values))
    assert not found["reached"]
    assert (found["step"], found["seconds"], found["before_step"]) == (30, 30.0, 30)


def test_a_diverged_run_without_a_validation_is_censored_where_it_ended():
    lost = [row for row in run_rows("a", 1, [3.0, 2.9]) if row["split"] != "valid"]
    table = crossings(pd.DataFrame(run_rows("a", 0, [1.0]) + lost), target=TARGET)
    assert table["reached"].tolist() == [True, False]
    assert table["step"].tolist() == [10, 20]
    assert math.isnan(crossing_table(table)["best validation"].iloc[0]), (
        "a mean of the survivors would flatter"
    )


def test_the_optimizers_operations_count_as_flops():
    rows = pd.DataFrame(run_rows("a", 0, [3.0, 1.9], optimizer=25.0))
    found = one(rows)
    assert found["flops"] == 20 * 125.0
    assert found["optimizer_share"] == pytest.approx(0.2)
    assert with_optimizer(rows[rows["metric"] == "nll"])["flops"].tolist() == [1000.0, 2000.0]


def test_another_metric_can_be_the_quality():
    rows = pd.DataFrame(run_rows("a", 0, [3.0, 1.9])).replace({"metric": {"nll": "bits_per_byte"}})
    assert one(rows, metric="bits_per_byte")["step"] == 20
    with pytest.raises(ValueError, match="unknown validation metric 'nll'; accepted: bits_per_byte"):
        one(rows)


def test_seconds_of_several_devices_are_refused():
    rows = run_rows("a", 0, [1.9]) + run_rows("a", 1, [1.9], device="gpu")
    with pytest.raises(ValueError, match=r"train_seconds cannot be compared over several devices \(cpu: te"):
        crossings(pd.DataFrame(rows), target=TARGET)


def test_a_table_without_rows_or_seconds_is_refused():
    rows = pd.DataFrame(run_rows("a", 0, [1.9]))
    with pytest.raises(ValueError, match="the table is empty"):
        crossings(rows.iloc[:0], target=TARGET)
    with pytest.raises(ValueError, match="unknown column 'seconds'"):
        crossings(rows.drop(columns="seconds"), target=TARGET)


# ------------------------------------------------------------------ means and bounds


def test_the_mean_is_geometric_with_a_t_interval_of_the_logs():
    runs = crossed(a=[10, 40])
    known = t_interval(np.log([10, 40]))
    assert spent(runs, "seconds") == pytest.approx((20, math.exp(known.low), math.exp(known.high)))
    assert spent(runs, "tokens").mean == pytest.approx(160)


def test_one_seed_and_seeds_that_cross_together_have_no_interval():
    for steps in ([30], [30, 30, 30]):
        known = spent(crossed(a=steps), "seconds")
        assert known.mean == pytest.approx(30)
        assert math.isnan(known.low)
        assert math.isnan(known.high)


def test_a_censored_seed_leaves_a_lower_bound():
    known = spent(crossed(a=[25, 0]), "seconds")
    assert math.isnan(known.mean)
    assert (known.low, known.high) == (pytest.approx(50), math.inf)


def test_the_table_has_one_row_a_recipe_in_order_of_appearance():
    table = crossing_table(crossed(b=[10, 40], a=[25, 0]))
    assert table["model"].tolist() == ["b", "a"]
    assert table["reached"].tolist() == [2, 1]
    assert table["seeds"].tolist() == [2, 2]
    assert table["steps"].iloc[0] == pytest.approx(20)
    assert table["FLOPs low"].iloc[1] == pytest.approx(5000)
    assert table["targets high"].iloc[1] == math.inf
    assert table["best validation"].tolist() == [1.5, 2.25]


def test_tables_with_bounds_can_be_read():
    rows = {"a": [25, 0], "b": [0, 0], "c": [10, 40]}
    text = readable(crossing_table(crossed(**rows)))
    assert text.loc[0, ["FLOPs", "FLOPs low", "FLOPs high"]].tolist() == ["", "5.00e3", "inf"]
    assert text["reached"].tolist() == ["1", "0", "2"]
    ratios = readable(crossing_ratios(crossed(**rows)))
    assert ratios.loc[0, ["ratio", "low", "high", "p", "known"]].tolist() == ["", "", "", "", "nothing"]
    assert "".join(readable(crossing_table(crossed(b=[0, 0])))["seconds"]) == ""


# ------------------------------------------------------------------ ratios


def test_the_ratio_is_that_of_the_later_recipe_to_the_earlier_with_welchs_interval_of_the_logs():
    found = ratio(crossed(slow=[60, 70, 80], fast=[9, 10, 11, 12]), "seconds")
    known = welch(np.log([9, 10, 11, 12]), np.log([60, 70, 80]))
    assert (found["a"], found["b"], found["known"], found["n"]) == ("fast", "slow", "interval", 3)
    assert found["ratio"] == pytest.approx(math.exp(known.value))
    assert (found["low"], found["high"]) == pytest.approx((math.exp(known.low), math.exp(known.high)))
    assert found["p"] == pytest.approx(known.p)
    assert found["p_holm"] == pytest.approx(3 * known.p), "three costs are one family"
    assert is_decided(found)


def test_recipes_named_the_other_way_round_give_the_inverse():
    there = ratio(crossed(slow=[60, 70, 80], fast=[9, 10, 11]), "FLOPs")
    back = ratio(crossed(fast=[9, 10, 11], slow=[60, 70, 80]), "FLOPs")
    assert back["ratio"] == pytest.approx(1 / there["ratio"])
    assert (back["low"], back["high"]) == pytest.approx((1 / there["high"], 1 / there["low"]))
    assert is_decided(back)


def test_a_small_difference_is_not_decided():
    assert not is_decided(ratio(crossed(a=[10, 40, 30], b=[12, 35, 45]), "seconds"))


def test_censored_seeds_bound_the_ratio_and_the_log_rank_test_decides():
    steps = {"slow": [80, 0, 0, 0, 0], "fast": [9, 10, 11, 12, 13]}
    found = ratio(crossed(**steps), "seconds")
    test = stats.logrank(stats.CensoredData([9, 10, 11, 12, 13]), stats.CensoredData([80], right=[100] * 4))
    bound = math.exp(np.log(steps["fast"]).mean() - np.log([80, 100, 100, 100, 100]).mean())
    assert found["known"] == "bound"
    assert math.isnan(found["ratio"])
    assert (found["low"], found["high"]) == (0, pytest.approx(bound))
    assert found["p"] == pytest.approx(test.pvalue)
    assert is_decided(found)
    back = ratio(crossed(fast=steps["fast"], slow=steps["slow"]), "seconds")
    assert (back["low"], back["high"]) == (pytest.approx(1 / bound), math.inf)
    assert is_decided(back)


def test_a_bound_that_leaves_either_possible_decides_nothing():
    # b stopped at step 100 like all; a takes nearly as long, and its bound exceeds 1.
    found = ratio(crossed(b=[0, 10, 10], a=[60, 70, 80]), "seconds")
    assert found["high"] > 1
    assert not is_decided(found)


def test_nothing_is_known_where_both_have_seeds_that_never_got_there():
    found = ratio(crossed(b=[0, 80, 80], a=[10, 10, 0]), "seconds")
    assert found["known"] == "nothing"
    assert found[["ratio", "low", "high", "p", "p_holm"]].isna().all()
    assert not is_decided(found)


def test_sides_without_spread_are_compared_by_ranks_and_not_by_a_spread_of_zero():
    found = ratio(crossed(b=[80] * 5, a=[10] * 5), "FLOPs")
    assert (found["known"], found["ratio"]) == ("point", pytest.approx(1 / 8))
    assert math.isnan(found["low"])
    assert 0.001 < found["p"] < 0.01
    assert is_decided(found)
    same = ratio(crossed(b=[10] * 5, a=[10] * 5), "FLOPs")
    assert (same["p"], same["ratio"]) == (1.0, pytest.approx(1))
    assert not is_decided(same)


def test_one_seed_decides_nothing():
    found = ratio(crossed(b=[80], a=[10]), "seconds")
    assert found["ratio"] == pytest.approx(1 / 8)
    assert math.isnan(found["p"])
    assert not is_decided(found)


def test_a_difference_finer_than_the_validations_decides_nothing():
    rows = []
    for seed in range(5):
        rows += run_rows("coarse", seed, [3.0, 1.9], every=50, seconds=1 + seed / 1000)  # at 100, not by 50
        rows += run_rows("fine", seed, [3.0] * 29 + [1.9], every=2, seconds=1 + seed / 1000)  # at 60
    found = ratio(crossings(pd.DataFrame(rows), target=TARGET), "seconds")
    assert found["high"] < 1
    assert found["p_holm"] < 0.001
    assert found["objection"] == "the difference is smaller than the gap between two validations"
    assert not is_decided(found)


def test_seconds_of_a_shared_device_decide_nothing_and_flops_do():
    rows = race(slow=[60, 70, 80], fast=[9, 10, 11]).assign(jobs=4)
    table = crossings(rows, target=TARGET)
    assert "up to 4 runs shared the device" in ratio(table, "seconds")["objection"]
    assert not is_decided(ratio(table, "seconds"))
    assert is_decided(ratio(table, "FLOPs"))


def test_one_recipe_has_no_ratios_and_three_have_those_of_all_pairs():
    assert crossing_ratios(crossed(a=[10, 20])).empty
    three = crossing_ratios(crossed(x=[80, 90], y=[40, 50], z=[10, 11]))
    assert [f"{row.a}/{row.b}" for row in three.itertuples()][::3] == ["y/x", "z/x", "z/y"]


def test_a_confidence_that_is_no_fraction_is_refused():
    for function in (crossing_table, crossing_ratios):
        with pytest.raises(ValueError, match="confidence is 95; it lies between 0 and 1"):
            function(crossed(a=[10, 20]), confidence=95)


# ------------------------------------------------------------------ reading


def said(rows):
    table = crossings(rows, target=TARGET)
    return crossing_reading(table, crossing_ratios(table), target=TARGET)


def test_the_reading_gives_every_number_with_its_unit():
    text = said(race(slow=[60, 70, 80], fast=[9, 10, 11]))
    known = spent(crossed(fast=[9, 10, 11]), "seconds")
    assert (
        f"fast reached 2 nats in 3 of 3 runs: after {known.mean:.2f} s [{known.low:.2f}, {known.high:#.3g}], "
        in text
    )
    assert "9.97e2 FLOPs [" in text
    assert "fast needs 0.143 times the seconds of slow (ratio 0.143, 95% interval 0.1" in text
    assert "Holm's correction covers all 3 comparisons. What would have refuted each" in text
    assert "lies up to 2% earlier for slow, 11% earlier for fast" in text
    assert "training on cpu: test" in text
    assert "(0.0% for slow, 0.0% for fast)" in text
    assert "not decided" not in text


def test_the_reading_says_what_is_not_decided_and_why():
    cases = {
        "the interval holds 1": race(a=[10, 40, 30], b=[12, 35, 45]),
        "it takes at least 2 seeds, got 1": race(a=[80], b=[10]),
        "both have seeds that never got there": race(a=[80, 0], b=[0, 10]),
        "what the others spent leaves either possible": race(a=[0, 10, 10], b=[60, 70, 80]),
        "the adjusted p is not below 0.05": race(a=[80, 80], b=[10, 10]),
    }
    for reason, rows in cases.items():
        text = said(rows)
        assert "Whether b or a needs fewer seconds is not decided (" in text
        assert f"): {reason}." in text, reason
        assert "refuted" not in text


def test_the_reading_names_censored_seeds_bounds_and_sharing():
    text = said(race(slow=[80, 0, 0, 0, 0], fast=[9, 10, 11, 12, 13]).assign(jobs=2))
    assert (
        "slow reached 2 nats in 1 of 5 runs; with the missing ones counted at all that they spent, the mean"
        in text
    )
    assert "lies above 95.6 s, 9.56e3 FLOPs, 765 targets. " in text
    assert "Their lowest loss, 3.0000 on average, came after 1.00 s of 100 s." in text
    assert (
        "fast needs at most 0.114 times the FLOPs of slow (5 of 5 runs of fast and 1 of 5 runs of slow"
        in text
    )
    assert "log-rank test with Holm's p = 0.0" in text
    assert "needs fewer seconds is not decided" in text
    assert "Up to 2 runs shared the device" in text


def test_a_single_recipe_is_read_without_comparisons():
    text = said(race(a=[30, 30]))
    assert "a reached 2 nats in 2 of 2 runs: after 30.0 s, 3.00e3 FLOPs, 240 targets" in text
    assert "all seeds at the same validation" in text
    assert "Holm" not in text


def test_amounts_keep_three_figures():
    assert [amount(v, "seconds") for v in (0.4, 12.34, 99.96, 1234.5)] == [
        "0.400 s",
        "12.3 s",
        "100 s",
        "1,234 s",
    ]
    assert amount(5.8e15, "flops") == "5.80e15 FLOPs"
    assert amount(9.83e6, "tokens") == "9.83 M targets"


# ------------------------------------------------------------------ figure


def test_the_figure_marks_bounds_at_the_target_by_open_arrows_and_says_so():
    rows = race(slow=[80, 0, 0], fast=[9, 10, 11])
    fig = crossing_panel(rows.assign(value=rows["value"].clip(upper=2.5)), target=TARGET)
    assert [ax.get_xlabel() for ax in fig.axes] == ["training time (s)", "training FLOPs", "training targets"]
    for ax, scale in zip(fig.axes, (1, 100, 8), strict=True):
        (arrow,) = [line for line in ax.lines if line.get_marker() == ">"]
        assert arrow.get_xdata()[0] == pytest.approx(scale * (80 * 100 * 100) ** (1 / 3))
        assert arrow.get_ydata()[0] == TARGET
        assert arrow.get_markerfacecolor() == "white"
    assert "2 target" in " ".join(text.get_text() for text in fig.axes[-1].texts)
    assert "Open arrows: not every seed reached it, a lower bound." in fig.caption
    assert "slow 1 of 3" in fig.caption
    assert "slow after more than 92.8 s, more than 9.28e3 FLOPs" in fig.alt
    assert "shared" not in fig.caption
    assert "cut off" not in fig.caption


def test_the_caption_says_n_interval_counts_sharing_and_what_is_cut_off():
    rows = race(slow=[60, 70, 80], fast=[9, 10, 11])
    early = rows.assign(value=rows["value"].clip(upper=2.5).where(rows["step"] > 1, 4.0), jobs=2)
    text = crossing_panel(early, target=TARGET).caption
    for part in (
        "geometric means over seeds", "t intervals on the log scale", "Reached 2: ", "fast 3 of 3",
        "n = 3 seeds, 95% t intervals", "cpu: test", "FLOPs include the optimizer's",
        "Losses above 2.7 are cut off", "2 runs at a time",
        "Runs shared the device, so seconds are not those of lone runs.",
    ):  # fmt: skip
        assert part in text
    assert "arrow" not in text


# ------------------------------------------------------------------ recipes


def test_settings_that_differ_are_listed_and_others_not():
    configs = {
        "a": {"steps": 5, "model": {"kind": "m", "d": 1}},
        "b": {"steps": 5, "model": {"kind": "m", "e": 2}},
    }
    table = differing_settings(configs)
    assert table.to_dict("list") == {"setting": ["model.d", "model.e"], "a": ["1", ""], "b": ["", "2"]}


def recipes():
    """Each preset's recipes, the notebook's defaults among them."""
    yield "smoke", parameters_of(notebooks()[NOTEBOOK])["recipes"].default
    for name, values in presets(NOTEBOOK).items():
        if "recipes" in values:
            yield name, values["recipes"]


def test_every_recipe_of_every_preset_is_a_run_and_the_first_is_nanogpts():
    found = dict(recipes())
    assert {"smoke", "quick", "full", "published"} <= set(found)
    for by_name in found.values():
        for name, recipe in by_name.items():
            assert make_run({"task": "text"} | recipe).model.name == name
        assert next(iter(by_name)) == "transformer_nanogpt"


def test_the_presets_hold_nanogpts_two_recipes_to_the_letter():
    text = tomllib.loads((Path(notebooks()[NOTEBOOK]).parent / "presets.toml").read_text())[NOTEBOOK]
    gpu, cpu = (
        {"vocab_size": 65, "task": "text"} | text[p]["recipes"]["transformer_nanogpt"]
        for p in ("full", "quick")
    )
    run = make_run(gpu)
    assert parameters(run.model).total - 256 * 384 == 10_646_784  # nanoGPT counts no position table: 10.65M
    assert (run.steps, run.batch_size, run.model.seq_len, run.model.dropout) == (5000, 64, 256, 0.2)
    assert run.dtype == "bfloat16"
    small = make_run(cpu)
    assert parameters(small.model).total - 64 * 128 == 795_904  # 0.80M
    assert (small.steps, small.batch_size, small.model.seq_len, small.model.dropout) == (2000, 12, 64, 0.0)
    for one_run in (run, small):
        adamw = make("optimizer", "adamw", lr=1e-3, beta1=0.9, beta2=0.99, weight_decay=0.1, eps=1e-8)
        assert one_run.optimizer == adamw
        assert one_run.schedule == make("schedule", "cosine", warmup=100, floor=0.1)
        assert one_run.grad_clip == 1.0
    assert (text["full"]["target"], text["quick"]["target"]) == (1.4697, 1.88)
    assert {text[p]["corpus"] for p in ("quick", "full", "published")} == {"tiny_shakespeare_90_10"}


def test_runs_of_the_engine_can_be_raced(task, tmp_path):
    base = make_run(
        {"model": "mlp", "model.seq_len": 8, "model.d_model": 8, "model.d_ff": 8, "task": task, "test": False}
        | {
            "steps": 6,
            "eval_every": 2,
            "batch_size": 2,
            "optimizer": "muon",
            "protocol": {"kind": "dense", "stride": 8},
        }
    )
    base = base.replace(model=fit_model(base.model, task))
    rows = run_all([base.with_seed(s) for s in (0, 1)], store=Store(tmp_path / "s"), group=1, progress=False)
    table = crossings(rows, target=100.0)
    assert table["reached"].all()
    assert table["step"].tolist() == [2, 2]
    assert table["tokens"].tolist() == [2 * 2 * 8] * 2
    assert (table["optimizer_share"] > 0).all()
    assert (table["seconds"] > 0).all()
    never = crossings(rows, target=0.0)
    assert not never["reached"].any()
    assert never["step"].tolist() == [6, 6]
    assert "in 0 of 2 runs" in crossing_reading(never, crossing_ratios(never), target=0.0)
