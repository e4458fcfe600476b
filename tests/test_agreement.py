"""Agreement of a student with its teacher: hand values, the margin bound, and records of stored runs."""

import math

import pandas as pd
import pytest
import torch
from torch import nn

from lmbench.config import make
from lmbench.measure import agreement as agreement_module
from lmbench.measure import token_agreement as token_module
from lmbench.measure.agreement import Meter, agreement
from lmbench.measure.token_agreement import MEANS, token_agreement
from lmbench.models.base import LanguageModel, Output, seeded
from lmbench.probes.scores import Agreement
from lmbench.records import Reference, pack
from lmbench.run import Dense
from lmbench.tasks.base import IGNORE, View, load_task
from lmbench.training import agreement as records_module
from lmbench.training.agreement import agreements
from lmbench.training.execute import run_all
from lmbench.training.rescore import evaluate_run, load_run
from tests.corpora import write_corpus
from tests.test_training import small_run

CPU = torch.device("cpu")
HOW = {"alpha": 0.5, "temperature": 1.0}


def one(student, teacher, target=0, **how):
    """Measures of one token from two lists of probabilities."""
    logits = (torch.tensor([p], dtype=torch.float64).log() for p in (student, teacher))
    found = token_agreement(*logits, torch.tensor([target]), **HOW | how)
    return {name: float(value) for name, value in found.items()}


# ------------------------------------------------------------------ one token


def test_measures_by_hand():
    found = one([0.5, 0.5], [0.75, 0.25])
    assert found["kl_forward"] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert found["kl_reverse"] == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert found["total_variation"] == pytest.approx(0.25)
    assert found["student_nll"] == pytest.approx(math.log(2))
    assert found["teacher_nll"] == pytest.approx(math.log(4 / 3))
    assert found["teacher_margin"] == pytest.approx(0.5)
    assert found["student_entropy"] == pytest.approx(math.log(2))
    assert found["teacher_entropy"] == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert (found["student_accuracy"], found["teacher_accuracy"]) == (0.5, 1)
    assert found["top1_agreement"] == 0.5, "a tie shares the choice"


def test_a_student_that_is_its_teacher():
    found = one([0.2, 0.7, 0.1], [0.2, 0.7, 0.1], target=1)
    for name in ("kl_forward", "kl_reverse", "total_variation", "choices_differ", "margin_violations"):
        assert found[name] == 0
    assert found["top1_agreement"] == 1 and found["student_entropy"] == found["teacher_entropy"]
    assert found["margin_bound"] == 0, "nothing may differ where the margin is above the divergence"


def test_probabilities_of_zero_count_nothing_in_the_teacher_and_everything_in_the_student():
    assert one([0.5, 0.5], [1.0, 0.0])["kl_forward"] == pytest.approx(math.log(2))
    assert one([1.0, 0.0], [0.5, 0.5])["kl_forward"] == math.inf
    assert one([1.0, 0.0], [1.0, 0.0])["kl_forward"] == 0


def test_the_published_ratio_is_the_literal_one():
    student, teacher = [0.5, 0.5], [0.8, 0.2]
    reverse = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    expected = math.exp(-0.3 * math.log(2) - 0.7 * reverse)
    assert one(student, teacher, alpha=0.3)["approximation_ratio"] == pytest.approx(expected)
    tempered = 0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))  # 0.8 : 0.2 is 2 : 1 at tau = 2
    found = one(student, teacher, alpha=0.0, temperature=2.0)["approximation_ratio"]
    assert found == pytest.approx(math.exp(-tempered)), "without tau squared"
    assert one(student, teacher, alpha=1.0)["approximation_ratio"] == pytest.approx(0.5)


def test_the_published_ratio_is_one_minus_nothing_for_a_perfect_copy_of_a_wrong_teacher():
    """It compares nothing with the teacher: a copy scores less than 1, and less the worse the teacher."""
    good, bad = (one([p, 1 - p], [p, 1 - p])["approximation_ratio"] for p in (0.9, 0.1))
    assert good == pytest.approx(math.sqrt(0.9)) and bad == pytest.approx(math.sqrt(0.1))


def test_a_small_divergence_is_not_lost_in_rounding():
    """KL of (1/2 + e, 1/2 - e) from (1/2, 1/2) is 2 e^2 to leading order, far below 1e-16 here."""
    log = [torch.tensor([p], dtype=torch.float64) for p in ([-math.log(2)] * 2, [-math.log(2), -math.log(2)])]
    e = 1e-9
    log[1] = log[1] + torch.tensor([2 * e, -2 * e], dtype=torch.float64)
    found = token_agreement(*log, torch.tensor([0]), **HOW)
    assert float(found["kl_forward"]) == pytest.approx(2 * e**2, rel=1e-6)
    assert float(found["kl_reverse"]) == pytest.approx(2 * e**2, rel=1e-6)


