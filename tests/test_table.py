"""Tables: from rows to runs, from runs to results, and how results are written."""

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from lmbench.analysis import formats, readable, references, table
from lmbench.analysis.export import Stamp, escape_latex, save_table, to_latex
from lmbench.analysis.stats import t_interval

STAMP = Stamp(commit="0c1d2e", device="cpu: test")


def rows(run, label, *, valid=(), test=None, weights="best", seed=0, diverged=None, device="cpu: test"):
    """Tidy rows of one run: validations at steps 10, 20, ..., a test at the end, and costs."""
    fixed = {
        "run": run, "label": label, "device": device, "init_seed": seed, "weights": weights,
        "optimizer.lr": 1e-3, "task": "text", "level": "", "tokens": 0, "flops": 0.0,
        "seconds": 0.0, "n": 100,
    }  # fmt: skip
    found = []
    for i, nll in enumerate(valid, start=1):
        for metric, value in (("nll", nll), ("bits_per_byte", nll / 0.7)):
            found.append(
                {"step": 10 * i, "split": "valid", "metric": metric, "value": value, "evaluation": f"v{i}"}
            )
    last = 10 * max(len(valid), 1)
    if test is not None:
        for metric, value in (("nll", test), ("bits_per_byte", test / 0.7)):
            found.append({"step": last, "split": "test", "metric": metric, "value": value, "evaluation": "t"})
    if diverged is not None:
        found.append(
            {"step": last, "split": "train", "metric": "diverged", "value": diverged, "evaluation": ""}
        )
    for metric, value in (("parameters", 1000.0), ("train_flops", 2.21e13), ("train_seconds", 12.3)):
        found.append({"step": last, "split": "", "metric": metric, "value": value, "evaluation": ""})
    return pd.DataFrame(found).assign(**fixed)


def per_run(label, losses, **columns):
    fixed = {
        "parameters": 430785.0,
        "train_flops": 2.21e13,
        "weights_bytes": 1723140.0,
        "train_seconds": 46.1,
    }
    fixed |= {"optimizer.lr": 3e-4, "device": "cpu: test"} | columns
    return pd.DataFrame(
        [{"label": label, "bits_per_byte": loss, "init_seed": i} | fixed for i, loss in enumerate(losses)]
    )


def result(**options):
    runs = pd.concat([per_run("mlp", [3.1, 3.2, 3.3]), per_run("transformer", [2.9, 2.8, 3.0])])
    return table.result_table(runs, **({"references": {"unigram": 4.8, "n-gram order 4": 2.4}} | options))


# ------------------------------------------------------------------ from rows to runs


def test_a_final_table_has_one_row_a_run_with_metrics_costs_and_config():
    frame = pd.concat(
        [rows("a", "mlp", valid=(3, 2), test=2.1), rows("b", "mlp", valid=(3, 2), test=2.2, seed=1)]
    )
    found = table.final_table(frame)
    assert found["run"].tolist() == ["a", "b"]
    assert found["nll"].tolist() == [2.1, 2.2]
    assert found["train_seconds"].tolist() == [12.3, 12.3]
    assert found["init_seed"].tolist() == [0, 1]
    assert found["task"].tolist() == ["text", "text"]


def test_validation_counts_at_the_best_step_where_the_best_weights_are_reported():
    best, final = rows("a", "mlp", valid=(3, 2, 2.5)), rows("b", "mlp", valid=(3, 2, 2.5), weights="final")
    found = table.final_table(pd.concat([best, final]), split="valid").set_index("run")["nll"]
    assert found.to_dict() == {"a": 2, "b": 2.5}


def test_a_diverged_run_keeps_its_row_without_its_last_good_value():
    frame = pd.concat([rows("a", "mlp", valid=(3, 2)), rows("b", "mlp", valid=(3,), diverged=17)])
    found = table.final_table(frame, split="valid").set_index("run")
    assert found["nll"].loc["a"] == 2
    assert np.isnan(found["nll"].loc["b"])
    assert found["diverged"].loc["b"] == 17


def test_a_run_that_was_not_scored_is_seen_to_be_missing():
    frame = pd.concat([rows("a", "mlp", test=2.0), rows("b", "mlp", valid=(3,))])
    found = table.final_table(frame).set_index("run")["nll"]
    assert np.isnan(found["b"])


