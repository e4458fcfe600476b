"""Every claim about quantised distillation: declared, judged by the evidence, and never silently dropped."""

import pandas as pd
import pytest

from lmbench.analysis import distillation_claims as claims
from lmbench.analysis.compression_speed import speed_table
from lmbench.analysis.distillation_arms import factorial_cells
from lmbench.analysis.distillation_evidence import Evidence
from lmbench.analysis.distillation_promises import sparse_arms
from lmbench.analysis.distillation_registry import CLAIMS, declared_table, words_of
from lmbench.analysis.intervals import Estimate
from lmbench.analysis.replication import Replication, not_tested
from tests.test_compression import study, timings

QUICK = ["teacher", *factorial_cells(half=True), "bits=2 ptq", "bits=4 ptq", "bits=8 ptq"]
TIMES = timings(hard=[("float32", 2.0)], P=[("float32", 2.0), ("csr", 0.2)])


def evidence(arms=None, *, seeds=3, noise=0.002, **more):
    runs, files = study(seeds=seeds, noise=noise) if arms is None else study(arms, seeds=seeds, noise=noise)
    return Evidence(runs=runs, artifacts=files, **more)


def judge(number, given):
    """The findings of one claim."""
    outcome = claims.CLAIMS[number](given)
    return outcome if isinstance(outcome, list) else [outcome]


def beside(number, given):
    """What of lmbench's own stands beside one claim."""
    return [one.what for one in claims.findings(given) if (one.number, one.kind) == (number, "own")]


def only(number, given):
    (found,) = judge(number, given)
    return found


# ------------------------------------------------------------------ the list


def test_every_declared_claim_has_a_judge_and_every_judge_a_claim():
    assert [claim.id for claim in CLAIMS] == list(claims.CLAIMS)
    assert [f"B{i}" for i in range(1, 15)] + [f"C{i}" for i in range(1, 14)] == list(claims.CLAIMS)[:27]


def test_the_declared_table_says_what_would_replicate_each():
    table = declared_table()
    assert len(table) == 31
    assert table["replicated if"].map(len).min() > 0
    assert declared_table(["B1"])["replicated if"].tolist() == ["the interval reaches 8 times"]
    with pytest.raises(ValueError, match="unknown claim 'B99'"):
        words_of("B99")


@pytest.mark.parametrize("arms", [None, QUICK, ["hard"], ["teacher", "hard", "joint"]])
@pytest.mark.parametrize("seeds", [1, 2])
def test_no_claim_vanishes_whatever_was_run(arms, seeds):
    found = claims.findings(evidence(arms, seeds=seeds))
    assert {one.number for one in found if one.kind == "claim"} == set(claims.CLAIMS)
    table = claims.claim_table(found)
    assert table["measured"].map(len).min() > 0
    assert "nan" not in " ".join(table["measured"])
    said = claims.claims_reading(found)
    assert all(f"{number}, " in said or f"{number}. " in said for number in claims.CLAIMS)


def test_without_any_file_only_what_needs_none_is_judged():
    every = claims.findings(Evidence(runs=study(["hard", "KD"])[0]))
    found = {one.number: one.what for one in every if one.kind == "claim"}
    assert found["B1"].verdict == "NT"
    assert found["B1"].measured == "no dense arm of 8 bits was packed"
    assert found["P6"].verdict == "NOT"


def test_a_claim_of_several_parts_needs_all_of_them_and_stands_before_them():
    every = [one for one in claims.findings(evidence()) if one.number == "B7"]
    assert [one.kind for one in every] == ["claim", "part", "part"]
    # With a part that was not tested the claim is open, not replicated.
    assert [one.what.verdict for one in every] == ["INC", "REP", "NT"]
    assert every[0].what.measured == "of 2 parts, all of which it needs, 1 replicated, 1 not tested"
    refuted = [one for one in claims.findings(dearer()) if one.number == "B7"]
    assert [one.what.verdict for one in refuted] == ["NOT", "REP", "NOT"]


