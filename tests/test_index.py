"""The index: what it answers is what the folders hold, whatever happened to either."""

import itertools
import json
import random
import shutil
import subprocess
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest

from lmbench import entries, folders, index
from lmbench.records import ROW_COLUMNS, Records, no_items
from lmbench.store import MANY, Store

# Each value stands for one type; "-" leaves the column out of the config.
VALUES = (3, 2.5, float("nan"), True, "a", None, ["x", 1], "-")
SMALL = {"kind": "run", "version": 1, "steps": 3, "model": {"kind": "mlp", "version": 1, "d_ff": 8}}


def rows_of(values):
    row = dict.fromkeys(ROW_COLUMNS, 0) | {"evaluation": "", "split": "test", "task": "text", "level": ""}
    return pd.DataFrame([row | {"metric": "nll", "value": v, "step": i} for i, v in enumerate(values)])


def put(store, digest, *, config=SMALL, values=(1.5, 2.5), env=None, rows=None):
    """One finished record."""
    store.begin(digest)
    run = {"schema": 1, "kind": "run", "digest": digest, "label": "mlp", "config": config}
    env = {"device": "cpu: test"} if env is None else env
    store.finish(digest, run=run, env=env, rows=rows_of(values) if rows is None else rows, items=no_items())
    return digest


def put_many(store, n, *, start=0):
    return [put(store, f"{i:016x}", values=(i, i + 0.5)) for i in range(start, start + n)]


def through_folders(store, digests=None):
    """The table that the plain loop over all folders gives."""
    return Records.frame(store, digests)


def assert_same(found, expected):
    """Columns, types, order and every value, down to the type of each object."""
    pd.testing.assert_frame_equal(found, expected, check_exact=True, check_index_type="exact")
    for name in (name for name in expected if expected[name].dtype.kind == "O"):
        assert [type(v) for v in found[name]] == [type(v) for v in expected[name]], name


def files(store):
    return sorted(store.index.path.iterdir())


def held(store):
    return store.index.read(store.digests(), columns=[])["run"].to_pylist()


@pytest.fixture
def no_folder_is_opened(monkeypatch):
    """From now on reading a folder fails; looking at its stamp does not."""

    def never(folder, name):
        raise AssertionError(f"{folder}/{name} was opened")

    return lambda: monkeypatch.setattr(folders, "intact", never)


def test_a_frame_through_the_index_is_the_one_through_the_folders_bit_for_bit(store, no_folder_is_opened):
    # Every pair of types meets in one column, and one config key has the name of a row column.
    for i, (a, b) in enumerate(itertools.product(VALUES, VALUES)):
        config = {"kind": "run", "version": 1, "part": {"kind": "p", "version": 1, "a": a}, "b": b}
        config = config | {"split": "valid", f"pair{i // 4}": [a, b][i % 2]} | ({"late": i} if i > 40 else {})
        config = {key: value for key, value in config.items() if value != "-"}
        config["part"] = {key: value for key, value in config["part"].items() if value != "-"}
        env = {"device": "cpu: test", "jobs": 2} if i % 3 else {}
        put(store, f"{i:016x}", config=config, env=env, values=[0.1 * i, float("nan")][: 1 + i % 2])
    asked = store.digests()
    random.Random(0).shuffle(asked)
    orders = (None, asked, asked[:5], asked[:1] * 2, [])
    expected = [through_folders(store, order) for order in orders]
    store.write_index()
    no_folder_is_opened()
    for order, frame in zip(orders, expected, strict=True):
        fresh = Store(store.root)
        assert_same(fresh.frame(order), frame)
        assert fresh.used == set(asked if order is None else order)


def test_a_text_that_never_changes_is_kept_once_and_reads_as_usual(store, monkeypatch):
    monkeypatch.setattr(entries, "SHARED", 4)
    for i, n in enumerate((3, 1, 4, 2)):
        put(store, f"{i:016x}", config=SMALL | {"tail": "x"}, values=range(n))
        expected = through_folders(store)
        assert_same(store.frame(), expected)
        assert_same(store.frame()[expected["step"] > 0], expected[expected["step"] > 0])


def test_pairs_of_types_get_the_common_type_that_concatenating_gives(store):
    for i, (a, b) in enumerate(itertools.combinations(VALUES[:6], 2)):
        pair = [put(store, f"{i:015x}{j}", config=SMALL | {"x": value}) for j, value in enumerate((a, b))]
        store.write_index()
        for order in (pair, pair[::-1], pair[:1], pair[1:]):
            assert_same(store.frame(order), through_folders(store, order))