def test_levels_of_a_task_have_rows_of_their_own():
    easy, hard = rows("a", "mlp", test=1.0), rows("a", "mlp", test=2.0)
    scores = hard["split"].eq("test")
    frame = pd.concat([easy.assign(level="1"), hard[scores].assign(level="2")])
    found = table.final_table(frame)
    assert dict(zip(found["level"], found["nll"], strict=True)) == {"1": 1.0, "2": 2.0}
    assert found["parameters"].tolist() == [1000, 1000]


def test_a_final_table_refuses_what_it_lacks():
    with pytest.raises(ValueError, match="the table of rows is empty: there are no finished runs to show"):
        table.final_table(rows("a", "mlp").iloc[:0])
    with pytest.raises(
        ValueError, match=r"unknown split 'tst'; accepted: test, valid. Did you mean 'test'\?"
    ):
        table.final_table(rows("a", "mlp", valid=(3,), test=2.0), split="tst")


# ------------------------------------------------------------------ from runs to results


def test_a_result_table_ranks_models_by_mean_and_lists_references_below():
    found = result()
    assert found["model"].tolist() == ["transformer", "mlp", "n-gram order 4", "unigram"]
    assert found["rank"].tolist() == [1, 2, pd.NA, pd.NA]
    assert found["n"].tolist() == [3, 3, pd.NA, pd.NA]
    known = t_interval([2.9, 2.8, 3.0])
    assert np.allclose(found.loc[0, ["test bits per byte", "95% low", "95% high"]].astype(float), known[:3])
    assert found["training FLOPs"].tolist()[:2] == [2.21e13, 2.21e13]


def test_accuracy_ranks_the_highest_first():
    runs = pd.concat([per_run("mlp", [0.1]), per_run("transformer", [0.9])])
    found = table.result_table(runs.rename(columns={"bits_per_byte": "accuracy"}), metric="accuracy")
    assert found["model"].tolist() == ["transformer", "mlp"]


def test_reference_predictors_are_named_by_order_and_by_smoothing_where_there_are_several():
    predictors = pd.DataFrame(
        {
            "predictor": ["uniform", "ngram", "ngram"], "order": pd.array([None, 2, 4], dtype="Int64"),
            "smoothing": ["", "witten_bell", "witten_bell"], "bits_per_byte": [6.0, 2.9, 2.4],
        }
    )  # fmt: skip
    found = references.reference_values(predictors, metric="bits_per_byte")
    assert found == {"uniform": 6.0, "n-gram order 2": 2.9, "n-gram order 4": 2.4}
    predictors.loc[2, "smoothing"] = "kneser_ney"
    assert "n-gram order 4 (Kneser-Ney)" in references.reference_values(predictors, metric="bits_per_byte")
    short = references.reference_values(predictors, metric="bits_per_byte", is_short=True)
    assert list(short) == ["uniform", "2-gram WB", "4-gram KN"]
    short = references.reference_values(predictors.iloc[:2], metric="bits_per_byte", is_short=True)
    assert list(short) == ["uniform", "2-gram"]


def test_a_result_table_refuses_to_mix_devices_in_time_columns():
    runs = pd.concat([per_run("mlp", [3.0]), per_run("mlp", [3.1], device="NVIDIA H200")])
    with pytest.raises(
        ValueError, match=r"train_seconds cannot be compared over several devices \(NVIDIA H200, cpu"
    ):
        table.result_table(runs)
    assert len(table.result_table(runs.drop(columns="train_seconds"))) == 1


def test_runs_that_shared_their_device_stand_in_one_table_and_its_caption_says_how_many():
    runs = pd.concat([per_run("mlp", [3.0, 3.1], jobs=1), per_run("transformer", [2.9, 2.8], jobs=8)])
    assert "training time (s)" in table.result_table(runs)
    said = {
        text: table.provenance(frame, by=["label"])
        for text, frame in (
            ("1 to 8 runs at a time.", runs),
            ("8 runs at a time.", runs[runs["jobs"] == 8]),
            ("1 to 8 runs at a time.", runs.assign(jobs=[np.nan, np.nan, 8, 8])),
        )
    }
    assert all(caption.endswith(f"; cpu: test; {text}") for text, caption in said.items())
    for alone in (runs.assign(jobs=1), runs.assign(jobs=np.nan), runs.drop(columns="jobs")):
        assert table.provenance(alone, by=["label"]).endswith("; cpu: test.")


