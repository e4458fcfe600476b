"""Checkpoints: whole or not there, distrusted when damaged, resumed by the group that wrote them."""

import json
import logging
import os

import pandas as pd
import pytest
import torch

from lmbench.config import make
from lmbench.folders import is_useless
from lmbench.store import Store
from lmbench.training import checkpoint as module
from lmbench.training import filing
from lmbench.training.checkpoint import MEMBERS, STATE, Checkpoint, interrupted
from lmbench.training.execute import run_all
from lmbench.training.loop import train_group
from tests.test_groups import CPU, three, tiny_run, untimed

TENSORS = {
    "weights": torch.arange(6.0).view(2, 3),
    "bits": torch.tensor([[1.5, float("nan")]], dtype=torch.bfloat16),
    "exact": torch.tensor(1 / 3, dtype=torch.float64),
    "steps": torch.tensor([2**40]),
}
REST = {"done": 7, "nll": [None, 1 / 3], "rows": [{"metric": "loss", "value": 0.1}]}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def written(folder):
    """A checkpoint of the runs a and b."""
    made = Checkpoint(folder, ["a", "b"], every_seconds=60)
    made.write(TENSORS, REST)
    return made


def as_bytes(tensor):
    return tensor.reshape(-1).view(torch.uint8)


def flip(path, at):
    """Change one bit of one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# ------------------------------------------------------------------ the file


def test_what_is_read_is_what_was_written_to_the_bit(written, folder):
    tensors, rest = Checkpoint(folder, ["a", "b"], every_seconds=0).read()
    assert rest == REST
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype and tensors[name].shape == value.shape
        assert torch.equal(as_bytes(tensors[name]), as_bytes(value))


def test_only_the_last_one_is_kept(written):
    written.write({"weights": torch.zeros(1)}, {"done": 8})
    tensors, rest = written.read()
    assert rest == {"done": 8} and list(tensors) == ["weights"]
    assert sorted(path.name for path in written.folder.iterdir()) == [MEMBERS, STATE]


def test_other_members_or_another_order_is_another_checkpoint(written, folder):
    for members in (["a"], ["b", "a"], ["a", "b", "c"]):
        assert Checkpoint(folder, members, every_seconds=0).read() is None


def test_one_is_due_after_so_many_seconds_and_not_before(folder, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    made = Checkpoint(folder, ["a"], every_seconds=30)
    assert not made.is_due
    now[0] += 29.5
    assert not made.is_due
    now[0] += 0.5
    assert made.is_due
    made.write(TENSORS, REST)
    assert not made.is_due
    assert Checkpoint(folder, ["a"], every_seconds=0).is_due


def test_a_write_that_dies_half_way_leaves_the_one_before(written, monkeypatch):
    def die(self, target):
        raise OSError("no space left on device")

    monkeypatch.setattr("pathlib.Path.replace", die)
    with pytest.raises(OSError, match="no space"):
        written.write({"weights": torch.zeros(1)}, {"done": 8})
    monkeypatch.undo()
    assert written.read()[1] == REST


def test_a_partial_file_of_a_killed_write_is_not_read(written):
    (written.folder / STATE).rename(written.folder / f".{STATE}.123.part")
    assert written.read() is None
    assert interrupted(written.folder.parent, ["a", "b"]) == []


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(written, size):
    path = written.folder / STATE
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="state.safetensors cannot be read"):
        written.read()


def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing(written):
    path = written.folder / STATE
    honest, refused = path.read_bytes(), 0
    for at in range(0, len(honest), 3):
        flip(path, at)
        try:
            tensors, rest = written.read()
        except ValueError:
            refused += 1
        else:
            assert rest == REST
            assert all(torch.equal(as_bytes(tensors[name]), as_bytes(TENSORS[name])) for name in TENSORS)
        path.write_bytes(honest)
    # What may pass is padding between the header and the data.
    assert refused > 0.95 * len(honest) / 3


def test_a_flipped_bit_of_the_weights_is_named_as_damage(written):
    flip(written.folder / STATE, -1)
    with pytest.raises(ValueError, match="is damaged: its content differs from its sha256"):
        written.read()


def test_a_flipped_bit_of_the_rows_is_named_as_damage(written):
    path = written.folder / STATE
    data = path.read_bytes()
    assert data.count(b"0.1}") == 1
    path.write_bytes(data.replace(b"0.1}", b"0.3}"))
    with pytest.raises(ValueError, match="is damaged: its content differs from its sha256"):
        written.read()


def test_another_torch_or_format_is_refused(written, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "9.9.9")
        with pytest.raises(
            ValueError, match=r"was written by torch \S+ in format 2 on ''; here are 9.9.9, 2 and"
        ):
            written.read()
    monkeypatch.setattr(module, "FORMAT", 3)
    with pytest.raises(ValueError, match="in format 2 on ''; here are .*, 3 and"):
        written.read()


def test_another_device_is_refused_because_its_masks_differ(written, folder):
    other = Checkpoint(folder, written.members, every_seconds=0, device="an accelerator")
    with pytest.raises(ValueError, match="on ''; here are .* and 'an accelerator'"):
        other.read()


# ------------------------------------------------------------------ which groups go on


def test_a_group_goes_on_if_all_its_runs_are_wanted(written, folder):
    assert interrupted(folder, ["b", "c", "a"]) == [["a", "b"]]
    assert interrupted(folder, ["a", "c"]) == []
    assert interrupted(folder / "none", ["a"]) == []


def test_a_group_that_ended_does_not_go_on(written, folder):
    written.remove()
    assert interrupted(folder, ["a", "b"]) == []
    assert list(folder.iterdir()) == []
    written.remove()  # whoever else removed it first


def test_one_that_was_removed_half_way_is_useless_and_does_not_go_on(written, folder, monkeypatch):
    def die(path, **how):
        if path.exists():
            (path / STATE).unlink()
            raise Killed

    monkeypatch.setattr(module.shutil, "rmtree", die)
    with pytest.raises(Killed):
        written.remove()
    monkeypatch.undo()
    (left,) = folder.iterdir()
    assert interrupted(folder, ["a", "b"]) == [] and is_useless(left, lambda digest: False)
    written.write(TENSORS, REST)
    written.remove()
    assert list(folder.iterdir()) == []


def test_of_overlapping_groups_the_last_written_goes_on(folder):
    for at, members in enumerate((["a", "b"], ["b", "c"], ["d"]), start=1):
        made = Checkpoint(folder, members, every_seconds=0)
        made.write(TENSORS, REST)
        os.utime(made.folder / STATE, ns=(at, at))
    assert interrupted(folder, "abcd") == [["d"], ["b", "c"]]
    assert interrupted(folder, "abd") == [["d"], ["a", "b"]]


def test_a_group_of_which_some_runs_are_finished_goes_on_whole(folder):
    made = Checkpoint(folder, ["a", "b"], every_seconds=0)
    made.name_members()
    assert interrupted(folder, "ab", "".__contains__) == [], "nothing is lost by training it anew"
    assert interrupted(folder, "ab", "a".__contains__) == [["a", "b"]]
    assert interrupted(folder, "ab", "ab".__contains__) == [], "it only had to be removed"


@pytest.mark.parametrize("text", ["", "[]", '{"members": 3}', '{"member'])
def test_a_damaged_list_of_members_is_passed_over_and_written_anew(written, folder, text):
    (written.folder / MEMBERS).write_text(text)
    assert not written.is_begun
    assert interrupted(folder, "ab") == []
    written.write(TENSORS, REST)
    assert interrupted(folder, "ab") == [["a", "b"]]


# ------------------------------------------------------------------ training


class Killed(Exception):
    """Stands for the end of a process."""


def stop_after(calls):
    """A callback of training that ends it."""
    left = [calls]

    def on_step(step):
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    return on_step


VARIANTS = [
    {},
    {"optimizer": make("optimizer", "muon"), "ema": 0.9, "grad_accum": 2},
    {"optimizer": make("optimizer", "sgd", lr=0.1), "epoch_windows": 10},
    {"dtype": "bfloat16", "optimizer": make("optimizer", "adam")},
]


def outcome(trained):
    """All numbers of a training but measured times."""
    rows = untimed(pd.DataFrame(trained.record.rows).assign(run="", jobs=1))
    return rows, trained.best, trained.final, trained.record.hashes, trained.record.items_frame()


def assert_same_bits(one, other):
    (rows, *states, hashes, items), (rows2, *states2, hashes2, items2) = outcome(one), outcome(other)
    pd.testing.assert_frame_equal(rows, rows2, check_exact=True)
    pd.testing.assert_frame_equal(items, items2, check_exact=True)
    assert hashes == hashes2
    for state, state2 in zip(states, states2, strict=True):
        assert state.keys() == state2.keys()
        assert all(torch.equal(state[name], state2[name]) for name in state)


@pytest.mark.parametrize("fields", VARIANTS, ids=["adamw", "muon", "sgd", "bfloat16"])
@pytest.mark.parametrize("size", [1, 2])
def test_training_that_is_stopped_at_any_step_ends_in_the_same_bits(size, fields, task, folder, caplog):
    run = tiny_run(task, **({"steps": 12, "dtype": "float32", "eval_every": 4} | fields))
    runs = three(run)[:size]
    whole = train_group(runs, device=CPU)
    made = Checkpoint(folder, [one.digest for one in runs], every_seconds=0)
    for steps in (1, 2, 4, 4):  # four times in a row: within, at and behind a validation
        with pytest.raises(Killed):
            train_group(runs, device=CPU, checkpoint=made, on_step=stop_after(steps))
    with caplog.at_level(logging.INFO):
        resumed = train_group(runs, device=CPU, checkpoint=made)
    # The callback comes before the checkpoint of its step.
    assert "going on from step 7 of 12" in caplog.text
    for one, other in zip(whole, resumed, strict=True):
        assert_same_bits(one, other)


def test_the_best_weights_survive_although_they_are_no_longer_the_live_ones(task, folder):
    # A rate that ruins the model after its first validation.
    run = tiny_run(
        task, steps=12, eval_every=1, optimizer=make("optimizer", "adam", lr=5.0), schedule="constant"
    )
    runs = [run, run.with_seed(1)]
    whole = train_group(runs, device=CPU)
    for one in whole:
        valid = [r for r in one.record.rows if r["split"] == "valid" and r["metric"] == "nll"]
        assert min(valid, key=lambda row: row["value"])["step"] < 8
    made = Checkpoint(folder, ["a", "b"], every_seconds=0)
    with pytest.raises(Killed):
        train_group(runs, device=CPU, checkpoint=made, on_step=stop_after(10))
    for one, other in zip(whole, train_group(runs, device=CPU, checkpoint=made), strict=True):
        assert_same_bits(one, other)


def test_a_replica_that_diverged_stays_diverged(task, folder):
    run = tiny_run(task, "linear", optimizer="adam", grad_clip=None, steps=60)
    runs = [run, run.replace(optimizer=run.optimizer.replace(lr=1e306))]
    whole = train_group(runs, device=CPU)
    assert whole[1].diverged_at < 20
    made = Checkpoint(folder, ["a", "b"], every_seconds=0)
    with pytest.raises(Killed):
        train_group(runs, device=CPU, checkpoint=made, on_step=stop_after(40))
    resumed = train_group(runs, device=CPU, checkpoint=made)
    assert resumed[1].diverged_at == whole[1].diverged_at
    for one, other in zip(whole, resumed, strict=True):
        assert_same_bits(one, other)


def test_a_damaged_checkpoint_is_named_and_training_starts_anew_and_ends_right(task, folder, caplog):
    run = tiny_run(task, steps=6)
    made = Checkpoint(folder, [run.digest], every_seconds=0)
    with pytest.raises(Killed):
        train_group([run], device=CPU, checkpoint=made, on_step=stop_after(4))
    flip(made.folder / STATE, -1)
    steps = []
    (resumed,) = train_group([run], device=CPU, checkpoint=made, on_step=steps.append)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "is damaged: its content differs from its sha256; training starts anew" in warning.getMessage()
    assert steps == [1, 2, 3, 4, 5, 6]
    assert_same_bits(resumed, train_group([run], device=CPU)[0])


def test_a_checkpoint_of_another_torch_is_named_and_training_starts_anew(task, folder, caplog, monkeypatch):
    run = tiny_run(task, steps=6)
    made = Checkpoint(folder, [run.digest], every_seconds=0)
    monkeypatch.setattr(torch, "__version__", "2.0.0")
    with pytest.raises(Killed):
        train_group([run], device=CPU, checkpoint=made, on_step=stop_after(4))
    monkeypatch.undo()
    steps = []
    train_group([run], device=CPU, checkpoint=made, on_step=steps.append)
    assert "was written by torch 2.0.0 in format 2" in caplog.text
    assert steps == [1, 2, 3, 4, 5, 6]


# ------------------------------------------------------------------ run_all


def interrupt(monkeypatch, runs, store, *, steps, group):
    """`run_all` that ends after some steps, leaving checkpoints."""
    honest, on_step = filing.train_group, stop_after(steps)

    def train(runs, **how):
        return honest(runs, **(how | {"on_step": on_step}))

    monkeypatch.setattr(filing, "train_group", train)
    with pytest.raises(Killed):
        run_all(runs, store=store, device="cpu", progress=False, group=group, checkpoint_seconds=0)
    monkeypatch.undo()


def trained_groups(monkeypatch):
    """The digests of each group that is trained from now on."""
    groups, honest = [], filing.train_group

    def train(runs, **how):
        groups.append([run.digest for run in runs])
        return honest(runs, **how)

    monkeypatch.setattr(filing, "train_group", train)
    return groups


def test_an_interrupted_group_goes_on_with_its_members_and_leaves_nothing(task, store, monkeypatch, caplog):
    runs = [tiny_run(task, steps=8).with_seed(seed) for seed in range(3)]
    interrupt(monkeypatch, runs, store, steps=5, group=2)
    d = sorted(run.digest for run in runs)
    assert interrupted(store.checkpoints, d) == [d[:2]]
    groups = trained_groups(monkeypatch)
    with caplog.at_level(logging.INFO):
        run_all(runs, store=store, device="cpu", progress=False)
    assert groups == [d[:2], d[2:]]
    assert "going on from step 4 of 8" in caplog.text
    assert store.digests() == d and list(store.checkpoints.iterdir()) == []


def test_an_interrupted_group_of_which_a_run_is_not_wanted_starts_anew(task, store, monkeypatch, caplog):
    runs = [tiny_run(task, steps=8).with_seed(seed) for seed in range(3)]
    interrupt(monkeypatch, runs, store, steps=5, group=3)
    d = sorted(run.digest for run in runs)
    two = [run for run in runs if run.digest != d[0]]
    groups = trained_groups(monkeypatch)
    with caplog.at_level(logging.INFO):
        run_all(two, store=store, device="cpu", progress=False, group=3)
    assert groups == [d[1:]]
    assert "going on" not in caplog.text
    (left,) = store.checkpoints.iterdir()
    assert store.prune() == [], "one of its runs is not finished"
    run_all([run for run in runs if run not in two], store=store, device="cpu", progress=False)
    assert store.prune() == [f"checkpoints/{left.name}"]


def test_checkpoints_of_overlapping_groups_do_not_train_a_run_twice(task, store, monkeypatch):
    runs = [tiny_run(task, steps=8).with_seed(seed) for seed in range(3)]
    runs.sort(key=lambda run: run.digest)
    interrupt(monkeypatch, runs, store, steps=3, group=3)
    interrupt(monkeypatch, runs[:2], store, steps=3, group=2)
    assert len(list(store.checkpoints.iterdir())) == 2
    groups = trained_groups(monkeypatch)
    run_all(runs, store=store, device="cpu", progress=False, group=3)
    assert groups == [[run.digest for run in runs[:2]], [runs[2].digest]]


@pytest.mark.parametrize("seconds", [0, 60])
def test_a_group_that_died_while_it_was_filed_ends_the_same(seconds, task, store, tmp_path, monkeypatch):
    runs = [tiny_run(task, steps=8, dtype="float32").with_seed(seed) for seed in range(3)]
    how = {"device": "cpu", "progress": False, "group": 3, "checkpoint_seconds": seconds}
    whole = Store(tmp_path / "whole")
    run_all(runs, store=whole, **how)
    d, honest = sorted(run.digest for run in runs), Store.finish

    def finish(self, digest, **parts):
        honest(self, digest, **parts)
        if digest == d[0]:
            raise Killed

    monkeypatch.setattr(Store, "finish", finish)
    with pytest.raises(Killed):
        run_all(runs, store=store, **how)
    monkeypatch.undo()
    assert store.digests() == d[:1]
    before = (store.folder(d[0]) / "done").read_bytes()
    groups = trained_groups(monkeypatch)
    run_all(runs, store=store, **how)
    assert groups == [d]
    assert (store.folder(d[0]) / "done").read_bytes() == before, "what is finished is not filed again"
    for digest in d:
        weights = [one.folder(digest) / "final.safetensors" for one in (whole, store)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    assert list(store.checkpoints.iterdir()) == []


def test_short_runs_write_no_checkpoint(task, store, monkeypatch):
    def write(self, tensors, rest):
        raise AssertionError("a checkpoint")

    monkeypatch.setattr(Checkpoint, "write", write)
    assert not run_all([tiny_run(task, steps=3)], store=store, device="cpu", progress=False).empty


def test_members_are_named_as_json(written):
    assert json.loads((written.folder / MEMBERS).read_text()) == {"members": ["a", "b"]}
