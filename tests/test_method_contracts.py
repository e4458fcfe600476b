"""What holds for every training method: neutral is nothing, a group is its runs, a kill changes no bit."""

import pytest
import torch
from safetensors.torch import load_file

from lmbench.config import kinds, make
from lmbench.models.base import seeded
from lmbench.store import Store
from lmbench.training.checkpoint import Checkpoint
from lmbench.training.execute import run_all
from lmbench.training.grouping import alone
from lmbench.training.loop import train, train_group
from lmbench.training.rescore import evaluate_run, load_run
from tests.corpora import write_corpus
from tests.methods_at_work import NAMES, NEUTRAL, at_work
from tests.test_groups import CPU, tiny_run

SIZES = {"seq_len": 8, "d_model": 16, "n_head": 4, "n_layer": 2, "d_ff": 16, "dropout": 0.1}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    corpus = write_corpus(tmp_path_factory.mktemp("contracts") / "small")
    return make("task", "text", corpus=str(corpus), tokenizer="char")


def run_of(task, **fields):
    how = {"steps": 10, "dtype": "float64", "weights": "final"} | fields
    return tiny_run(task, "transformer_prenorm", options=SIZES, **how)


@pytest.fixture(scope="module")
def teacher(task):
    return run_of(task, steps=1).with_seed(7)


@pytest.fixture(scope="module")
def taught(teacher):
    """Weights of the teacher, by its digest."""
    return {teacher.digest: seeded(teacher.model, init_seed=5).double().state_dict()}


def losses(trained):
    return [row["value"] for row in trained.record.rows if row["metric"] == "loss"]


def test_every_kind_has_a_neutral_setting_and_one_at_work(teacher):
    assert set(NEUTRAL) == set(kinds("method"))
    assert {method.kind for methods in at_work(teacher).values() for method in methods} == set(NEUTRAL)
    assert tuple(at_work(teacher)) == NAMES


@pytest.mark.parametrize("kind", sorted(NEUTRAL))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_neutral_setting_leaves_every_bit(kind, dtype, task):
    run = run_of(task, dtype=dtype, steps=4)
    plain, neutral = (
        train(run.replace(methods=methods), device=CPU)
        for methods in ((), (make("method", kind, **NEUTRAL[kind]),))
    )
    assert losses(plain) == losses(neutral)
    assert all(torch.equal(neutral.final[name], value) for name, value in plain.final.items())


@pytest.mark.parametrize("name", NAMES)
def test_a_method_at_work_changes_the_training(name, task, teacher, taught):
    run = run_of(task, dropout_seed=1)
    (found,) = train_group([run.replace(methods=at_work(teacher)[name])], device=CPU, teachers=taught)
    assert found.diverged_at is None
    plain = train(run, device=CPU)
    assert any(not torch.equal(found.final[n], value) for n, value in plain.final.items())


@pytest.mark.parametrize("name", NAMES)
def test_a_group_ends_as_its_runs_do_alone_or_says_why_it_is_none(name, task, teacher, taught):
    run = run_of(task).replace(methods=at_work(teacher)[name])
    if alone(run):
        assert name in ("constrain_slice", "sliced and masked") and "slices" in alone(run)
        return
    runs = [run, run.with_seed(3).replace(optimizer=run.optimizer.replace(lr=2e-3))]
    for one, member in zip(train_group(runs, device=CPU, teachers=taught), runs, strict=True):
        (by_itself,) = train_group([member], device=CPU, teachers=taught)
        for leaf, value in by_itself.final.items():
            torch.testing.assert_close(one.final[leaf], value, rtol=1e-7, atol=1e-9, msg=f"{name}: {leaf}")


@pytest.mark.parametrize("name", NAMES)
def test_a_training_that_is_stopped_ends_in_the_same_bits(name, task, teacher, taught, tmp_path):
    run = run_of(task, dtype="float32", ema=0.5).replace(methods=at_work(teacher)[name])
    weights = {digest: {n: v.float() for n, v in state.items()} for digest, state in taught.items()}
    (whole,) = train_group([run], device=CPU, teachers=weights)

    def die(done):
        if done == 5:
            raise KeyboardInterrupt

    checkpoint = {"every_seconds": 0}
    made = Checkpoint(tmp_path, [run.digest], **checkpoint)
    with pytest.raises(KeyboardInterrupt):
        train_group([run], device=CPU, teachers=weights, checkpoint=made, on_step=die)
    made = Checkpoint(tmp_path, [run.digest], **checkpoint)
    (again,) = train_group([run], device=CPU, teachers=weights, checkpoint=made)
    assert losses(again) == losses(whole)
    assert all(torch.equal(again.final[leaf], value) for leaf, value in whole.final.items())


@pytest.mark.parametrize(
    "name", [name for name in NAMES if "distill" not in name and name not in ("joint", "all")]
)
def test_stored_weights_score_as_the_run_said_and_causally(name, task, teacher, tmp_path):
    run, store = run_of(task, dtype="float32").replace(methods=at_work(teacher)[name]), Store(tmp_path)
    rows = run_all([run], store=store, device="cpu", progress=False)
    said = rows[(rows["split"] == "test") & (rows["metric"] == "nll")]["value"].item()
    again = evaluate_run(
        run.digest, store=store, protocol=run.protocol.replace(stride=run.model.seq_len // 2)
    )
    assert again[again["metric"] == "nll"]["value"].item() == pytest.approx(said, abs=1e-5)
    weights = load_file(store.weights(run.digest))
    assert set(weights) == {n for n, _ in seeded(run.model, init_seed=0).named_parameters()}
    model = load_run(run.digest, store=store, device=CPU).model.eval()
    ids = torch.arange(8).unsqueeze(0) % run.model.vocab_size
    other = ids.clone()
    other[0, 5] += 1
    one, two = model(ids).logits_BTV, model(other).logits_BTV
    assert torch.equal(one[:, :5], two[:, :5]) and not torch.equal(one[:, 5:], two[:, 5:])