def test_records_that_the_index_lacks_come_from_their_folders(store, no_folder_is_opened):
    old = put_many(store, 3)
    store.write_index()
    new = [put(store, "f" * 16, config=SMALL | {"lr": 0.1}), put(store, "0" * 15 + "e")]
    asked = [new[0], old[2], new[1], old[0]]
    assert_same(store.frame(asked), through_folders(store, asked))
    assert_same(store.frame(), through_folders(store))
    store.write_index()
    no_folder_is_opened()
    assert store.frame(asked)["value"].tolist() == [1.5, 2.5, 2.0, 2.5, 1.5, 2.5, 0.0, 0.5]


def test_reading_many_records_fills_the_index(store, no_folder_is_opened):
    put_many(store, MANY - 1)
    store.frame()
    assert not store.index.path.exists(), "not worth a file"
    put_many(store, 1, start=MANY)
    expected = store.frame()
    no_folder_is_opened()
    assert_same(store.frame(), expected)


def test_a_record_made_anew_is_never_answered_with_its_old_rows(store):
    digest = put(store, "a" * 16, values=(1.5,))
    store.write_index()
    before = [(path.name, path.stat().st_size) for path in sorted(store.folder(digest).iterdir())]
    put(store, digest, values=(2.5,))
    assert before == [(path.name, path.stat().st_size) for path in sorted(store.folder(digest).iterdir())]
    assert store.frame()["value"].tolist() == [2.5]
    store.write_index()
    assert store.frame()["value"].tolist() == [2.5]
    assert [pq.read_metadata(path).num_rows for path in files(store)] == [1]


def test_a_removed_record_is_gone_and_leaves_the_index_when_its_file_is_merged(store):
    first, second = put_many(store, 2)
    store.write_index()
    shutil.rmtree(store.folder(first))
    assert store.frame()["run"].unique().tolist() == [second]
    with pytest.raises(ValueError, match=f"no finished run '{first}'"):
        store.frame([first])
    put_many(store, 2, start=2)
    store.write_index()
    assert [pq.read_metadata(path).num_rows for path in files(store)] == [3]


def test_a_copied_store_brings_an_index_that_holds(store, tmp_path, no_folder_is_opened):
    put_many(store, 2)
    store.write_index()
    shutil.copytree(store.root, tmp_path / "copy", copy_function=shutil.copyfile)
    no_folder_is_opened()
    assert_same(Store(tmp_path / "copy").frame(), store.frame())


# ------------------------------------------------------------------ damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PAR1 nothing"),
        lambda path: path.unlink(),
        lambda path: shutil.rmtree(path.parent),
        lambda path: (shutil.rmtree(path.parent), path.parent.write_bytes(b"PAR1")),
    ],
    ids=["truncated", "empty", "garbage", "missing", "folder missing", "a file of an older version"],
)
def test_a_damaged_index_is_ignored_and_written_anew(store, damage, no_folder_is_opened):
    put_many(store, 3)
    expected = through_folders(store)
    store.write_index()
    damage(files(store)[0])
    assert_same(store.frame(), expected)
    store.write_index()
    assert len(files(store)) == 1
    no_folder_is_opened()
    assert_same(store.frame(), expected)


def test_a_flipped_byte_anywhere_in_the_index_changes_no_row(store):
    put_many(store, 2)
    expected = through_folders(store)
    store.write_index()
    (path,) = files(store)
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert len(held(store)) == 0
        assert_same(store.frame(), expected)


def test_a_file_of_another_form_is_not_believed(store, monkeypatch):
    put_many(store, 1)
    monkeypatch.setattr(index, "FORM", {b"format": b"0"})
    store.write_index()
    assert len(held(store)) == 1
    monkeypatch.undo()
    assert len(held(store)) == 0


def test_an_index_that_cannot_be_written_costs_nothing_but_time(store, monkeypatch, caplog):
    def full_disk(path, data):
        raise OSError(28, "No space left on device")

    put_many(store, MANY)
    monkeypatch.setattr(index, "write_atomically", full_disk)
    with caplog.at_level("INFO"):
        assert len(store.frame()) == 2 * MANY
    assert "No space left on device" in caplog.text
    assert files(store) == []


