"""Bounds of packed runs: from the bytes of a file and the risk of what is read from it."""

import math

import numpy as np
import pytest
import torch

from lmbench.analysis.bounds_table import bounds_caption, bounds_reading, bounds_table, selection_regret
from lmbench.config import from_dict, make
from lmbench.data.splits import Split
from lmbench.measure.bound_losses import Documents, Smoothed, Tokens, ZeroOne
from lmbench.measure.bound_samples import (
    FRESH,
    Scored,
    document_sample,
    evaluation_sample,
    risks,
    samples,
    token_sample,
)
from lmbench.measure.score import target_scores
from lmbench.probes.scores import FileRisk
from lmbench.records import Reference, pack
from lmbench.store import Store
from lmbench.tasks.base import IGNORE, View, load_task
from lmbench.training.artifacts import FILE, artifacts
from lmbench.training.bounds import run_bounds
from lmbench.training.execute import run_all
from lmbench.training.rescore import evaluate_run, load_run
from tests.corpora import write_corpus
from tests.test_groups import tiny_run

COPY = make("task", "copy", n_eval=40)
SYNTHETIC = {
    "protocol": make("protocol", "dense"),
    "options": {"seq_len": 24},
    "dtype": "float32",
    "steps": 6,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    corpus = write_corpus(tmp_path_factory.mktemp("bounds") / "small")
    return make("task", "text", corpus=str(corpus), tokenizer="char")


@pytest.fixture(scope="module")
def plain(text):
    return tiny_run(text, steps=6, dtype="float32")


@pytest.fixture(scope="module")
def store(tmp_path_factory, plain):
    """A store with a run on text and one on examples; tests add records and change none."""
    made = Store(tmp_path_factory.mktemp("bounds") / "results")
    for run in (plain, tiny_run(COPY, **SYNTHETIC)):
        run_all([run], store=made, device="cpu", progress=False)
    return made


def bounds_of(run, store, **how):
    packed = artifacts([run.digest], store=store, device="cpu")
    (row,) = run_bounds([run.digest], store=store, artifacts=packed, device="cpu", **how).to_dict("records")
    return row


def view_of(run):
    return View(seq_len=run.model.seq_len, is_window=run.model.is_window, device=torch.device("cpu"))


# ------------------------------------------------------------------ text: the token form


@pytest.mark.parametrize(
    ("model", "protocol"), [("mlp", "dense"), ("transformer", "dense"), ("mlp", "last_token")]
)
def test_the_risk_is_the_error_rate_of_the_whole_train_split(model, protocol, text, store):
    scored = {"dense": {"eval_bytes": 150}, "last_token": {"eval_windows": 150}}[protocol]
    run = tiny_run(text, model, steps=2, dtype="float32", protocol=make("protocol", protocol, **scored))
    run_all([run], store=store, device="cpu", progress=False)
    row = bounds_of(run, store, loss="zero_one", draws=None)
    whole = run.protocol.replace(**dict.fromkeys(scored))  # not only the part that the run scores
    rows = evaluate_run(run.digest, store=store, split="train", protocol=whole, device="cpu")
    accuracy = rows[rows["metric"] == "accuracy"].iloc[0]
    assert row["empirical_risk"] == pytest.approx(1 - accuracy["value"], abs=1e-6)
    # Every one of 3000 characters but those before the first target, each once.
    assert row["m"] == accuracy["n"] == {"dense": 2999, "last_token": 3000 - run.model.seq_len}[protocol]
    assert (row["form"], row["assumption"], row["draws"]) == ("token", "nothing is assumed of the text", 0)


def test_the_bound_is_computed_from_the_bytes_of_the_file(plain, store):
    row = bounds_of(plain, store, searched=(3, 4), draws=None)
    n = (store.folder(row["record"]) / FILE).stat().st_size
    bits = 8 * n + 2 * math.floor(math.log2(n)) + 1 + math.log2(12)
    width = math.log1p(0.99 * plain.model.vocab_size / 0.01)
    expected = row["empirical_risk"] + width * math.sqrt((bits * math.log(2) + math.log(20)) / (2 * 2999))
    assert (row["n_bytes"], row["bits"]) == (n, pytest.approx(bits))
    assert row["occam"] == pytest.approx(expected) and row["vacuous"]


def test_the_held_out_bound_is_of_the_test_split_as_the_run_scores_it(plain, store):
    row = bounds_of(plain, store, loss="zero_one")
    known = store.frame([plain.digest])
    accuracy = known[(known["split"] == "test") & (known["metric"] == "accuracy")].iloc[0]
    assert row["test"] == row["held_out_risk"] == pytest.approx(1 - accuracy["value"], abs=1e-6)
    assert row["held_out_m"] == accuracy["n"]
    assert row["held_out"] == pytest.approx(row["test"] + math.sqrt(math.log(20) / (2 * accuracy["n"])))


def test_the_smoothed_risk_lies_between_the_plain_cross_entropy_and_what_smoothing_can_add(plain, store):
    row = bounds_of(plain, store, draws=None, alpha=0.01)
    known = store.frame([plain.digest])
    nll = known[(known["split"] == "test") & (known["metric"] == "nll")]["value"].item()
    # No prediction of a run of six steps is so bad that smoothing helps it by more than it costs.
    assert nll - 0.01 < row["test"] <= nll - math.log1p(-0.01)
    assert row["test"] != bounds_of(plain, store, draws=None, alpha=0.2)["test"]


def test_what_is_scored_is_read_from_the_file(plain, store):
    packed = artifacts(
        [plain.digest], store=store, methods=(make("method", "quantize", bits=2),), device="cpu"
    )
    (coarse,) = run_bounds(
        [plain.digest], store=store, artifacts=packed, loss="zero_one", draws=None, device="cpu"
    ).to_dict("records")
    fine = bounds_of(plain, store, loss="zero_one", draws=None)
    # What the file scores, which is not what the run's weights score.
    assert coarse["test"] == pytest.approx(1 - packed["accuracy"].item(), abs=1e-6)
    assert coarse["n_bytes"] < fine["n_bytes"] and coarse["empirical_risk"] != fine["empirical_risk"]


def test_a_damaged_file_is_not_scored(plain, tmp_path):
    store = Store(tmp_path)
    run_all([plain], store=store, device="cpu", progress=False)
    packed = artifacts([plain.digest], store=store)
    path = store.folder(packed["record"].item()) / FILE
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=FILE):
        run_bounds([plain.digest], store=store, artifacts=packed, device="cpu")


