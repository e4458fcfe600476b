"""Training: determinism, seeds, accumulation, best weights, divergence, and what is recorded."""

import numpy as np
import pytest
import torch

from lmbench.config import make
from lmbench.layers.dropout import dropout_keys
from lmbench.measure.score import evaluate
from lmbench.store import Store
from lmbench.tasks.base import load_task
from lmbench.training.execute import fit_model, run_all
from lmbench.training.loop import train
from lmbench.training.program import Program
from lmbench.training.replicas import Replicas
from lmbench.training.rescore import evaluate_run, load_run

CPU = torch.device("cpu")


def small_run(task, model="transformer", **fields):
    sizes = {"seq_len": 8, "d_model": 16} | ({"n_head": 2, "d_ff": 16} if model != "linear" else {})
    sizes.pop("n_head") if model == "mlp" else None
    config = fit_model(make("model", model, **sizes), task)
    protocol = make("protocol", "dense", eval_bytes=200)
    defaults = {"steps": 6, "batch_size": 4, "protocol": protocol, "schedule": "constant"}
    return make("run", "run", model=config, task=task, **(defaults | fields))


def program_of(run):
    return Program([run], device=CPU)


def losses(trained):
    return [row["value"] for row in trained.record.rows if row["metric"] == "loss"]


def test_the_same_run_twice_gives_the_same_losses_and_weights(task):
    first, second = (train(small_run(task), device=CPU) for _ in range(2))
    assert losses(first) == losses(second)
    assert all(torch.equal(first.final[name], second.final[name]) for name in first.final)


@pytest.mark.parametrize("seed", ["init_seed", "data_seed", "dropout_seed"])
def test_each_seed_changes_the_result(task, seed):
    run = small_run(task)
    assert losses(train(run, device=CPU)) != losses(train(run.replace(**{seed: 9}), device=CPU))


def test_models_of_one_data_seed_see_the_same_first_batch(task):
    records = [train(small_run(task, model), device=CPU).record for model in ("transformer", "mlp")]
    assert records[0].hashes["first_batch"] == records[1].hashes["first_batch"]
    assert records[0].hashes["initial_weights"] != records[1].hashes["initial_weights"]


def test_training_leaves_the_random_state_of_the_caller_alone(task):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(small_run(task), device=CPU)
    assert torch.equal(torch.get_rng_state(), before)


# The short last batch of an epoch leaves whole micro-batches without a target.
@pytest.mark.parametrize("fields", [{}, {"epoch_windows": 6}, {"protocol": "last_token"}])
@pytest.mark.parametrize("model", ["transformer", "mlp", "linear"])
def test_gradient_accumulation_gives_the_same_step_in_float64(task, model, fields):
    run = small_run(task, model, dtype="float64", **fields)
    if model != "linear":
        run = run.replace(model=run.model.replace(dropout=0.0))
    whole, parts = train(run, device=CPU), train(run.replace(grad_accum=4), device=CPU)
    np.testing.assert_allclose(losses(parts), losses(whole), rtol=1e-12)
    for name in whole.final:
        torch.testing.assert_close(whole.final[name], parts.final[name], rtol=1e-9, atol=1e-12)


def test_each_pass_of_each_micro_batch_has_the_keys_of_its_step_and_no_others(task, monkeypatch):
    seen, honest = [], Replicas.losses

    def watched(self, batch, keys_RD, *others):
        seen.append(keys_RD.tolist())
        return honest(self, batch, keys_RD, *others)

    monkeypatch.setattr(Replicas, "losses", watched)
    run = small_run(task, grad_accum=2, dropout_seed=5)
    program = program_of(run)
    program.advance(run.steps)
    sites = len(program.replicas.sites)
    assert sites > 1
    keys = dropout_keys([5], first=0, count=run.steps, micro=2, sites=sites)
    assert seen == [[keys[step, 0, micro].tolist()] for step in range(run.steps) for micro in range(2)]
    assert len(np.unique(keys)) == run.steps * 2 * sites


# ------------------------------------------------------------------ the update


def test_plain_gradient_descent_moves_by_rate_times_factor_times_gradient(task):
    sgd = make("optimizer", "sgd", lr=0.5, momentum=0.0)
    wsd = make("schedule", "wsd", warmup=2, decay=0.5)
    program = program_of(
        small_run(task, dtype="float64", steps=6, optimizer=sgd, schedule=wsd, grad_clip=None)
    )
    for factor in (0.5, 1.0, 1.0, 1.0, 1.0, 0.5):
        before = program.replicas.master_RP.clone()
        program.advance(1)
        moved = before - program.replicas.master_RP
        assert program.grads_RP.abs().max() > 0
        torch.testing.assert_close(moved, 0.5 * factor * program.grads_RP, rtol=1e-9, atol=1e-15)


