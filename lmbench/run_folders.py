"""Records as folders, one for each finished run or evaluation, believed only when whole.

    results/runs/<digest>/run.json              the config, its label, the schema
                          env.json              torch, device, threads, commit, engine, wall, hashes
                          rows.parquet          tidy results: one row per (step, split, metric)
                          items.parquet         the items behind each reported evaluation
                          final.safetensors     weights; best.safetensors beside it where they differ
                          done                  last: size and sha256 of every file above

A folder without `done` is not a result, whatever else it holds. So whatever ends a process while
it writes one, nobody reads what it left.
"""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd

from lmbench import folders
from lmbench.folders import Problem
from lmbench.records import ROW_COLUMNS, Records, parquet_bytes, write_atomically, write_json
from lmbench.run import SCHEMA


class RunFolders(Records):
    """Abstract: folders under `root`/runs, named by digest, and the files in them."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.runs = self.root / "runs"

    def folder(self, digest: str) -> Path:
        return self.runs / digest

    def has(self, digest: str) -> bool:
        return (self.folder(digest) / "done").is_file()

    # ------------------------------------------------------------- reading

    def digests(self) -> list[str]:
        if not self.runs.is_dir():
            return []
        return sorted(name for name in os.listdir(self.runs) if os.path.isfile(f"{self.runs}/{name}/done"))

    def record(self, digest: str) -> dict[str, Any]:
        run = json.loads(self._whole(digest, "run.json").read_text())
        if run["schema"] > SCHEMA:
            raise ValueError(f"run {digest} has schema {run['schema']}; this lmbench reads up to {SCHEMA}")
        return {"run": run, "env": json.loads(self._whole(digest, "env.json").read_text())}

    def rows(self, digest: str) -> pd.DataFrame:
        return pd.read_parquet(self._whole(digest, "rows.parquet"))

    def items(self, digest: str) -> pd.DataFrame:
        return pd.read_parquet(self._whole(digest, "items.parquet"))

    def _whole(self, digest: str, name: str) -> Path:
        if not self.has(digest):
            raise ValueError(f"no finished run {digest!r} in {self.runs}")
        return folders.intact(self.folder(digest), name)

    def weights(self, digest: str) -> Path:
        """The weights that the run reports: its best on validation, or its final ones.

        Raises:
            ValueError: the run kept no weights: they were larger than its limit, or it diverged.
        """
        best_first = self.record(digest)["run"]["config"]["weights"] == "best"
        written = folders.names(self.folder(digest))
        for name in ("best.safetensors", "final.safetensors") if best_first else ("final.safetensors",):
            if name in written:
                return self._whole(digest, name)
        raise ValueError(
            f"run {digest} kept no weights: they were larger than keep_weights_mb, or it diverged"
        )

    # ------------------------------------------------------------- writing

    def begin(self, digest: str) -> Path:
        """An empty folder for a record that is about to be made; the caller holds its lock."""
        folder = self.folder(digest)
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    def finish(
        self,
        digest: str,
        *,
        run: dict[str, Any],
        env: dict[str, Any],
        rows: pd.DataFrame,
        items: pd.DataFrame,
    ) -> None:
        """Write the record's files and, last of all, `done` with their sizes and hashes."""
        folder = self.folder(digest)
        write_json(folder / "run.json", run)
        write_json(
            folder / "env.json", env | {"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        )
        write_atomically(folder / "rows.parquet", parquet_bytes(rows.astype(ROW_COLUMNS)))
        write_atomically(folder / "items.parquet", parquet_bytes(items))
        files = {path.name: folders.fingerprint(path) for path in folder.iterdir() if path.name[0] != "."}
        write_json(folder / "done", {"schema": SCHEMA, "files": files})

    def discard(self, digest: str) -> None:
        """Remove the half-written folder of a record that failed."""
        if not self.has(digest):
            shutil.rmtree(self.folder(digest), ignore_errors=True)

    # ------------------------------------------------------------- care

    def verify(self, digest: str | None = None) -> list[Problem]:
        """Compare every file with the size and hash in `done`; unfinished folders are named too."""
        if digest is not None and not self.folder(digest).is_dir():
            raise ValueError(f"no run {digest!r} in {self.runs}")
        asked = [self.folder(digest)] if digest else sorted(p for p in self.runs.glob("*") if p.is_dir())
        return [problem for folder in asked for problem in folders.check(folder)]