def test_a_caption_is_the_provenance_and_how_the_rate_was_chosen():
    runs = per_run("mlp", [3.0, 3.1])
    source = table.provenance(runs, by=["label"])
    assert source == "n = 2 seeds, 95% t intervals; cpu: test."
    chosen = source[:-1] + "; learning rate chosen among 5 per model on validation."
    assert table.caption(runs, by=["label"], rates=5) == chosen
    assert [table.caption(runs, by=["label"], rates=rates) for rates in (None, 1)] == [source] * 2
    tuned = pd.DataFrame({"label": ["mlp"] * 3 + ["lstm"] * 4, "lr": [1, 2, 4, 1, 2, 4, 8]})
    assert "chosen among 3 to 4 per model" in table.caption(runs, by=["label"], rates=tuned)
    assert table.caption(runs, by=["label"], rates=tuned.drop_duplicates("label")) == source


def test_a_rate_at_the_edge_of_its_search_is_named():
    tuned = pd.DataFrame(
        {"label": ["mlp", "mlp", "lstm"], "lr": [0.002, 0.004, 0.008], "chosen": [False, True, True]}
    )
    assert table.edge_note(tuned.assign(on_edge=False)) == ""
    said = table.edge_note(tuned.assign(on_edge=[False, False, True]))
    assert said.startswith("The search of learning rates ended at its edge for lstm (0.008): ")


def test_a_result_table_refuses_a_label_for_two_things():
    runs = pd.concat([per_run("mlp", [3.0]), per_run("mlp", [3.1], **{"optimizer.lr": 1e-3})])
    with pytest.raises(
        ValueError, match=r"label 'mlp' mixes runs of different optimizer.lr \(0.0003, 0.001\)"
    ):
        table.result_table(runs)


def test_a_result_table_refuses_runs_without_a_score():
    with pytest.raises(ValueError, match="1 of 2 values in mlp are not finite"):
        table.result_table(per_run("mlp", [3.0, np.nan]))


# ------------------------------------------------------------------ as text


@pytest.mark.parametrize(
    "numbers, text",
    [
        ((2.0532, 2.0211, 2.0853), "2.053 [2.021, 2.085]"),
        ((2.0532, 1.7211, 2.3853), "2.05 [1.72, 2.39]"),
        ((120.4, 100.1, 140.7), "120 [100, 141]"),
        ((2.0532, np.nan, np.nan), "2.053 [n/a]"),
        ((2.0, 2.0, 2.0), "2.000 [2.000, 2.000]"),
    ],
)
def test_an_interval_sets_the_digits(numbers, text):
    assert formats.format_interval(*numbers) == text


@pytest.mark.parametrize(
    "value, text",
    [
        (1723140, "1.72 M"),
        (950, "950"),
        (999.7, "1.00 k"),
        (1.1e6, "1.10 M"),
        (926468, "926 k"),
        (1.5e9, "1.50 G"),
        (2e5, "200 k"),
    ],
)
def test_si_prefixes_keep_three_figures(value, text):
    assert formats.format_si(value) == text


def test_a_readable_table_joins_mean_and_interval_and_names_units():
    shown = readable.readable(result())
    assert shown.columns.tolist() == [
        "model", "n", "test bits per byte [95% t interval]", "parameters", "training FLOPs", "weights",
        "training time (s)", "learning rate", "rank",
    ]  # fmt: skip
    assert shown.iloc[0].tolist() == [
        "transformer", "3", "2.90 [2.65, 3.15]", "430,785", "2.21e13", "1.72 MB", "46.1", "0.0003", "1",
    ]  # fmt: skip
    assert shown.iloc[3].tolist() == ["unigram", "", "4.80", "", "", "", "", "", ""]


def test_a_result_table_survives_csv():
    import io

    again = pd.read_csv(io.StringIO(result().to_csv(index=False)))
    assert readable.is_result(again)
    assert readable.readable(again).equals(readable.readable(result()))


def test_the_terminal_table_fits_its_width_and_loses_no_column():
    wide, narrow = readable.as_text(result(), width=200), readable.as_text(result(), width=60)
    assert max(map(len, narrow.splitlines())) <= 60
    for text in ("2.90 [2.65, 3.15]", "430,785", "2.21e13", "1.72 MB", "46.1", "0.0003", "unigram"):
        assert text in wide
        assert text in narrow
    assert wide.count("transformer") == 1
    assert narrow.count("transformer") > 1


def test_the_notebook_table_is_the_same_in_every_run_and_marks_best_and_references():
    html = readable.styled(result(), caption="n = 3").to_html()
    assert html == readable.styled(result(), caption="n = 3").to_html()
    assert "font-weight: bold" in html
    assert "font-style: italic" in html
    assert "n = 3</caption>" in html


# ------------------------------------------------------------------ tables that are no results

REASON = "look-up tables are counted as products (+1,000); attention's scores and values are left out (-20)"


