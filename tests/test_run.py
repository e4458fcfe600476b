"""Runs from flat keys, and what an Evaluation's digest tells apart."""

import pytest
from pydantic import Field

from lmbench.assignments import make_run, parse_assignments, resolve_key
from lmbench.config import discover, kinds, make
from lmbench.run import Dense, Evaluation, LastToken, Run
from lmbench.schedule import Cosine
from tests.corpora import write_corpus


@pytest.fixture
def corpus(tmp_path):
    return str(write_corpus(tmp_path / "small"))


def made(corpus, *pairs):
    """The run of `-p key=value` pairs, as the command line makes it."""
    return make_run(parse_assignments([f"task.corpus={corpus}", *pairs]))


# ------------------------------------------------------------------ keys


def test_the_parts_that_are_not_named_are_the_defaults(corpus):
    run = made(corpus, "steps=5")
    kinds_of_parts = (run.model, run.task, run.protocol, run.optimizer, run.schedule)
    assert [part.kind for part in kinds_of_parts] == ["transformer", "text", "dense", "adamw", "cosine"]
    plain = Run(model="transformer", task=make("task", "text", corpus=corpus), steps=5)
    assert run == plain
    assert run.digest == plain.digest


def test_a_key_is_a_run_field_a_dotted_key_or_a_bare_key_of_one_part(corpus):
    run = made(
        corpus, "steps=5", "batch_size=2", "model.d_model=64", "n_layer=1", "lr=0.01", "warmup=2", "stride=3"
    )
    assert (run.steps, run.batch_size) == (5, 2)
    assert (run.model.d_model, run.model.n_layer) == (64, 1)
    assert (run.optimizer.lr, run.schedule.warmup, run.protocol.stride) == (0.01, 2, 3)


def test_bare_and_dotted_keys_are_the_same(corpus):
    bare = made(corpus, "steps=5", "d_model=64", "lr=0.01", "eval_bytes=99", "floor=0.5", "tokenizer=byte")
    dotted = ["model.d_model=64", "optimizer.lr=0.01", "protocol.eval_bytes=99", "schedule.floor=0.5"]
    assert made(corpus, "steps=5", "task.tokenizer=byte", *dotted) == bare


@pytest.mark.parametrize("name", sorted(discover("model")))
def test_every_kind_and_variant_of_a_model_can_be_chosen_and_changed(corpus, name):
    run = made(corpus, f"model={name}", "steps=5", "seq_len=16")
    assert run.model == make("model", name, seq_len=16)
    assert run.model.name == name


def test_a_field_overrides_that_of_a_variant(corpus):
    modern = made(corpus, "model=transformer_modern", "steps=5")
    assert (modern.model.positions, modern.model.norm) == ("rope", "rmsnorm")
    changed = made(corpus, "model=transformer_modern", "positions=alibi", "steps=5")
    assert (changed.model.positions, changed.model.norm) == ("alibi", "rmsnorm")
    assert changed.model.name != "transformer_modern"


@pytest.mark.parametrize("part", ["protocol", "optimizer", "schedule"])
def test_every_kind_of_a_part_can_be_chosen(corpus, part):
    for name in kinds(part):
        assert getattr(made(corpus, "steps=5", f"{part}={name}"), part) == make(part, name)


def test_the_fields_that_exist_follow_the_kind_that_was_chosen(corpus):
    run = made(corpus, "protocol=last_token", "eval_windows=7", "steps=5")
    assert run.protocol == LastToken(eval_windows=7)
    with pytest.raises(ValueError, match="unknown key 'eval_windows'"):
        made(corpus, "eval_windows=7", "steps=5")


def test_values_are_toml_and_bare_words_are_strings(corpus):
    words = ["weights=final", "test=false", "grad_clip=2.5", "lr=3e-4", "eval_every=2", 'dtype="bfloat16"']
    run = made(corpus, "steps=1_000", *words)
    assert (run.weights, run.test, run.grad_clip, run.steps) == ("final", False, 2.5, 1000)
    assert (run.optimizer.lr, run.eval_every, run.dtype) == (3e-4, 2, "bfloat16")