# ------------------------------------------------------------------ the margin bound


@pytest.mark.parametrize("noise", [1e-6, 1e-2, 0.3, 3.0])
def test_choices_never_differ_beyond_the_margin_bound(noise):
    """Students from copies to strangers, teachers from flat to sharp, ties included."""
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-6, 0.1, 1.0, 8.0, 60.0):
        teacher_NV = scale * torch.randn(4000, 12, generator=generator)
        teacher_NV[:200] = teacher_NV[:200].round()  # many ties
        student_NV = teacher_NV + scale * noise * torch.randn(4000, 12, generator=generator)
        found = token_agreement(student_NV, teacher_NV, torch.zeros(4000, dtype=torch.long), **HOW)
        assert found["margin_violations"].sum() == 0
        differ, by_tv, by_kl = (found[k] for k in ("choices_differ", "margin_bound_tv", "margin_bound"))
        assert (differ <= by_tv).all() and (by_tv <= by_kl).all()
        if noise >= 1e-2:
            assert differ.sum() > 0, "the test has lost its subject"


def test_the_margin_bound_is_tight_where_two_tokens_swap():
    """Margin 2e against a student that moved e across: TV is e, so 2 TV is the margin."""
    e = 1e-3
    found = one([0.5 - e / 2, 0.5 + e / 2], [0.5 + e / 2, 0.5 - e / 2])
    assert found["choices_differ"] == 1 and found["teacher_margin"] == pytest.approx(e)
    assert math.sqrt(2 * found["kl_forward"]) == pytest.approx(2 * e, rel=1e-3)


def test_a_violation_would_be_counted(monkeypatch):
    """With a hundredth of the divergence the same tokens do violate."""
    right = token_module._kl
    monkeypatch.setattr(token_module, "_kl", lambda *how: 0.01 * right(*how))
    found = one([0.45, 0.55], [0.55, 0.45])
    assert found["margin_violations"] == 1 and found["margin_bound"] == 0


# ------------------------------------------------------------------ a whole split


class Table(LanguageModel):
    """The same logits whatever is read."""

    def __init__(self, logits_V):
        super().__init__()
        self.logits_V = nn.Parameter(torch.tensor(logits_V))
        self.drop = nn.Dropout(0.5)

    def forward(self, tokens_BT, context_BK=None, *, readout="all"):
        length = 1 if readout == "last" else tokens_BT.shape[1]
        return Output(self.drop(self.logits_V).expand(len(tokens_BT), length, -1))

    def extend(self, tokens_BT, state=None):
        raise AssertionError("not generated")


@pytest.fixture
def data(task):
    return load_task(task)


def view_of(seq_len=8, **fields):
    return View(seq_len=seq_len, device=CPU, is_window=False, **fields)


def model_of(data, seed, **fields):
    sizes = {
        "vocab_size": data.vocab_size,
        "seq_len": 8,
        "d_model": 16,
        "n_head": 2,
        "d_ff": 16,
        "n_layer": 1,
    }
    return seeded(make("model", "transformer", **sizes | fields), init_seed=seed)


def split_of(student, teacher, data, view=None, **fields):
    how = {"split": "valid", "protocol": Dense(eval_bytes=300), "view": view or view_of()} | fields
    return agreement(student, teacher, data, **how)


def test_every_target_is_counted_once_whatever_the_batches_and_chunks(data, monkeypatch):
    models = [model_of(data, seed) for seed in range(2)]
    whole = split_of(*models, data)
    assert whole["kl_forward"][1] == 300 and whole["kl_forward"][0] > 0.01
    monkeypatch.setattr(agreement_module, "CHUNK", 7 * data.vocab_size)
    pieces = split_of(*models, data, view=view_of(eval_tokens=16))
    assert {k: n for k, (_, n) in pieces.items()} == {k: n for k, (_, n) in whole.items()}
    for name, (value, _) in whole.items():
        assert pieces[name][0] == pytest.approx(value, rel=1e-6, abs=1e-12), name


