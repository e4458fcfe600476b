"""Locks between real processes: runs given to two at once, and a holder that is killed."""

import json
import os
import signal
import subprocess
import sys

import pandas as pd
import pytest

from lmbench.config import make
from lmbench.store import Store
from tests.corpora import write_corpus
from tests.test_training import small_run

# Waits for a line on standard input, so that both start together, and says what it trained itself.
CHILD = """
import json, sys
from pathlib import Path
from lmbench.config import from_dict
from lmbench.store import Store
from lmbench.training import execute

trained, honest = [], Store.finish

def finish(self, digest, **parts):
    trained.append(digest)
    honest(self, digest, **parts)

Store.finish = finish
root, out, runs = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
runs = [from_dict("run", run) for run in runs]
print("ready", flush=True)
sys.stdin.readline()
rows = execute.run_all(runs, store=Store(root), device="cpu", progress=False)
rows.to_parquet(out)
print(json.dumps(trained), flush=True)
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """What each of two processes trained, the rows that each returned, and their store."""
    folder = tmp_path_factory.mktemp("locks")
    task = make("task", "text", corpus=str(write_corpus(folder / "small")), tokenizer="char")
    # Long enough for the two to meet, in opposite orders: whose turn it is must not depend on the order.
    runs = [small_run(task, steps=60).with_seed(seed) for seed in range(4)]
    children = []
    for i, order in enumerate((runs, runs[::-1])):
        given = json.dumps([run.to_dict() for run in order])
        command = [sys.executable, "-c", CHILD, str(folder / "results"), str(folder / f"{i}.parquet"), given]
        children.append(subprocess.Popen(command, stdin=-1, stdout=-1, text=True))
    for child in children:
        assert child.stdout.readline().strip() == "ready"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    trained = [json.loads(child.communicate(timeout=120)[0]) for child in children]
    assert [child.returncode for child in children] == [0, 0]
    rows = [pd.read_parquet(folder / f"{i}.parquet") for i in range(2)]
    return {run.digest for run in runs}, trained, rows, Store(folder / "results")


def test_each_run_is_trained_exactly_once(result):
    digests, trained, _, store = result
    assert sorted(trained[0] + trained[1]) == sorted(digests)
    assert set(store.digests()) == digests


def test_both_processes_return_the_same_rows(result):
    digests, _, (first, second), _ = result
    keys = ["run", "evaluation", "step", "split", "metric"]
    first, second = (rows.sort_values(keys).reset_index(drop=True) for rows in (first, second))
    assert set(first["run"]) == digests
    # Seconds and memory too: they are read from the one training that was done.
    pd.testing.assert_frame_equal(first, second)


def test_what_they_leave_is_whole_and_nobody_holds_it(result):
    digests, _, _, store = result
    assert store.verify() == []
    assert list((store.root / "locks").glob("*.owner")) == []
    for digest in digests:
        with store.lock(digest) as mine:
            assert mine


# Owns a record, has written half of it, and never ends by itself.
HOLDER = """
import sys
from pathlib import Path
from lmbench.store import Store

with Store(Path(sys.argv[1])).claim("d") as folder:
    (folder / "run.json").write_text("half")
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(store):
    """A process that holds the record "d"."""
    child = subprocess.Popen([sys.executable, "-c", HOLDER, str(store.root)], stdin=-1, stdout=-1, text=True)
    assert child.stdout.readline().strip() == "mine"
    yield child
    child.kill()
    child.communicate()


def test_a_lock_is_held_by_one_process_at_a_time(store, holder):
    with store.lock("d") as mine:
        assert not mine
    with store.claim("d") as folder:
        assert folder is None
    assert store.owner("d").startswith(f"process {holder.pid} on ")
    assert store.prune() == [], "what another process is writing stays"


def test_a_killed_process_leaves_lock_owner_and_folder_that_are_taken_over_at_once(store, holder):
    holder.send_signal(signal.SIGKILL)
    assert holder.wait() == -signal.SIGKILL
    left = sorted(path.name for path in (store.root / "locks").iterdir())
    assert left == ["d.lock", "d.owner"]
    assert (store.folder("d") / "run.json").read_text() == "half"
    with store.claim("d") as folder:
        assert list(folder.iterdir()) == []
        assert f"process {os.getpid()}" in store.owner("d")
    assert not (store.root / "locks" / "d.owner").exists()


def test_prune_removes_what_a_killed_process_left(store, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert store.prune() == ["d"]
    assert not store.folder("d").exists()


@pytest.mark.parametrize("text", ["", "{}", '{"pid": 1'])
def test_an_owner_file_decides_nothing_whatever_it_holds(store, text):
    (store.root / "locks").mkdir(parents=True)
    (store.root / "locks" / "d.owner").write_text(text)
    assert store.owner("d") == "another process"
    with store.lock("d") as mine:
        assert mine
