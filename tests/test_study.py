"""Studies: equal budgets, learning rates chosen on validation alone, fresh seeds, the plan's table."""

import math

import numpy as np
import pandas as pd
import pytest

from lmbench.config import make
from lmbench.measure.arms import Arm
from lmbench.measure.flops import counted_flops, ledger, parameters
from lmbench.records import flatten
from lmbench.store import Store
from lmbench.training import tune as tuning_module
from lmbench.training.arms import arm_plan, longer_arms, plan_arms
from lmbench.training.costs import run_flops
from lmbench.training.execute import fit_model, run_all
from lmbench.training.plan import distinct_labels, plan, plan_table
from lmbench.training.tune import TUNING_SEED, fresh, tune
from tests.corpora import write_corpus


@pytest.fixture
def task(tmp_path):
    return make("task", "text", corpus=str(write_corpus(tmp_path / "small")), tokenizer="char")


def models(*, d_model=8):
    sizes = {"seq_len": 8, "d_model": d_model}
    return [
        make("model", "linear", **sizes),
        make("model", "mlp", d_ff=8, **sizes),
        make("model", "transformer", n_layer=1, n_head=2, d_ff=16, **sizes),
    ]


def step_flops(run):
    """What torch counts for one step of a run."""
    readout = "last" if run.protocol.kind == "last_token" else "all"
    return sum(counted_flops(run.model, readout=readout, batch_size=run.batch_size))


# ------------------------------------------------------------------ equal budgets


@pytest.mark.parametrize("protocol", ["dense", "last_token"])
def test_equal_flops_gives_each_model_the_steps_nearest_to_the_budget(task, protocol):
    runs = plan(models(), task, equal="flops", budget=2e7, batch_size=4, protocol=protocol)
    for run in runs:
        assert abs(run.steps * step_flops(run) - 2e7) <= step_flops(run) / 2
    assert len({run.steps for run in runs}) == 3


def test_equal_tokens_gives_every_model_the_same_steps(task):
    dense = plan(models(), task, equal="tokens", budget=320, batch_size=4)
    assert [run.steps for run in dense] == [10, 10, 10]  # 4 x 8 targets a step
    last = plan(models(), task, equal="tokens", budget=320, batch_size=4, protocol="last_token")
    assert [run.steps for run in last] == [80, 80, 80]  # 4 targets a step


def test_equal_parameters_resizes_all_models_to_the_last_one(task):
    runs = plan(models(d_model=32), task, equal="parameters", budget=320, batch_size=4)
    sizes = [parameters(run.model).total for run in runs]
    assert sizes[1] == pytest.approx(sizes[2], rel=0.02)
    # The linear model has no d_ff to close the gap with, and moves by two columns of d_model.
    assert abs(sizes[0] - sizes[2]) <= 8 * runs[0].model.vocab_size + runs[0].model.vocab_size
    assert runs[2].model == models(d_model=32)[2].replace(vocab_size=runs[2].model.vocab_size)
    assert [run.steps for run in runs] == [10, 10, 10]


def test_equal_bytes_at_one_precision_are_equal_parameters(task):
    by_bytes, by_parameters = (
        plan(models(d_model=32), task, equal=equal, budget=320, batch_size=4)
        for equal in ("bytes", "parameters")
    )
    assert by_bytes == by_parameters


def test_equal_seconds_gives_each_model_the_steps_of_its_measured_speed(task, tmp_path, monkeypatch):
    timed, seconds = [], {"linear": 0.01, "mlp": 0.02, "transformer": 0.1}

    def time_steps(run, device):
        timed.append(run.model.name)
        return seconds[run.model.name]

    monkeypatch.setattr("lmbench.training.speed._time_steps", time_steps)
    asked = {"equal": "seconds", "budget": 2, "batch_size": 4, "store": Store(tmp_path), "device": "cpu"}
    assert [run.steps for run in plan(models(), task, **asked)] == [200, 100, 20]
    assert [run.steps for run in plan(models(), task, **asked | {"budget": 4})] == [400, 200, 40]
    assert timed == list(seconds), "measured once, read afterwards"
    monkeypatch.setattr("lmbench.training.measured.device_name", lambda device: "another")
    with pytest.raises(
        ValueError, match="the speed of linear in .* was measured on .*, and this is 'another'"
    ):
        plan(models(), task, **asked)