def test_parts_may_be_configs_or_their_dicts_and_are_changed_by_further_keys(corpus):
    config = make("model", "mlp", d_model=32, d_ff=8)
    task = make("task", "text", corpus=corpus)
    for model in (config, config.to_dict()):
        for given in (task, task.to_dict()):
            kept = make_run({"model": model, "task": given, "steps": 5})
            assert (kept.model, kept.task) == (config, task)
            changed = make_run({"model": model, "task": given, "steps": 5, "d_ff": 16})
            assert changed.model == config.replace(d_ff=16)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "pairs, message",
    [
        (["n_layers=2"], r"unknown key 'n_layers'; accepted: .*Did you mean 'n_layer'\?"),
        (["model.n_layers=2"], r"unknown key 'model.n_layers'; .*Did you mean 'model.n_layer'\?"),
        (["batchsize=2"], r"unknown key 'batchsize'; .*Did you mean 'batch_size'\?"),
        (["model=transfomer"], r"unknown model 'transfomer'; .*Did you mean 'transformer'\?"),
        (
            ["schedule=cosin"],
            r"unknown schedule 'cosin'; accepted: constant, cosine, linear, wsd. Did you mean 'cosine'",
        ),
        (["model=linear", "n_head=2"], "unknown key 'n_head'"),
        (["steps=0"], "run.steps = 0 is not accepted: input should be greater than or equal to 1"),
        (["d_model=-4"], "transformer.d_model = -4 is not accepted: input should be greater"),
        (["ema=1"], "run.ema = 1 is not accepted: input should be less than 1"),
        (["ema=0"], "run.ema = 0 is not accepted: input should be greater than 0"),
        (["schedule=wsd", "decay=0"], "wsd.decay = 0 is not accepted: input should be greater than 0"),
        (["schedule=wsd", "fall=cosine"], "wsd.fall = 'cosine' is not accepted: input should be 'linear'"),
        (["optimizer=sgd", "momentum=1"], "sgd.momentum = 1 is not accepted: input should be less than 1"),
        (["optimizer=muon", "iterations=0"], "muon.iterations = 0 is not accepted"),
        (["dtype=float16"], "run.dtype = 'float16' is not accepted: input should be 'float32'"),
        (["lr=fast"], "adamw.lr = 'fast' is not accepted: input should be a valid number"),
        (["d_model=10", "n_head=4"], "d_model = 10"),
        (["tokenizer=chr"], r"unknown tokenizer 'chr'; .*Did you mean 'char'\?"),
    ],
)
def test_a_wrong_key_or_value_is_one_sentence_with_the_nearest_name(corpus, pairs, message):
    steps = [] if any(pair.startswith("steps") for pair in pairs) else ["steps=5"]
    with pytest.raises(ValueError, match=message) as caught:
        made(corpus, *steps, *pairs)
    assert "\n" not in str(caught.value)


def test_a_run_without_steps_is_refused(corpus):
    with pytest.raises(ValueError, match="run.steps is required"):
        made(corpus, "d_model=64")


def test_a_bare_key_of_several_parts_must_be_dotted():
    class WarmModel(Cosine):
        lr: float = Field(1.0)

    parts = {"model": WarmModel, "schedule": Cosine, "optimizer": discover("optimizer")["adam"]}
    with pytest.raises(
        ValueError, match=r"'warmup' is a field of several parts; write one of (model|schedule).warmup, "
    ):
        resolve_key("warmup", parts)
    assert resolve_key("schedule.warmup", parts) == ("schedule", "warmup")
    assert resolve_key("beta1", parts) == ("optimizer", "beta1")
    assert resolve_key("steps", parts) == ("run", "steps")


def test_with_seed_sets_the_three_seeds_of_training_and_not_that_of_the_examples(corpus):
    run = made(corpus, "steps=5", "eval_seed=3").with_seed(9)
    assert (run.init_seed, run.data_seed, run.dropout_seed, run.eval_seed) == (9, 9, 9, 3)


# ------------------------------------------------------------------ digests


def test_an_evaluation_differs_by_all_that_can_change_its_scores(corpus):
    task = make("task", "text", corpus=corpus)
    first = Evaluation(weights="0" * 64, model=make("model", "mlp"), task=task, protocol=Dense())
    others = [
        first.replace(weights="1" * 64),
        first.replace(split="valid"),
        first.replace(split="train"),
        first.replace(protocol=Dense(stride=1)),
        first.replace(protocol=Dense(eval_bytes=100)),
        first.replace(protocol=LastToken()),
        first.replace(task=task.replace(tokenizer="byte")),
        first.replace(eval_seed=1),
        first.replace(model=make("model", "mlp", n_layer=1)),
    ]
    digests = [evaluation.digest for evaluation in (first, *others)]
    assert len(set(digests)) == len(digests)
    assert first.replace().digest == first.digest


@pytest.mark.parametrize("weights", ["", "0" * 63, "G" * 64])
def test_an_evaluation_names_its_weights_by_a_whole_hash(corpus, weights):
    with pytest.raises(ValueError, match="weights"):
        make(
            "run",
            "evaluation",
            weights=weights,
            model="mlp",
            task=make("task", "text", corpus=corpus),
            protocol="dense",
        )