def test_the_index_hides_no_damaged_folder(store):
    whole, damaged = put_many(store, 2)
    store.write_index()
    path = store.folder(damaged) / "rows.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"?")  # the index still holds what was written
    assert [str(problem.digest) for problem in store.verify()] == [damaged]
    assert store.frame([damaged])["value"].tolist() == [1.0, 1.5]
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"rows\.parquet has \d+ bytes, expected"):
        store.frame()
    shutil.rmtree(store.index.path)
    store.write_index()
    assert held(store) == [whole]


@pytest.mark.parametrize(
    "odd",
    [
        {"rows": rows_of([1.0]).assign(extra=1)},
        {"rows": rows_of([1.0]).iloc[:0]},
        {"config": SMALL | {"seed": 2**64}},
    ],
    ids=["another column", "no rows", "an integer of more than 64 bits"],
)
def test_what_does_not_fit_the_index_is_read_from_its_folder(store, odd):
    put_many(store, 2)
    put(store, "f" * 16, **odd)
    store.write_index()
    assert len(held(store)) == 2
    assert_same(store.frame(), through_folders(store))


# ------------------------------------------------------------------ size and writers


def test_only_the_groups_that_hold_an_asked_record_are_read(store, monkeypatch):
    monkeypatch.setattr(index, "GROUP", 2)
    digests = put_many(store, 7)
    store.write_index()
    read, honest = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, i, **rest: (read.append(i), honest(self, i, **rest))[1]
    )
    assert store.frame([digests[6], digests[2]])["value"].tolist() == [6.0, 6.5, 2.0, 2.5]
    assert read == [1, 3]


def test_a_small_addition_leaves_a_large_file_alone_and_files_stay_few(store):
    put_many(store, 20)
    store.write_index()
    (large,) = files(store)
    for i in range(20, 35):
        put_many(store, 1, start=i)
        store.write_index()
        assert large in files(store)
        assert len(files(store)) <= 5, "sizes at least double from file to file: 1, 2, 4, 8 and the large one"
    put_many(store, 5, start=35)
    store.write_index()
    assert [pq.read_metadata(path).num_rows for path in files(store)] == [40]


def test_a_writer_that_waited_too_long_leaves_the_index_to_the_other(store, monkeypatch, caplog):
    put_many(store, 1)
    monkeypatch.setattr(index, "WAIT_S", 0)
    with store.lock("index") as mine, caplog.at_level("INFO"):
        assert mine
        store.write_index()
    assert "is not brought up to date" in caplog.text
    assert held(store) == []
    store.write_index()
    assert held(store) == store.digests()


def test_what_a_killed_writer_left_is_removed(store):
    put_many(store, 1)
    store.write_index()
    part = store.index.path / ".abc.parquet.123.part"
    part.write_bytes(b"PAR1")
    store.write_index()
    assert not part.exists()
    assert len(files(store)) == 1


WRITER = """
import sys
from pathlib import Path
from lmbench.store import Store
from tests.test_index import put_many

store, start = Store(Path(sys.argv[1])), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for i in range(start, start + 8):
    put_many(store, 1, start=i)
    store.write_index()
"""


def test_processes_that_write_at_the_same_time_lose_nothing_and_readers_see_only_whole_records(store):
    command = [sys.executable, "-c", WRITER, str(store.root)]
    writers = [subprocess.Popen([*command, str(100 * i)], stdin=-1, stdout=-1, text=True) for i in range(3)]
    for writer in writers:
        assert writer.stdout.readline().strip() == "ready"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    while any(writer.poll() is None for writer in writers):
        frame = store.frame()
        for run, values in frame.groupby("run")["value"] if len(frame) else ():
            assert values.tolist() == [int(run, 16), int(run, 16) + 0.5]
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert (
        sorted(held(store)) == store.digests() == [f"{100 * i + j:016x}" for i in range(3) for j in range(8)]
    )
    assert_same(store.frame(), through_folders(store))


def test_the_list_of_runs_is_the_same_through_the_index(store, no_folder_is_opened):
    put_many(store, 3)
    expected = store.list()
    store.write_index()
    no_folder_is_opened()
    pd.testing.assert_frame_equal(store.list(), expected)
    assert (
        json.loads(store.index.read(["0" * 16], columns=["record"])["record"][0].as_py())["run"]["label"]
        == "mlp"
    )
