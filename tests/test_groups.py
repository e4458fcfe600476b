"""Groups: replicas trained side by side end as they would alone."""

import contextlib
import logging

import numpy as np
import pandas as pd
import pytest
import torch

from lmbench.config import discover, kinds, make
from lmbench.layers import dropout
from lmbench.store import Store
from lmbench.training import filing, grouping, host
from lmbench.training.execute import fit_model, run_all
from lmbench.training.loop import train_group
from lmbench.training.program import Program

CPU = torch.device("cpu")
SIZES = {"seq_len": 6, "d_model": 8, "n_head": 2, "n_layer": 1, "d_ff": 12}
TIMED = {"train_seconds", "tokens_per_second", "inference_tokens_per_second", "peak_memory_bytes"}


def tiny_run(task, model="transformer", *, options=None, **fields):
    """A run of a few milliseconds a step; fields of SIZES that a model lacks are dropped."""
    known = discover("model")[model].model_fields
    sizes = {k: v for k, v in (SIZES | (options or {})).items() if k in known}
    defaults = {
        "steps": 50,
        "batch_size": 4,
        "protocol": make("protocol", "dense", eval_bytes=150),
        "schedule": make("schedule", "cosine", warmup=2),
        "dtype": "float64",
    }
    config = fit_model(make("model", model, **sizes), task)
    return make("run", "run", model=config, task=task, **(defaults | fields))


def three(run):
    """The run, and two that differ from it in all that runs of a group may differ in."""
    numbers = run.optimizer.scalars()
    seconds = {name: 0.7 * value if value else 0.1 for name, value in numbers.items()}
    return [
        run,
        run.with_seed(3).replace(optimizer=run.optimizer.replace(**seconds)),
        run.replace(
            init_seed=1, data_seed=5, dropout_seed=8, optimizer=run.optimizer.replace(lr=2 * run.optimizer.lr)
        ),
    ]


def trained(runs, *, steps=None):
    program = Program(runs, device=CPU)
    program.advance(steps or runs[0].steps)
    return program


def assert_group_is_alone(runs):
    """Weights and losses to 1e-8."""
    assert len({grouping.key(run) for run in runs}) == 1
    group = trained(runs)
    assert bool(torch.isfinite(group.losses_SR).all())
    for at, run in enumerate(runs):
        alone = trained([run])
        exact = {"rtol": 0, "atol": 1e-8}
        torch.testing.assert_close(group.losses_SR[:, at], alone.losses_SR[:, 0], **exact)
        torch.testing.assert_close(group.weights_RP[at], alone.weights_RP[0], **exact)
    return group


# ------------------------------------------------------------------ float64, 50 steps


@pytest.mark.parametrize("name", sorted(discover("model")))
def test_each_model_in_a_group_is_as_alone(name, task):
    assert_group_is_alone(three(tiny_run(task, name)))


@pytest.mark.parametrize("name", sorted(kinds("model")))
def test_each_model_in_a_group_is_as_alone_when_only_the_last_token_is_a_target(name, task):
    assert_group_is_alone(three(tiny_run(task, name, protocol=make("protocol", "last_token"))))


@pytest.mark.parametrize(
    "options",
    [
        {"positions": "alibi", "n_kv_head": 1},
        {"positions": "sinusoidal", "n_layer": 2},
        {"positions": "none", "activation": "swiglu", "dropout": 0.0},
        {"seq_len": 300},  # long enough for the fused kernel, without dropout
    ],
    ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items()),
)
def test_options_of_the_transformer_in_a_group_are_as_alone(options, task):
    quick = {"dropout": 0.0, "steps": 5} if "seq_len" in options else {}
    steps = quick.pop("steps", 50)
    assert_group_is_alone(three(tiny_run(task, options=options | quick, steps=steps)))


@pytest.mark.parametrize("kind", sorted(kinds("optimizer")))
def test_each_optimizer_in_a_group_is_as_alone_whatever_its_numbers(kind, task):
    assert_group_is_alone(three(tiny_run(task, optimizer=make("optimizer", kind))))


@pytest.mark.parametrize(
    "fields",
    [
        {"grad_accum": 2},
        {"ema": 0.9},
        {"epoch_windows": 10},
        {"epoch_windows": 10, "protocol": make("protocol", "last_token")},
        {"grad_clip": None, "schedule": "constant"},
        {"grad_clip": 0.05, "grad_accum": 4, "ema": 0.99, "schedule": make("schedule", "wsd", decay=0.5)},
    ],
    ids=lambda fields: " ".join(fields),
)
@pytest.mark.parametrize("model", ["mlp", "transformer"])
def test_options_of_a_run_in_a_group_are_as_alone(model, fields, task):
    group = assert_group_is_alone(three(tiny_run(task, model, steps=25, **fields)))
    assert (group.update.ema_RP is None) == ("ema" not in fields)


