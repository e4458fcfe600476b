"""The tracker scores levels while a run trains: the same in a group, after a kill, and whatever the batch."""

import numpy as np
import pandas as pd
import pytest
import torch

from lmbench.config import from_dict, make
from lmbench.measure.score import evaluate
from lmbench.models.base import seeded
from lmbench.records import Reference, pack
from lmbench.run import Run
from lmbench.store import Store
from lmbench.tasks.base import View, load_task
from lmbench.tracking import CapabilityTracker
from lmbench.training.capabilities import tracker_flops
from lmbench.training.check import check
from lmbench.training.checkpoint import Checkpoint
from lmbench.training.costs import run_flops
from lmbench.training.execute import run_all
from lmbench.training.levels import ladders, level_scores
from lmbench.training.loop import train, train_group
from lmbench.training.rescore import evaluate_run

CPU = torch.device("cpu")
EASY, HARD = make("task", "chain"), make("task", "chain", level=1)


def tracked_run(*, primary=(EASY,), others=(), tracker=None, **fields):
    mixture = make("task", "mixture", tasks=(EASY.replace(n_eval=50), HARD.replace(n_eval=50)))
    model = make("model", "transformer", vocab_size=64, seq_len=40, d_model=8, n_head=2, n_layer=1, d_ff=8)
    track = CapabilityTracker(
        primary=primary, others=others, **({"first": 2, "ratio": 1.5} | (tracker or {}))
    )
    defaults = {"steps": 9, "batch_size": 4, "dtype": "float64", "schedule": "constant"}
    return make("run", "run", model=model, task=mixture, track=track, **(defaults | fields))


def rows(one):
    return pd.DataFrame(one.record.rows)


def points(one):
    frame = rows(one)
    return frame[frame["split"] == "track"].reset_index(drop=True)


def test_the_grid_is_geometric_and_ends_with_the_last_step():
    tracker = CapabilityTracker(primary=(EASY,), first=10, ratio=1.25)
    assert tracker.grid(60) == [10, 13, 17, 22, 28, 35, 44, 55, 60]
    assert tracker.grid(10) == [10] and tracker.grid(3) == [3]
    slow = CapabilityTracker(primary=(EASY,), first=1, ratio=1.01).grid(6)
    assert slow == [1, 2, 3, 4, 5, 6], "a step is taken where the ratio gives less than one"


def test_primaries_are_scored_at_every_point_and_others_take_turns():
    run = tracked_run(others=(HARD, HARD.replace(surface="question")))
    found = points(train(run, device=CPU))
    scores = found[found["metric"] == "score"]
    by_step = scores.groupby("step")["level"].agg(list)
    assert by_step.tolist() == ([["0", "1"], ["0", "1, surface=question"]] * 3)[:5]
    assert list(by_step.index) == run.track.grid(9)
    assert (found["n"] == 1000).all() and set(found["metric"]) == {"score", "answer_nll"}
    assert found["evaluation"].nunique() == len(by_step), "each point is an evaluation of its own"


def test_a_tracked_point_is_what_evaluating_its_weights_gives():
    run = tracked_run(steps=3, tracker={"first": 3})
    one = train(run, device=CPU)
    model = seeded(run.model, init_seed=0).double()
    model.load_state_dict(one.final)
    data = load_task(make("task", "mixture", tasks=(EASY.replace(n_eval=1000),)))
    for eval_tokens in (1 << 13, 100):
        view = View(seq_len=40, is_window=False, device=CPU, eval_tokens=eval_tokens)
        found = evaluate(model, data, split="valid", protocol=run.protocol, view=view).levels["chain", "0"]
        mine = points(one).set_index("metric")["value"]
        assert found["score"][0] == mine["score"]
        assert found["answer_nll"][0] == pytest.approx(mine["answer_nll"], abs=1e-9)


def test_runs_of_a_group_are_tracked_as_alone():
    runs = [tracked_run().with_seed(seed) for seed in range(3)]
    for run, member in zip(runs, train_group(runs, device=CPU), strict=True):
        alone = points(train(run, device=CPU))
        kept = ["step", "tokens", "task", "level", "metric", "n"]
        assert points(member)[kept].equals(alone[kept])
        np.testing.assert_allclose(points(member)["value"], alone["value"], atol=1e-8)


def test_training_is_untouched_by_being_watched():
    watched, alone = tracked_run(), tracked_run().replace(track=None)
    one, other = (train(run, device=CPU) for run in (watched, alone))
    assert all(torch.equal(one.final[name], other.final[name]) for name in one.final)
    assert watched.digest != alone.digest, "a record with points is another record"


def test_points_survive_a_kill(tmp_path):
    class Killed(Exception):
        pass

    def kill(step):
        if step == 6:
            raise Killed

    run, fields = tracked_run(), {"device": CPU}

    def checkpoint():
        return Checkpoint(tmp_path, [run.digest], every_seconds=0)

    whole = points(train(run, **fields))
    with pytest.raises(Killed):
        train_group([run], checkpoint=checkpoint(), on_step=kill, **fields)
    resumed = points(train_group([run], checkpoint=checkpoint(), **fields)[0])
    assert resumed.drop(columns="seconds").equals(whole.drop(columns="seconds"))


