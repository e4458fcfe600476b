"""The store: what is trusted, what is refused, who may write."""

import json
import os
import re

import pandas as pd
import pytest

from lmbench.folders import fingerprint
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


def flip(path):
    data = path.read_bytes()
    path.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])


DAMAGES = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"has \d+ bytes, expected \d+"),
    "missing": (lambda path: path.unlink(), "missing"),
    "a flipped byte": (flip, "content differs from its recorded sha256"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["run.json", "env.json", "rows.parquet", "items.parquet"])
def test_damage_is_named_by_verify_and_refused_by_whoever_reads_it(tmp_path, file, damage):
    store = filled(tmp_path)
    assert store.verify() == []
    do, message = DAMAGES[damage]
    do(store.folder(DIGEST) / file)
    problems = store.verify(DIGEST)
    assert [p.file for p in problems] == [file]
    assert re.search(message, str(problems[0]))
    reading = {"run.json": store.record, "env.json": store.record, "rows.parquet": store.rows}
    readers = [lambda: reading.get(file, store.items)(DIGEST)]
    readers += [] if file == "items.parquet" else [store.frame]
    for read in readers:
        with pytest.raises(ValueError, match=f"run folder .*{DIGEST} is damaged: {file} ") as caught:
            read()
        assert re.search(message, str(caught.value))
        assert "`lmbench runs verify`" in str(caught.value)
        assert "`lmbench runs prune --damaged` removes them, then the same notebook" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "done is empty"),
        (b'{"files": {"run.js', "done is not readable"),
        (b'{"files": []}', "done is not readable"),
        (b'{"files": {"run.json": {"size": 3}}}', "done is not readable"),
        (b'{"files": {}}', "run.json is not listed in done"),
    ],
)
def test_a_damaged_done_is_damage_and_not_an_unfinished_run(tmp_path, content, message):
    store = filled(tmp_path)
    (store.folder(DIGEST) / "done").write_bytes(content)
    assert message in str(store.verify()[0]).replace(": ", " ")
    for read in (store.frame, lambda: store.record(DIGEST), store.list):
        with pytest.raises(ValueError, match=f"{DIGEST} is damaged: {message}; `lmbench runs verify`"):
            read()
    assert store.prune() == []
    assert store.prune(damaged=True) == [DIGEST]


def test_a_damaged_record_is_made_again_only_after_it_was_removed(tmp_path):
    store = filled(tmp_path)
    flip(store.folder(DIGEST) / "rows.parquet")
    with store.claim(DIGEST) as folder:
        assert folder is None, "it counts as made"
    store.prune(damaged=True)
    with store.claim(DIGEST) as folder:
        assert folder == store.folder(DIGEST)


def test_weights_that_are_damaged_or_lost_are_not_replaced_by_others(tmp_path):
    store = Store(tmp_path)
    folder = store.begin(DIGEST)
    for name in ("best", "final"):
        (folder / f"{name}.safetensors").write_bytes(f"the {name} weights of a run".encode())
    run = {"schema": 1, "kind": "run", "digest": DIGEST, "label": "mlp", "config": {"weights": "best"}}
    store.finish(DIGEST, run=run, env={}, rows=rows(), items=items())
    assert store.weights(DIGEST) == folder / "best.safetensors"
    flip(folder / "best.safetensors")
    with pytest.raises(ValueError, match=r"is damaged: best\.safetensors content differs"):
        store.weights(DIGEST)
    (folder / "best.safetensors").unlink()
    with pytest.raises(ValueError, match=r"is damaged: best\.safetensors is missing"):
        store.weights(DIGEST)


def test_prune_removes_unfinished_folders_and_damaged_ones_only_when_asked(tmp_path):
    store = filled(tmp_path)
    store.begin("feedfeedfeedfeed")
    (store.folder(DIGEST) / "rows.parquet").write_bytes(b"")
    assert store.prune(dry_run=True) == ["feedfeedfeedfeed"]
    assert store.prune() == ["feedfeedfeedfeed"]
    assert store.has(DIGEST)
    assert store.prune(damaged=True) == [DIGEST]
    assert store.digests() == []


def checkpoint(store, name, members):
    folder = store.checkpoints / name
    folder.mkdir(parents=True)
    if members is not None:
        (folder / "members.json").write_text(json.dumps({"members": members}))
    return folder


def test_checkpoints_are_no_runs_and_go_when_all_their_members_are_finished(tmp_path):
    store = filled(tmp_path)
    checkpoint(store, "over", [DIGEST])
    checkpoint(store, "going", [DIGEST, "feedfeedfeedfeed"])
    assert store.checkpoints == tmp_path / "checkpoints"
    assert store.digests() == [DIGEST]
    assert store.verify() == []
    assert store.prune(dry_run=True) == ["checkpoints/over"]
    assert (store.checkpoints / "over").is_dir()
    assert store.prune() == ["checkpoints/over"]
    assert [path.name for path in store.checkpoints.iterdir()] == ["going"]
    filled(tmp_path, "feedfeedfeedfeed")
    assert store.prune() == ["checkpoints/going"]


def test_a_checkpoint_stays_for_a_member_that_is_removed_as_damaged(tmp_path):
    store = filled(tmp_path)
    folder = checkpoint(store, "c", [DIGEST])
    flip(store.folder(DIGEST) / "rows.parquet")
    assert store.prune(damaged=True, dry_run=True) == [DIGEST]
    assert store.prune(damaged=True) == [DIGEST]
    assert folder.is_dir()


@pytest.mark.parametrize("content", [None, "", "{}", '{"members": 3}'])
def test_a_checkpoint_that_names_no_members_goes_once_nobody_can_be_writing_it(tmp_path, content):
    store = Store(tmp_path)
    folder = checkpoint(store, "half", None)
    if content is not None:
        (folder / "members.json").write_text(content)
    assert store.prune() == []
    os.utime(folder, (0, 0))
    assert store.prune() == ["checkpoints/half"]
    assert list(store.checkpoints.iterdir()) == []


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
    assert [json.loads(record)["run"]["label"] for record in table["record"]] == ["mlp", "mlp"]


def test_a_newer_schema_is_refused(tmp_path):
    store = filled(tmp_path)
    path = store.folder(DIGEST) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    done = json.loads((path.parent / "done").read_text())
    done["files"]["run.json"] = fingerprint(path)
    (path.parent / "done").write_text(json.dumps(done))
    with pytest.raises(ValueError, match="has schema 99; this lmbench reads up to 1"):
        store.record(DIGEST)


def test_flatten_drops_versions_and_keeps_the_kinds_of_parts():
    config = {"kind": "run", "version": 1, "model": {"kind": "mlp", "version": 2, "d_ff": 8}, "methods": []}
    assert flatten(config) == {"model.kind": "mlp", "model.d_ff": 8, "methods": "[]"}