def test_replicas_of_a_group_are_different_runs(task):
    group = trained(three(tiny_run(task)))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (group.weights_RP[a] - group.weights_RP[b]).abs().max() > 1e-2
        assert (group.losses_SR[:, a] - group.losses_SR[:, b]).abs().max() > 1e-2


def test_the_place_of_a_run_in_its_group_does_not_matter(task):
    runs = three(tiny_run(task, steps=10))
    ahead, behind = trained(runs), trained(runs[::-1])
    torch.testing.assert_close(ahead.weights_RP, behind.weights_RP.flip(0), rtol=0, atol=1e-12)


# ------------------------------------------------------------------ float32


@pytest.mark.parametrize("name", sorted(discover("model")))
def test_in_float32_first_gradients_agree_to_rounding(name, task):
    runs = three(tiny_run(task, name, dtype="float32", grad_clip=None))
    group = trained(runs, steps=1)
    for at, run in enumerate(runs):
        alone = trained([run], steps=1).grads_RP[0]
        # Relative to the whole gradient: an element may be a small difference of large ones.
        assert (group.grads_RP[at] - alone).norm() < 1e-5 * alone.norm()


@pytest.mark.parametrize("name", sorted(discover("model")))
def test_in_float32_five_losses_agree_to_four_digits(name, task):
    runs = three(tiny_run(task, name, dtype="float32", schedule="constant"))
    group = trained(runs, steps=5)
    for at, run in enumerate(runs):
        alone = trained([run], steps=5)
        torch.testing.assert_close(group.losses_SR[:5, at], alone.losses_SR[:5, 0], rtol=0, atol=1e-4)


# ------------------------------------------------------------------ draws


@pytest.mark.parametrize("fields", [{}, {"grad_accum": 2, "epoch_windows": 6}], ids=["stream", "epochs"])
def test_batches_and_dropout_keys_of_a_group_are_exactly_those_of_runs_alone(fields, task):
    runs = three(tiny_run(task, **fields))
    group = trained(runs, steps=1)
    names = {"start", "dropout"} | ({"used"} if "epoch_windows" in fields else set())
    assert set(group.draws.block) == names
    for at, run in enumerate(runs):
        alone = trained([run], steps=1)
        for name, drawn in group.draws.block.items():
            assert len(drawn) == 50 and torch.equal(drawn[:, at], alone.draws.block[name][:, 0])
        rows = {name: drawn[7] for name, drawn in group.draws.block.items()}
        beside, one = group.streams[0].batch(rows), alone.streams[0].at(7)
        assert torch.equal(beside.tokens_BT[at], one.tokens_BT)
        assert torch.equal(beside.targets_BT[at], one.targets_BT)
    keys = group.draws.block["dropout"]
    assert len(keys.unique()) == keys.numel()


def masks_of(runs, monkeypatch):
    """Every mask that five steps draw, by its key and number of elements."""
    drawn = {}

    class Recorded(np.random.SFC64):
        def __init__(self, key):
            super().__init__(key)
            self.key = key

        def random_raw(self, size):
            words = super().random_raw(size)
            drawn[self.key, size] = words
            return words

    monkeypatch.setattr(dropout.np.random, "SFC64", Recorded)
    trained(runs, steps=5)
    monkeypatch.undo()
    return drawn


def test_dropout_masks_of_a_group_are_exactly_those_of_runs_alone(task, monkeypatch):
    runs = three(tiny_run(task, options={"n_layer": 2}, grad_accum=2))
    together, apart = masks_of(runs, monkeypatch), {}
    for run in runs:
        apart |= masks_of([run], monkeypatch)
    # Three runs, five steps, two micro-batches, two sites in each of two blocks.
    assert len(together) == 3 * 5 * 2 * 4
    assert together.keys() == apart.keys()
    assert all(np.array_equal(together[key], apart[key]) for key in together)


def test_a_stacked_mask_is_the_masks_of_its_keys():
    keys = torch.tensor([5, 5, 11])
    stacked = torch.func.vmap(lambda key: dropout.keep_mask(key, [3, 7], 20_000))(keys)
    assert torch.equal(stacked[0], stacked[1]) and not torch.equal(stacked[0], stacked[2])
    for mask, key in zip(stacked, keys, strict=True):
        assert torch.equal(mask, dropout.keep_mask(key, [3, 7], 20_000))