def test_a_step_is_really_timed(task, tmp_path):
    asked = {"equal": "seconds", "budget": 1, "batch_size": 4, "store": Store(tmp_path), "device": "cpu"}
    (run,) = plan(models()[:1], task, **asked)
    (digest,) = asked["store"].digests()
    measured = asked["store"].rows(digest)["value"].item()
    assert 0 < measured < 1
    assert run.steps == round(1 / measured)


def test_equal_epochs_counts_the_short_last_batch_and_validates_after_each_epoch(task):
    runs = plan(models(), task, equal="epochs", budget=2, batch_size=4, epoch_windows=10)
    assert [(run.steps, run.eval_every) for run in runs] == [(6, 3)] * 3
    one = plan(models(), task, equal="epochs", budget=1, batch_size=4, epoch_windows=10)
    assert [(run.steps, run.eval_every) for run in one] == [(3, None)] * 3


@pytest.mark.parametrize("equal, unit", [("epochs", 3), ("tokens", 1)])
def test_a_list_gives_each_model_its_own_budget(task, equal, unit):
    budget = [1, 2, 4] if equal == "epochs" else [2 * 32, 3 * 32, 4 * 32]
    runs = plan(models(), task, equal=equal, budget=budget, batch_size=4, epoch_windows=12)
    expected = [3, 6, 12] if equal == "epochs" else [2, 3, 4]
    assert [run.steps for run in runs] == expected


@pytest.mark.parametrize("evaluations, every", [(1, None), (2, 5), (3, 4), (10, 1)])
def test_validations_are_equally_spaced_and_the_last_is_at_the_end(task, evaluations, every):
    (run,) = plan(models()[:1], task, equal="tokens", budget=320, batch_size=4, evaluations=evaluations)
    assert run.eval_every == every