def test_clipping_bounds_the_norm_of_all_gradients_together(task):
    sgd = make("optimizer", "sgd", lr=1.0, momentum=0.0)
    run = small_run(task, dtype="float64", optimizer=sgd, grad_clip=None)
    program = program_of(run)
    program.advance(1)
    norm = program.grads_RP.norm().item()
    for clip, expected in ((norm / 2, norm / 2), (norm * 2, norm)):
        program = program_of(run.replace(grad_clip=clip))
        program.advance(1)
        assert program.grads_RP.norm().item() == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------ averaged weights


def test_averaged_weights_follow_the_weights_slowly_and_at_first_fast(task):
    program = program_of(small_run(task, dtype="float64", steps=6, ema=0.25))
    average = program.replicas.master_RP.clone()
    # (1 + n) / (10 + n) after n earlier steps, at most the decay: 0.25 at n = 2.
    for keep in (1 / 10, 2 / 11, 3 / 12, 0.25, 0.25, 0.25):
        program.advance(1)
        average = keep * average + (1 - keep) * program.replicas.master_RP
        # The share is a quotient in float32.
        torch.testing.assert_close(program.weights_RP, average, rtol=1e-12, atol=1e-12)
    assert not torch.equal(program.weights_RP, program.replicas.master_RP)


def test_averaging_leaves_training_itself_alone(task):
    run = small_run(task)
    plain, averaged = train(run, device=CPU), train(run.replace(ema=0.9), device=CPU)
    assert losses(plain) == losses(averaged)
    assert any(not torch.equal(plain.final[name], averaged.final[name]) for name in plain.final)


def test_averaged_weights_are_what_is_scored_and_kept(task):
    run = small_run(task, ema=0.9, eval_every=2)
    program = program_of(run)
    program.advance(run.steps)
    trained = train(run, device=CPU)
    average = program.kept.state(0, program.update.ema_RP)
    assert all(torch.equal(trained.final[name], average[name]) for name in average)
    model = run.model.build()
    model.load_state_dict(average)
    data = load_task(run.task)
    scores = evaluate(model, data, split="valid", protocol=run.protocol, view=program.view)
    nll = [r["value"] for r in trained.record.rows if r["split"] == "valid" and r["metric"] == "nll"]
    assert nll[-1] == pytest.approx(scores.metrics["nll"][0], abs=1e-6)