def test_the_quick_tracker_costs_less_than_a_fifth_of_the_training():
    """Ratio 1.25, primaries only, at the length and batch of the quick preset."""
    import tomllib
    from pathlib import Path

    presets = tomllib.loads((Path(__file__).parents[1] / "notebooks/presets.toml").read_text())
    quick = presets["06_capability_emergence"]["quick"]
    primary = tuple(make("task", kind, level=level) for kind, level in quick["primary"])
    run = tracked_run(primary=primary, tracker={"first": quick["first"], "ratio": quick["ratio"]})
    run = run.replace(steps=quick["steps"], batch_size=quick["batch_size"])
    assert quick["ratio"] == 1.25 and not quick["others"]
    assert tracker_flops(run) < 0.2 * run_flops(run, run.steps)


def test_each_record_holds_the_measured_overlap_and_the_size_of_the_space():
    frame = rows(train(tracked_run(), device=CPU))
    tested = frame[(frame["split"] == "test") & (frame["level"] != "")]
    shown = tested.set_index(["metric", "level"])["value"]
    assert shown["overlap", "0"] == 0 and shown["overlap", "1"] == 0
    assert shown["log2_space", "0"] == EASY.log2_space()
    assert (tested[tested["metric"] == "overlap"]["n"] == 2 * 8192).all(), "both levels are of one kind"
    assert (shown["verbatim"] == 0).all() and 0 < shown["distinct", "0"] <= 50


def test_a_diverged_run_is_tracked_no_further():
    runs = [tracked_run(), tracked_run()]
    runs[1] = runs[1].with_seed(1).replace(optimizer=make("optimizer", "sgd", lr=1e200), grad_clip=None)
    with np.errstate(all="ignore"):
        one = train(runs[1], device=CPU)
    assert one.diverged_at is not None and np.isfinite(points(one)["value"]).all()
    assert (points(one)["step"] < one.diverged_at).all()


def test_a_tracker_that_cannot_be_is_refused_before_training():
    run = tracked_run(primary=(make("task", "chain", level=5),))
    with pytest.raises(ValueError, match="seq_len = 40 is too short: an example of chain level 5 needs"):
        check(run, load_task(run.task))
    with pytest.raises(ValueError, match="holds chain level 0 twice"):
        check(tracked_run(primary=(EASY, EASY)), load_task(run.task))
    with pytest.raises(ValueError, match="greater than or equal to 1000"):
        CapabilityTracker(primary=(EASY,), n=999)
    with pytest.raises(ValueError, match="task 'mixture' is not accepted: one level of a synthetic task is"):
        CapabilityTracker(primary=(run.task,))


def test_a_text_model_is_not_tracked_on_symbols(task):
    run = make("run", "run", model=make("model", "mlp", vocab_size=load_task(task).vocab_size, seq_len=40),
               task=task, steps=2, track=CapabilityTracker(primary=(EASY,)))  # fmt: skip
    with pytest.raises(ValueError, match="the tracker scores tasks of 64 symbols"):
        check(run, load_task(task))


def test_another_level_scores_old_weights_and_a_reference_answers_without_them(tmp_path):
    store, run = Store(tmp_path / "local"), tracked_run()
    run_all([run], store=store, device="cpu", progress=False)
    harder = make("task", "chain", level=1, rewrites=4, n_eval=30)
    found = evaluate_run(run.digest, store=store, task=harder, device="cpu")
    levels = found[found["level"] != ""]
    several = level_scores([run.digest], [harder], store=store, device="cpu", progress=False)
    assert set(several["init_seed"]) == {0} and set(several["run"]) == {run.digest}
    assert (
        several["value"].tolist()
        == level_scores([run.digest], [harder], store=store, progress=False)["value"].tolist()
    )
    assert set(levels["level"]) == {"1, rewrites=4"}
    values = levels.set_index("metric")["value"]
    assert values["worst_of_1"] >= values["worst_of_2"] >= values["worst_of_4"] == values["score"]
    table = ladders([run.task], store=store)
    assert {"chance", "bayes", "some_literal"} <= set(table["rung"])
    assert from_dict("run", store.record(run.digest)["run"]["config"]) == run
    store = Store(store.root)
    store.frame([run.digest])
    evaluate_run(run.digest, store=store, task=harder, device="cpu")
    ladders([run.task], store=store)
    pack(store.used, [store], tmp_path / "reference")
    reference = Reference(tmp_path / "reference")
    assert evaluate_run(run.digest, store=reference, task=harder).equals(found)
    assert ladders([run.task], store=reference).equals(table)
    with pytest.raises(ValueError, match="lack the test scores of run"):
        evaluate_run(run.digest, store=reference, task=harder.replace(rewrites=8))


def test_a_run_of_epochs_or_of_another_protocol_is_refused():
    run = tracked_run()
    data = load_task(run.task)
    with pytest.raises(ValueError, match="protocol dense without eval_bytes"):
        data.check_split("test", make("protocol", "last_token"), 40)
    view = View(seq_len=40, is_window=False, device=CPU)
    with pytest.raises(ValueError, match="epoch_windows = 10 is not accepted: mixture never repeats"):
        data.stream(run.replace(epoch_windows=10), view)
    assert isinstance(run, Run)
