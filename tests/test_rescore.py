"""Scoring finished weights again: what is refused, what is filed, what is found."""

import pytest
import torch

from lmbench.config import make
from lmbench.run import Evaluation
from lmbench.training import rescore
from lmbench.training.execute import run_all
from lmbench.training.rescore import evaluate_run, load_run
from tests.corpora import write_corpus
from tests.test_training import small_run


@pytest.fixture
def run(task, store):
    run = small_run(task)
    run_all([run], store=store, device="cpu", progress=False)
    return run


def nll(rows):
    return rows[rows["metric"] == "nll"]["value"].item()


# ------------------------------------------------------------------ what is filed


def test_another_split_is_an_evaluation_of_its_own_beside_the_run(run, store):
    rows = evaluate_run(run.digest, store=store, device="cpu", split="train")
    (digest,) = set(store.digests()) - {run.digest}
    record = store.record(digest)
    weights = load_run(run.digest, store=store, device=torch.device("cpu")).weights
    asked = Evaluation(weights=weights, model=run.model, task=run.task, protocol=run.protocol, split="train")
    assert digest == asked.digest
    assert record["run"]["config"] == asked.to_dict()
    assert record["env"]["hashes"] == {"weights": weights}
    assert set(rows["run"]) == set(rows["evaluation"]) == {digest}
    assert set(rows["split"]) == {"train"}
    assert store.verify() == []
    items = store.items(digest)
    assert items["nll"].sum() / items["n"].sum() == pytest.approx(nll(rows))


def test_an_evaluation_is_read_and_not_computed_again(run, store, monkeypatch):
    first = evaluate_run(run.digest, store=store, device="cpu", split="train")

    def refuse(*args, **fields):
        raise AssertionError("scored twice")

    monkeypatch.setattr(rescore, "evaluate", refuse)
    assert evaluate_run(run.digest, store=store, device="cpu", split="train").equals(first)
    # The run's own test and last validation are among its rows.
    assert not evaluate_run(run.digest, store=store, device="cpu", split="test").empty
    assert not evaluate_run(run.digest, store=store, device="cpu", split="valid").empty
    assert len(store.digests()) == 2


def test_the_text_of_another_corpus_with_the_same_characters_is_scored(run, store, tmp_path):
    other = run.task.replace(corpus=str(write_corpus(tmp_path / "other", test=500)))
    rows = evaluate_run(run.digest, store=store, device="cpu", task=other)
    assert set(rows["task.corpus"]) == {str(tmp_path / "other")}
    whole = evaluate_run(
        run.digest, store=store, device="cpu", task=other, protocol=make("protocol", "dense")
    )
    assert whole[whole["metric"] == "nll"]["n"].item() == 499


def test_the_weights_reported_are_the_ones_scored(task, store):
    # A rate that ruins the model after its first validation, so that best and final differ.
    wild = {"steps": 12, "eval_every": 1, "optimizer": make("optimizer", "adam", lr=0.5), "grad_clip": None}
    best, final = small_run(task, **wild), small_run(task, **wild, weights="final")
    frame = run_all([best, final], store=store, device="cpu", progress=False)
    whole = make("protocol", "dense")
    scores = {}
    for run in (best, final):
        tested = frame[(frame["run"] == run.digest) & (frame["split"] == "test")]
        assert nll(evaluate_run(run.digest, store=store, device="cpu")) == nll(tested)
        scores[run.weights] = nll(evaluate_run(run.digest, store=store, device="cpu", protocol=whole))
    assert scores["best"] < scores["final"]


def test_a_failed_evaluation_leaves_nothing(run, store, monkeypatch):
    def fail(*args, **fields):
        raise KeyboardInterrupt

    monkeypatch.setattr(rescore, "evaluate", fail)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run.digest, store=store, device="cpu", split="train")
    assert [path.name for path in store.runs.iterdir()] == [run.digest]


# ------------------------------------------------------------------ what is refused


def test_an_unknown_run_is_refused(store):
    with pytest.raises(ValueError, match="no finished run 'abc' in"):
        evaluate_run("abc", store=store, device="cpu")


