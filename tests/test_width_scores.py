"""Finished runs at other widths: the units in use beside the scores that they give."""

import pytest

from lmbench.config import make
from lmbench.measure.flops import parameters
from lmbench.store import Store
from lmbench.training.execute import run_all
from lmbench.training.rescore import evaluate_run
from lmbench.training.widths import width_course, width_scores
from tests.corpora import write_corpus
from tests.test_groups import tiny_run

SIZES = {"seq_len": 6, "d_model": 16, "n_head": 4, "n_layer": 1, "d_ff": 16, "dropout": 0.0}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """(store, runs by rule), each of 8 steps along the published schedule."""
    folder = tmp_path_factory.mktemp("widths")
    task = make("task", "text", corpus=str(write_corpus(folder / "small")), tokenizer="char")
    runs = {
        rule: tiny_run(task, options=SIZES, steps=8, dtype="float32").replace(
            methods=(make("method", "constrain", rule=rule),)
        )
        for rule in ("prefix", "random", "importance")
    }
    store = Store(folder / "results")
    run_all(list(runs.values()), store=store, device="cpu", progress=False)
    return store, runs


@pytest.mark.parametrize("rule", ["prefix", "random", "importance"])
def test_each_width_is_scored_with_the_units_that_it_is_said_to_have(stored, rule):
    store, runs = stored
    run = runs[rule]
    table = width_scores([run.digest], store=store, device="cpu").set_index("width")
    assert table.index.tolist() == ["scheduled", "C=0.5", "full"]
    half = make("method", "constrain", curve=0.5).executed(run.model, steps=1)[0][1]
    last = run.methods[0].executed(run.model, steps=8)[-1][1]
    counted = {"scheduled": run.model if rule == "random" else last, "C=0.5": half, "full": run.model}
    assert table["parameters"].to_dict() == {name: parameters(one).total for name, one in counted.items()}
    # Widths of so little training differ in the score, if they differ at all.
    assert (table.loc["scheduled", "nll"] == table.loc["full", "nll"]) == (rule == "random")
    assert table.loc["C=0.5", "nll"] != table.loc["full", "nll"]
    plain = evaluate_run(run.digest, store=store, methods=(), device="cpu")
    assert plain.set_index("metric")["value"]["nll"] == table.loc["full", "nll"]


def test_the_course_of_the_widths_is_that_of_the_method(stored):
    _, runs = stored
    run = runs["prefix"]
    table = width_course(run)
    assert table["step"].tolist() == list(range(8))
    assert tuple(table.iloc[7][["n_head", "d_model", "d_ff"]]) == run.methods[0].widths(run.model, 7, steps=8)
    with pytest.raises(ValueError, match="has no method 'constrain'"):
        width_course(run.replace(methods=()))


def test_half_width_of_a_net_of_drawn_units_is_its_first_units(stored):
    _, runs = stored
    narrow = runs["random"].methods[0].at(0.5)
    assert narrow == runs["prefix"].methods[0].at(0.5)
    assert runs["importance"].methods[0].at(0.5).rule == "importance"
