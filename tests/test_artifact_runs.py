"""Runs as files: what is scored is what was read back."""

import pytest
import torch
from safetensors.torch import load_file

from lmbench.config import make
from lmbench.measure.artifact import built, unpack
from lmbench.measure.score import evaluate
from lmbench.methods.narrowing import sizes_of
from lmbench.store import Store
from lmbench.tasks.base import View, load_task
from lmbench.training.artifacts import FILE, artifacts, write_artifact
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


@pytest.mark.parametrize(
    "fields", [{}, {"tied_head": True, "init": "torch"}, {"activation": "swiglu"}], ids=str
)
def test_a_narrowed_run_is_written_at_the_width_of_its_last_step(fields, task, tmp_path):
    methods = (make("method", "constrain", curve=0.5), make("method", "quantize", bits=8))
    run = tiny_run(task, steps=4, dtype="float32")
    run = run.replace(model=run.model.replace(**fields), methods=methods)
    store = Store(tmp_path)
    rows = run_all([run], store=store, device="cpu", progress=False)
    found = unpack(write_artifact(run.digest, store=store, to=tmp_path / "model.lmb").read_bytes())
    widths = methods[0].widths(run.model, 4, steps=4)
    assert (found.model.n_head, found.model.d_model, found.model.d_ff) == widths < sizes_of(run.model).full
    assert found.methods == ()
    view = View(seq_len=run.model.seq_len, is_window=run.model.is_window, device=torch.device("cpu"))
    how = {"split": "test", "protocol": run.protocol, "view": view, "eval_seed": run.eval_seed}
    scores = evaluate(built(found), load_task(run.task), **how)
    assert scores.metrics["nll"][0] == pytest.approx(nll_of(rows), abs=1e-6)
    (record,) = artifacts([run.digest], store=store).to_dict("records")
    assert (tmp_path / "model.lmb").stat().st_size < record["bytes"], "records keep the units out of use"


WHOLE = {
    "the heaviest": ({"rule": "importance"}, {}),
    "all": ({"curve": 0.0}, {}),
    "a scale that no gain gives back": ({}, {"tied_head": True, "init": "torch", "norm_gain": False}),
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_run_whose_units_in_use_are_no_plain_model_is_written_whole(case, task, tmp_path):
    fields, options = WHOLE[case]
    run = tiny_run(task, steps=4, dtype="float32")
    method = make("method", "constrain", **({"curve": 0.5} | fields))
    run = run.replace(model=run.model.replace(**options), methods=(method,))
    store = Store(tmp_path)
    run_all([run], store=store, device="cpu", progress=False)
    found = unpack(write_artifact(run.digest, store=store, to=tmp_path / "model.lmb").read_bytes())
    assert found.model == run.model and len(found.methods) == (case != "all")