# ------------------------------------------------------------------ scoring a part


def test_a_part_costs_its_own_gap_out_of_the_same_delta(plain, store):
    row = bounds_of(plain, store, loss="zero_one", draws=100)
    spent = row["bits"] * math.log(2) + math.log(1 / 0.005)
    gap = math.sqrt(spent / (2 * 2999)) + math.sqrt(math.log(1 / 0.045) / (2 * 100))
    assert row["occam"] - row["empirical_risk"] == pytest.approx(gap)
    assert (row["delta"], row["draws"], row["m"]) == (0.05, 100, 2999)


def test_as_many_draws_as_there_are_windows_score_all(plain, store):
    assert bounds_of(plain, store, draws=10**6)["draws"] == 0


def test_windows_are_drawn_as_often_as_they_have_targets(plain, text, monkeypatch):
    # 300 documents with one target and 300 with six: of tokens, six in seven are in the latter.
    ends = np.cumsum([2] * 300 + [7] * 300)
    bounds = tuple(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))
    starts = np.repeat([start for start, _ in bounds], [end - start for start, end in bounds])
    data = load_task(text)
    split = Split(np.zeros(ends[-1], np.int64), None, starts, bounds)
    monkeypatch.setitem(data.splits, "train", split)
    how = {"split": "train", "protocol": plain.protocol, "view": view_of(plain), "seed": 0}
    whole, drawn = token_sample(data, **how, draws=None), token_sample(data, **how, draws=400)
    assert whole.sample == drawn.sample == Tokens(m=300 + 1800) and (whole.draws, drawn.draws) == (0, 400)
    n_N = torch.cat([(batch.targets_BT != IGNORE).sum(dim=1) for batch in drawn.batches]).numpy()
    assert set(n_N) == {1, 6} and drawn.weight_N.sum() == pytest.approx(1)
    # The share has a standard error of 0.017, and would be one half if all windows were alike.
    assert drawn.weight_N[n_N == 6].sum() == pytest.approx(6 / 7, abs=0.06)
    again = token_sample(data, **how | {"seed": 1}, draws=400)
    assert len(again.weight_N) != len(drawn.weight_N) or (again.weight_N != drawn.weight_N).any()


