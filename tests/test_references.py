"""Reference predictors as a record of the store: counted once, read afterwards, on the models' targets."""

import math

import numpy as np
import pytest

from lmbench.config import make
from lmbench.measure import references as module
from lmbench.measure.references import references
from lmbench.models.base import LanguageModel, Output
from lmbench.records import Reference, pack
from lmbench.store import Store
from lmbench.tasks.base import load_task
from tests.test_training import small_run

DENSE, LAST = make("protocol", "dense"), make("protocol", "last_token")


@pytest.fixture
def counted(monkeypatch):
    """The records that were counted, and not read."""
    made, honest = [], module._count

    def count(asked, store):
        made.append(asked)
        honest(asked, store)

    monkeypatch.setattr(module, "_count", count)
    return made


def row(table, predictor):
    return table[table["predictor"] == predictor].iloc[0]


def test_predictors_are_counted_once_and_read_afterwards(task, store, counted):
    first = references(task, protocol=DENSE, seq_len=8, store=store)
    again = references(task, protocol=DENSE, seq_len=8, store=Store(store.root))
    assert len(counted) == 1
    assert store.verify() == []
    assert again.equals(first)
    assert set(first["predictor"]) == {"uniform", "unigram", "ngram", "zlib", "bz2", "xz"}
    ngrams = first[first["predictor"] == "ngram"]
    assert list(zip(ngrams["smoothing"], ngrams["order"], strict=True)) == [
        (smoothing, order) for smoothing in ("witten_bell", "modified_kneser_ney") for order in (2, 3, 4, 5)
    ]


def test_the_dense_protocol_has_one_count_for_every_context(task, store, counted):
    short, long = (references(task, protocol=DENSE, seq_len=n, store=store) for n in (8, 64))
    assert short.equals(long)
    assert len(counted) == 1


@pytest.mark.parametrize("change", ["split", "protocol", "task", "context"])
def test_another_split_protocol_text_or_first_target_is_counted_anew(task, store, counted, change):
    asked = {"task": task, "protocol": LAST, "seq_len": 8}
    other = {
        "split": {"split": "valid"},
        "protocol": {"protocol": LAST.replace(eval_windows=100)},
        "task": {"task": task.replace(tokenizer="byte")},
        "context": {"seq_len": 16},
    }[change]
    for fields in (asked, asked | other):
        references(fields.pop("task"), store=store, **fields)
    assert len(counted) == len(store.digests()) == 2


@pytest.mark.parametrize(
    "protocol, n",
    [
        (DENSE, 699),
        (DENSE.replace(eval_bytes=100), 100),
        (LAST, 692),  # the first window of 8 tokens ends before the ninth
        (LAST.replace(eval_windows=50), 50),
    ],
)
def test_predictors_are_scored_on_the_targets_of_the_models(task, store, protocol, n):
    table = references(task, protocol=protocol, seq_len=8, store=store)
    assert set(table["n"]) == {n}
    assert load_task(task).n_targets("test", protocol, 8) == n
    assert row(table, "uniform")["nll"] == pytest.approx(math.log(load_task(task).vocab_size))
    # The unigram adds half a count to each character of train.
    data = load_task(task)
    counts = np.bincount(data.splits["train"].ids_N, minlength=data.vocab_size) + 0.5
    first = 1 if protocol.kind == "dense" else 8
    targets = data.splits["test"].ids_N[first : first + n]
    assert row(table, "unigram")["nll"] == pytest.approx(-np.log(counts[targets] / counts.sum()).mean())