def test_an_average_that_forgets_at_once_is_the_weights(task):
    run = small_run(task, dtype="float64")
    plain, averaged = train(run, device=CPU), train(run.replace(ema=1e-12), device=CPU)
    for name, value in plain.final.items():
        torch.testing.assert_close(averaged.final[name], value, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------ a whole training


def test_training_lowers_the_loss(task):
    values = losses(
        train(small_run(task, steps=60, optimizer=make("optimizer", "adamw", lr=3e-3)), device=CPU)
    )
    assert values[-1] < values[0] - 0.5


def test_the_best_weights_are_a_copy_and_not_the_live_ones(task):
    # A rate that ruins the model after the first validation, so that best and final differ.
    run = small_run(task, steps=20, eval_every=1, optimizer=make("optimizer", "adam", lr=0.5), grad_clip=None)
    trained = train(run, device=CPU)
    valid = [r for r in trained.record.rows if r["split"] == "valid" and r["metric"] == "nll"]
    best = min(valid, key=lambda row: row["value"])
    assert best["step"] < 20
    assert any(not torch.equal(trained.best[name], trained.final[name]) for name in trained.best)
    test = [r for r in trained.record.rows if r["split"] == "test" and r["metric"] == "nll"]
    assert len(test) == 1 and test[0]["value"] < valid[-1]["value"]


def test_a_loss_that_is_not_finite_stops_the_run_and_is_recorded_with_its_step(task):
    run = small_run(task, "linear", steps=400, optimizer=make("optimizer", "adam", lr=1e30), grad_clip=None)
    trained = train(run, device=CPU)
    assert trained.diverged_at is not None and trained.diverged_at < 400
    rows = {r["metric"]: r["value"] for r in trained.record.rows}
    assert rows["diverged"] == trained.diverged_at
    assert not any(r["split"] == "test" for r in trained.record.rows)


def test_bfloat16_trains_and_scores_in_float32(task):
    full, half = (train(small_run(task, dtype=d, steps=10), device=CPU) for d in ("float32", "bfloat16"))
    assert np.isfinite(losses(half)).all()
    assert losses(half)[-1] == pytest.approx(losses(full)[-1], abs=0.05)
    assert all(value.dtype == torch.float32 for value in half.final.values())


def test_a_run_whose_parts_do_not_fit_is_refused(task):
    run = small_run(task)
    with pytest.raises(ValueError, match="model.vocab_size = 65, but small by char has"):
        train(run.replace(model=run.model.replace(vocab_size=65)), device=CPU)
    with pytest.raises(ValueError, match="grad_accum = 3 does not divide batch_size = 4"):
        train(run.replace(grad_accum=3), device=CPU)


# ------------------------------------------------------------------ the store


def test_run_all_trains_once_and_reads_afterwards(task, tmp_path):
    store, runs = Store(tmp_path / "results"), [small_run(task).with_seed(s) for s in (0, 1)]
    first = run_all(runs, store=store, device="cpu", progress=False)
    stamps = {d: (store.folder(d) / "done").stat().st_mtime_ns for d in store.digests()}
    second = run_all(runs, store=store, device="cpu", progress=False)
    assert first.equals(second)
    assert stamps == {d: (store.folder(d) / "done").stat().st_mtime_ns for d in store.digests()}
    assert store.verify() == []
    assert set(first["metric"]) >= {"loss", "nll", "bits_per_byte", "accuracy", "parameters", "train_flops"}


def test_two_jobs_give_the_rows_of_one(task, tmp_path):
    runs = [small_run(task).with_seed(s) for s in (0, 1)]
    keep = ["run", "step", "split", "metric", "value"]
    timed = "second|memory"
    tables = []
    for jobs in (1, 2):
        frame = run_all(runs, store=Store(tmp_path / str(jobs)), device="cpu", jobs=jobs, progress=False)
        tables.append(frame.loc[~frame["metric"].str.contains(timed), keep].reset_index(drop=True))
    assert tables[0][keep[:4]].equals(tables[1][keep[:4]])
    np.testing.assert_allclose(tables[0]["value"], tables[1]["value"], rtol=1e-4)


def test_an_interrupted_run_leaves_nothing_that_a_later_one_would_trust(task, tmp_path, monkeypatch):
    store, run = Store(tmp_path / "results"), small_run(task)

    honest = Program.advance

    def interrupt(self, steps):
        if self.done == 3:
            raise KeyboardInterrupt
        honest(self, steps)

    monkeypatch.setattr(Program, "advance", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_all([run], store=store, device="cpu", progress=False)
    assert not store.has(run.digest)
    assert not store.folder(run.digest).exists()
    monkeypatch.undo()
    assert not run_all([run], store=store, device="cpu", progress=False).empty


def test_a_run_that_another_process_holds_is_awaited_and_not_trained_twice(task, tmp_path, monkeypatch):
    store, run = Store(tmp_path / "results"), small_run(task)
    polls = []
    with store.lock(run.digest) as mine:
        assert mine

        def finish_elsewhere(seconds):
            polls.append(seconds)
            trained = train(run, device=CPU)
            record = trained.record
            import pandas as pd

            store.begin(run.digest)
            store.finish(
                run.digest,
                run=record.run_json(),
                env=record.env_json() | {"engine": "other"},
                rows=pd.DataFrame(record.rows),
                items=record.items_frame(),
            )

        monkeypatch.setattr("lmbench.training.execute.time.sleep", finish_elsewhere)
        monkeypatch.setattr(
            "lmbench.training.execute.train_into",
            lambda runs, store, *rest: [run.digest for run in runs if store.has(run.digest)],
        )
        run_all([run], store=store, device="cpu", progress=False)
    assert len(polls) == 1
    assert store.record(run.digest)["env"]["engine"] == "other"


def test_a_read_only_reference_refuses_to_train(task, tmp_path):
    from lmbench.records import Reference, pack

    store, run = Store(tmp_path / "results"), small_run(task)
    run_all([run], store=store, device="cpu", progress=False)
    pack([run.digest], [store], tmp_path / "ref")
    reference = Reference(tmp_path / "ref")
    assert not run_all([run], store=reference).empty
    with pytest.raises(ValueError, match="lack 1 of 2 runs"):
        run_all([run, run.with_seed(3)], store=reference)


def test_finished_weights_are_scored_again_without_training(task, tmp_path):
    store, run = Store(tmp_path / "results"), small_run(task)
    frame = run_all([run], store=store, device="cpu", progress=False)
    tested = frame[(frame["split"] == "test") & (frame["metric"] == "nll")]["value"].item()
    again = evaluate_run(run.digest, store=store, device="cpu")
    assert again[again["metric"] == "nll"]["value"].item() == tested
    assert store.digests() == [run.digest]  # the test is found in the run, not scored again
    whole = evaluate_run(run.digest, store=store, device="cpu", protocol=make("protocol", "dense"))
    assert whole[whole["metric"] == "nll"]["n"].item() == 699
    assert len(store.digests()) == 2
    assert evaluate_run(run.digest, store=store, device="cpu", protocol=make("protocol", "dense")).equals(
        whole
    )


def test_saved_weights_rebuild_the_model_that_was_tested(task, tmp_path):
    store, run = Store(tmp_path / "results"), small_run(task)
    run_all([run], store=store, device="cpu", progress=False)
    loaded = load_run(run.digest, store=store, device=CPU)
    trained = train(run, device=CPU)
    assert all(torch.equal(loaded.model.state_dict()[n], trained.best[n]) for n in trained.best)
