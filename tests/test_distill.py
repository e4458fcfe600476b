"""Distillation as a method: its settings, its objective in training, its teachers and what they cost.

Legend: M teacher, B batch, T position, V vocabulary.
"""

import pandas as pd
import pytest
import torch

from lmbench.config import discover, from_dict, make
from lmbench.curves.primitives import Const, Line
from lmbench.layers.objective import Family, average
from lmbench.models.base import seeded
from lmbench.store import Store
from lmbench.training.checkpoint import Checkpoint
from lmbench.training.execute import run_all
from lmbench.training.loop import train, train_group
from lmbench.training.program import Program
from tests.corpora import write_corpus
from tests.test_groups import CPU, tiny_run

VARIANTS = (
    "distill_v1_literal",
    "distill_v1_corrected",
    "distill_v2_literal",
    "distill_v2_corrected",
    "confidence_penalty",
)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    corpus = write_corpus(tmp_path_factory.mktemp("distill") / "small", train=700)
    return make("task", "text", corpus=str(corpus), tokenizer="char")


@pytest.fixture
def teacher(task):
    return tiny_run(task, options={"d_model": 12, "n_head": 2}, steps=3).with_seed(7)


def student(task, **fields):
    """A short run without dropout, so that its losses can be computed by hand."""
    run = tiny_run(task, **{"steps": 4, "weights": "final"} | fields)
    return run.replace(model=run.model.replace(dropout=0.0))


def distilled(run, teacher, name="distill", **fields):
    """The run with this method; `teacher` is one or several."""
    several = teacher if isinstance(teacher, tuple) else (teacher,)
    return run.replace(methods=(make("method", name, teacher=several, **fields),))


def weights_of(*teachers, spread=1.0):
    """Weights of teachers that are runs, by digest, larger than their start so that they say something."""
    found = {}
    for one in teachers:
        model = seeded(one.model, init_seed=one.init_seed)
        found[one.digest] = {name: spread * value for name, value in model.state_dict().items()}
    return found


def losses(trained, metric="loss"):
    return [
        row["value"] for row in trained.record.rows if row["metric"] == metric and row["split"] == "train"
    ]


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_keep_their_name_and_come_back_from_a_record(name, teacher):
    method = make("method", name, teacher=(teacher,))
    again = from_dict("method", method.to_dict())
    assert again == method and again.digest == method.digest and method.name == name


def test_both_published_objectives_are_there_literally():
    """V1 = (0, 1, ., reverse, weight), V2 = (a, tau, 0, reverse, 0); put right, V2 is Hinton's form."""
    v1, v2 = make("method", "distill_v1_literal"), make("method", "distill_v2_literal", a=0.3, tau=4)
    assert (v1.a, v1.tau, v1.direction, v1.entropy) == (0, 1, "reverse", 0.1)
    assert (v2.a, v2.tau, v2.power, v2.direction, v2.entropy) == (0.3, 4, 0, "reverse", 0)
    right = make("method", "distill_v2_corrected")
    assert (right.power, right.direction, right.entropy) == (2, "forward", 0)
    assert make("method", "distill_v1_corrected").entropy.value(100, steps=100) == 0


def test_an_integer_and_a_float_are_the_same_setting():
    assert make("method", "distill", tau=2).digest == make("method", "distill").digest
    assert make("method", "distill", tau=3).digest == make("method", "distill", tau=3.0).digest