def test_the_risk_of_a_part_is_that_of_the_whole_on_average(plain, text, store):
    model = load_run(plain.digest, store=store, device=torch.device("cpu")).model
    data, losses = load_task(text), {"error": ZeroOne(vocab_size=plain.model.vocab_size)}
    how = {"split": "train", "protocol": plain.protocol, "view": view_of(plain)}
    whole = risks(model, token_sample(data, **how, draws=None, seed=0), losses=losses)["error"]
    parts = [
        risks(model, token_sample(data, **how, draws=200, seed=s), losses=losses)["error"] for s in range(12)
    ]
    # Windows of 3 targets have errors with a deviation of at most 0.5: 0.01 is that of this mean.
    assert np.mean(parts) == pytest.approx(whole, abs=0.03) and len(set(parts)) > 1


# ------------------------------------------------------------------ synthetic tasks: the document form


def test_documents_are_the_examples_that_the_run_drew(store):
    run = tiny_run(COPY, **SYNTHETIC)
    row = bounds_of(run, store, loss="zero_one", draws=None)
    model = load_run(run.digest, store=store, device=torch.device("cpu")).model.eval()
    errors = []
    stream = load_task(COPY).stream(run, view_of(run))
    for batch in map(stream.at, range(run.steps)):
        with torch.no_grad():
            _, correct_1BT = target_scores(model(batch.tokens_BT).logits_BTV.unsqueeze(0), batch.targets_BT)
        for correct_T, target_T in zip(correct_1BT[0], batch.targets_BT, strict=True):
            errors.append(1 - correct_T[target_T != IGNORE].double().mean().item())
    # Each document weighs the same, however long its answer is.
    assert row["empirical_risk"] == pytest.approx(np.mean(errors), abs=1e-9)
    assert row["m"] == len(errors) == run.steps * run.batch_size
    assert (row["form"], row["assumption"]) == ("document", "documents are independent by construction")


def test_the_held_out_bound_of_documents_is_of_fresh_ones_from_the_same_generator(store):
    run = tiny_run(COPY, **SYNTHETIC)
    row = bounds_of(run, store, loss="zero_one", draws=10)
    assert (row["draws"], row["m"], row["held_out_m"]) == (10, 24, 10)
    data, view = load_task(COPY), view_of(run)
    seen = [data.training_examples(seed, np.arange(24), view.seq_len)[0] for seed in (run.data_seed, FRESH)]
    assert not np.array_equal(*seen)
    fresh = samples(data, run=run, view=view, draws=10, seed=0)["fresh"]
    tokens_NT = torch.cat([batch.tokens_BT for batch in fresh.batches])
    assert tokens_NT.tolist() == seen[1][:10].tolist() and fresh.sample == Documents(m=10, drawn="generator")
    with pytest.raises(ValueError):
        run.replace(data_seed=FRESH)  # so no run can have drawn them


def test_documents_of_a_part_are_distinct_ones_of_the_sample():
    run, data = tiny_run(COPY, **SYNTHETIC), load_task(COPY)
    how = {"run": run, "view": view_of(run), "data_seed": 0, "m": 24}
    drawn = document_sample(data, **how, draws=20, seed=3)
    whole = document_sample(data, **how, draws=None, seed=3)
    rows = [
        [tuple(row) for batch in one.batches for row in batch.tokens_BT.tolist()] for one in (drawn, whole)
    ]
    assert (drawn.draws, whole.draws, len(rows[0]), len(rows[1])) == (20, 0, 20, 24)
    assert set(rows[0]) <= set(rows[1]) and len(set(rows[0])) == 20


def test_valid_and_test_are_what_the_run_scores(store):
    run = tiny_run(COPY, **SYNTHETIC)
    for split in ("valid", "test"):
        scored = evaluation_sample(load_task(COPY), split=split, run=run, view=view_of(run))
        assert scored.sample.m == 40 and sum(len(batch.tokens_BT) for batch in scored.batches) == 40


# ------------------------------------------------------------------ the published bound, tables


def test_the_published_bound_stands_beside_and_is_flagged(plain, store):
    row = bounds_of(plain, store, loss="zero_one", draws=None)
    n = 2999 // plain.model.seq_len  # sequences
    size = sum(p.numel() for p in plain.model.build().parameters())
    literal = math.sqrt((size * math.log(32) + math.log(20)) / (2 * n))
    corrected = math.sqrt((size * 32 * math.log(2) + math.log(20)) / (2 * n))
    assert row["seed_literal"] - row["empirical_risk"] == pytest.approx(literal)
    assert row["seed_corrected"] - row["empirical_risk"] == pytest.approx(corrected)
    assert row["seed_valid"] is False


