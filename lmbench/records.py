"""Reading results: records of runs and evaluations, whatever form they are kept in.

A record is a config with its circumstances, tidy rows and items. `Reference` reads the
committed form, three files for many records; `store.Store` the folders that runs are
written to. Nothing here imports torch, so every table and figure redraws on any laptop.
"""

import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

ROW_COLUMNS = {
    "evaluation": "str",
    "step": "int64",
    "tokens": "int64",
    "flops": "float64",
    "seconds": "float64",
    "split": "str",
    "task": "str",
    "level": "str",
    "metric": "str",
    "value": "float64",
    "n": "int64",
}


def write_atomically(path: Path, data: bytes) -> None:
    """Write through a temporary name, fsync and rename: a reader sees the old file or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def no_items() -> pd.DataFrame:
    """The items of a record that has none."""
    return pd.DataFrame(columns=["item", "nll", "n", "bytes", "correct", "evaluation", "split"])


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as dotted columns; `kind` is kept for parts, `version` is dropped."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            out |= flatten(value, f"{name}.")
        elif isinstance(value, list):
            out[name] = json.dumps(value)
        elif key != "version" and name != "kind":
            out[name] = value
    return out


def fixed_columns(digest: str, record: dict[str, Any]) -> dict[str, Any]:
    """What is the same in all rows of a record: digest, label, device, jobs, and its config, flattened."""
    run, env = record["run"], record["env"]
    fixed = {"run": digest, "label": run["label"], "device": env.get("device"), "jobs": env.get("jobs", 1)}
    return fixed | flatten(run["config"])


class Records:
    """Abstract: reading of records and rows, whatever form they are kept in."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.used: set[str] = set()
        """Digests whose rows were read: what a report is made of."""

    def digests(self) -> list[str]:
        """All records that can be believed."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def record(self, digest: str) -> dict[str, Any]:
        """`run.json` and `env.json` of one record under the keys "run" and "env"."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def records(self, digests: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each digest with its record."""
        return ((digest, self.record(digest)) for digest in digests)

    def rows(self, digest: str) -> pd.DataFrame:
        """Tidy rows of one record."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def items(self, digest: str) -> pd.DataFrame:
        """Items of one record's reported evaluations, with columns evaluation and split."""
        raise TypeError(f"{type(self).__name__} is abstract")

    def has(self, digest: str) -> bool:
        """Whether the record is finished."""
        return digest in set(self.digests())

    def frame(self, digests: Iterable[str] | None = None) -> pd.DataFrame:
        """Rows of many records, joined with their configs as dotted columns and their device."""
        parts = []
        for digest in self.digests() if digests is None else dict.fromkeys(digests):
            self.used.add(digest)
            fixed, rows = fixed_columns(digest, self.record(digest)), self.rows(digest)
            parts.append(rows.assign(**{k: v for k, v in fixed.items() if k not in rows}))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["run", *ROW_COLUMNS])

    def list(self) -> pd.DataFrame:
        """One row per record: digest, label, task, seeds, device, when and how long."""
        table = []
        for digest, record in self.records(self.digests()):
            config, env = flatten(record["run"]["config"]), record["env"]
            table.append(
                {
                    "run": digest,
                    "kind": record["run"]["kind"],
                    "label": record["run"]["label"],
                    "task": config.get("task.corpus", config.get("task.kind")),
                    "protocol": config.get("protocol.kind"),
                    "steps": config.get("steps"),
                    "init_seed": config.get("init_seed"),
                    "device": env.get("device"),
                    "seconds": env.get("wall_seconds"),
                    "finished": env.get("finished"),
                }
            )
        columns = [
            "run",
            "kind",
            "label",
            "task",
            "protocol",
            "steps",
            "init_seed",
            "device",
            "seconds",
            "finished",
        ]
        return pd.DataFrame(table, columns=columns)


class Reference(Records):
    """A committed set of records: `results/reference/<notebook>`; it cannot be written to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        if not (self.root / "runs.jsonl").is_file():
            raise ValueError(f"no reference results in {folder}: it holds no runs.jsonl")
        lines = (self.root / "runs.jsonl").read_text().splitlines()
        self._records = {record.pop("digest"): record for record in map(json.loads, lines)}
        self._rows = pd.read_parquet(self.root / "rows.parquet")

    def digests(self) -> list[str]:
        return sorted(self._records)

    def record(self, digest: str) -> dict[str, Any]:
        if digest not in self._records:
            raise ValueError(f"no run {digest!r} in the reference results {self.root}")
        return self._records[digest]

    def rows(self, digest: str) -> pd.DataFrame:
        return self._rows[self._rows["run"] == digest].drop(columns="run").reset_index(drop=True)

    def items(self, digest: str) -> pd.DataFrame:
        table = pd.read_parquet(self.root / "items.parquet", filters=[("run", "==", digest)])
        return table.drop(columns="run")


def pack(digests: Iterable[str], sources: Sequence[Records], folder: Path) -> None:
    """Write records as a committed reference: runs.jsonl, rows.parquet and items.parquet.

    Args:
        digests: what to pack, each taken from the first of `sources` that has it.

    Raises:
        ValueError: no digests, or one that none of the sources has.
    """
    found: dict[str, Records] = {}
    for digest in sorted(set(digests)):
        owners = [source for source in sources if source.has(digest)]
        if not owners:
            raise ValueError(f"run {digest} cannot be packed: no store holds it")
        found[digest] = owners[0]
    if not found:
        raise ValueError(f"there are no records to pack into {folder}: its notebooks read none")
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"digest": d} | owner.record(d), sort_keys=True) for d, owner in found.items()]
    rows = [owner.rows(d).assign(run=d) for d, owner in found.items()]
    items = [part.assign(run=d) for d, owner in found.items() if len(part := owner.items(d))]
    items = items or [no_items().assign(run="").astype({"run": "str"})]
    write_atomically(folder / "rows.parquet", parquet_bytes(pd.concat(rows, ignore_index=True)))
    write_atomically(folder / "items.parquet", items_bytes(pd.concat(items, ignore_index=True)))
    # Last: a reference without it is none.
    write_atomically(folder / "runs.jsonl", ("\n".join(lines) + "\n").encode())


def parquet_bytes(frame: pd.DataFrame, **encoding: Any) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, compression="zstd", **encoding)
    return buffer.getvalue()


def items_bytes(items: pd.DataFrame) -> bytes:
    """The same of items, which are millions: 2.8 of them take 9.8 MB so, and 17.4 MB without."""
    encoding = {"item": "DELTA_BINARY_PACKED", "nll": "BYTE_STREAM_SPLIT"}
    if items.empty:
        return parquet_bytes(items)
    plain = [name for name in items if name not in encoding]
    return parquet_bytes(items, use_dictionary=plain, column_encoding=encoding)