def test_a_curve_is_given_by_dict_or_object():
    curve = {"kind": "linear", "start": 4.0, "end": 1.0}
    assert make("method", "distill", tau=curve) == make("method", "distill", tau=Line(start=4, end=1))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"a": 1.5}, "a = 1.5 is not accepted: at least 0 and at most 1"),
        ({"a": -0.1}, "a = -0.1 is not accepted: at least 0 and at most 1"),
        ({"tau": 0}, "tau = 0 is not accepted: above 0"),
        ({"entropy": -1}, "entropy = -1 is not accepted: at least 0"),
        ({"tau": True}, "True is neither a number nor a curve"),
        ({"tau": "linea"}, "unknown curve 'linea'.* Did you mean 'linear'"),
        ({"shares": (1.0, 2.0)}, "shares has 2 numbers for 0 teachers"),
        ({"direction": "reversed"}, "direction = 'reversed' is not accepted.*Did you mean 'reverse'"),
        ({"teacher": ("transformer",)}, "a teacher is a run or a model that brings its weights, not 'transf"),
        ({"cache": 2, "tau": Line(start=2, end=1)}, "cache keeps probabilities at one temperature"),
        ({"temperature": 2.0}, "unknown field of method 'distill' 'temperature'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make("method", "distill", **fields)


def test_shares_are_above_0(teacher):
    with pytest.raises(ValueError, match="each must be above 0"):
        make("method", "distill", teacher=(teacher,), shares=(0.0,))
    two = make("method", "distill", teacher=(teacher, teacher.with_seed(8)), shares=(3.0, 1.0))
    assert two.mixture == (0.75, 0.25)


# ------------------------------------------------------------------ what fits what


def test_weight_for_a_teacher_without_a_teacher_is_refused(task):
    with pytest.raises(ValueError, match="distill.teacher is empty, but a = 0.5 gives weight to one"):
        train(student(task).replace(methods=("distill",)), device=CPU)


def test_a_teacher_without_weights_is_refused(task, teacher):
    with pytest.raises(
        ValueError, match="teacher 'transformer' brings no weights; accepted: a run, or a model"
    ):
        make("method", "distill", teacher=(teacher.model,)).check(student(task))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"vocab_size": 99}, "has 99 token ids, the student"),
        ({"seq_len": 5}, "has a context of seq_len = 5; the student's windows have 6 tokens"),
    ],
)
def test_a_teacher_of_other_sizes_is_refused(task, teacher, changes, message):
    other = teacher.replace(model=teacher.model.replace(**changes))
    with pytest.raises(ValueError, match=message):
        make("method", "distill", teacher=(other,)).check(student(task))


def test_a_longer_context_is_welcome_but_not_of_a_window_model(task):
    method = make("method", "distill", teacher=(tiny_run(task, options={"seq_len": 9}),))
    method.check(student(task))
    window = make("method", "distill", teacher=(tiny_run(task, "mlp"),))
    with pytest.raises(ValueError, match="'mlp' is a window model, which needs a student that is one too"):
        window.check(student(task))
    window.check(tiny_run(task, "mlp"))


def test_a_teacher_of_the_last_token_cannot_teach_all_positions(task, teacher):
    last = teacher.replace(protocol="last_token")
    with pytest.raises(ValueError, match="with protocol 'dense' the student learns from all"):
        make("method", "distill", teacher=(last,)).check(student(task))
    make("method", "distill", teacher=(last,)).check(student(task, protocol="last_token"))
    make("method", "distill", teacher=(teacher,)).check(student(task, protocol="last_token"))


def test_a_teacher_of_other_text_must_know_the_same_tokens(task, tmp_path):
    few = task.replace(train_tokens=300)
    make("method", "distill", teacher=(tiny_run(task),)).check(student(few))
    corpus = write_corpus(tmp_path / "other")
    (corpus / "train.txt").write_text((corpus / "train.txt").read_text().replace("l", "§"))
    for split in ("valid", "test"):
        (corpus / f"{split}.txt").write_text((corpus / f"{split}.txt").read_text().replace("l", "§"))
    other = tiny_run(make("task", "text", corpus=str(corpus), tokenizer="char"))
    assert other.model.vocab_size == student(task).model.vocab_size
    with pytest.raises(ValueError, match="whose token ids stand for other text than those of small by char"):
        make("method", "distill", teacher=(other,)).check(student(task))