def test_a_run_that_kept_no_weights_is_refused(task, store):
    run = small_run(task)
    run_all([run], store=store, device="cpu", progress=False, keep_weights_mb=0)
    with pytest.raises(ValueError, match=f"run {run.digest} kept no weights"):
        evaluate_run(run.digest, store=store, device="cpu", split="train")
    # Its own scores are known without them.
    assert not evaluate_run(run.digest, store=store, device="cpu", split="valid").empty


def test_a_task_with_another_tokenizer_is_refused(run, store):
    with pytest.raises(
        ValueError, match="the model was trained with tokenizer Char.* the task asks for Byte"
    ):
        evaluate_run(run.digest, store=store, device="cpu", task=run.task.replace(tokenizer="byte"))
    assert store.digests() == [run.digest]


def test_another_text_is_read_with_the_vocabulary_that_the_model_learned(run, store, tmp_path):
    """As many characters, but others: a vocabulary of its own would shift every id without a word."""
    folder = write_corpus(tmp_path / "other")
    for file in folder.iterdir():
        file.write_text(file.read_text().replace("e", "#"))
    other = run.task.replace(corpus=str(folder))
    assert other.load().vocab_size == run.model.vocab_size
    with pytest.raises(ValueError, match="character '#' .* is not among the"):
        evaluate_run(run.digest, store=store, device="cpu", task=other)
    assert store.digests() == [run.digest]
    for file in folder.iterdir():  # without its e the text has an id less, which the others do not notice
        file.write_text(file.read_text().replace("#", ""))
    fewer = run.task.replace(corpus=str(folder))
    assert fewer.load().vocab_size == run.model.vocab_size - 1
    rows = evaluate_run(run.digest, store=store, device="cpu", task=fewer)
    assert set(rows["n"]) == {200}


def test_valid_is_not_scored_once_a_substitution_made_it_training_text(run, store):
    swapped = small_run(run.task.replace(substitute="valid"))
    run_all([swapped], store=store, device="cpu", progress=False)
    with pytest.raises(ValueError, match="are not scored on the valid split of small by char"):
        evaluate_run(swapped.digest, store=store, device="cpu", task=run.task, split="valid")
    assert not evaluate_run(swapped.digest, store=store, device="cpu", task=run.task, split="test").empty


def test_text_that_the_model_was_trained_on_is_refused(run, store, monkeypatch):
    """The plays and Tiny Shakespeare share text: what was trained on one is not scored on the other."""
    plays, tiny = (make("task", "text", corpus=name) for name in ("shakespeare_plays", "tiny_shakespeare"))

    def trained_on(task):
        monkeypatch.setattr(rescore, "from_dict", lambda role, config: run.replace(task=task))

    trained_on(plays)
    for split in ("train", "valid", "test"):
        with pytest.raises(
            ValueError,
            match=f"trained on shakespeare_plays are not scored on tiny_shakespeare/{split}: both hold some",
        ):
            evaluate_run(run.digest, store=store, device="cpu", task=tiny, split=split)
    trained_on(tiny)
    with pytest.raises(
        ValueError, match="trained on tiny_shakespeare are not scored on shakespeare_plays/train"
    ):
        evaluate_run(run.digest, store=store, device="cpu", task=plays, split="train")
    assert store.digests() == [run.digest]


# ------------------------------------------------------------------ other computations with the same weights


def test_another_model_may_compute_with_the_same_weights(task, store):
    run = small_run(task, model="transformer")
    run_all([run], store=store, device="cpu", progress=False)
    other = run.model.replace(n_head=run.model.n_head * 2)
    rows = evaluate_run(run.digest, store=store, device="cpu", model=other)
    own = evaluate_run(run.digest, store=store, device="cpu")
    assert set(rows["run"]) != set(own["run"]) == {run.digest}
    assert nll(rows) != nll(own)
    assert evaluate_run(run.digest, store=store, device="cpu", model=run.model).equals(own)
    assert set(rows["metric"]) == set(own["metric"]), "its pass does not depend on the text"


def test_a_model_with_other_weights_is_refused_by_the_name_of_one(run, store):
    other = run.model.replace(d_model=2 * run.model.d_model)
    with pytest.raises(ValueError, match=rf"weights of run {run.digest} do not fit .*: .* is not the same"):
        evaluate_run(run.digest, store=store, device="cpu", model=other)
