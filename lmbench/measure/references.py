"""The reference predictors of a text task, as a record of the store.

They are counted once per (text, tokenizer, protocol, split) and then read like any run,
so a figure with its reference lines redraws without the text.
"""

import math
import time

import pandas as pd
import torch

from lmbench.asked import read_or_make
from lmbench.config import Config
from lmbench.measure.predictors import reference_rows
from lmbench.probes.scores import Predictors
from lmbench.records import Records, no_items
from lmbench.run import SCHEMA
from lmbench.store import Store
from lmbench.tasks.base import load_task

LEVEL = "{predictor}|{order}|{smoothing}"  # how a predictor is written in the rows' level column


def references(
    task: Config, *, protocol: Config, seq_len: int, store: Records, split: str = "test"
) -> pd.DataFrame:
    """One row per reference predictor: predictor, order, smoothing, nll, bits_per_byte, n.

    Raises:
        ValueError: a read-only store that lacks them.
    """
    # Only windows of the last-token protocol have a first target that depends on the context.
    context = seq_len if protocol.kind == "last_token" else 1
    asked = Predictors(task=task, protocol=protocol, seq_len=context, split=split)
    what = f"the reference predictors {asked.digest}"
    return _table(read_or_make(asked, what=what, store=store, make=_count))


def _count(asked: Predictors, store: Store) -> None:
    with store.claim(asked.digest) as folder:
        if folder is None:
            return  # another process counts the same
        started = time.perf_counter()
        data = load_task(asked.task)
        split, train = data.splits[asked.split], data.splits["train"]
        last_only = asked.protocol.kind == "last_token"
        whole = asked.task.eval_tokens is None and data.tokenizer.lossless
        text = (
            "".join(document.text for document in data.corpus.splits[asked.split]).encode() if whole else None
        )
        table = reference_rows(
            train_ids=[train.ids_N[a:b] for a, b in train.bounds],
            split_ids=[split.ids_N[a:b] for a, b in split.bounds],
            n_bytes=None if split.n_bytes_N is None else [split.n_bytes_N[a:b] for a, b in split.bounds],
            vocab_size=data.vocab_size,
            split_text=text,
            orders=asked.orders,
            smoothings=asked.smoothings,
            n_targets=data.n_targets(asked.split, asked.protocol, asked.seq_len),
            first_target=asked.seq_len if last_only else 1,
        )
        run = {"schema": SCHEMA, "kind": asked.kind, "digest": asked.digest, "label": "predictors"}
        run["config"] = asked.to_dict()
        env = {"device": None, "torch": torch.__version__, "wall_seconds": time.perf_counter() - started}
        store.finish(asked.digest, run=run, env=env, rows=_rows(asked, table), items=no_items())


def _rows(asked: Predictors, table: pd.DataFrame) -> pd.DataFrame:
    """The predictors' table as tidy rows."""
    fixed = {
        "evaluation": "",
        "step": 0,
        "tokens": 0,
        "flops": 0.0,
        "seconds": 0.0,
        "split": asked.split,
        "task": asked.task.kind,
    }
    out = []
    for row in table.to_dict("records"):
        order = "" if pd.isna(row["order"]) else row["order"]
        level = LEVEL.format(predictor=row["predictor"], order=order, smoothing=row["smoothing"])
        for metric in ("nll", "bits_per_byte"):
            if not math.isnan(row[metric]):
                out.append(fixed | {"level": level, "metric": metric, "value": row[metric], "n": row["n"]})
    return pd.DataFrame(out)


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    """Tidy rows as one row per predictor, in the order in which they were written."""
    order = rows["level"].drop_duplicates()
    wide = rows.pivot(index="level", columns="metric", values="value").loc[order]
    parts = wide.index.to_series().str.split("|", expand=True)
    wide.insert(0, "predictor", parts[0])
    wide.insert(1, "order", pd.to_numeric(parts[1]).astype("Int64"))
    wide.insert(2, "smoothing", parts[2])
    wide["n"] = rows.groupby("level")["n"].first()
    return wide.reset_index(drop=True).rename_axis(columns=None)
