"""Reading 10,000 runs' rows into one DataFrame: through the index against opening each folder.

The folders are copies of the committed runs of the hyperparameter sweeps, each under seeds
and a digest of its own. Both sides start in a process that has read nothing before and give
the same table, which is checked once. The operating system may hold the files of either.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lmbench.folders import fingerprint
from lmbench.home import results
from lmbench.records import Reference, fixed_columns, no_items, parquet_bytes
from lmbench.store import Store

COPIED = "02_hyperparameter_sweeps"
SEEDS = ("init_seed", "data_seed", "dropout_seed")


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure and report; returns what was printed."""
    from benchmarks import common

    parser = common.parser(__doc__, repeats=5)
    parser.add_argument("--runs", type=int, help="folders to read (default: 10,000; 300 with --quick)")
    options = parser.parse_args(arguments)
    device, runs = common.settle(options), options.runs or (300 if options.quick else 10_000)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        build(root, runs)
        Store(root).write_index()
        table = through_index(root)
        check(table, plain_loop(root))
        ours, baseline = common.paired(
            lambda: in_fresh_process("index", root),
            lambda: in_fresh_process("loop", root),
            repeats=options.repeats,
        )
    measured = {"ours": ours, "baseline": baseline, "unit": "s", "better": "lower", "out": options.out}
    facts = {"runs": runs, "rows": len(table), "columns": table.shape[1]}
    return [common.report(name="reading_runs", device=common.named(device), **measured, **facts)]


def through_index(root: Path) -> pd.DataFrame:
    """What a notebook does."""
    return Store(root).frame()


def plain_loop(root: Path) -> pd.DataFrame:
    """The same without an index: open every folder, then join all rows with all configs once.

    Joining folder by folder, as is more usual, takes several times as long.
    """
    parts, configs = [], []
    for folder in sorted((root / "runs").iterdir()):
        if not (folder / "done").is_file():
            continue
        record = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("run", "env")}
        configs.append(fixed_columns(folder.name, record))
        parts.append(pq.read_table(folder / "rows.parquet"))
    rows = pa.concat_tables(parts).to_pandas()
    place = np.repeat(np.arange(len(parts)), [part.num_rows for part in parts])
    return pd.concat([rows, pd.DataFrame(configs).take(place).set_axis(rows.index)], axis=1)


def check(table: pd.DataFrame, plain: pd.DataFrame) -> None:
    """Both tables hold the same values. (The loop makes NaN of None and floats of integers.)"""
    assert list(table.columns) == list(plain.columns)
    for name in table:
        one, other = table[name], plain[name]
        assert one.isna().equals(other.isna()), name
        assert (one.dropna().to_numpy(object) == other.dropna().to_numpy(object)).all(), name


SIDES = {"index": through_index, "loop": plain_loop}


def in_fresh_process(side: str, root: Path) -> float:
    """Seconds of one reading in a process of its own, which imports what it needs before the clock starts."""
    command = [sys.executable, "-m", "benchmarks.reading_runs", "--child", side, str(root)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def child(arguments: list[str]) -> None:
    """Read once and print the seconds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", choices=SIDES)
    parser.add_argument("root", type=Path)
    asked = parser.parse_args(arguments)
    start = time.perf_counter()
    table = SIDES[asked.child](asked.root)
    seconds = time.perf_counter() - start
    assert len(table), "nothing was read"
    print(seconds)


def build(root: Path, runs: int) -> None:
    """Finished folders of `runs` runs under `root`."""
    source = Reference(results() / "reference" / COPIED)
    patterns = [
        (record, parquet_bytes(source.rows(digest)))
        for digest, record in source.records(source.digests())
        if record["run"]["kind"] == "run"
    ]
    items = parquet_bytes(no_items())
    for i in range(runs):
        record, rows = patterns[i % len(patterns)]
        digest = hashlib.sha256(f"{i}".encode()).hexdigest()[:16]
        config = record["run"]["config"] | dict.fromkeys(SEEDS, i)
        folder = root / "runs" / digest
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(record["run"] | {"digest": digest, "config": config}))
        (folder / "env.json").write_text(json.dumps(record["env"]))
        (folder / "rows.parquet").write_bytes(rows)
        (folder / "items.parquet").write_bytes(items)
        files = {path.name: fingerprint(path) for path in folder.iterdir()}
        (folder / "done").write_text(json.dumps({"schema": 1, "files": files}))


if __name__ == "__main__":
    child(sys.argv[1:]) if "--child" in sys.argv else main()