def plain():
    return pd.DataFrame(
        {
            "model": ["linear", "mlp"], "flops": [123456789, 4096], "closed_form": [123400000, 0],
            "difference": [56789, -1234], "ratio": [1.0, 43.0161], "p_holm": [0.00002, 0.0321],
            "lr": [0.0003, 0.004], "nll": [2.34567, np.inf], "n_seeds": [3, 3], "on_edge": [True, False],
            "tiny": [1.5, 0.00002], "level": ["32", "64"], "maybe": pd.Series([None, 0.5], dtype=object),
            "reason": [REASON, "agrees"],
        }
    )  # fmt: skip


def test_in_a_plain_table_each_column_has_a_readable_title_and_one_format():
    shown = readable.readable(plain())
    assert {name: shown[name].tolist() for name in shown} == {
        "model": ["linear", "mlp"],
        "FLOPs": ["1.23e8", "4.10e3"],
        "closed form": ["1.23e8", "0"],
        "difference": ["56,789", "-1,234"],
        "ratio": ["1.00", "43.02"],
        "p (Holm)": ["< 0.001", "0.032"],
        "learning rate": ["0.0003", "0.004"],
        "NLL (nats per token)": ["2.346", "inf"],
        "seeds": ["3", "3"],
        "on edge": ["yes", "no"],
        "tiny": ["1.5", "2e-05"],
        "level": ["32", "64"],
        "maybe": ["", "0.5000"],
        "reason": [REASON, "agrees"],
    }


def test_a_difference_and_its_bounds_have_the_digits_of_the_interval():
    pairs = pd.DataFrame({"difference": [-0.12345, 1.0], "low": [-0.2, 0.9], "high": [-0.05, np.nan]})
    shown = readable.readable(pairs)
    assert shown.to_numpy().tolist() == [["-0.123", "-0.200", "-0.050"], ["1.000", "0.900", ""]]
    means = pd.DataFrame({"test NLL (nats per token)": [2.34567], "95% low": [2.0], "95% high": [2.6]})
    assert readable.readable(means).iloc[0].tolist() == ["2.35", "2.00", "2.60"]


def test_two_columns_of_one_title_are_refused():
    with pytest.raises(ValueError, match="two columns of a table have one title; they are lr, learning rate"):
        readable.readable(pd.DataFrame({"lr": [1.0], "learning rate": [2.0]}))


def test_words_stand_left_numbers_right_and_long_texts_wrap():
    assert readable.kinds(plain()) == ["text", *["number"] * 8, "text", "number", "text", "number", "long"]
    assert readable.kinds(result()) == ["text", *["number"] * 8]
    assert to_latex(plain()).startswith(r"\begin{tabular}{lrrrrrrrrlrlrp{6cm}}")
    assert r"\shortstack[r]{NLL (nats\\{}per token)}" in to_latex(plain())
    html = readable.styled(plain()).to_html()
    assert style_of(html, "row0_col13") == {
        "text-align": "left", "white-space": "normal", "min-width": "14rem", "max-width": "26rem",
    }  # fmt: skip
    assert style_of(html, "row0_col11") == {"text-align": "left", "white-space": "nowrap"}
    assert style_of(html, "row0_col1") == {"text-align": "right", "white-space": "nowrap"}
    assert style_of(html, "th.col11", mark=" ")["text-align"] == "left"
    assert style_of(html, "th.col1", mark=" ")["text-align"] == "right"


def test_tables_set_below_each_other_are_styled_row_by_row():
    one = pd.DataFrame({"model": ["linear", "mlp"], "flops": [1e9, 2e9]})
    html = readable.styled(pd.concat([one, one])).to_html()
    assert html.count("<td") == 8


def style_of(html, place, *, mark="_"):
    """The properties that the style sheet of a styled table gives one place."""
    found = {}
    for selectors, body in re.findall(r"([^{}]+)\{([^}]*)\}", html.partition("</style>")[0]):
        if any(selector.strip().endswith(mark + place) for selector in selectors.split(",")):
            found |= dict(re.findall(r"([\w-]+): *([^;\n]+);", body))
    return found


def test_in_the_terminal_long_texts_and_captions_wrap():
    caption = "n = 3 seeds, 95% t intervals; " * 6
    text = readable.as_text(plain(), width=70, caption=caption)
    assert max(map(len, text.splitlines())) <= 70
    words = " ".join(text.split())
    assert " ".join(caption.split()) in words
    assert all(word in words for word in REASON.split())
    (line,) = [line for line in text.splitlines() if line.split()[:1] == ["linear"] and "look-up" in line]
    assert line.index("look-up") < 50, "a text starts at the left of its column"


