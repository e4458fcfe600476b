"""A domain left out of training and scored alone: which documents each split holds, and what is refused."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lmbench.config import make
from lmbench.data.corpus import load_corpus
from lmbench.data.domains import choose, vocabulary_source
from lmbench.measure.references import references
from lmbench.tasks.base import load_task
from lmbench.training.execute import run_all
from lmbench.training.rescore import load_run
from tests.corpora import text, write_corpus
from tests.test_training import small_run

# (split, name, domain, text); only songs have a "%".
DOCUMENTS = (
    ("train", "a", "plays", text(1500)),
    ("train", "b", "songs", text(300, shift=1) + "%\n"),
    ("train", "c", "plays", text(900, shift=2)),
    ("valid", "d", "plays", text(400)),
    ("valid", "e", "songs", text(200)),
    ("test", "f", "songs", text(250, shift=2)),
    ("test", "g", "plays", text(350, shift=1)),
    ("test", "h", "letters", text(150)),
)


@pytest.fixture
def corpus(tmp_path):
    folder, index = tmp_path / "mixed", {}
    folder.mkdir()
    for split in ("train", "valid", "test"):
        rows, whole = [], ""
        for _, name, domain, body in (d for d in DOCUMENTS if d[0] == split):
            rows.append({"name": name, "domain": domain, "start": len(whole), "end": len(whole) + len(body)})
            whole += body
        index[split] = rows
        (folder / f"{split}.txt").write_text(whole, encoding="utf-8")
    (folder / "documents.json").write_text(json.dumps(index))
    return str(folder)


def task_on(corpus, **fields):
    return make("task", "text", corpus=corpus, **fields)


def names(corpus):
    return {split: "".join(d.name for d in documents) for split, documents in corpus.splits.items()}


# ------------------------------------------------------------------ which documents


@pytest.mark.parametrize(
    ("fields", "held"),
    [
        ({}, {"train": "abc", "valid": "de", "test": "fgh"}),
        ({"without": "songs"}, {"train": "ac", "valid": "d", "test": "gh"}),
        ({"only": "songs"}, {"train": "abc", "valid": "de", "test": "f"}),
        ({"without": "songs", "only": "plays"}, {"train": "ac", "valid": "d", "test": "g"}),
        ({"without": "songs", "only": "songs"}, {"train": "ac", "valid": "d", "test": "bef"}),
        ({"without": "letters", "only": "letters"}, {"train": "abc", "valid": "de", "test": "h"}),
    ],
)
def test_splits_hold_the_documents_that_the_fields_name(corpus, fields, held):
    assert names(choose(load_corpus(corpus), **fields)) == held
    assert names(load_task(task_on(corpus, **fields)).corpus) == held


def test_the_task_scores_exactly_the_tokens_of_the_domain_that_was_left_out(corpus):
    data = load_task(task_on(corpus, without="songs", only="songs"))
    written = "".join(body for _, _, domain, body in DOCUMENTS if domain == "songs")
    assert data.tokenizer.decode(data.splits["test"].ids_N) == written
    assert len(data.splits["test"].bounds) == 3
    # The first character of a document is no target.
    assert data.n_targets("test", make("protocol", "dense"), 8) == len(written) - 3


def test_ids_do_not_depend_on_what_is_left_out_or_scored(corpus):
    plain = load_task(task_on(corpus)).tokenizer.vocabulary
    assert "%" in plain
    for fields in ({"without": "songs"}, {"without": "songs", "only": "songs"}, {"only": "plays"}):
        assert load_task(task_on(corpus, **fields)).tokenizer.vocabulary == plain


def test_a_vocabulary_of_train_alone_learns_nothing_of_the_domain(corpus):
    by_train = make("tokenizer", "char", vocabulary="train")
    assert "%" in load_task(task_on(corpus, tokenizer=by_train)).tokenizer.vocabulary
    assert "%" not in load_task(task_on(corpus, tokenizer=by_train, without="songs")).tokenizer.vocabulary
    source = vocabulary_source(load_corpus(corpus), without="songs")
    assert names(source) == {"train": "ac", "valid": "d", "test": "ghbef"}
    assert vocabulary_source(source, without="") is source


def test_fields_that_are_off_leave_digest_and_caption_alone(corpus):
    assert task_on(corpus).digest == task_on(corpus, without="", only="").digest
    assert task_on(corpus).caption == "mixed by char"
    assert {"without", "only"}.isdisjoint(task_on(corpus).canonical())
    held_out = task_on(corpus, without="songs")
    assert held_out.digest != task_on(corpus).digest
    assert held_out.caption == "mixed without songs by char"
    assert held_out.replace(only="songs").caption == "mixed without songs by char, tested on all of songs"
    assert held_out.replace(only="plays").caption == "mixed without songs by char, tested on plays"


def test_a_domain_can_be_left_out_of_a_substituted_train_split(corpus):
    held = names(load_task(task_on(corpus, substitute="valid", without="plays")).corpus)
    assert held == {"train": "e", "valid": "e", "test": "fh"}  # valid's last tenth lies within its song


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize("field", ["without", "only"])
def test_an_unknown_domain_is_refused_with_the_domains_that_exist(corpus, field):
    with pytest.raises(ValueError, match="unknown domain of corpus mixed .song.; accepted: letters, plays"):
        load_task(task_on(corpus, **{field: "song"}))


def test_a_split_without_a_document_is_refused(corpus, tmp_path):
    whole = load_corpus(corpus)
    letters = replace(whole, splits=whole.splits | {"test": whole.splits["test"][2:]})
    with pytest.raises(
        ValueError, match="'test' of corpus mixed has no document of domain 'plays'; it has let"
    ):
        choose(letters, only="plays")
    single = task_on(str(write_corpus(tmp_path / "small")), without="small")
    with pytest.raises(ValueError, match="split 'train' of corpus small has no document without domain 'sma"):
        load_task(single)


def test_a_domain_scored_whole_is_refused_where_it_was_learned(corpus):
    whole = task_on(corpus, without="songs", only="songs")
    for learned in (task_on(corpus), task_on(corpus, without="plays"), task_on(corpus + "/")):
        with pytest.raises(ValueError, match="they learned some of its text; train with without = 'songs'"):
            learned.refuse_leak(whole, split="test")
    task_on(corpus, without="songs").refuse_leak(whole, split="test")
    # Its test documents alone were never learned, and neither was any valid or test split.
    task_on(corpus).refuse_leak(task_on(corpus, only="songs"), split="test")
    task_on(corpus).refuse_leak(whole, split="valid")


def test_a_domain_of_another_corpus_may_hide_shared_text_in_any_split():
    learned = make("task", "text", corpus="tiny_shakespeare")
    plays = make("task", "text", corpus="shakespeare_plays", only="romances")
    learned.refuse_leak(plays, split="test")
    with pytest.raises(ValueError, match="both hold some of the same text"):
        learned.refuse_leak(plays.replace(without="romances"), split="test")


def test_a_substituted_split_is_refused_and_another_kind_of_task_is_not_judged(corpus):
    learned = task_on(corpus)
    with pytest.raises(ValueError, match="a substitution made some of that text training text"):
        learned.refuse_leak(task_on(corpus, substitute="valid"), split="valid")
    learned.refuse_leak(task_on(corpus, substitute="valid"), split="test")
    learned.refuse_leak(make("task", "chain"), split="test")


# ------------------------------------------------------------------ beside the models


def test_reference_predictors_count_on_the_same_train_and_score_the_domain(corpus, store):
    protocol = make("protocol", "dense")
    tables = {}
    for only in ("", "songs"):
        task = task_on(corpus, without="songs", only=only)
        tables[only] = references(task, protocol=protocol, seq_len=8, store=store).set_index("predictor")
        data = load_task(task)
        assert set(tables[only]["n"]) == {data.n_targets("test", protocol, 8)}
    train = np.bincount(load_task(task_on(corpus, without="songs")).splits["train"].ids_N, minlength=1)
    data = load_task(task_on(corpus, without="songs", only="songs"))
    counts = np.zeros(data.vocab_size)
    counts[: len(train)] = train
    logs = -np.log2((counts + 0.5) / (counts + 0.5).sum())
    part = data.splits["test"]
    targets = np.flatnonzero(part.doc_start_N != np.arange(len(part.ids_N)))
    expected = logs[part.ids_N[targets]].mean()
    assert tables["songs"].loc["unigram", "bits_per_byte"] == pytest.approx(expected)
    assert {"zlib", "xz"} <= set(tables["songs"].index)


def test_the_test_row_of_a_run_on_the_domain_is_that_of_its_documents(corpus, store):
    run = small_run(task_on(corpus, without="songs", only="songs"))
    run_all([run], store=store, device="cpu", progress=False)
    rows = store.frame([run.digest])
    found = rows[(rows["split"] == "test") & (rows["metric"] == "bits_per_byte")]
    assert math.isfinite(found["value"].item()) and found["n"].item() <= 200  # eval_bytes of the protocol
    assert load_run(run.digest, store=store, device=torch.device("cpu")).run.task.only == "songs"