# ------------------------------------------------------------------ who joins


def test_seeds_and_numbers_of_the_optimizer_join(task):
    run = tiny_run(task)
    same = [run.replace(**{seed: 5}) for seed in ("init_seed", "data_seed", "dropout_seed")]
    same += [run.replace(optimizer=run.optimizer.replace(**{name: 0.5})) for name in run.optimizer.scalars()]
    assert {grouping.key(one) for one in same} == {grouping.key(run)}
    assert len({one.digest for one in [run, *same]}) == 9


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 51},
        {"batch_size": 8},
        {"grad_accum": 2},
        {"epoch_windows": 10},
        {"schedule": "linear"},
        {"schedule": make("schedule", "cosine", warmup=3)},
        {"grad_clip": None},
        {"dtype": "float32"},
        {"ema": 0.9},
        {"eval_every": 7},
        {"eval_seed": 1},
        {"weights": "final"},
        {"test": False},
        {"optimizer": "adam"},
        {"protocol": "dense"},
    ],
    ids=lambda change: " ".join(change),
)
def test_whatever_else_differs_keeps_runs_apart(change, task):
    run = tiny_run(task)
    assert grouping.key(run.replace(**change)) != grouping.key(run)


def test_models_and_switches_of_the_optimizer_keep_runs_apart(task):
    run = tiny_run(task, optimizer="muon")
    wider = run.replace(model=run.model.replace(d_ff=16))
    plain = run.replace(optimizer=run.optimizer.replace(nesterov=False))
    fewer = run.replace(optimizer=run.optimizer.replace(iterations=3))
    assert len({grouping.key(one) for one in (run, wider, plain, fewer)}) == 4


def by_digest(runs):
    return {run.digest: run for run in runs}


def test_groups_keep_the_order_of_their_runs_and_are_no_larger_than_asked(task):
    a, b = tiny_run(task), tiny_run(task, "mlp")
    runs = by_digest([a, b, a.with_seed(1), a.with_seed(2), b.with_seed(1), a.with_seed(3)])
    d = list(runs)
    made = grouping.groups(runs, device=CPU, size=3)
    assert made == [[d[0], d[2], d[3]], [d[5]], [d[1], d[4]]]


def test_runs_are_trained_one_at_a_time_on_a_cpu_unless_asked_otherwise(task):
    runs = by_digest(three(tiny_run(task)))
    assert grouping.groups(runs, device=CPU) == [[digest] for digest in runs]


def test_a_group_that_was_interrupted_keeps_its_members(task):
    run = tiny_run(task)
    runs = by_digest([run.with_seed(seed) for seed in range(5)])
    d = list(runs)
    made = grouping.groups(runs, device=CPU, size=2, kept=[[d[4], d[1], d[0]]])
    assert made == [[d[4], d[1], d[0]], [d[2], d[3]]]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_model_that_cannot_be_stacked_is_trained_alone_and_the_reason_is_logged(
    device, task, monkeypatch, caplog
):
    runs = by_digest(three(tiny_run(task, "mlp")) + three(tiny_run(task)))
    d = list(runs)
    monkeypatch.setattr(type(runs[d[0]].model), "alone", "it counts its calls")
    with caplog.at_level(logging.INFO):
        made = grouping.groups(runs, device=torch.device(device), size=4)
    assert made == [[d[0]], [d[1]], [d[2]], d[3:]]
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"run {x} (mlp) is trained alone: it counts its calls" for x in d[:3]]


def test_where_nothing_is_stacked_no_reason_is_given(task, monkeypatch, caplog):
    runs = by_digest(three(tiny_run(task, "mlp")))
    monkeypatch.setattr(type(next(iter(runs.values())).model), "alone", "it counts its calls")
    with caplog.at_level(logging.INFO):
        grouping.groups(runs, device=CPU)
        grouping.groups(runs, device=CPU, size=1)
    assert not caplog.records


def test_on_a_gpu_a_group_is_what_fits_and_a_replica_is_measured_once(task, monkeypatch):
    measured, run, gpu = [], tiny_run(task), torch.device("cuda")
    monkeypatch.setattr(grouping, "_BYTES", {})
    monkeypatch.setattr(grouping, "_replica_bytes", lambda one, device: measured.append(one) or (100, 40))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    assert grouping.largest(run, 9, device=gpu) == 8
    assert grouping.largest(run.with_seed(1), 7, device=gpu) == 7
    assert grouping.largest(run, 9, device=gpu, jobs=2) == 3  # (0.85 x 1000 / 2 - 40) / 100
    assert len(measured) == 1
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (50, 5000))
    assert grouping.largest(run, 9, device=gpu) == 1
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**6, 10**6))
    assert grouping.largest(run, 999, device=gpu) == grouping.LARGEST
    made = grouping.groups(by_digest([run.with_seed(s) for s in range(66)]), device=gpu)
    assert [len(members) for members in made] == [64, 2]