def test_planned_models_have_the_vocabulary_of_the_task_and_the_settings_given(task):
    runs = plan(models(), task, equal="tokens", budget=320, batch_size=4, schedule="linear", grad_clip=None)
    assert {run.model.vocab_size for run in runs} == {task.load().vocab_size}
    assert {(run.schedule.kind, run.grad_clip, run.batch_size) for run in runs} == {("linear", None, 4)}


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"equal": "flop"}, r"unknown budget 'flop'; accepted: .*Did you mean 'flops'\?"),
        ({"budget": [320, 640]}, "budget lists 2 values for 3 models"),
        ({"budget": 32}, "a budget of 32 tokens is 1 steps of linear; raise it or lower batch_size"),
        ({"equal": "seconds"}, "a budget of seconds needs a store, which keeps the measured speeds"),
        ({"equal": "epochs", "budget": 2}, "a budget of epochs needs epoch_windows"),
        ({"batch": 4}, r"unknown field of run 'run' 'batch'; .*Did you mean 'batch_size'\?"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(task, wrong, message):
    asked = {"equal": "tokens", "budget": 320, "batch_size": 4} | wrong
    with pytest.raises(ValueError, match=message):
        plan(models(), task, **asked)


# ------------------------------------------------------------------ the plan's table


@pytest.mark.parametrize("protocol, targets", [("dense", 8), ("last_token", 1)])
def test_the_plans_table_has_the_counted_flops_and_the_published_formula(task, protocol, targets):
    runs = plan(models(), task, equal="epochs", budget=2, batch_size=4, epoch_windows=10, protocol=protocol)
    table = plan_table(runs)
    assert table["model"].tolist() == ["linear", "mlp", "transformer"]
    for run, row in zip(runs, table.to_dict("records"), strict=True):
        readout = "all" if protocol == "dense" else "last"
        n = sum(p.numel() for p in run.model.build().parameters())
        assert (row["parameters"], row["steps"]) == (n, 6)
        assert row["targets"] == 20 * targets  # 2 epochs of 10 windows: the short batch counts as what it is
        assert row["training FLOPs"] == ledger(run.model, readout=readout, batch_size=20).train
        assert row["FLOPs per target"] * row["targets"] == row["training FLOPs"]
        assert row["FLOPs as published"] == 2 * n * 20 * 8


def test_what_the_plan_says_is_what_the_finished_run_recorded(task, tmp_path):
    runs = plan(models()[:1], task, equal="tokens", budget=96, batch_size=4)
    rows = run_all(runs, store=Store(tmp_path / "results"), device="cpu", progress=False)
    costs = rows[rows["split"] == ""].set_index("metric")["value"]
    row = plan_table(runs).iloc[0]
    names = {"parameters": "parameters", "training FLOPs": "train_flops"}
    names |= {"FLOPs as published": "published_flops"}
    assert {name: costs[metric] for name, metric in names.items()} == {name: row[name] for name in names}
    last = rows[(rows["split"] == "test") & (rows["metric"] == "nll")].iloc[0]
    assert (last["tokens"], last["flops"]) == (row["targets"], row["training FLOPs"])


# ------------------------------------------------------------------ labels


def test_models_of_one_name_are_told_apart_by_what_differs(task):
    narrow, other, wide = plan(
        [models()[0], models()[1], models()[0].replace(d_model=16)], task, equal="tokens", budget=320
    )
    assert distinct_labels([narrow, other, wide]) == [
        "linear (model.d_model=8)",
        "mlp",
        "linear (model.d_model=16)",
    ]
    assert distinct_labels([narrow, other]) == ["linear", "mlp"]


# ------------------------------------------------------------------ tuning


def pretend(monkeypatch, loss):
    """Let `loss(run)` stand for training: the best validation, or None for a run that diverges."""
    trained = []

    def run_all(runs, *, store, **execution):
        rows = []
        for run in runs:
            trained.append(run)
            value = loss(run)
            scored = [(2, "train", "loss", 0.0), (2, "test", "nll", -1 / run.optimizer.lr)]
            if value is None:
                scored += [(1, "valid", "nll", 0.5), (2, "train", "diverged", 2.0)]
            else:
                scored += [(2, "valid", "nll", value), (3, "valid", "nll", value + 0.5)]
                scored += [(2, "valid", "bits_per_byte", -value)]
            fixed = {"run": run.digest, "label": run.model.name, "device": "cpu: test"}
            fixed |= flatten(run.to_dict())
            rows += [
                fixed | dict(zip(("step", "split", "metric", "value"), row, strict=True)) for row in scored
            ]
        return pd.DataFrame(rows)

    monkeypatch.setattr(tuning_module, "run_all", run_all)
    return trained


def base(task, n=2):
    return plan(models()[:n], task, equal="tokens", budget=320, batch_size=4)


def distance(best):
    """A loss that is lowest at the rate `best`."""
    return lambda run: abs(math.log(run.optimizer.lr / best))


def test_the_choice_is_made_on_real_validations_and_the_test_split_stays_untouched(
    task, tmp_path, monkeypatch
):
    from lmbench.tasks.text_data import TextData

    scored, honest = set(), TextData.eval_batches

    def watched(self, split, *args, **options):
        scored.add(split)
        return honest(self, split, *args, **options)

    monkeypatch.setattr(TextData, "eval_batches", watched)
    runs = plan(models()[:1], task, equal="tokens", budget=320, batch_size=4, evaluations=2)
    store = Store(tmp_path / "results")
    found = tune(runs, rates=[1e-3, 1e-2], store=store, extensions=0, device="cpu", progress=False)
    assert scored == {"valid"}
    rows = store.frame(store.digests())
    assert set(rows["split"]) == {"train", "valid", ""}
    assert set(rows["init_seed"]) == {TUNING_SEED}
    best = rows[(rows["split"] == "valid") & (rows["metric"] == "nll")].groupby("optimizer.lr")["value"].min()
    assert found.table.set_index("lr")["nll"].to_dict() == best.to_dict()
    assert found.rates == {"linear": best.idxmin()}
    run_all(fresh(found, seeds=[0]), store=store, device="cpu", progress=False)
    assert scored == {"valid", "test"}


def test_only_the_lowest_validation_nll_counts(task, tmp_path, monkeypatch):
    trained = pretend(monkeypatch, distance(1e-3))
    found = tune(base(task), rates=[1e-4, 1e-3, 1e-2], store=Store(tmp_path))
    # Test scores fall with the rate and bits per byte run the other way: both would choose another.
    assert found.rates == {"linear": 1e-3, "mlp": 1e-3}
    assert found.table[found.table["chosen"]]["nll"].tolist() == [0, 0]
    assert len(trained) == len(found.trials) == 6
    assert not any(run.test for run in trained)
    assert found.trials["nll"].tolist() == pytest.approx([math.log(10), 0, math.log(10)] * 2)


def test_where_last_weights_are_reported_a_rate_is_judged_by_them_and_not_on_the_way(
    task, tmp_path, monkeypatch
):
    trained = pretend(monkeypatch, distance(1e-3))
    how = {"equal": "tokens", "budget": 320, "batch_size": 4, "evaluations": 5}
    for weights, on_the_way in (("final", {None}), ("best", {2})):
        runs = plan(models()[:1], task, weights=weights, **how)
        assert {run.eval_every for run in runs} == {2}
        found = tune(runs, rates=[1e-4, 1e-3], store=Store(tmp_path), extensions=0)
        assert {run.eval_every for run in trained} == on_the_way
        assert {run.eval_every for run in fresh(found, seeds=[0])} == {2}
        trained.clear()


def test_a_rate_is_judged_by_its_mean_over_tuning_seeds(task, tmp_path, monkeypatch):
    losses = {1e-4: (3.0, 3.0, 3.0), 1e-3: (2.5, 2.5, 2.5), 1e-2: (1.0, 4.0, 4.0), 1e-1: (9, 9, 9)}
    trained = pretend(monkeypatch, lambda run: losses[run.optimizer.lr][run.init_seed - TUNING_SEED])
    found = tune(base(task, 1), rates=list(losses), store=Store(tmp_path), n_seeds=3)
    assert found.rates == {"linear": 1e-3}
    assert found.table["nll"].tolist() == pytest.approx([3, 2.5, 3, 9])
    assert found.table["n_seeds"].tolist() == [3, 3, 3, 3]
    assert sorted({run.init_seed for run in trained}) == [TUNING_SEED, TUNING_SEED + 1, TUNING_SEED + 2]
    assert all(run.init_seed == run.data_seed == run.dropout_seed for run in trained)


@pytest.mark.parametrize(
    "best, rates, chosen",
    [
        (0.081, (1e-3, 3e-3, 9e-3), 0.081),
        (1e-9, (1e-3, 3e-3, 9e-3), 1e-3 / 9),
        # Rates of more digits than are kept: the edge must still be known as the edge.
        (1.0, tuple(np.geomspace(1e-4, 1e-3, 4)), 1e-3 * 10 ** (2 / 3)),
        (1e-9, tuple(np.geomspace(1e-4, 1e-3, 4)), 1e-4 * 10 ** (-2 / 3)),
    ],
)
def test_a_best_rate_on_the_edge_extends_the_grid_by_its_ratio_but_twice_at_most(
    task, tmp_path, monkeypatch, best, rates, chosen
):
    pretend(monkeypatch, distance(best))
    found = tune(base(task, 1), rates=rates, store=Store(tmp_path))
    assert found.rates["linear"] == pytest.approx(chosen, rel=1e-5)
    assert len(found.table) == len(found.trials) == len(rates) + 2
    assert set(found.table["extended"]) == {2}
    assert all(lr == float(f"{lr:.6g}") for lr in found.table["lr"]), "rates that can be typed"
    assert found.table["on_edge"].tolist() == found.table["chosen"].tolist()
    assert set(found.table["n_seeds"]) == {1}


def test_only_the_grid_of_the_model_on_its_edge_is_extended_and_only_while_it_is(task, tmp_path, monkeypatch):
    best = {"linear": 1e-3, "mlp": 1e-1}
    pretend(monkeypatch, lambda run: distance(best[run.model.name])(run))
    found = tune(base(task), rates=[1e-4, 1e-3, 1e-2], store=Store(tmp_path), extensions=5)
    tried = found.table.groupby("label")["lr"].apply(list).to_dict()
    assert tried == {"linear": [1e-4, 1e-3, 1e-2], "mlp": [1e-4, 1e-3, 1e-2, 0.1, 1.0]}
    assert found.table.groupby("label")["extended"].max().to_dict() == {"linear": 0, "mlp": 2}
    assert not found.table["on_edge"].any()


def test_without_extensions_the_edge_is_kept_and_said(task, tmp_path, monkeypatch):
    trained = pretend(monkeypatch, distance(1.0))
    found = tune(base(task, 1), rates=[1e-4, 1e-3], store=Store(tmp_path), extensions=0)
    assert found.rates == {"linear": 1e-3}
    assert len(trained) == 2
    assert found.table["on_edge"].tolist() == [False, True]


def test_a_rate_that_diverged_after_a_good_validation_is_not_chosen(task, tmp_path, monkeypatch):
    pretend(monkeypatch, lambda run: {1e-4: 3.0, 1e-3: 2.0, 1e-2: None}[run.optimizer.lr])
    found = tune(base(task, 1), rates=[1e-4, 1e-3, 1e-2], store=Store(tmp_path))
    assert found.table["nll"].tolist() == [3, 2, math.inf]  # though it stood at 0.5 before
    assert found.rates == {"linear": 1e-3}


def test_a_model_that_diverged_at_every_rate_is_named(task, tmp_path, monkeypatch):
    pretend(monkeypatch, lambda run: None if run.model.name == "mlp" else 1.0)
    with pytest.raises(ValueError, match="every learning rate diverged for mlp; lower the rates"):
        tune(base(task), rates=[1e-2, 1e-1], store=Store(tmp_path))


def test_one_rate_is_given_and_not_searched_for(task, tmp_path, monkeypatch):
    trained = pretend(monkeypatch, distance(1e-3))
    found = tune(base(task), rates=[2e-3], store=Store(tmp_path))
    assert trained == []
    assert found.trials.empty
    assert found.table["n_seeds"].tolist() == [0, 0]
    assert [run.optimizer.lr for run in fresh(found, seeds=[0, 1])] == [2e-3] * 4


def test_tuning_refuses_no_rates_and_equal_models(task, tmp_path):
    with pytest.raises(ValueError, match=r"tuning needs rates and distinct models, got rates \[\]"):
        tune(base(task), rates=[], store=Store(tmp_path))
    with pytest.raises(ValueError, match=r"distinct models, .* models \['linear', 'linear'\]"):
        tune(base(task, 1) * 2, rates=[1e-3, 1e-2], store=Store(tmp_path))


# ------------------------------------------------------------------ fresh seeds


def test_fresh_runs_have_the_chosen_rates_new_seeds_and_their_test(task, tmp_path, monkeypatch):
    best = {"linear": 1e-3, "mlp": 1e-2}
    trained = pretend(monkeypatch, lambda run: distance(best[run.model.name])(run))
    found = tune(base(task), rates=[1e-4, 1e-3, 1e-2, 1e-1], store=Store(tmp_path))
    runs = fresh(found, seeds=[0, 7])
    assert [(run.model.name, run.optimizer.lr, run.init_seed, run.data_seed) for run in runs] == [
        ("linear", 1e-3, 0, 0),
        ("linear", 1e-3, 7, 7),
        ("mlp", 1e-2, 0, 0),
        ("mlp", 1e-2, 7, 7),
    ]
    assert all(run.test for run in runs)
    assert {run.digest for run in runs}.isdisjoint(run.digest for run in trained)


def test_seeds_that_were_tuned_on_are_refused(task, tmp_path, monkeypatch):
    pretend(monkeypatch, distance(1e-3))
    found = tune(base(task, 1), rates=[1e-4, 1e-3, 1e-2], store=Store(tmp_path))
    with pytest.raises(ValueError, match=r"seeds from 1000 on are for tuning; got \[0, 1000\]"):
        fresh(found, seeds=[0, TUNING_SEED])
    assert len(fresh(found, seeds=[TUNING_SEED - 1])) == 1


# ------------------------------------------------------------------ arms that go on for longer


def test_a_longer_arm_spends_the_whole_budget_of_flops_whatever_its_share_of_the_data(task):
    model = fit_model(models()[2], task)
    arms = {
        "base": Arm(model),
        "a third": Arm(model, (make("method", "select_random", piece=8),), share=0.35),
    }
    settings = {"batch_size": 4, "protocol": make("protocol", "dense")}
    plans = plan_arms(arms, task, equal="tokens", budget=6400, **settings)
    assert {name: run.steps for name, run in plans.items()} == {"base": 200, "a third": 70}
    more = longer_arms({"a third": arms["a third"]}, task, flops=run_flops(plans["base"], 200), **settings)
    assert more["a third, equal FLOPs"].steps == 200
    table = arm_plan(plans | more, arms)
    assert table["budget"].tolist() == ["100%", "35%", "100%"]