def test_the_published_bound_counts_coded_weights_at_their_bits(plain, store):
    packed = artifacts(
        [plain.digest],
        store=store,
        methods=(make("method", "quantize", bits=2),),
        other="float16",
        device="cpu",
    )
    (row,) = run_bounds(
        [plain.digest], store=store, artifacts=packed, loss="zero_one", draws=None, device="cpu"
    ).to_dict("records")
    coded = make("method", "quantize", bits=2).coded(plain.model)
    sizes = {name: p.numel() for name, p in plain.model.build().named_parameters()}
    bits = sum(size * (2 if name in coded else 16) for name, size in sizes.items())
    corrected = math.sqrt((bits * math.log(2) + math.log(20)) / (2 * (2999 // plain.model.seq_len)))
    assert len(coded) > 3 and row["seed_corrected"] - row["empirical_risk"] == pytest.approx(corrected)


def test_rows_of_arms_and_seeds_are_what_tables_and_choices_read(plain, store):
    arms = {"plain": (), "coarse": (make("method", "quantize", bits=4),)}
    rows, digests, labels = [], [], []
    for name, methods in arms.items():
        for seed in (0, 1):
            run = plain.with_seed(seed).replace(methods=methods)
            rows.append(run)
            digests.append(run.digest)
            labels.append(name)
    run_all(rows, store=store, device="cpu", progress=False)
    packed = artifacts(digests, store=store, device="cpu").assign(label=labels)
    found = run_bounds(digests, store=store, artifacts=packed, draws=50, device="cpu")
    table = bounds_table(found)
    assert table["arm"].tolist() == list(arms) and table["seeds"].tolist() == [2, 2]
    assert table["bytes"].iloc[1] < table["bytes"].iloc[0] and set(table["vacuous"]) == {"yes"}
    assert "each holds with probability 0.95" in bounds_caption(found)
    assert bounds_reading(found).startswith("All Occam bounds are vacuous (2 of 2 arms)")
    regret = selection_regret(found, unit="nats per token")
    assert regret.choices["by_bound"].tolist() == ["coarse", "coarse"]


# ------------------------------------------------------------------ records, refusals


def test_risks_are_scored_once_for_both_losses_and_read_from_committed_results(
    plain, store, tmp_path, monkeypatch
):
    packed = artifacts([plain.digest], store=store, device="cpu")
    how = {"artifacts": packed, "draws": 30}
    first = run_bounds([plain.digest], store=store, device="cpu", **how)
    asked = FileRisk(artifact=packed["record"].item(), draws=30)
    assert from_dict("run", store.record(asked.digest)["run"]["config"]) == asked
    monkeypatch.setattr("lmbench.training.bounds.risks", lambda *_, **__: pytest.fail("scored again"))
    zero_one = run_bounds([plain.digest], store=store, loss="zero_one", **how)
    pack([plain.digest, asked.artifact, asked.digest], [store], tmp_path / "packed")
    reference = Reference(tmp_path / "packed")
    assert run_bounds([plain.digest], store=reference, **how).equals(first)
    assert run_bounds([plain.digest], store=reference, loss="zero_one", **how).equals(zero_one)
    with pytest.raises(
        ValueError, match="lack the risk of the packed form of run .* alpha = 0.1 and draws = 30"
    ):
        run_bounds([plain.digest], store=reference, **how, alpha=0.1)


def test_what_the_theory_does_not_cover_is_refused(plain, store, monkeypatch):
    packed = artifacts([plain.digest], store=store, device="cpu")

    def refused(said, **how):
        with pytest.raises(ValueError, match=said):
            run_bounds([plain.digest], store=store, **{"artifacts": packed, "device": "cpu", "seed": 7} | how)

    refused("'zero_ones'.*Did you mean 'zero_one'", loss="zero_ones")
    refused("is not among the packed runs; pass artifacts", artifacts=packed.iloc[:0])
    refused("alpha.*1.0.*less than 1$", alpha=1.0)
    refused("draws.*0", draws=0)
    refused("delta = 1.5 is not accepted: it lies between 0 and 1", delta=1.5, draws=10)
    monkeypatch.setattr("lmbench.training.bounds.load_task", lambda task: object())
    refused("task 'text' is not accepted: a bound needs a text .token form. or a synthetic task", alpha=0.3)


def test_predictions_that_are_not_finite_have_no_bound(plain, text):
    model = plain.model.build()
    torch.nn.init.constant_(next(iter(model.parameters())), math.nan)
    made = token_sample(
        load_task(text), split="train", protocol=plain.protocol, view=view_of(plain), draws=5, seed=0
    )
    assert isinstance(made, Scored)
    assert math.isnan(risks(model, made, losses={"x": Smoothed(vocab_size=20, alpha=0.1)})["x"])
