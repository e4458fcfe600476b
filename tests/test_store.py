"""The store: what is trusted, what is refused, who may write."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from lmbench.records import ROW_COLUMNS, Reference, flatten, pack, write_atomically
from lmbench.store import Store

DIGEST = "0123456789abcdef"


def rows(value=1.5):
    row = dict.fromkeys(ROW_COLUMNS, 0) | {"evaluation": "", "split": "test", "task": "text", "level": ""}
    return pd.DataFrame([row | {"metric": "nll", "value": value, "n": 3}])


def items():
    return pd.DataFrame({"item": [0], "nll": [4.5], "n": [3], "bytes": [3], "correct": [1.0]}).assign(
        evaluation="e", split="test"
    )


def filled(tmp_path, digest=DIGEST, value=1.5):
    store = Store(tmp_path)
    store.begin(digest)
    config = {"kind": "run", "version": 1, "steps": 3, "model": {"kind": "mlp", "version": 1, "d_ff": 8}}
    run = {"schema": 1, "kind": "run", "digest": digest, "label": "mlp", "config": config}
    store.finish(digest, run=run, env={"device": "cpu: test"}, rows=rows(value), items=items())
    return store


def test_a_folder_without_done_is_not_a_result(tmp_path):
    store = filled(tmp_path)
    assert store.has(DIGEST)
    (store.folder(DIGEST) / "done").unlink()
    assert not store.has(DIGEST)
    assert store.digests() == []
    with pytest.raises(ValueError, match="no finished run"):
        store.record(DIGEST)


def test_frame_joins_rows_with_their_config_and_device(tmp_path):
    frame = filled(tmp_path).frame()
    assert frame.loc[
        0, ["run", "label", "model.kind", "model.d_ff", "steps", "device", "value"]
    ].tolist() == [
        DIGEST,
        "mlp",
        "mlp",
        8,
        3,
        "cpu: test",
        1.5,
    ]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, expected"),
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), "differs from its recorded sha256"),
    ],
)
def test_verify_names_truncated_missing_and_changed_files(tmp_path, damage, message):
    store = filled(tmp_path)
    assert store.verify() == []
    damage(store.folder(DIGEST) / "rows.parquet")
    problems = store.verify(DIGEST)
    assert [p.file for p in problems] == ["rows.parquet"]
    assert message in str(problems[0])


def test_prune_removes_unfinished_folders_and_damaged_ones_only_when_asked(tmp_path):
    store = filled(tmp_path)
    store.begin("feedfeedfeedfeed")
    (store.folder(DIGEST) / "rows.parquet").write_bytes(b"")
    assert store.prune(dry_run=True) == ["feedfeedfeedfeed"]
    assert store.prune() == ["feedfeedfeedfeed"]
    assert store.has(DIGEST)
    assert store.prune(damaged=True) == [DIGEST]
    assert store.digests() == []


def test_a_lock_is_held_by_one_process_at_a_time_and_freed_when_its_owner_dies(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom lmbench.store import Store\n"
        f"with Store(Path({str(tmp_path)!r})).lock('d') as mine:\n"
        "    print(mine, flush=True)\n    sys.stdin.read()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
    assert child.stdout.readline().strip() == "True"
    store = Store(tmp_path)
    with store.lock("d") as mine:
        assert not mine
    assert f"process {child.pid}" in store.owner("d")
    child.kill()
    child.communicate()
    with store.lock("d") as mine:
        assert mine
        assert f"process {os.getpid()}" in store.owner("d")


def test_an_interrupted_write_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomically(path, b"old")

    def full_disk(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_packed_reference_reads_like_the_store_and_cannot_be_written(tmp_path):
    store = filled(tmp_path / "a")
    pack([DIGEST], [store], tmp_path / "ref")
    reference = Reference(tmp_path / "ref")
    pd.testing.assert_frame_equal(reference.frame(), store.frame())
    pd.testing.assert_frame_equal(reference.items(DIGEST), store.items(DIGEST))
    assert not isinstance(reference, Store)
    with pytest.raises(ValueError, match="holds no runs.jsonl"):
        Reference(tmp_path)


def test_the_index_lists_every_finished_record(tmp_path):
    store = filled(tmp_path)
    filled(tmp_path, "feedfeedfeedfeed")
    table = pd.read_parquet(store.write_index())
    assert table["run"].tolist() == [DIGEST, "feedfeedfeedfeed"]
    assert table["label"].tolist() == ["mlp", "mlp"]


def test_a_newer_schema_is_refused(tmp_path):
    store = filled(tmp_path)
    path = store.folder(DIGEST) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(ValueError, match="has schema 99; this lmbench reads up to 1"):
        store.record(DIGEST)


def test_flatten_drops_versions_and_keeps_the_kinds_of_parts():
    config = {"kind": "run", "version": 1, "model": {"kind": "mlp", "version": 2, "d_ff": 8}, "methods": []}
    assert flatten(config) == {"model.kind": "mlp", "model.d_ff": 8, "methods": "[]"}