def test_means_agree_with_all_logits_at_once(data):
    models = [model_of(data, seed).eval() for seed in range(2)]
    found, parts = split_of(*models, data), []
    for batch in data.eval_batches("valid", Dense(eval_bytes=300), view_of(), eval_seed=0):
        kept = batch.targets_BT != IGNORE
        logits = (m(batch.tokens_BT, readout="all").logits_BTV[kept].detach() for m in models)
        parts.append(token_agreement(*logits, batch.targets_BT[kept], **HOW))
    for name in MEANS:
        value = torch.cat([part[name] for part in parts]).mean()
        assert found[name][0] == pytest.approx(float(value), rel=1e-6, abs=1e-12)
    gap = found["teacher_nll"][0] - found["student_nll"][0]
    assert found["likelihood_ratio"][0] == pytest.approx(math.exp(gap))
    assert found["sqrt_kl"][0] == pytest.approx(math.sqrt(found["kl_forward"][0]))
    loss = 0.5 * found["student_nll"][0] + 0.5 * found["kl_reverse"][0]
    assert found["approximation_ratio"][0] >= math.exp(-loss), "Jensen"


def test_the_ratio_of_sequences_sums_within_rows_and_decays():
    """Two rows, of 1 and 3 scored tokens with loss a each: (exp(-a) + exp(-3 a)) / 2."""
    meter = Meter(alpha=1.0, temperature=1.0)
    targets_BT = torch.tensor([[IGNORE, 0, IGNORE], [0, 1, 2], [IGNORE] * 3])
    meter.add(torch.zeros(3, 3, 4), torch.zeros(3, 3, 4), targets_BT)
    meter.add(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), torch.tensor([[1, IGNORE, IGNORE]]))
    value, n = meter.measures()["approximation_ratio_sequence"]
    assert n == 3 and value == pytest.approx((1 / 4 + 1 / 64 + 1 / 4) / 3)
    assert meter.measures()["approximation_ratio"] == (pytest.approx(1 / 4), 5)


def test_dropout_is_off_and_the_modes_are_put_back(data):
    flat, sharp = Table([0.0] * data.vocab_size), Table([5.0] + [0.0] * (data.vocab_size - 1))
    flat.train(), sharp.eval()
    found = split_of(sharp, flat, data)
    assert flat.training and not sharp.training
    assert (
        found["student_entropy"][0] < found["teacher_entropy"][0] == pytest.approx(math.log(data.vocab_size))
    )
    assert found["teacher_margin"][0] == 0


def test_other_vocabularies_and_weights_are_refused(data):
    model = model_of(data, 0)
    other = model_of(data, 0, vocab_size=data.vocab_size + 1)
    said = (
        f"the student has {data.vocab_size} token ids and the teacher {data.vocab_size + 1}; agreement needs"
    )
    with pytest.raises(ValueError, match=said):
        split_of(model, other, data)
    assert model.training, "modes are put back after a refusal too"
    with pytest.raises(ValueError, match=r"alpha = 1.5 is not accepted: 0"):
        split_of(model, model, data, alpha=1.5)
    with pytest.raises(ValueError, match="temperature = 0 is not accepted"):
        split_of(model, model, data, temperature=0)
    with pytest.raises(ValueError, match="at least 1 scored target, got 0"):
        Meter(alpha=0.5, temperature=1).measures()


# ------------------------------------------------------------------ stored runs


@pytest.fixture
def trained(task, store):
    teacher, student = small_run(task, init_seed=1), small_run(task, model="self_attention", steps=3)
    run_all([teacher, student], store=store, device="cpu", progress=False)
    return student.digest, teacher.digest


def values(table):
    return dict(zip(table["metric"], table["value"], strict=True))


def test_agreements_of_stored_runs_are_records(trained, store, monkeypatch):
    table = agreements([trained], store=store, device="cpu")
    student, teacher = trained
    assert set(table["student"]) == {student} and set(table["teacher"]) == {teacher}
    assert set(table["label"]) == {"self_attention"} and set(table["split"]) == {"test"}
    found = values(table)
    assert set(MEANS) < set(found) and found["margin_violations"] == 0 and found["kl_forward"] > 0
    for digest, name in ((student, "student_nll"), (teacher, "teacher_nll")):
        rows = evaluate_run(digest, store=store, device="cpu")
        assert found[name] == pytest.approx(rows.loc[rows["metric"] == "nll", "value"].item(), rel=1e-6)
    assert store.verify() == []

    def refuse(*args, **fields):
        raise AssertionError("scored twice")

    monkeypatch.setattr(records_module, "load_run", refuse)
    pd.testing.assert_frame_equal(agreements([trained], store=store), table)
    asked = Agreement(student=student, teacher=teacher)
    pack([asked.digest, *trained], [store], store.root / "packed")
    reference = Reference(store.root / "packed")
    pd.testing.assert_frame_equal(agreements([trained], store=reference), table)
    with pytest.raises(ValueError, match=f"lack the agreement of run {student} with {teacher} on valid"):
        agreements([trained], store=reference, split="valid")