def test_only_long_groups_on_a_gpu_are_compiled(task):
    run, gpu = tiny_run(task), torch.device("cuda")
    long = run.replace(model=make("model", "transformer", vocab_size=65), steps=5000, batch_size=64)
    assert not grouping.is_compiled(run, 64, device=gpu)
    assert grouping.is_compiled(long, 64, device=gpu)
    assert not grouping.is_compiled(long, 64, device=CPU)


def test_a_program_takes_no_more_steps_than_its_runs_have(task):
    program = Program([tiny_run(task, steps=3)], device=CPU)
    program.advance(2)
    with pytest.raises(ValueError, match="2 steps after step 2 are more than the run's 3"):
        program.advance(2)


# ------------------------------------------------------------------ the store


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"group": 0}, "group = 0 is not accepted: at least 1"),
        ({"jobs": -1}, "jobs = -1 is not accepted: at least 1"),
        ({"checkpoint_seconds": -0.5}, "checkpoint_seconds = -0.5 is not accepted: at least 0"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(task, tmp_path, how, said):
    with pytest.raises(ValueError, match=said):
        run_all([tiny_run(task)], store=Store(tmp_path), device="cpu", progress=False, **how)


def test_a_run_that_cannot_be_is_refused_before_another_is_trained(task, tmp_path):
    good = tiny_run(task, steps=2)
    bad = good.replace(model=good.model.replace(vocab_size=7))
    with pytest.raises(ValueError, match="model.vocab_size = 7"):
        run_all([good, bad], store=Store(tmp_path), device="cpu", progress=False)
    assert Store(tmp_path).digests() == []


def untimed(frame):
    """Rows without what is measured, in an order of their own; evaluations are named by the weights' bits."""
    kept = frame[~frame["metric"].isin(TIMED)].drop(columns=["seconds", "jobs"])
    kept = kept.assign(evaluation=kept["evaluation"] != "")
    return kept.sort_values(["run", "step", "split", "metric"]).reset_index(drop=True)


def test_a_group_writes_the_run_folders_that_runs_alone_write(task, tmp_path):
    runs = three(tiny_run(task, eval_every=20, steps=50))
    runs.append(runs[0].with_seed(7))
    stores = [Store(tmp_path / name) for name in ("group", "alone")]
    frames = [
        run_all(runs, store=store, device="cpu", progress=False, group=size)
        for store, size in zip(stores, (4, 1), strict=True)
    ]
    assert stores[0].verify() == [] == list(stores[0].checkpoints.glob("*"))
    assert [set(frame["jobs"]) for frame in frames] == [{4}, {1}]
    pd.testing.assert_frame_equal(*map(untimed, frames), rtol=0, atol=1e-8)
    for run in runs:
        one, other = (store.folder(run.digest) for store in stores)
        assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
        assert (one / "run.json").read_bytes() == (other / "run.json").read_bytes()
        hashes = [store.record(run.digest)["env"]["hashes"] for store in stores]
        trained = [found.pop("weights") for found in hashes]  # agree to rounding, not in all bits
        assert hashes[0] == hashes[1] and all(len(one) == 64 for one in trained)
        items = [store.items(run.digest).drop(columns="evaluation") for store in stores]
        assert len(items[0]) > 0
        pd.testing.assert_frame_equal(*items, rtol=0, atol=1e-6)


def test_a_group_that_does_not_fit_into_memory_is_halved_until_it_does(task, tmp_path, monkeypatch, caplog):
    run, tried = tiny_run(task, steps=3), []
    honest = filing.train_group

    def train(runs, **how):
        tried.append([one.digest for one in runs])
        if len(runs) > 2:
            raise torch.OutOfMemoryError("no room")
        return honest(runs, **how)

    monkeypatch.setattr(filing, "train_group", train)
    runs, store = [run.with_seed(seed) for seed in range(5)], Store(tmp_path / "results")
    frame = run_all(runs, store=store, device="cpu", progress=False, group=5)
    d = sorted(one.digest for one in runs)
    assert tried == [d, d[:2], d[2:], d[2:3], d[3:]]
    assert store.verify() == [] and store.digests() == d
    assert dict(frame.groupby("run")["jobs"].first()) == dict(zip(d, [2, 2, 1, 2, 2], strict=True))
    assert "5 runs side by side do not fit into memory; trying halves" in caplog.text


def test_a_run_that_alone_does_not_fit_into_memory_is_an_error(task, store, monkeypatch):
    def train(runs, **how):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(filing, "train_group", train)
    run = tiny_run(task, steps=3)
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        run_all([run], store=store, device="cpu", progress=False)
    assert not store.folder(run.digest).exists()


# ------------------------------------------------------------------ divergence


def rows_of(one):
    rows = pd.DataFrame(one.record.rows)
    return untimed(rows.assign(run="", jobs=1))


@pytest.mark.parametrize("model, optimizer", [("linear", "adam"), ("transformer", "muon")])
def test_a_replica_that_diverges_stops_alone_and_is_recorded_with_its_step(model, optimizer, task):
    run = tiny_run(task, model, optimizer=optimizer, grad_clip=None, eval_every=25, schedule="constant")
    bad = run.replace(optimizer=run.optimizer.replace(lr=1e306), init_seed=4)
    runs = [run, bad, run.with_seed(2)]
    group = train_group(runs, device=CPU)
    alone = [train_group([one], device=CPU)[0] for one in runs]
    assert [one.diverged_at is None for one in group] == [True, False, True]
    assert 1 <= group[1].diverged_at == alone[1].diverged_at < 50
    for one, other in zip(group, alone, strict=True):
        pd.testing.assert_frame_equal(rows_of(one), rows_of(other), rtol=0, atol=1e-8)
    said = {row["metric"]: row for row in group[1].record.rows}
    assert said["diverged"]["value"] == group[1].diverged_at
    assert "nll" not in said and not group[1].final
    assert {row["split"] for row in group[0].record.rows} >= {"train", "valid", "test"}
    assert not any(row["metric"] == "diverged" for row in group[0].record.rows)


def test_a_group_of_which_every_replica_diverged_stops_early(task):
    run = tiny_run(task, "linear", optimizer=make("optimizer", "adam", lr=1e306), grad_clip=None, steps=500)
    steps = []
    group = train_group([run, run.with_seed(1)], device=CPU, on_step=steps.append)
    assert all(one.diverged_at is not None for one in group)
    assert steps[-1] < 100
    assert {one.record.last_step for one in group} == {steps[-1]}


def test_a_run_that_diverged_is_finished_and_not_trained_again(task, store, monkeypatch):
    run = tiny_run(task, "linear", optimizer=make("optimizer", "adam"), grad_clip=None, steps=20)
    bad = run.replace(optimizer=run.optimizer.replace(lr=1e306))
    frame = run_all([run, bad], store=store, device="cpu", progress=False, group=2)
    assert list(frame[frame["metric"] == "diverged"]["run"]) == [bad.digest]
    assert not (store.folder(bad.digest) / "final.safetensors").exists()
    monkeypatch.setattr(filing, "train_group", None)
    assert len(run_all([run, bad], store=store, device="cpu", progress=False)) == len(frame)


def test_few_threads_work_beside_a_gpu(monkeypatch):
    now = [64]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[-1])
    monkeypatch.setattr(torch, "set_num_threads", now.append)
    with host.few_threads(torch.device("cuda")):
        assert now[-1] == host.HOST_THREADS
    with host.few_threads(torch.device("cpu")):
        assert now[-1] == 64


def test_examples_are_drawn_on_all_threads_though_torch_has_few(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    assert host.threads() == 64
    with host.few_threads(torch.device("cuda")):
        monkeypatch.setattr(torch, "get_num_threads", lambda: host.HOST_THREADS)
        assert host.threads() == 64
    assert host.threads() == host.HOST_THREADS


def test_groups_are_trained_with_few_threads_beside_a_gpu(task, tmp_path, monkeypatch):
    asked = []

    @contextlib.contextmanager
    def few_threads(device):
        asked.append(device.type)
        yield

    monkeypatch.setattr(filing, "few_threads", few_threads)
    run_all([tiny_run(task, steps=2)], store=Store(tmp_path), device="cpu", progress=False)
    assert asked == ["cpu"]


def test_scoring_one_batch_leaves_the_weights_that_are_trained(task):
    program = Program([tiny_run(task, steps=2)], device=torch.device("cpu"))
    scorer, master = program._scorer, program.replicas.master_RP
    scorer._is_captured, scorer._weights_RP = True, torch.empty_like(master)  # as on a GPU
    before = master.clone()
    program.score_first("valid")
    scorer.scores("valid", weights_RP=torch.zeros_like(master), items=False)
    assert torch.equal(master, before)
