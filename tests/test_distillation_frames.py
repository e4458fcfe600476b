"""Frames of the distillation study: files beside runs, cells under a second name, and the evidence."""

import pandas as pd
import pytest

from lmbench.analysis import distillation_frames as frames
from lmbench.analysis.distillation_claims import findings
from lmbench.measure.bounds_coverage import Coverage

NAMES = frames.second_names(density=0.1, tau=2.0, a=0.5)


def runs(labels=("hard", "P", "Q+P", "KD"), *, seeds=2):
    """One row a run; the teacher has one."""
    rows = [("t", "teacher", 100, 1.0), *((f"{x}{s}", x, s, 2.0 + s) for x in labels for s in range(seeds))]
    table = pd.DataFrame(rows, columns=["run", "label", "init_seed", "bits_per_byte"])
    return table.assign(parameters=1000, train_flops=1e9, all_flops=float("nan"), device="cpu: test")


def files(table, *, lost=0.0, record="file of "):
    """As `training.artifacts.artifacts` gives them."""
    return pd.DataFrame(
        {
            "run": table["run"],
            "label": "transformer",
            "init_seed": table["init_seed"],
            "record": record + table["run"],
            "bytes": 400,
            "predicted_bytes": 410,
            "macs": 100.0,
            "nonzero_macs": 50.0,
            "bits_per_byte": table["bits_per_byte"] + lost,
            "accuracy": 0.5,
        }
    )


def packed():
    """Runs, and files of them with those of the dense student rounded to 4 bits."""
    table = runs()
    rounded = files(table[table["label"] == "hard"], lost=0.25, record="rounded ")
    name = frames.rounded_name(4, "mse")
    return table, frames.file_table(files(table), runs=table, rounded={name: rounded})


def test_a_rounded_file_is_named_by_its_bits_and_how_they_were_chosen():
    assert [frames.rounded_name(1.58, how) for how in ("absmax", "gptq")] == [
        "bits=1.58 ptq absmax",
        "bits=1.58 gptq",
    ]


def test_files_stand_under_their_arm_with_the_loss_of_the_runs_own_weights():
    table, made = packed()
    assert made["label"].tolist()[-2:] == ["bits=4 ptq mse"] * 2
    assert made["is_rounded"].tolist() == [False] * 9 + [True] * 2
    gap = made["packed_bits_per_byte"] - made["float_bits_per_byte"]
    assert gap.tolist() == [0.0] * 9 + [0.25] * 2
    with pytest.raises(ValueError, match="unknown run of a file 'hard0'"):
        frames.file_table(files(table), runs=table[table["label"] != "hard"])


def test_a_rounded_file_is_a_row_of_its_run_with_its_own_scores():
    table, made = packed()
    both = frames.with_files(table, made)
    assert len(both) == len(table) + 2
    rows = both[both["label"] == "bits=4 ptq mse"]
    assert rows["run"].tolist() == ["rounded hard0", "rounded hard1"]
    assert rows["bits_per_byte"].tolist() == [2.25, 3.25]
    assert rows["init_seed"].tolist() == [0, 1]
    assert set(rows["device"]) == {"cpu: test"}
    assert set(both["nonzero_macs"]) == {50.0}


def test_cells_of_the_design_stand_in_the_sweeps_too_unless_they_were_run_there():
    twice = frames.also_named(runs(), NAMES)
    assert twice["label"].value_counts()[["joint", "density=0.1", "tau=2 alpha=0.5", "P"]].tolist() == [2] * 4
    again = frames.also_named(runs(("P", "density=0.1")), NAMES)
    assert (again["label"] == "density=0.1").sum() == 2


def test_a_promise_of_speed_is_read_off_a_pruned_arm_that_was_timed():
    every = ["hard", "Q", "P", "Q+KD", "P+KD"]
    assert frames.promised_arms(every) == {"quantised": "Q", "pruned": "P"}
    assert frames.promised_arms(every, timed=["hard", "P+KD"])["pruned"] == "P+KD"
    assert frames.promised_arms(["hard"]) == {"quantised": None, "pruned": None}


def test_agreement_has_a_row_a_student_and_a_mean_an_arm():
    table = runs(("hard",))
    found = pd.DataFrame(
        [(f"hard{seed}", name, seed + 0.5) for seed in (0, 1) for name in ("kl_forward", "margin_bound")],
        columns=["student", "metric", "value"],
    )
    rows = frames.agreement_rows(found, table)
    assert rows["label"].tolist() == ["hard"] * 2
    shown = frames.agreement_table(rows)
    assert shown.to_dict("records") == [{"arm": "hard", "kl_forward": 1.0, "margin_bound": 1.0}]


def test_the_evidence_has_the_teacher_at_every_seed_and_a_regret_in_shares():
    table, made = packed()
    bounds = pd.DataFrame(
        [("a", 0, 1, 1.0, 2.0), ("b", 0, 2, 0.5, 1.0), ("a", 1, 1, 1.0, 2.0), ("b", 1, 2, 0.5, 1.0)],
        columns=["arm", "init_seed", "occam", "valid", "test"],
    ).assign(unit="nats")
    coverage = {"seed": Coverage(9, 10, 0.9, 0.6, 1.0, 0.05)}
    given = frames.assembled(
        frames.with_files(table, made), files=made, bounds=bounds, coverage=coverage, names=NAMES
    )
    assert given.runs.loc[given.runs["label"] == "teacher", "init_seed"].tolist() == [0, 1]
    assert given.has("joint", "density=0.1", "bits=4 ptq mse")
    # By the bound a, whose test loss is 2; by validation b, whose is 1; the mean of all is 1.5.
    assert given.regret.value == pytest.approx(1 / 1.5)
    assert given.coverage["form"].tolist() == ["seed"]
    found = [one for one in findings(given) if one.kind == "claim" and one.number in ("C6", "C13")]
    assert [one.verdict for one in found] == ["not replicated"] * 2
    agreement = pd.DataFrame({"student": ["hard0", "hard1"], "student_ece": [0.1, 0.2]})
    sure = agreement.assign(student_confidence=[0.5, 0.5], student_accuracy=[0.25, 0.75])
    more = frames.assembled(table, files=made, agreement=sure).runs
    assert more.loc[more["label"] == "hard", "overconfidence"].tolist() == [0.25, -0.25]
    calibrated = frames.assembled(table, files=made, agreement=agreement).runs
    assert calibrated.loc[calibrated["label"] == "hard", "ece"].tolist() == [0.1, 0.2]
    with pytest.raises(ValueError, match="got 2 runs of it"):
        frames.assembled(pd.concat([table, table]), files=made)


def test_joint_files_are_compared_by_what_they_score_and_weigh():
    table = runs(("hard", "Q+P", "prune then quantize"))
    made = frames.file_table(files(table), runs=table)
    found = frames.joint_files(frames.also_named(table, NAMES), made, names=NAMES)
    assert found[["a", "b"]].to_numpy().tolist() == [["joint", "prune then quantize"]]
    assert found["bytes ratio"].tolist() == [1.0]


def test_settings_are_swept_where_some_arm_sets_them():
    assert frames.level_arms(["hard", "bits=4 qat"]) == ["bits"]
    assert frames.level_arms(["hard"]) == []