# ------------------------------------------------------------------ as files


def test_latex_has_booktabs_rules_and_a_rule_above_the_references():
    lines = to_latex(result()).splitlines()
    assert lines[:2] == [r"\begin{tabular}{lrrrrrrrr}", r"\toprule"]
    rules = [i for i, line in enumerate(lines) if line == r"\midrule"]
    assert [lines[i + 1].split(" & ")[0] for i in rules] == ["transformer", "n-gram order 4"]
    assert r"2.90 [2.65, 3.15] & 430,785 & 2.21e13 & 1.72 MB & 46.1 & 0.0003 & 1 \\" in lines[rules[0] + 1]
    assert r"\shortstack[r]{test bits per byte\\{}[95\% t interval]}" in lines[2]


def test_latex_signs_are_escaped():
    assert escape_latex("a_b & 5% − $x") == r"a\_b \& 5\% $-$ \$x"
    assert escape_latex("\\^~<") == r"\textbackslash{}\textasciicircum{}\textasciitilde{}\textless{}"


def test_saved_tables_keep_all_digits(tmp_path):
    csv, tex, stamp = save_table(result(), tmp_path, "results", stamp=STAMP, caption="Losses.")
    assert np.array_equal(pd.read_csv(csv)["95% low"], result()["95% low"], equal_nan=True)
    assert tex.read_text() == to_latex(result())
    assert '"caption": "Losses."' in stamp.read_text()
    before = csv.read_bytes()
    save_table(result(), tmp_path, "results", stamp=STAMP, caption="Losses.")
    assert csv.read_bytes() == before


def test_tables_and_figures_need_no_torch():
    code = (
        "import sys; import lmbench.analysis.figures, lmbench.analysis.export, lmbench.analysis.readable; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------ what a figure has room for


def predictors():
    """The predictors of a text task, two smoothings of two orders, in the order of their record."""
    rows = [
        ("uniform", None, "", 6.0), ("unigram", 0, "add_half", 4.8),
        ("ngram", 2, "witten_bell", 2.9), ("ngram", 4, "witten_bell", 2.4),
        ("ngram", 2, "modified_kneser_ney", 2.2), ("ngram", 4, "modified_kneser_ney", 2.3),
        ("zlib", None, "", 3.2), ("bz2", None, "", 2.6), ("xz", None, "", 2.8),
    ]  # fmt: skip
    found = pd.DataFrame(rows, columns=["predictor", "order", "smoothing", "bits_per_byte"])
    return found.astype({"order": "Int64"})


def leading(whole, metric="bits_per_byte"):
    found = references.leading_references(whole, metric=metric)
    return sorted(references.reference_values(found, metric=metric).items(), key=lambda item: item[1])


def test_a_figure_shows_unigram_best_n_gram_of_each_smoothing_and_best_compressor():
    assert leading(predictors()) == [
        ("n-gram order 2 (modified Kneser-Ney)", 2.2),
        ("n-gram order 4 (Witten-Bell)", 2.4),
        ("bz2", 2.6),
        ("unigram", 4.8),
    ]


def test_leading_references_keep_their_columns_and_do_not_change_the_table():
    whole = predictors()
    found = references.leading_references(whole, metric="bits_per_byte")
    assert found.equals(whole.loc[found.index])
    assert whole.equals(predictors())


def test_predictors_without_a_value_of_the_metric_lead_nothing():
    whole = predictors()
    # A lossy text: the compressors know only bytes, and their nll is missing.
    whole["nll"] = whole["bits_per_byte"].where(~whole["predictor"].isin(["zlib", "bz2", "xz"]))
    assert [name for name, _ in leading(whole, "nll")] == [
        "n-gram order 2 (modified Kneser-Ney)", "n-gram order 4 (Witten-Bell)", "unigram",
    ]  # fmt: skip
    whole.loc[whole["predictor"] == "bz2", "bits_per_byte"] = np.nan
    assert ("xz", 2.8) in leading(whole)


def test_a_table_without_n_grams_has_the_others():
    few = predictors().query("predictor != 'ngram'")
    assert [name for name, _ in leading(few)] == ["bz2", "unigram"]


def test_leading_references_name_the_nearest_column():
    with pytest.raises(ValueError, match=r"unknown column 'bits_per_bite'; .*Did you mean 'bits_per_byte'\?"):
        references.leading_references(predictors(), metric="bits_per_bite")
