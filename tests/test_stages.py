"""Stages of training: what is executed changes on the way, and nothing else goes astray."""

import pytest
import torch

from lmbench.config import make
from lmbench.models.base import stage_starts
from lmbench.store import Store
from lmbench.training.costs import run_flops
from lmbench.training.execute import run_all
from lmbench.training.loop import train
from lmbench.training.program import Program
from tests.test_groups import tiny_run

CPU = torch.device("cpu")
LOOPED = {"n_loop": 3, "loop_from": 0.5, "dropout": 0.3}


def looped(task, **fields):
    return tiny_run(task, "depth_recurrent", options=LOOPED, **({"steps": 8} | fields))


def phased(task, phases, **fields):
    options = {"phases": phases, "mean_weight": 1.0, "n_iteration": 2, "dropout": 0.0}
    return tiny_run(task, "integrator", options=options, **({"steps": 20} | fields))


def advanced(run, steps):
    program = Program([run], device=CPU)
    program.advance(steps)
    return program


def test_most_models_have_one_stage(task):
    run = tiny_run(task, steps=10)
    assert run.model.stages() == ((0.0, run.model),)
    assert stage_starts(run.model, steps=10) == [(0, run.model)]


def test_a_late_switch_is_never_lost(task):
    model = looped(task).model.replace(loop_from=0.99)
    assert [start for start, _ in stage_starts(model, steps=10)] == [0, 9]
    assert [start for start, _ in stage_starts(model, steps=1)] == [0]
    assert stage_starts(model, steps=1)[0][1] == stage_starts(model, steps=10)[-1][1]


@pytest.mark.parametrize("phases", ["linear", "exponential", "balanced", "aggressive"])
def test_the_first_stage_is_entered_too(task, phases):
    """A module is built as its last stage computes; the first step must already be that of the first."""
    run = phased(task, phases)
    program = advanced(run, 1)
    first = stage_starts(run.model, steps=run.steps)[0][1]
    cell = program.replicas.module.blocks[0].integrator
    assert cell.mean_weight.item() == pytest.approx(first.mean_weight)
    assert first.mean_weight != stage_starts(run.model, steps=run.steps)[-1][1].mean_weight


@pytest.mark.parametrize("stopped", [2, 4, 5])  # before the switch, at it, after it
@pytest.mark.parametrize("kind", ["depth_recurrent", "integrator"])
def test_a_run_that_goes_on_ends_in_the_same_bits(task, kind, stopped):
    run = looped(task) if kind == "depth_recurrent" else phased(task, "balanced", steps=8)
    whole, first = advanced(run, 8), advanced(run, stopped)
    kept = {name: value.clone() for name, value in first.tensors().items()}
    second = Program([run], device=CPU)
    second.restore(kept, done=stopped)
    second.advance(8 - stopped)
    assert torch.equal(second.weights_RP, whole.weights_RP)
    assert torch.equal(second.losses_SR, whole.losses_SR)


def test_scores_on_the_way_are_those_of_the_stage_and_the_best_is_of_the_last(task):
    run = looped(task, eval_every=2, optimizer=make("optimizer", "adam", lr=1e-30))
    trained = train(run, device=CPU)
    found = [row for row in trained.record.rows if row["metric"] == "nll" and row["split"] == "valid"]
    assert [row["step"] for row in found] == [2, 4, 6, 8]
    # At such a rate the weights never change, so the value says what computed it.
    before, after = found[0]["value"], found[-1]["value"]
    assert [row["value"] for row in found] == [before, before, after, after]
    assert before != after
    assert len({row["evaluation"] for row in found}) == 2


def test_the_best_weights_are_not_taken_before_the_last_stage(task, tmp_path):
    """The rate is so high that every later validation is worse."""
    run = looped(task, eval_every=2, schedule="constant", optimizer=make("optimizer", "sgd", lr=3.0))
    store = Store(tmp_path / "results")
    run_all([run], store=store, device="cpu", progress=False)
    rows = store.frame([run.digest])
    valid = rows[(rows["split"] == "valid") & (rows["metric"] == "nll")].set_index("step")["value"]
    program = advanced(run, 8)
    best = int(valid[valid.index > 4].idxmin())
    expected = advanced(run, best).weights_RP
    program.restore(program.tensors() | {"master": expected}, done=8)
    (scores,) = program.scores("test", weights_RP=expected)
    test = rows[(rows["split"] == "test") & (rows["metric"] == "nll")]["value"].item()
    assert test == pytest.approx(scores.metrics["nll"][0], abs=1e-9)


def test_flops_follow_the_stages(task):
    run = looped(task)
    once, thrice = (run_flops(run.replace(model=run.model.replace(loop_from=at)), 8) for at in (1.0, 0.0))
    assert run_flops(run, 4) == once // 2
    assert run_flops(run, 8) == once // 2 + thrice // 2