def dearer():
    """A study in which hard labels with the FLOPs of a distilled student are the better ones."""
    runs = evidence().runs
    extra = runs[runs["label"] == "hard"].assign(label="hard longer")
    extra["bits_per_byte"] -= 0.2
    return Evidence(runs=pd.concat([runs, extra]))


def test_what_lmbench_puts_in_a_claims_place_holds_and_is_not_replicated():
    given = evidence(agreement=agreements(), coverage=coverages())
    own = [one for one in claims.findings(given) if one.kind == "own" and one.what.verdict != "NT"]
    assert [(one.number, one.verdict) for one in own] == [("B10", "holds"), ("C1", "holds"), ("C6", "holds")]
    assert ": holds (" in own[0].what.text and "replicated" not in own[0].what.text
    reading = claims.claims_reading(claims.findings(given))
    assert "Besides, 3 of 3 formulas and theorems of lmbench's own hold." in reading
    assert "Beside C6, lmbench's own. The same bound with its networks counted rightly: holds (" in reading


# ------------------------------------------------------------------ size and compute


def test_eight_times_smaller_is_refuted_by_files_four_times_smaller():
    found = only("B1", evidence())
    assert found.verdict == "NOT"
    assert "3.96 times" in found.measured
    few = evidence()
    smaller = few.artifacts.assign(bytes=few.artifacts["bytes"] // 3)
    assert only("B1", Evidence(runs=few.runs, artifacts=smaller)).verdict == "REP"


def test_ten_times_cheaper_needs_the_clock_and_the_count():
    timed = evidence(speeds=speed_table(TIMES))
    # 1 / 0.28 = 3.57 of multiply-adds and 10 of seconds are both beyond 3.16.
    assert only("B2", timed).verdict == "REP"
    # A pass that multiplies the zeros says nothing of what leaving them out saves.
    dense = only("B2", evidence(speeds=speed_table(TIMES[TIMES["form"] != "csr"])))
    assert dense.verdict == "INC" and "times (95%" not in dense.measured
    slow = TIMES.assign(seconds=TIMES["seconds"].where(TIMES["form"] != "csr", 2.5))
    assert only("B2", evidence(speeds=speed_table(slow))).verdict == "NOT"
    untimed = only("B2", evidence())
    assert untimed.verdict == "INC"
    reason = "seconds were not tested: no kernel that skips zeros (csr or 2:4) ran"
    assert reason in untimed.measured and reason in dense.measured


def test_pruning_is_judged_apart_for_bytes_multiply_adds_and_each_form():
    found = {one.claim.partition(" in ")[2]: one for one in judge("C8", evidence(speeds=speed_table(TIMES)))}
    assert found["bytes"].verdict == "REP"
    assert found["multiply-adds"].verdict == "REP"
    dense = judge("C8", evidence(speeds=speed_table(TIMES[TIMES["form"] != "csr"])))
    assert [one.verdict for one in dense] == ["REP", "NT", "NT"]
    assert "counted from the weights, which is no saving that ran" in dense[1].measured
    every = claims.findings(evidence(speeds=speed_table(TIMES[TIMES["form"] != "csr"])))
    assert [one.kind for one in every if one.number == "C8"] == ["claim"] * 3
    assert "C8 counts once for each part that was tested, 1 of 3." in claims.claims_reading(every)
    quick = judge("C8", evidence(QUICK))[0]
    assert quick.measured.startswith("effect of P and Q×KD×ENT over the design")


def test_the_formula_of_size_is_judged_by_the_worst_file():
    files = evidence().artifacts
    assert beside("C1", evidence())[-1].verdict == "REP"
    off = files.assign(bytes=files["bytes"].where(files.index != 3, files["bytes"] * 1.2))
    found = beside("C1", Evidence(runs=evidence().runs, artifacts=off))[-1]
    assert (found.verdict, "the furthest 21.2%" in found.measured) == ("NOT", True)


def test_a_growth_law_needs_one_constant_and_its_correction_the_count():
    rows = pd.DataFrame(
        {
            "number": "C2", "quantity": "multiply-adds", "reading": "", "varied": "width",
            "value": [1.0, 2.0], "shape": ["a", "b"], "first": [10.0, 40.0], "second": 0.0,
            "corrected": [5.0, 10.04],
            "counted": [5.0, 10.0],
        }
    )  # fmt: skip
    given = evidence(formulas=rows)
    (written,), (corrected,) = judge("C2", given), beside("C2", given)
    assert (written.verdict, corrected.verdict) == ("NOT", "REP")
    assert written.measured == (
        "over 2 shapes its ratio to the count varies 2 times; "
        "powers as published and as counted: width 2.00 and 1.00"
    )
    assert corrected.measured == "at most 0.40% off what was counted, over 2 shapes; allowed are 1%"
    held = judge("C2", evidence(formulas=rows.assign(first=[5.0, 10.0])))[0]
    assert (held.verdict, held.measured) == ("REP", "over 2 shapes its ratio to the count varies 1 times")
    one = judge("C2", evidence(formulas=rows.head(1)))[0]
    assert (one.verdict, one.measured) == ("NT", "one shape cannot show how anything grows")
    assert only("C2", evidence()).measured == "its terms were not counted"


# ------------------------------------------------------------------ quality


def test_a_few_per_cent_is_of_perplexity_against_the_student_and_the_teacher():
    found = judge("B3", evidence())
    # V1 has 0.1016 bits more than the student: 2^0.1016 = 1.073.
    assert [one.verdict for one in found] == ["NOT", "NOT"]
    assert "against hard +7.3%" in found[0].measured
    same = evidence()
    runs = same.runs.assign(nll=1.0 + 0.001 * same.runs["init_seed"])
    assert [one.verdict for one in judge("B3", Evidence(runs=runs))] == ["REP", "REP"]


def test_eight_bits_are_judged_apart_rounded_after_training_and_trained():
    assert [one.verdict for one in judge("B4", evidence())] == ["REP", "REP"]
    worse = evidence().runs
    worse.loc[worse["label"] == "bits=8 qat", "bits_per_byte"] += 0.5
    found = [one for one in claims.findings(Evidence(runs=worse)) if one.number == "B4"]
    # That one way is enough does not make the other so, and the claim needs both.
    assert [one.what.verdict for one in found] == ["NOT", "REP", "NOT"]
    assert found[1].what.claim == "8 bits are enough, rounded after training"
    rounded = evidence(["hard", "bits=8 ptq"])
    assert [one.verdict for one in judge("B4", rounded)] == ["REP", "NT"]


def sparse_study(*, sparse, small, seeds=3):
    """Losses of 2 for the dense student, with a shift of each seed that all arms share, and nothing else."""
    means = {"hard": 2.0, "density=0.1": sparse, "dense small": small}
    rows = [(label, seed, mean * 1.01**seed) for label, mean in means.items() for seed in range(seeds)]
    runs = pd.DataFrame(rows, columns=["label", "init_seed", "bits_per_byte"])
    return runs.assign(density=runs["label"].map({"density=0.1": 0.1}).fillna(1.0))


@pytest.mark.parametrize(
    ("sparse", "small", "verdict", "shown"),
    [
        (2.08, 2.6, "REP", "−20.00% (90% interval −20.00% to −20.00%, 3 seeds): the sparse one is better"),
        (
            2.08,
            2.08,
            "REP",
            "+0.00% (90% interval +0.00% to +0.00%, 3 seeds): the small dense one does as well",
        ),
        (2.08, 2.0, "NOT", "+4.00% (90% interval +4.00% to +4.00%, 3 seeds): the small dense one is better"),
        (2.2, 2.75, "NOT", "−20.00% (90% interval −20.00% to −20.00%, 3 seeds): the sparse one is better"),
    ],
)
def test_sparsity_has_to_lose_little_and_be_no_worse_than_a_dense_net_of_as_many_weights(
    sparse, small, verdict, shown
):
    found = only("B5", Evidence(runs=sparse_study(sparse=sparse, small=small)))
    assert found.verdict == verdict
    assert found.measured.endswith(f"; density=0.1 against a dense net of as many weights {shown}")


def test_a_control_that_spreads_too_much_leaves_sparsity_open():
    runs = sparse_study(sparse=2.08, small=2.08)
    is_small = runs["label"] == "dense small"
    spread = runs["bits_per_byte"].where(~is_small, runs["bits_per_byte"] * 1.05 ** (runs["init_seed"] - 1))
    found = only("B5", Evidence(runs=runs.assign(bits_per_byte=spread)))
    assert found.verdict == "INC" and found.measured.endswith(": which is better is not decided")
    # The small one is 8% higher: the interval now ends below the margin of 1%, and above 0.
    lower = spread.where(~is_small, spread * 1.08)
    found = only("B5", Evidence(runs=runs.assign(bits_per_byte=lower)))
    assert found.verdict == "REP" and found.measured.endswith(
        "no worse, and whether it is better is not decided"
    )


def test_without_its_control_sparsity_is_refuted_or_open():
    runs = sparse_study(sparse=2.08, small=2.0)
    found = only("B5", Evidence(runs=runs[runs["label"] != "dense small"]))
    assert found.verdict == "INC"
    assert found.measured.endswith("the dense net of as many weights, which decides, was not run")
    lost = sparse_study(sparse=2.2, small=2.0)
    assert only("B5", Evidence(runs=lost[lost["label"] != "dense small"])).verdict == "NOT"
    # In the half design what is pruned is also taught or quantised, so no control stands beside it.
    half = evidence([*QUICK, "dense small"])
    assert "an arm that is pruned and nothing else, which decides, was not run" in only("B5", half).measured


def test_entropy_is_judged_by_calibration_and_nll_over_the_design():
    given = evidence()
    has_entropy = given.runs["label"].str.contains("ENT")
    noise = 1e-4 * (given.runs.index % 7)
    better = given.runs.assign(ece=0.1 - 0.03 * has_entropy + noise, nll=1.4 - 0.1 * has_entropy + noise)
    assert verdicts("B6", better) == ["REP", "REP"]
    assert verdicts("B6", better.assign(nll=1.4 + 0.1 * has_entropy + noise)) == ["NOT", "NOT"]
    half = judge("B6", Evidence(runs=better[better["label"].isin(QUICK)]))
    assert all("confused with Q×P" in one.measured for one in half)
    assert only("B6", given).measured == "no calibration error was measured"


def test_entropy_that_helps_with_a_teacher_and_harms_without_one_is_not_replicated():
    given = evidence()
    label = given.runs["label"]
    has_entropy, taught = label.str.contains("ENT"), label.str.contains("KD")
    noise = 1e-4 * (given.runs.index % 7)
    # The mean over the design is better: -0.02 and +0.01.
    change = (0.01 - 0.03 * taught) * has_entropy
    runs = given.runs.assign(ece=0.1 + change + noise, nll=1.4 - 0.1 * has_entropy + noise)
    assert verdicts("B6", runs) == ["NOT", "REP"]
    (whole, *_) = [one for one in claims.findings(Evidence(runs=runs)) if one.number == "B6"]
    assert (whole.kind, whole.what.verdict) == ("claim", "NOT")
    sure = runs.assign(overconfidence=0.01 - 0.03 * has_entropy)
    said = judge("B6", Evidence(runs=sure))[0].measured
    assert said.endswith("mean confidence less accuracy is +0.0100 without ENT and −0.0200 with it")


def verdicts(number, runs):
    return [one.verdict for one in judge(number, Evidence(runs=runs))]


def test_distilling_is_judged_with_and_without_the_teachers_flops():
    steps, flops = judge("B7", evidence())
    assert (steps.verdict, flops.verdict) == ("REP", "NT")
    assert "KD took 3 times its own FLOPs" in flops.measured
    assert judge("B7", dearer())[1].verdict == "NOT"
    # The mean over the design stands beside what it is a mean of.
    assert ", a mean of two: KD without P −0.0" in steps.measured and ", with P −0.0" in steps.measured


def test_synergy_is_what_all_do_beyond_the_sum_of_each():
    given = evidence(noise=0.0005)
    assert only("B14", given).verdict == "INC"
    runs = given.runs
    helped = runs.assign(bits_per_byte=runs["bits_per_byte"] - 0.3 * runs["label"].eq("Q+P+KD+ENT"))
    assert only("B14", Evidence(runs=helped)).verdict == "REP"
    half = only("B14", Evidence(runs=helped[helped["label"].isin(QUICK)]))
    assert "if no three or four of them interact" in half.measured


# ------------------------------------------------------------------ convergence, agreement, bounds


def test_a_floor_above_zero_refutes_convergence_to_zero():
    floors = pd.DataFrame({"label": ["V1 literal"], "k_inf": [0.1], "low": [0.05], "high": [0.15], "n": [5]})
    assert only("B8", evidence(floors=floors)).verdict == "NOT"
    assert only("B8", evidence(floors=floors.assign(k_inf=0.001, low=-0.004, high=0.006))).verdict == "REP"
    assert only("B8", evidence(floors=floors.assign(low=-0.1))).verdict == "INC"


def test_claims_without_a_number_are_reported_and_not_judged():
    reached = pd.DataFrame(
        {"label": ["V1"], "epsilon": [0.1], "reached": [18], "n": [20], "low": [0.68], "high": [0.99]}
    )
    found = only("B9", evidence(reached=reached))
    assert found.verdict == "NT"
    assert "below 0.1 nats in 18 of 20" in found.measured
    assert "22.4 times" not in only("C5", evidence()).measured
    assert "V1 literal" in only("C5", evidence()).measured


def agreements(**more):
    row = {
        "teacher_accuracy": 0.6, "student_accuracy": 0.55, "kl_forward": 0.1, "kl_reverse": 0.2,
        "margin_bound": 0.8, "margin_violations": 0, "approximation_ratio": 0.2, "top1_agreement": 0.7,
    }  # fmt: skip
    return pd.DataFrame([{"label": label, "init_seed": 0} | row for label in ("V1", "V2", "KD")]).assign(
        **more
    )


def test_the_margin_bound_holds_or_is_a_bug_and_is_no_source_s_claim():
    assert beside("B10", evidence(agreement=agreements()))[0].verdict == "REP"
    assert only("B10", evidence(agreement=agreements())).verdict == "NT"
    # Accuracy lost is here 0.1 times sqrt(2 KL).
    lost = agreements(kl_forward=[0.02, 0.08, 0.18], student_accuracy=[0.58, 0.56, 0.54])
    assert "over 3 arms grows by 0.1 per sqrt(2 KL)" in only("B10", evidence(agreement=lost)).measured
    assert beside("B10", evidence(agreement=agreements(margin_violations=1)))[0].verdict == "NOT"
    assert "same choice 70%" in only("C4", evidence(agreement=agreements())).measured


def test_every_task_means_the_worst_one():
    rows = [
        (label, task, seed, 0.6 + 0.01 * seed - lost[task] * (label == "V1 literal") + 0.001 * (seed % 2))
        for lost in [{"copy": 0.01, "recall": 0.2}]
        for label in ("teacher", "V1 literal")
        for task in lost
        for seed in range(4)
    ]
    tasks = pd.DataFrame(rows, columns=["label", "task", "init_seed", "accuracy"])
    found = only("B11", evidence(tasks=tasks))
    assert (found.verdict, "loses most on recall" in found.measured) == ("NOT", True)
    assert only("B11", evidence(tasks=tasks[tasks["task"] == "copy"])).verdict == "REP"


def coverages():
    return pd.DataFrame(
        {
            "form": ["seed", "occam"], "violations": [90, 1], "draws": 200, "rate": [0.45, 0.005],
            "low": [0.38, 0.0], "high": [0.52, 0.03], "delta": 0.05,
        }
    )  # fmt: skip


def test_a_bound_is_judged_by_how_often_it_is_exceeded():
    given = evidence(coverage=coverages())
    assert only("C6", given).verdict == "NOT"
    assert [one.verdict for one in beside("C6", given)] == ["REP"]


def test_regret_above_zero_refutes_choosing_by_the_bound():
    assert only("C13", evidence(regret=Estimate(0.1, 0.05, 0.15, 0.001, 5, 4.0))).verdict == "NOT"
    assert only("C13", evidence(regret=Estimate(0.0, 0.0, 0.0, 1.0, 5, 4.0))).verdict == "REP"


# ------------------------------------------------------------------ joint, temperature, the rest


def test_joint_temperature_and_generalisation_follow_their_tests():
    given = evidence()
    assert [one.verdict for one in judge("C7", given)] == ["REP", "REP"]
    assert [one.verdict for one in judge("C9", given)] == ["REP", "REP"]
    assert [one.verdict for one in judge("C10", given)] == ["NOT", "NT"]
    runs = given.runs.assign(ood_bits_per_byte=given.runs["bits_per_byte"])
    runs.loc[runs["label"].str.startswith("V2"), "ood_bits_per_byte"] -= 0.5
    assert [one.verdict for one in judge("C10", Evidence(runs=runs))] == ["NOT", "REP"]


def test_files_of_unequal_size_decide_nothing_about_joint_training():
    given = evidence()
    files = given.artifacts.copy()
    files.loc[files["label"] == "prune then quantize", "bytes"] *= 0.8
    first, second = judge("C7", Evidence(runs=given.runs, artifacts=files))
    # 1.25 and 1 times its bytes, which a mean of 1.13 would hide.
    assert (first.verdict, second.verdict) == ("INC", "REP")
    assert "1.25 times its bytes, which is not at equal bits, so nothing is decided" in first.measured
    assert second.measured.endswith("1 times its bytes")


def test_generalisation_is_that_of_the_whole_sketch_with_distilling_alone_beside_it():
    (found, _) = judge("C10", evidence())
    assert found.measured.startswith(
        "the second sketch as a whole, pruned and quantised too: V2 literal less"
    )
    assert "; beside it distilling alone, KD less hard, −0.0" in found.measured
    # What distilling does alone does not decide: here it is better, and the sketch is not.
    assert found.verdict == "NOT"
    assert "alone" not in judge("C10", evidence(["hard", "V2 literal"]))[0].measured


def test_activations_are_compared_with_weights_alone():
    runs = evidence().runs
    both = runs[runs["label"] == "bits=8 qat"].assign(label="bits=8 qat activations")
    assert only("C11", Evidence(runs=pd.concat([runs, both]))).verdict == "REP"
    # The cell Q quantises activations too, so it is that arm.
    assert only("C11", evidence()).measured.startswith("Q against bits=8 qat: equal")
    assert only("C11", evidence(["hard", "Q"])).measured == "no run of bits=8 qat"


def test_one_architecture_that_fails_refutes_flexibility():
    done = pd.DataFrame({"model": ["lstm", "mlp"], "methods": "quantize", "finished": [True, True]})
    assert only("C12", evidence(composed=done)).verdict == "REP"
    found = only("C12", evidence(composed=done.assign(finished=[True, False])))
    assert (found.verdict, "not mlp with quantize" in found.measured) == ("NOT", True)


def test_the_contests_capacities_are_half_of_what_fits():
    found = judge("P6", evidence())
    assert [one.verdict for one in found] == ["NOT"] * 3
    assert [one.measured.split()[1] for one in found] == ["64.0", "42.7", "32.0"]


def test_two_bits_are_judged_after_training_and_trained():
    post, trained = judge("P7", evidence(noise=0.0005))
    # 0.4 of 2.1 bits after training is 19%, and 0.1 trained is 4.8%.
    assert (post.verdict, trained.verdict) == ("INC", "REP")
    assert "+19.1%" in post.measured
    # After training one of the four values of 2 bits is never used, and the claim is judged so.
    assert post.measured.endswith("the three values of a symmetric grid, as 1.58 bits have")
    assert "three values" not in trained.measured


def of_equal_bytes(two, *others, seeds=3):
    """A student of 2 bits and narrower ones of 8, 6, ...: of each its loss and the bytes of its file."""
    names = ["bits=2 qat", "equal bytes bits=8", "equal bytes bits=6"]
    rows = [
        (label, seed, loss * 1.01**seed, size, 3e9 if label == "bits=2 qat" else 1e9)
        for label, (loss, size) in zip(names, (two, *others), strict=False)
        for seed in range(seeds)
    ]
    runs = pd.DataFrame(rows, columns=["label", "init_seed", "bits_per_byte", "bytes", "train_flops"])
    return Evidence(runs=runs.drop(columns="bytes"), artifacts=runs)


@pytest.mark.parametrize(
    ("two", "verdict"),
    [
        ((1.9, 1050), "REP"),
        ((2.1, 1050), "NOT"),
        # More than a tenth apart: a worse net in a larger file is refuted all the same, and so on.
        ((2.1, 1500), "NOT"),
        ((1.9, 1500), "INC"),
        ((1.9, 500), "REP"),
        ((2.1, 500), "INC"),
    ],
)
def test_fewer_bits_are_better_where_the_file_is_no_larger(two, verdict):
    assert only("P8", of_equal_bytes(two, (2.0, 1000))).verdict == verdict


def test_fewer_bits_have_to_beat_every_other_and_one_that_beats_them_refutes():
    assert only("P8", of_equal_bytes((1.9, 1000), (2.0, 1000), (1.95, 1000))).verdict == "REP"
    assert only("P8", of_equal_bytes((1.9, 1000), (2.0, 1000), (1.85, 1000))).verdict == "NOT"


def test_equal_bytes_say_by_how_much_files_and_flops_differ():
    assert only("P8", of_equal_bytes((1.9, 1500), (2.0, 1000))).measured == (
        "bits=2 qat in bits per byte against equal bytes bits=8 −5.0% (95% interval −5.0% to −5.0%, 3 "
        "seeds), its file +50.0% in bytes, which is too far apart to decide; "
        "trained with up to 3 times their FLOPs in as many steps"
    )
    assert only("P8", evidence()).measured == "no nets of different width were packed to equal bytes"
    assert only("P8", of_equal_bytes((1.9, 1000), (2.0, 1000), seeds=1)).verdict == "INC"


def test_a_large_teacher_takes_all_of_the_budget():
    assert only("P9", evidence()).measured.startswith("2 N of the teacher is 73 times 6 N")


# ------------------------------------------------------------------ table and reading


def test_the_reading_counts_verdicts_and_lists_what_was_not_tested():
    found = [
        claims.Finding("B1", "claim", Replication("one", "NOT", "x", "One: not replicated (x).")),
        claims.Finding("C7", "claim", Replication("two", "REP", "y", "Two: replicated (y).")),
        claims.Finding("C7", "part", Replication("two, a", "REP", "y", "Two, a: replicated (y).")),
        claims.Finding("C7", "own", Replication("two, b", "REP", "y", "Two, b: holds (y).")),
        claims.Finding("C9", "claim", not_tested("three", "no arm")),
    ]
    table = claims.claim_table(found)
    assert table["verdict"].tolist() == ["not replicated", "replicated", "replicated", "holds", "not tested"]
    assert claims.claims_reading(found, notes=["All alike.", ""]) == (
        "Of 2 published claims that were tested, each counted once: 1 replicated, 0 right direction, "
        "smaller, 1 not replicated, 0 inconclusive. "
        "Besides, 1 of 1 formulas and theorems of lmbench's own hold. All alike.\n\n"
        "The first sketch. B1. One: not replicated (x).\n\n"
        "The second sketch. C7. Two: replicated (y). Two, a: replicated (y). "
        "Beside C7, lmbench's own. Two, b: holds (y).\n\n"
        "Not tested here: C9, three: no arm."
    )


def test_the_counts_of_the_reading_are_those_of_the_tables_claims():
    found = claims.findings(evidence(agreement=agreements(), coverage=coverages()))
    table = claims.claim_table(found)
    tested = table[(table["kind"] == "claim") & (table["verdict"] != "not tested")]
    counts = tested["verdict"].value_counts()
    reading = claims.claims_reading(found)
    assert reading.startswith(f"Of {len(tested)} published claims that were tested, each counted once: ")
    assert f" {counts['replicated']} replicated, " in reading
    others = tested[~tested["number"].isin(claims.APART)]
    assert not others["number"].duplicated().any()


def test_the_reading_says_which_rates_were_searched_and_that_there_is_one_teacher():
    arms = ["hard", "Q", "KD"]
    assert claims.tuned_sentence(["hard"], arms=arms).startswith(
        "A learning rate was searched for hard alone and all other students take it"
    )
    assert claims.tuned_sentence(arms, arms=arms) == "A learning rate was searched for every arm."
    assert "none was searched" in claims.tuned_sentence([], arms=arms)
    assert "of that teacher alone" in claims.teacher_sentence(evidence())
    assert claims.teacher_sentence(evidence(["hard", "KD"])) == ""


def test_a_quantised_arm_is_the_last_to_speak_for_pruning():
    runs = pd.DataFrame({"label": ["Q+P", "P+KD", "P+ENT", "hard"], "density": [0.1, 0.1, 0.1, 1.0]})
    assert sparse_arms(runs) == ["P+KD", "P+ENT", "Q+P"]
    swept = runs.head(1).assign(label="density=0.1")
    assert sparse_arms(pd.concat([runs, swept]))[0] == "density=0.1"


def test_a_margin_bound_that_allows_anything_decides_nothing():
    rows = pd.DataFrame({"label": ["hard", "P"], "init_seed": 0, "margin_violations": 0, "kl_forward": 0.1})
    rows = rows.assign(teacher_accuracy=0.5, student_accuracy=0.4)
    rows = rows.assign(approximation_ratio=0.2, kl_reverse=0.1, top1_agreement=0.7)
    assert beside("B10", evidence(agreement=rows.assign(margin_bound=1.0)))[0].verdict == "INC"
    assert beside("B10", evidence(agreement=rows.assign(margin_bound=0.8)))[0].verdict == "REP"


def test_without_kd_alone_equal_flops_are_judged_by_the_distilled_arm_with_least_beside_it():
    found = judge("B7", evidence([*factorial_cells(half=True), "hard longer"]))
    assert found[1].measured.startswith("KD+ENT less hard longer")
    assert found[1].measured.endswith("KD alone was not run")


def test_a_regret_that_may_be_large_shows_nothing():
    wide = Estimate(0.01, -0.05, 0.07, 0.6, 3, 2.0)
    assert only("C13", evidence(regret=wide)).verdict == "INC"


def test_what_few_bits_save_is_not_credited_to_zeros():
    times = timings(hard=[("float32", 2.0)], P=[("float32", 2.0), ("int8 dynamic", 0.1)])
    given = evidence(speeds=speed_table(times))
    assert "int8" not in only("B2", given).measured
    assert not [one.claim for one in judge("C8", given) if "int8" in one.claim]