def test_a_teacher_that_saw_the_test_text_is_refused(task):
    seen = tiny_run(task)
    own = student(task.replace(substitute="valid"))
    with pytest.raises(ValueError, match="a substitution made some of that text training text"):
        make("method", "distill", teacher=(tiny_run(task.replace(substitute="valid")),)).check(student(task))
    make("method", "distill", teacher=(seen.replace(task=own.task),)).check(own)


def test_a_ramp_is_held_to_its_bounds_at_every_step(task, teacher):
    method = make("method", "distill", teacher=(teacher,), a=Line(start=0.5, end=2.0))
    with pytest.raises(ValueError, match="a = 1.25 is not accepted: at least 0 and at most 1"):
        method.check(student(task))


# ------------------------------------------------------------------ the objective


@pytest.mark.parametrize(
    "fields", [{"a": 1.0}, {"a": Const(level=1.0), "entropy": Const(level=0.0)}], ids=str
)
def test_plain_hard_targets_install_nothing_and_ask_no_teacher(task, teacher, fields):
    run = student(task)
    neutral = distilled(run, teacher, **fields)
    make("method", "distill", **fields).check(run)
    (method,) = neutral.methods
    assert method.objective() is None and method.teachers == () and method.extra_flops(run, 4) == {}
    assert losses(train(neutral, device=CPU)) == losses(train(run, device=CPU))


@pytest.mark.parametrize("power", [0.0, 2.0])
def test_the_objective_is_the_family_and_its_terms(power, teacher):
    logits_BTV, teacher_MBTV = torch.randn(2, 3, 5), torch.randn(2, 2, 3, 5)
    targets_BT = torch.tensor([[1, 2, -100], [0, 4, 3]])
    teachers = (teacher, teacher.with_seed(8))
    fields = {"a": 0.3, "tau": 2.5, "entropy": 0.2, "power": power, "direction": "reverse"}
    objective = make("method", "distill", teacher=teachers, shares=(3.0, 1.0), **fields).objective()
    found = objective(logits_BTV, targets_BT, teacher_MBTV, torch.zeros(0))
    family = Family(**fields)
    terms = family.terms(logits_BTV, targets_BT, average(teacher_MBTV, shares=(0.75, 0.25), tau=2.5))
    assert objective.terms == terms._fields
    assert found.tolist() == [family.total(terms).item(), *(x.item() for x in terms)]


def test_numbers_that_change_are_read_from_the_step(teacher):
    method = make(
        "method", "distill", teacher=(teacher,), a=0.3, tau=Line(start=4, end=2), entropy=Line(start=1, end=0)
    )
    objective = method.objective()
    assert objective.ramps == ("tau", "entropy")
    assert objective.numbers(4).tolist() == [[4, 1], [3.5, 0.75], [3, 0.5], [2.5, 0.25]]
    logits_BTV, teacher_MBTV = torch.randn(2, 3, 5), torch.randn(1, 2, 3, 5)
    targets_BT = torch.zeros(2, 3, dtype=torch.long)
    at_2 = objective(logits_BTV, targets_BT, teacher_MBTV, objective.numbers(4)[2])
    plain = method.replace(tau=3.0, entropy=0.5).objective()
    torch.testing.assert_close(at_2, plain(logits_BTV, targets_BT, teacher_MBTV, torch.zeros(0)))
    assert plain.numbers(4).shape == (4, 0)


