"""The arms of quantised distillation: the dense net that a pruned one is judged by, and who has what size."""

import pytest

from lmbench.analysis.distillation_arms import EQUAL_BYTES, FEWEST, family_of, settings_of
from lmbench.analysis.distillation_arms import SMALL as JUDGED_SMALL
from lmbench.config import make
from lmbench.measure.arms import arm_table
from lmbench.measure.distillation_arms import SMALL, dense_small, distillation_arms, nonzero_parameters
from lmbench.measure.equal_bytes import equal_bytes, file_bytes, learned_entropy
from lmbench.measure.flops import parameters
from lmbench.methods.equipment import Equipment, effective
from lmbench.methods.parts import matrices
from lmbench.store import Store
from lmbench.training.arms import arm_of, plan_arms
from lmbench.training.execute import fit_model, run_all
from tests.corpora import write_corpus

SIZES = {"d_model": 16, "n_head": 2, "n_layer": 1, "d_ff": 32, "dropout": 0.0}


def student(**fields):
    return make("model", "transformer_prenorm", **{"vocab_size": 65, "seq_len": 16} | SIZES | fields)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return make("task", "text", corpus=str(write_corpus(tmp_path_factory.mktemp("arms") / "small")))


def teacher_of(task):
    how = {"batch_size": 2, "weights": "final", "protocol": make("protocol", "dense", eval_bytes=150)}
    model = fit_model(student(seq_len=8), task)
    (run,) = plan_arms({"teacher": distillation_arms(model, None, ["hard"])["hard"]}, task, equal="tokens",
                       budget=64, **how).values()  # fmt: skip
    return model, run, how


def test_a_pruned_student_has_left_what_its_masks_leave_and_all_that_has_none():
    config = student()
    # The body: 3 x 16 x 16, 16 x 16, and 16 x 32 twice; a tenth, rounded down, is 76, 25 and 51 twice.
    gone = 768 - 76 + 256 - 25 + 2 * (512 - 51)
    pruning = make("method", "prune", density=0.1)
    assert nonzero_parameters(config, pruning) == parameters(config).total - gone == 2812


@pytest.mark.parametrize("parts", [("body",), ("q", "k", "v", "feedforward"), ("all",)])
def test_as_many_are_counted_as_a_cut_model_has_weights_that_are_not_zero(parts):
    config, pruning = student(), make("method", "prune", density=0.3, parts=parts)
    made = Equipment.of(config, [pruning], init_seed=0, steps=1)
    made.settle()
    whole = parameters(config)
    of_matrices = sum(int(effective(made.model, one.weight).count_nonzero()) for one in matrices(made.model))
    assert nonzero_parameters(config, pruning) == of_matrices + whole.vectors


@pytest.mark.parametrize("density", [0.5, 0.25, 0.1, 0.05])
def test_the_dense_control_has_as_many_parameters_and_differs_in_width_alone(density):
    config = student(d_model=128, n_head=4, n_layer=3, d_ff=512, seq_len=128)
    small = dense_small(config, density=density)
    left = nonzero_parameters(config, make("method", "prune", density=density))
    assert parameters(small).total == pytest.approx(left, rel=0.01)
    assert small.replace(d_model=128, d_ff=512) == config


def test_at_density_one_the_control_is_the_student_itself(task):
    model, run, how = teacher_of(task)
    arms = distillation_arms(model, run, ["hard", SMALL], density=1.0)
    assert arms["hard"] == arms[SMALL]
    with pytest.raises(ValueError, match="arms 'hard' and 'dense small' train the same; leave one out"):
        plan_arms(arms, task, equal="tokens", budget=64, **how)


def test_a_student_too_narrow_to_be_matched_is_refused_with_both_numbers():
    narrow = make("model", "linear", vocab_size=65, seq_len=16, d_model=8)
    # Its widths go by twos, and each adds 2 (65 + 16 x 65) parameters.
    with pytest.raises(
        ValueError, match=r"'dense small' needs 5,\d{3} parameters, .* has [\d,]+; accepted: "
    ):
        dense_small(narrow, density=0.55)


def test_the_control_is_called_alike_where_it_is_judged_and_drawn_as_a_dense_student():
    assert SMALL == JUDGED_SMALL
    assert family_of(SMALL) == family_of("hard")


def test_unknown_arms_are_refused_and_the_control_is_among_the_known(task):
    model, run, _ = teacher_of(task)
    with pytest.raises(ValueError, match="Did you mean 'dense small'"):
        distillation_arms(model, run, ["dense smal"])


def test_the_control_is_trained_on_the_same_batches_for_as_many_steps(task, tmp_path):
    model, run, how = teacher_of(task)
    arms = distillation_arms(model, run, ["hard", "P", SMALL], density=0.3)
    assert arm_table(arms)["methods"].tolist() == ["none", "prune", "none"]
    plan = plan_arms(arms, task, equal="tokens", budget=64, **how)
    assert plan[SMALL].replace(model=model) == plan["hard"]
    rows = run_all(list(plan.values()), store=Store(tmp_path), device="cpu")
    rows = rows.assign(label=rows["run"].map(arm_of(plan, list(plan.values()))))
    last = rows[rows["metric"] == "nll"].groupby("label")["value"].last()
    assert last.notna().all() and last.nunique() == 3


# ------------------------------------------------------------------ equal bytes


def test_a_code_of_learned_steps_holds_less_than_its_bits():
    # 2 bits: steps of 1.596 standard deviations, so codes -2 to 1 with shares of .0084, .2041, .5751, .2124.
    assert learned_entropy(2) == pytest.approx(1.459, abs=1e-3)
    # Many bits: a Gaussian's entropy in steps of 1.596 / sqrt(127), 2.047 - log2 0.1416.
    assert learned_entropy(8) == pytest.approx(4.867, abs=2e-3)


@pytest.mark.parametrize("bits", [3, 4, 5, 6, 8])
def test_a_narrower_student_of_more_bits_fills_the_file_of_two(bits):
    config = student(d_model=64, n_head=4, n_layer=2, d_ff=256, seq_len=32)
    narrow = equal_bytes(config, bits=bits)
    assert file_bytes(narrow, bits=bits) == pytest.approx(file_bytes(config, bits=2), rel=0.03)
    assert narrow.replace(d_model=64, d_ff=256) == config
    assert parameters(narrow).total < parameters(config).total


def test_a_file_that_no_width_fills_is_refused():
    with pytest.raises(
        ValueError, match=r"no linear of 8 bits fills [\d,]+ bytes, the nearest takes [\d,]+; "
    ):
        equal_bytes(make("model", "linear", vocab_size=65, seq_len=16, d_model=12), bits=8)


def test_arms_of_equal_bytes_are_trained_with_their_bits_and_judged_by_the_same_names(task):
    model, run, how = teacher_of(task)
    names = ["bits=2 qat", "equal bytes bits=4"]
    arms = distillation_arms(model, run, names)
    plan_arms(arms, task, equal="tokens", budget=64, **how)
    assert [arm.methods[0].bits for arm in arms.values()] == [2, 4]
    assert arms["equal bytes bits=4"].model == equal_bytes(model, bits=4)
    assert names[0] == FEWEST and names[1].startswith(EQUAL_BYTES)
    assert settings_of(names[1]) == {"bits": 4.0, "method": EQUAL_BYTES}
    with pytest.raises(ValueError, match="unknown arm of equal bytes 'equal bytes bits=2'"):
        distillation_arms(model, run, ["equal bytes bits=2"])
