"""Tables of sizes, times, sweeps and grids of the distillation study, and their figures."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lmbench.analysis import distillation_figures as figures
from lmbench.analysis.compression import joint_table, log_ratio, size_ratio, size_table, sweep_table
from lmbench.analysis.compression_speed import (
    arithmetic_table,
    fewer_macs,
    launch_sentence,
    promise_table,
    speed_table,
    times_note,
)
from lmbench.analysis.distillation_arms import factorial_cells, factors_of, settings_of
from lmbench.analysis.readable import readable
from lmbench.analysis.temperature_grid import block_test, grid_sentences, grid_table, grid_tests
from lmbench.layers.quantizer_grids import Grid

N = 100_000  # parameters of a student
GRID = [f"tau={tau} alpha={alpha}" for tau in (1, 2, 4) for alpha in (0, 0.5)]
SWEEPS = [*(f"bits={bits} {how}" for bits in (2, 8) for how in ("qat", "ptq mse")), "density=0.1"]
ARMS = ["teacher", *factorial_cells(), "dense small", "V1 literal", "V2 literal", "V2 corrected"]
ARMS += ["joint", "prune then quantize", "quantize then prune", *SWEEPS, *GRID]


def facts(label):
    """Bits, density and loss of an arm."""
    on, settings = factors_of(label) or set(), settings_of(label)
    is_both = label.startswith(("V", "joint", "prune", "quantize"))
    bits = settings.get("bits", 8 if "Q" in on or is_both else 32)
    density = settings.get("density", 0.1 if "P" in on or is_both else 1.0)
    loss = {"teacher": 1.8, "dense small": 2.6}.get(label, 2.0)
    loss += 0.1 * (density < 1) - 0.05 * ("KD" in on) + (1.6 if "ptq" in label else 0.4) * 2.0**-bits
    loss += 0.04 * ("then" in label)
    if "tau" in settings:
        loss += 0.02 * abs(settings["tau"] - 2) - 0.1 * (settings["alpha"] == 0.5)
    return bits, density, loss


def study(arms=ARMS, *, seeds=3, noise=0.002):
    """Frames of runs and of packed files; losses share each seed's shift."""
    rng, runs, files = np.random.default_rng(0), [], []
    for label in arms:
        bits, density, loss = facts(label)
        n = {"teacher": 4 * N, "dense small": N // 10}.get(label, N)
        predicted = n * (bits * density + (density < 1)) / 8
        taught = 2e9 if {"KD"} & (factors_of(label) or set()) else 0.0
        for seed in range(seeds):
            key = {"run": f"{label} {seed}", "label": label, "init_seed": seed}
            value = loss + 0.1 * seed + noise * rng.standard_normal()
            runs.append(
                key
                | {"bits_per_byte": value, "nll": value * math.log(2), "accuracy": 1 / value}
                | {"parameters": n, "density": density, "effective_density": 0.9 * density}
                | {"macs": n, "nonzero_macs": round(n * (0.2 + 0.8 * density)), "steps": 100}
                | {"train_flops": 1e9, "teacher_flops": taught, "all_flops": 1e9 + taught}
            )
            files.append(
                key
                | {"bytes": round(1.01 * predicted), "predicted_bytes": round(predicted)}
                | {"float_bits_per_byte": value, "packed_bits_per_byte": value + 0.001 * (bits < 32)}
            )
    return pd.DataFrame(runs), pd.DataFrame(files)


def timings(**forms):
    """Three timings of each form of each arm; a form is (name, seconds)."""
    rows = [
        (label.replace("_", " "), form, 1, seconds * factor)
        for label, known in forms.items()
        for form, seconds in known
        for factor in (0.98, 1.0, 1.02)
    ]
    return pd.DataFrame(rows, columns=["label", "form", "batch", "seconds"])


TIMES = timings(hard=[("float32", 2.0)], P=[("float32", 2.0), ("csr", 1.0)], Q=[("int8 dynamic", 1.5)])


# ------------------------------------------------------------------ bytes


def test_sizes_are_compared_with_their_prediction_with_float32_and_with_the_teachers_file():
    runs, files = study()
    table = size_table(files, runs=runs).set_index("arm")
    assert table.loc["Q", ["predicted", "packed"]].tolist() == [100_000, 101_000]
    assert table.loc["Q", "off"] == pytest.approx(0.01)
    assert table.loc["Q", "bits a parameter"] == pytest.approx(8.08)
    assert table.loc["Q", "smaller than float32"] == pytest.approx(4 / 1.01)
    assert table.loc["Q", "smaller than teacher"] == pytest.approx(16)
    assert table.loc["Q", "gap (bits per byte)"] == pytest.approx(0.001)
    assert table.loc["hard", "gap (bits per byte)"] == 0
    assert readable(size_table(files, runs=runs)).shape[0] == len(ARMS)


def test_a_size_ratio_has_an_interval_over_seeds():
    runs, files = study()
    found = size_ratio(files, runs, label="Q")
    assert (found.value, found.n) == (pytest.approx(4 / 1.01), 3)
    with pytest.raises(ValueError, match="unknown arm with a packed file 'Z'"):
        size_ratio(files, runs, label="Z")


def test_a_ratio_of_arms_is_the_geometric_mean_over_shared_seeds():
    frame = pd.DataFrame({"label": list("aabb"), "init_seed": [0, 1, 0, 1], "x": [2.0, 8.0, 1.0, 1.0]})
    found = log_ratio(frame, "a", "b", value="x")
    assert found.value == pytest.approx(4)
    assert found.low < 1 < found.high
    one = log_ratio(frame[frame["init_seed"] == 0], "a", "b", value="x")
    assert one.value == pytest.approx(2)
    assert math.isnan(one.low)


# ------------------------------------------------------------------ multiply-adds and seconds


def test_speeds_are_ratios_to_the_dense_student_with_welchs_interval():
    table = speed_table(TIMES).set_index(["label", "form"])
    assert table["ratio"].to_dict() == pytest.approx(
        {("hard", "float32"): 1, ("P", "float32"): 1, ("P", "csr"): 2, ("Q", "int8 dynamic"): 4 / 3}
    )
    logs = np.log([0.98, 1.0, 1.02])
    half = stats.t.ppf(0.975, 4) * math.sqrt(2 * logs.var(ddof=1) / 3)
    assert table.loc[("P", "csr"), ["low", "high"]].tolist() == pytest.approx(
        [2 * math.exp(-half), 2 * math.exp(half)]
    )
    assert math.isnan(table.loc[("hard", "float32"), "low"])


def test_forms_that_do_not_exist_have_no_row_and_a_base_that_was_not_timed_is_refused():
    lost = TIMES.assign(seconds=TIMES["seconds"].where(TIMES["form"] != "csr"))
    assert "csr" not in set(speed_table(lost)["form"])
    with pytest.raises(ValueError, match="unknown base of times 'teacher float32 at 1'; accepted: P csr"):
        speed_table(TIMES, base="teacher")


def test_counted_and_timed_savings_stand_beside_the_claim_and_dense_arms_are_left_out():
    runs, _ = study()
    table = arithmetic_table(runs, speeds=speed_table(TIMES)).set_index("arm")
    assert "Q" not in table.index
    assert table.loc["P", ["density", "effective density", "claimed"]].tolist() == pytest.approx(
        [0.1, 0.09, 10]
    )
    assert table.loc["P", "fewer multiply-adds"] == pytest.approx(1 / 0.28)
    assert table.loc["P", ["faster, float32", "faster, csr"]].tolist() == pytest.approx([1, 2])
    assert "faster, int8 dynamic" not in table
    assert fewer_macs(runs)["hard"] == 1


def test_promises_stand_beside_what_was_counted_and_measured():
    runs, files = study()
    speeds = speed_table(TIMES)
    arithmetic = arithmetic_table(runs, speeds=speeds)
    table = promise_table(files, runs=runs, quantised="Q", pruned="P", arithmetic=arithmetic, speeds=speeds)
    assert table["how"].tolist() == [
        "claimed", "packed file", "claimed", "multiply-adds", "seconds, float32 (zeros multiplied)",
        "seconds, csr",
    ]  # fmt: skip
    assert table["ratio"].tolist() == pytest.approx([8, 4 / 1.01, 10, 1 / 0.28, 1, 2])
    assert table["n"].tolist() == [0, 3, 0, 0, 3, 3]
    assert promise_table(files, runs=runs, quantised="Q")["kind"].tolist() == ["claimed", "measured"]


# ------------------------------------------------------------------ sweeps, joint, temperature


def test_a_sweep_compares_every_level_with_the_dense_student_in_pairs_of_seeds():
    runs, _ = study(noise=0.0)
    table = sweep_table(runs)
    assert table[["method", "bits"]].to_numpy().tolist() == [
        ["ptq mse", 8], ["ptq mse", 2], ["qat", 8], ["qat", 2],
    ]  # fmt: skip
    expected = np.exp(np.mean([np.log((2.4 + s) / (2.0 + s)) for s in (0, 0.1, 0.2)])) - 1
    assert table["worse"][1] == pytest.approx(expected)
    assert table["equal"].tolist() == ["yes", "no", "yes", "no"]
    alone = sweep_table(runs[runs["label"] != "hard"])
    assert "worse" not in alone
    assert sweep_table(runs, setting="density")["n"].tolist() == [3]
    with pytest.raises(ValueError, match="no arm sets tau; arms: hard"):
        sweep_table(runs[runs["label"] == "hard"], setting="tau")


def test_joint_is_compared_with_both_orders_and_says_what_was_equal():
    runs, files = study()
    both = runs.merge(files[["label", "init_seed", "bytes", "packed_bits_per_byte"]])
    table = joint_table(both)
    assert table["b"].tolist() == ["prune then quantize", "quantize then prune"]
    assert table["difference"].to_numpy() == pytest.approx(-0.04, abs=0.006)
    assert table[["steps ratio", "train_flops ratio", "bytes ratio"]].to_numpy() == pytest.approx(1)
    with pytest.raises(ValueError, match="joint against sequential needs 'joint' and one of prune then"):
        joint_table(both[both["label"] == "joint"])


def test_the_block_test_is_the_textbook_f_test():
    table = pd.DataFrame({1.0: [1.0, 2, 4], 2.0: [2.0, 3, 5], 4.0: [4.0, 4, 7]})
    long = table.rename_axis("init_seed").reset_index().melt("init_seed", var_name="tau", value_name="x")
    found = block_test(long.astype({"tau": float}), setting="tau", value="x")
    # Level means 7/3, 10/3, 5; residuals of the additive fit sum to 10/9 in squares.
    y = table.to_numpy()
    rest = y - y.mean(0) - y.mean(1, keepdims=True) + y.mean()
    f = (3 * ((y.mean(0) - y.mean()) ** 2).sum() / 2) / ((rest**2).sum() / 4)
    assert (found.f, found.levels, found.n) == (pytest.approx(f), 3, 3)
    assert found.p == pytest.approx(stats.f.sf(f, 2, 4))
    assert (found.spread, found.best) == (pytest.approx(8 / 3), 1.0)


def test_two_levels_give_the_paired_t_test_and_one_seed_none():
    rng = np.random.default_rng(1)
    rows = [(level, seed, seed + level / 9 + rng.normal()) for level in (1.0, 2.0) for seed in range(6)]
    frame = pd.DataFrame(rows, columns=["tau", "init_seed", "x"])
    wide = frame.pivot(index="init_seed", columns="tau", values="x")
    assert block_test(frame, setting="tau", value="x").p == pytest.approx(
        stats.ttest_rel(wide[1.0], wide[2.0]).pvalue
    )
    assert math.isnan(block_test(frame[frame["init_seed"] == 0], setting="tau", value="x").p)
    with pytest.raises(ValueError, match="init_seed 0 has no run at tau 1; every seed needs all levels"):
        block_test(frame.iloc[1:], setting="tau", value="x")


def test_the_block_test_keeps_its_level_where_nothing_differs():
    rng = np.random.default_rng(5)
    key = [(level, seed) for level in (1.0, 2.0, 4.0) for seed in range(4)]
    frame, wrong = pd.DataFrame(key, columns=["tau", "init_seed"]), 0
    for _ in range(200):
        x = 5 * frame["init_seed"] + rng.standard_normal(len(frame))
        wrong += block_test(frame.assign(x=x), setting="tau", value="x").p < 0.05
    assert 0.01 < wrong / 200 < 0.1


def test_the_grid_tests_temperature_and_balance_each_over_the_other():
    runs, _ = study()
    tests = grid_tests(runs)
    assert tests["setting"].tolist() == ["temperature", "share of the targets"]
    assert tests["best"].tolist() == [2.0, 0.5]
    assert tests["spread"].to_numpy() == pytest.approx([0.04, 0.1], abs=0.005)
    assert (tests["p_holm"] < 0.05).all()
    said = grid_sentences(tests, unit="bits per byte")
    assert said[0].startswith("The temperature changes the loss: its 3 levels lie 0.0")
    # The best level is of means over the rest; the best arm is named beside it.
    assert (
        "lowest mean over the other settings is at 2, and the best arm of all is tau=2 alpha=0.5" in said[0]
    )
    assert "Holm's p < 0.001, 3 seeds" in said[0]
    table = grid_table(runs)
    assert table[["tau", "alpha"]].to_numpy().tolist() == [[t, a] for t in (1, 2, 4) for a in (0, 0.5)]
    assert table["difference"].iloc[3] == pytest.approx(-0.1, abs=0.01)


def test_a_setting_is_tested_where_all_of_its_levels_were_run():
    runs, _ = study([*GRID, "tau=1 alpha=1"])
    tests = grid_tests(runs).set_index("setting")
    assert tests.loc["share of the targets", "levels"] == 3
    assert tests.loc["temperature", "levels"] == 3
    with pytest.raises(ValueError, match="no arm sets a temperature or alpha"):
        grid_tests(runs.assign(label="hard"))


# ------------------------------------------------------------------ figures


def test_passes_that_take_as_long_with_many_texts_say_nothing_of_arithmetic():
    times = timings(hard=[("float32", 0.002)])
    both = pd.concat([times, times.assign(batch=64)], ignore_index=True)
    assert launch_sentence(both) == (
        "A pass of hard in float32 takes 2 ms with 1 and 2 ms with 64 texts at once: that is the time of "
        "starting kernels, so these seconds say nothing of arithmetic."
    )
    longer = both.assign(seconds=both["seconds"] * both["batch"])
    assert launch_sentence(longer).endswith("2 ms with 1 and 1.3e+02 ms with 64 texts at once.")


def test_a_caption_says_of_times_the_device_the_texts_and_how_many_there_are():
    rows = timings(hard=[("float32", 0.002)]).assign(device="cpu: test", length=128, n=15)
    assert times_note(rows) == "Times: cpu: test, 1 text of 128 tokens a pass, 15 repeats, n = 3 runs an arm."


def test_a_sweep_figure_shows_the_differences_at_many_bits_on_an_axis_of_their_own():
    arms = ["hard", *(f"bits={bits} ptq mse" for bits in (2, 4, 8))]
    fig = figures.sweep_panel(study(arms)[0], levels=("hard",))
    whole, near = fig.axes
    assert near.get_ylim()[1] - near.get_ylim()[0] < whole.get_ylim()[1] - whole.get_ylim()[0]
    assert [len(ax.get_xticks()) for ax in fig.axes] == [3, 2]
    assert "Right: from 3 bits on, with an axis of its own." in fig.caption
    assert len(figures.sweep_panel(study(["hard", "bits=4 qat", "bits=8 qat"])[0]).axes) == 1


def test_two_bits_after_training_are_said_to_be_three_values_and_trained_ones_are_not():
    rows = study(["hard", "bits=2 ptq mse", "bits=8 ptq mse"])[0]
    note = "After training, 2 bits have the three values of a symmetric grid, as 1.58 bits have."
    assert note in figures.sweep_panel(rows).caption
    assert figures.sweep_note(rows["label"], "bits") == note
    assert figures.sweep_note(["bits=2 qat", "bits=4 gptq"], "bits") == ""
    assert figures.sweep_note(rows["label"], "density") == ""
    # As the grids of the layers have it.
    two, ternary = Grid.symmetric(2.0), Grid.symmetric(1.58)
    assert (two.low, two.high) == (ternary.low, ternary.high) == (-1, 1)


def test_a_sweep_figure_draws_a_line_a_method_and_the_levels_it_is_compared_with():
    runs, _ = study()
    fig = figures.sweep_panel(runs)
    names = [text.get_text() for text in fig.legends[0].get_texts()]
    assert names == ["qat", "ptq mse", "hard", "dense small", "teacher"]
    assert (fig.axes[0].get_xscale(), fig.axes[0].get_xlabel()) == ("log", "bits of a weight")
    assert "means over 3 seeds, bars their 95% t intervals" in fig.caption
    density = figures.sweep_panel(runs, setting="density", levels=("hard",))
    assert [tick for tick in density.axes[0].get_xticks()] == [0.1]
    with pytest.raises(ValueError, match="no arm sets entropy"):
        figures.sweep_panel(runs, setting="entropy")


def test_the_temperature_figure_draws_a_line_an_alpha_in_their_order():
    fig = figures.sweep_panel(study()[0], setting="tau", by="alpha", levels=("hard",))
    names = [text.get_text() for text in fig.legends[0].get_texts()]
    assert names == ["alpha = 0", "alpha = 0.5", "hard"]


def test_the_figure_of_promises_tells_claimed_counted_and_measured_apart():
    runs, files = study()
    table = promise_table(files, runs=runs, quantised="Q", pruned="P", arithmetic=arithmetic_table(runs))
    fig = figures.promise_panel(table)
    assert [tick.get_text() for tick in fig.axes[0].get_yticklabels()] == [
        "size, 8 bits (Q): claimed", "packed file", "compute, 90% zeros (P): claimed", "multiply-adds",
    ]  # fmt: skip
    assert "compute, 90% zeros (P): multiply-adds 3.57 (counted)" in fig.alt
    assert "bars are 95% intervals over n = 3 seeds or timings" in fig.caption
    assert figures.promise_panel(table, note="Times: one.").caption.endswith("Times: one.")


def test_the_figure_of_sizes_names_the_file_furthest_off():
    fig = figures.size_panel(study()[1])
    assert "The furthest is +1.0% off." in fig.caption
    assert fig.caption.startswith(f"n = {3 * len(ARMS)} packed files of {len(ARMS)} arms, 3 seeds each")
    # All files are larger than predicted: the axis does not reach as far below 0 as above it.
    low, high = fig.axes[0].get_ylim()
    assert -0.6 < low < 0 and 1 < high < 2
    assert fig.svg() == figures.size_panel(study()[1]).svg()