def test_the_terms_of_the_first_step_are_those_of_its_batch_by_hand(task, teacher):
    run = distilled(student(task), teacher, a=0.25, tau=3.0)
    weights = weights_of(teacher, spread=3.0)
    (trained,) = train_group([run], device=CPU, teachers=weights)
    program = Program([run], device=CPU)
    batch = program.streams[0].at(0)
    with torch.no_grad():
        z_BTV = seeded(run.model, init_seed=0).double()(batch.tokens_BT).logits_BTV
        model = seeded(teacher.model, init_seed=7).double().eval()
        model.load_state_dict(weights[teacher.digest])
        t_BTV = model(batch.tokens_BT).logits_BTV
    hard = -z_BTV.log_softmax(-1).gather(-1, batch.targets_BT.unsqueeze(-1)).mean().item()
    p_BTV, log_q_BTV = (t_BTV / 3).softmax(-1), (z_BTV / 3).log_softmax(-1)
    soft = (p_BTV * ((t_BTV / 3).log_softmax(-1) - log_q_BTV)).sum(-1).mean().item()
    assert soft > 1e-3
    assert losses(trained, "loss_hard")[0] == pytest.approx(hard, rel=1e-9)
    assert losses(trained, "loss_soft")[0] == pytest.approx(soft, rel=1e-9)
    assert losses(trained)[0] == pytest.approx(0.25 * hard + 0.75 * 9 * soft, rel=1e-9)


def test_a_student_that_equals_its_teacher_has_nothing_to_learn_from_it_and_v1_is_below_0(task):
    twin = student(task, steps=2)
    how = {"teachers": {twin.digest: seeded(twin.model, init_seed=0).double().state_dict()}, "device": CPU}
    for direction in ("forward", "reverse"):
        (trained,) = train_group([distilled(twin, twin, a=0.0, tau=2.0, direction=direction)], **how)
        assert losses(trained, "loss_soft")[0] == pytest.approx(0, abs=1e-12)
        assert losses(trained)[0] == pytest.approx(0, abs=1e-11)
    (literal,) = train_group([distilled(twin, twin, "distill_v1_literal")], **how)
    assert losses(literal)[0] == pytest.approx(-0.1 * losses(literal, "loss_entropy")[0], abs=1e-12)
    assert losses(literal)[0] < -0.1


def test_soft_targets_alone_bring_a_student_to_its_teacher(task, teacher):
    run = distilled(
        student(task, steps=150, optimizer=make("optimizer", "adamw", lr=0.03)), teacher, a=0.0, tau=1.0
    )
    (trained,) = train_group([run], device=CPU, teachers=weights_of(teacher))
    soft = losses(trained, "loss_soft")
    assert sum(soft[-5:]) < 0.3 * sum(soft[:5])


def test_a_confidence_penalty_needs_no_teacher(task):
    run = student(task).replace(methods=("confidence_penalty",))
    trained = train(run, device=CPU)
    found = [losses(trained, name) for name in ("loss", "loss_hard", "loss_entropy", "loss_soft")]
    for loss, hard, entropy, soft in zip(*found, strict=True):
        assert loss == pytest.approx(hard - 0.1 * entropy, rel=1e-9) and soft == 0


@pytest.mark.parametrize("name", VARIANTS)
def test_a_group_ends_as_each_run_does_alone_with_two_teachers(name, task, teacher):
    teachers = (teacher, teacher.with_seed(9)) if name != "confidence_penalty" else ()
    fields = {"shares": (2.0, 1.0)} if teachers else {}
    runs = [
        distilled(student(task, grad_accum=2).with_seed(seed), teachers, name, **fields) for seed in (1, 2)
    ]
    weights = weights_of(*teachers, spread=3.0)
    together = train_group(runs, device=CPU, teachers=weights)
    for run, one in zip(runs, together, strict=True):
        (alone,) = train_group([run], device=CPU, teachers=weights)
        for key, value in alone.final.items():
            torch.testing.assert_close(one.final[key], value, rtol=1e-8, atol=1e-10)
        assert losses(one) == pytest.approx(losses(alone), rel=1e-10)


def test_bfloat16_passes_and_last_tokens_are_learned_from_a_teacher(task, teacher):
    weights = weights_of(teacher)
    for fields in ({"dtype": "bfloat16"}, {"protocol": make("protocol", "last_token", eval_windows=50)}):
        run = distilled(student(task, **fields), teacher)
        (trained,) = train_group([run], device=CPU, teachers=weights)
        assert all(value > 0 for value in losses(trained, "loss_soft"))


