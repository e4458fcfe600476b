"""`kill -9` at random moments: the same command goes on and ends in the same bits. See `crashes`."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from lmbench.config import make
from lmbench.store import Store
from tests.corpora import write_corpus
from tests.test_groups import TIMED, tiny_run

SEED, TRIALS, WATCHED, STEPS = 20_250, 20, 2, 14
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    """The runs, what happened in each trial, and the stores."""
    folder = tmp_path_factory.mktemp("crash")
    task = make("task", "text", corpus=str(write_corpus(folder / "small")), tokenizer="char")
    run = tiny_run(task, steps=STEPS, eval_every=4, dtype="float32", ema=0.5)
    # In the order of their digests two make a group, the third is alone; the fourth is not killed.
    runs = sorted((run.with_seed(seed) for seed in range(4)), key=lambda one: one.digest)
    plan = {"seed": SEED, "trials": TRIALS, "watched": WATCHED, "runs": [one.to_dict() for one in runs]}
    (folder / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, "-m", "tests.crashes", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"seed {SEED}: {done.stderr[-2000:]}"
    report = json.loads((folder / "report.json").read_text())
    return SimpleNamespace(runs=runs, folder=folder, whole=Store(folder / "whole"), **report)


def unmeasured(rows):
    """Rows without seconds, and without those whose value is itself a measured time or memory."""
    return rows[~rows["metric"].isin(TIMED)].drop(columns="seconds").reset_index(drop=True)


def test_every_trial_was_killed_and_most_went_on_from_a_checkpoint(crashed):
    assert len(crashed.trials) == TRIALS
    assert sum(one["was_killed"] for one in crashed.trials) >= TRIALS - 2, (SEED, crashed.trials)
    assert sum(bool(one["left"]) for one in crashed.trials) >= TRIALS / 2, (SEED, crashed.trials)
    assert sum(bool(one["went_on"]) for one in crashed.trials) >= TRIALS / 2, (SEED, crashed.trials)
    assert len({step for one in crashed.trials for step in one["went_on"]}) > 3, "many steps, not one"
    assert {one["finished"] for one in crashed.trials} > {0}, "some died among their results"


@pytest.mark.parametrize("trial", range(TRIALS))
def test_a_killed_process_is_followed_by_the_same_bits(trial, crashed):
    moment = f"seed {SEED}, trial {trial}: {crashed.trials[trial]}"
    whole, store = crashed.whole, Store(crashed.folder / str(trial))
    assert store.verify() == [], moment
    assert store.digests() == whole.digests() == [run.digest for run in crashed.runs[:3]], moment
    for digest in store.digests():
        one, other = whole.folder(digest), store.folder(digest)
        names = sorted(path.name for path in one.iterdir())
        assert names == sorted(path.name for path in other.iterdir() if path.name[0] != "."), moment
        for name in ("run.json", "items.parquet", *(n for n in names if n.endswith(".safetensors"))):
            assert (one / name).read_bytes() == (other / name).read_bytes(), f"{moment}: {name}"
        assert whole.record(digest)["env"]["hashes"] == store.record(digest)["env"]["hashes"], moment
        pd.testing.assert_frame_equal(
            *(unmeasured(each.rows(digest)) for each in (whole, store)), check_exact=True, obj=moment
        )
    # A process that dies between its last record and the end of its checkpoint leaves that to prune.
    assert len(store.prune()) <= 1 and list(store.checkpoints.iterdir()) == [], moment


def test_the_undisturbed_process_has_what_can_be_lost(crashed):
    rows = crashed.whole.frame(crashed.whole.digests())
    assert Counter(rows[rows["metric"] == "nll"]["split"]) == {"valid": 12, "test": 3}
    assert (rows["metric"] == "loss").sum() == 3 * STEPS
    assert set(rows.groupby("run")["jobs"].first()) == {1, 2}, "one group and one run alone"
    assert crashed.runs[0].model.dropout > 0


def test_of_two_processes_given_overlapping_groups_each_run_is_trained_once(crashed):
    assert crashed.overlap == [0, 0]
    lines = [line.split() for line in (crashed.folder / "overlap.txt").read_text().splitlines()]
    digests = [run.digest for run in crashed.runs]
    assert sorted(digest for _, digest in lines) == digests
    assert {process for process, _ in lines} == {"0", "1"}, "both trained, at the same time"
    assert dict((digest, process) for process, digest in lines).items() >= {
        (digests[0], "0"),
        (digests[3], "1"),
    }
    store = Store(crashed.folder / "overlap")
    assert store.digests() == digests and store.verify() == []
    assert list(store.checkpoints.iterdir()) == []
