"""Runs as files: what is scored is what was read back."""

import pytest
from safetensors.torch import load_file

from lmbench.config import make
from lmbench.measure.artifact import unpack
from lmbench.store import Store
from lmbench.training.artifacts import FILE, artifacts
from lmbench.training.execute import run_all
from tests.corpora import write_corpus
from tests.test_groups import tiny_run


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    corpus = write_corpus(tmp_path_factory.mktemp("packed") / "small")
    return make("task", "text", corpus=str(corpus), tokenizer="char")


def nll_of(rows):
    return rows[(rows["split"] == "test") & (rows["metric"] == "nll")]["value"].item()


def test_a_packed_float_run_scores_as_the_run_did(task, tmp_path):
    run, store = tiny_run(task, steps=4, dtype="float32"), Store(tmp_path)
    rows = run_all([run], store=store, device="cpu", progress=False)
    (found,) = artifacts([run.digest], store=store).to_dict("records")
    assert found["nll"] == pytest.approx(nll_of(rows), abs=1e-6)
    data = (store.folder(found["record"]) / FILE).read_bytes()
    assert found["bytes"] == len(data) == sum(v for k, v in found.items() if k.startswith("bytes_"))
    weights = load_file(store.weights(run.digest))
    assert {n: v.tolist() for n, v in unpack(data).weights.items()} == {
        n: v.tolist() for n, v in weights.items()
    }
    assert b"vocabulary" not in data or unpack(data).tokenizer is not None
    assert store.verify() == [] and artifacts([run.digest], store=store).to_dict("records") == [found]


@pytest.mark.parametrize("bits", [2, 8])
def test_a_run_quantised_after_training_is_small_and_scored_from_its_file(bits, task, tmp_path):
    run, store = tiny_run(task, steps=4, dtype="float32"), Store(tmp_path)
    run_all([run], store=store, device="cpu", progress=False)
    quantised = make("method", "quantize", bits=bits)
    (whole,), (small,) = (
        artifacts([run.digest], store=store, methods=methods).to_dict("records")
        for methods in ((), (quantised,))
    )
    assert small["bytes_codes"] < whole["bytes_other"] * (bits + 1) / 32
    assert abs(small["nll"] - whole["nll"]) > (1e-4 if bits == 2 else 0)


def test_a_run_trained_quantised_and_pruned_packs_without_further_loss(task, tmp_path):
    methods = (
        make("method", "prune", density=0.25, start=0.0, finish=0.5),
        make("method", "quantize", bits=4),
    )
    run, store = (
        tiny_run(task, steps=8, dtype="float32", weights="final").replace(methods=methods),
        Store(tmp_path),
    )
    rows = run_all([run], store=store, device="cpu", progress=False)
    (found,) = artifacts([run.digest], store=store).to_dict("records")
    assert found["nll"] == pytest.approx(nll_of(rows), abs=1e-5) and found["density"] < 0.75