def test_a_run_agrees_with_itself_and_settings_are_other_records(trained, store):
    digest = trained[0]
    found = values(agreements([(digest, digest)], store=store, device="cpu", split="valid"))
    assert found["kl_forward"] == 0 and found["top1_agreement"] == 1 and found["likelihood_ratio"] == 1
    other = values(agreements([(digest, digest)], store=store, device="cpu", split="valid", alpha=1.0))
    assert other["approximation_ratio"] < found["approximation_ratio"]
    assert agreements([], store=store).empty


def test_a_neutral_setting_leaves_the_digest_of_a_record_alone():
    asked = Agreement(student="0" * 16, teacher="1" * 16)
    assert asked.canonical().keys() == {"kind", "version", "student", "teacher"}
    assert asked.digest == "3fcf6ad95b971c6e"
    assert asked.replace(methods=()).digest != asked.digest, "no method at all is not what was in force"
    with pytest.raises(ValueError, match=r"agreement.alpha = 2 is not accepted"):
        make("run", "agreement", student="0" * 16, teacher="1" * 16, alpha=2)


def test_window_models_and_longer_teachers_read_the_same_tokens(task, store):
    longer = small_run(task)
    longer = longer.replace(model=longer.model.replace(seq_len=16))
    runs = {"plain": small_run(task), "linear": small_run(task, model="linear"), "longer": longer}
    run_all(list(runs.values()), store=store, device="cpu", progress=False)
    digest = {name: run.digest for name, run in runs.items()}

    def found(student, teacher):
        return values(agreements([(digest[student], digest[teacher])], store=store, device="cpu"))

    assert found("plain", "linear")["margin_violations"] == 0
    assert found("plain", "longer")["teacher_nll"] > 0
    with pytest.raises(
        ValueError, match="the teacher's seq_len = 8 is not accepted: the student reads 16 tokens"
    ):
        found("longer", "plain")
    with pytest.raises(ValueError, match="so exactly that many are needed"):
        found("linear", "longer")


def test_other_vocabularies_and_shared_text_of_stored_runs_are_refused(trained, task, store, tmp_path):
    student = trained[0]
    other = task.replace(corpus=str(write_corpus(tmp_path / "other")))
    for file in (tmp_path / "other").iterdir():
        file.write_text(file.read_text().lower())
    other = other.replace(corpus=other.corpus)  # the fingerprint of the new text
    strange = small_run(other)
    chain = make("task", "chain", n_eval=20)
    sizes = {"vocab_size": 64, "seq_len": 48, "d_model": 16, "n_head": 2, "d_ff": 16, "n_layer": 1}
    symbols = make(
        "run", "run", model=make("model", "transformer", **sizes), task=chain, steps=2, batch_size=2
    )
    leaked = small_run(task.replace(substitute="valid"))
    run_all([strange, symbols, leaked], store=store, device="cpu", progress=False)
    with pytest.raises(
        ValueError, match="are not scored on the valid split of .* made some of that text train"
    ):
        agreements([(student, leaked.digest)], store=store, device="cpu", split="valid")
    for teacher in (strange, symbols):
        with pytest.raises(ValueError, match="whose vocabularies differ; agreement needs one vocabulary"):
            agreements([(student, teacher.digest)], store=store, device="cpu")
    with pytest.raises(ValueError, match="no finished run"):
        agreements([(student, "0" * 16)], store=store, device="cpu")


def test_a_synthetic_task_is_scored_under_its_level(store):
    chain = make("task", "chain", n_eval=20)
    sizes = {"vocab_size": 64, "seq_len": 64, "d_model": 16, "n_head": 2, "d_ff": 16, "n_layer": 1}
    model = make("model", "transformer", **sizes)
    runs = [make("run", "run", model=model, task=chain, steps=2, batch_size=2, init_seed=s) for s in (0, 1)]
    run_all(runs, store=store, device="cpu", progress=False)
    table = agreements([(runs[0].digest, runs[1].digest)], store=store, device="cpu")
    assert set(table["task"]) == {"chain"} and set(table["level"]) == {chain.level_name}
    harder = agreements(
        [(runs[0].digest, runs[1].digest)], store=store, device="cpu", task=chain.replace(level=2)
    )
    assert set(harder["level"]) == {"2"} and set(harder["n"]) <= {20, int(harder["n"].max())}


def test_methods_change_the_student_only(trained, store, monkeypatch):
    asked = []

    def spy(digest, **fields):
        asked.append((digest, fields.get("methods")))
        return load_run(digest, **fields)

    monkeypatch.setattr(records_module, "load_run", spy)
    agreements([trained], store=store, device="cpu", methods=())
    assert asked == [(trained[0], ()), (trained[1], None)]