@pytest.mark.parametrize("protocol", [DENSE.replace(eval_bytes=300), LAST.replace(eval_windows=300)])
def test_a_model_of_equal_logits_scores_as_the_uniform_predictor(task, store, protocol):
    import torch

    from lmbench.measure.score import evaluate
    from lmbench.tasks.base import View

    data = load_task(task)

    class Equal(LanguageModel):
        def forward(self, tokens_BT, context_BK=None, *, readout="all"):
            T = 1 if readout == "last" else tokens_BT.shape[1]
            return Output(torch.zeros(len(tokens_BT), T, data.vocab_size))

        def extend(self, tokens_BT, state=None):
            raise AssertionError("nothing is generated here")

    view = View(seq_len=8, is_window=False, device=torch.device("cpu"))
    scores = evaluate(Equal(), data, split="test", protocol=protocol, view=view).metrics
    uniform = row(references(task, protocol=protocol, seq_len=8, store=store), "uniform")
    assert scores["nll"] == pytest.approx((uniform["nll"], uniform["n"]))
    assert scores["bits_per_byte"][0] == pytest.approx(uniform["bits_per_byte"])


def test_a_lossy_text_has_nats_and_no_bits_per_byte(task, store):
    words = task.replace(tokenizer=make("tokenizer", "word", form="published"))
    table = references(words, protocol=DENSE, seq_len=8, store=store)
    assert "bits_per_byte" not in table
    assert set(table["predictor"]) == {"uniform", "unigram", "ngram"}
    assert np.isfinite(table["nll"]).all()


def test_a_capped_split_has_no_compressors(task, store):
    # They read text, and the text of the first tokens is not at hand.
    table = references(task.replace(eval_tokens=300), protocol=DENSE, seq_len=8, store=store)
    assert set(table["predictor"]) == {"uniform", "unigram", "ngram"}
    assert set(table["n"]) == {299}


# ------------------------------------------------------------------ in a report


def test_a_report_packs_the_predictors_that_it_shows(task, store, tmp_path, counted):
    table = references(task, protocol=DENSE, seq_len=8, store=store)
    assert store.used == set(store.digests())
    from lmbench.training.execute import run_all

    rows = run_all([small_run(task)], store=store, device="cpu", progress=False)
    assert not rows.empty
    pack(store.used, [store], tmp_path / "reference")
    committed = Reference(tmp_path / "reference")
    assert references(task, protocol=DENSE, seq_len=8, store=committed).equals(table)
    assert len(counted) == 1


def test_a_read_only_reference_that_lacks_them_is_refused(task, store, tmp_path):
    references(task, protocol=DENSE, seq_len=8, store=store)
    from lmbench.training.execute import run_all

    run = small_run(task)
    run_all([run], store=store, device="cpu", progress=False)
    pack([run.digest], [store], tmp_path / "reference")
    with pytest.raises(ValueError, match=r"reference results .* lack the reference predictors [0-9a-f]{16}"):
        references(task, protocol=DENSE, seq_len=8, store=Reference(tmp_path / "reference"))


def test_a_count_that_fails_leaves_nothing(task, store, monkeypatch):
    def fail(**fields):
        raise MemoryError

    monkeypatch.setattr(module, "reference_rows", fail)
    with pytest.raises(MemoryError):
        references(task, protocol=DENSE, seq_len=8, store=store)
    assert not store.runs.exists() or list(store.runs.iterdir()) == []


def test_counts_that_another_process_makes_are_awaited_and_not_written_over(
    task, store, tmp_path, monkeypatch
):
    elsewhere = Store(tmp_path / "elsewhere")
    table = references(task, protocol=DENSE, seq_len=8, store=elsewhere)
    (digest,) = elsewhere.digests()
    written = (elsewhere.folder(digest) / "done").stat().st_mtime_ns
    waits = []
    lock = store.lock(digest)
    assert lock.__enter__()

    def finish_elsewhere(seconds):
        waits.append(seconds)
        store.runs.mkdir(parents=True)
        elsewhere.folder(digest).rename(store.folder(digest))
        lock.__exit__(None, None, None)

    monkeypatch.setattr("lmbench.store.time.sleep", finish_elsewhere)
    assert references(task, protocol=DENSE, seq_len=8, store=store).equals(table)
    assert len(waits) == 1
    assert (store.folder(digest) / "done").stat().st_mtime_ns == written