def test_a_missing_teacher_is_trained_first_and_its_terms_are_in_the_table(task, teacher, tmp_path):
    run, store = distilled(student(task, dtype="float32"), teacher.replace(dtype="float32")), Store(tmp_path)
    rows = run_all([run], store=store, device="cpu", progress=False)
    assert store.has(teacher.replace(dtype="float32").digest)
    by_step = rows[rows["split"] == "train"].pivot_table(index="step", columns="metric", values="value")
    total = 0.5 * by_step["loss_hard"] + 0.5 * 4 * by_step["loss_soft"]
    pd.testing.assert_series_equal(by_step["loss"], total, check_names=False, rtol=1e-5)


@pytest.mark.parametrize("cache", [None, 4])
def test_training_that_is_stopped_ends_in_the_same_bits(cache, task, teacher, tmp_path):
    entropy = Line(start=0.2, end=0.0)
    run = distilled(student(task, steps=6, dtype="float32"), teacher, entropy=entropy, cache=cache)
    how = {"device": CPU, "teachers": weights_of(teacher)}
    (whole,) = train_group([run], **how)

    def die(done):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_group([run], checkpoint=Checkpoint(tmp_path, [run.digest], every_seconds=0), on_step=die, **how)
    (again,) = train_group([run], checkpoint=Checkpoint(tmp_path, [run.digest], every_seconds=0), **how)
    assert all(torch.equal(value, whole.final[name]) for name, value in again.final.items())
    for metric in ("loss", "loss_hard", "loss_soft", "loss_entropy"):
        assert losses(again, metric) == losses(whole, metric)


# ------------------------------------------------------------------ cost, other teachers


def forward(model, readout="all"):
    return sum(term.forward for term in model.terms(readout))


def test_live_teachers_cost_a_forward_pass_over_each_batch(task, teacher):
    second = teacher.replace(model=teacher.model.replace(n_layer=2))
    run = student(task)
    method = make("method", "distill", teacher=(teacher, second))
    each = forward(teacher.model) + forward(second.model)
    assert method.extra_flops(run, 3) == {"teacher": 3 * 4 * each} and method.extra_flops(run, 0) == {
        "teacher": 0
    }
    last = run.replace(protocol="last_token")
    each = forward(teacher.model, "last") + forward(second.model, "last")
    assert method.extra_flops(last, 3) == {"teacher": 3 * 4 * each}
    short = run.replace(epoch_windows=6)  # batches of 4 and 2
    assert make("method", "distill", teacher=(teacher,)).extra_flops(short, 3) == {
        "teacher": 10 * forward(teacher.model)
    }


def test_a_teacher_of_a_longer_context_is_charged_for_the_windows_it_reads(task, teacher):
    longer = teacher.replace(model=teacher.model.replace(seq_len=12))
    method = make("method", "distill", teacher=(longer,))
    assert method.extra_flops(student(task), 1) == {"teacher": 4 * forward(teacher.model)}


def test_a_model_from_a_folder_teaches(task, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the extra hf (transformers) is not installed")
    run = student(task, dtype="float32")
    vocab_size = run.model.vocab_size
    settings = transformers.GPT2Config(vocab_size=vocab_size, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        transformers.AutoModelForCausalLM.from_config(settings).save_pretrained(tmp_path / "gpt2")
    folder = make("model", "huggingface", path=str(tmp_path / "gpt2"))
    distill = distilled(run, folder)
    trained = train(distill, device=CPU)
    assert all(value > 0 for value in losses(trained, "loss_soft"))
    assert distill.methods[0].extra_flops(run, 1)["teacher"] > 0
    fresh = folder.replace(pretrained=False)
    with pytest.raises(ValueError, match="brings no weights"):
        make("method", "distill", teacher=(fresh,)).check(run)


def test_distill_is_found_by_name():
    assert {"distill", *VARIANTS} <= set(discover("method"))
