"""Robustness of stored runs on text, as records of the store: scored once, read and drawn anywhere.

Two families: flipped tokens (`flip_curves`), and a domain that training left out (`domain_scores`).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd

from lmbench.asked import config_of, read_or_make
from lmbench.measure.flips import flip_curve
from lmbench.probes.scores import FlipCurve
from lmbench.records import Records
from lmbench.store import Store
from lmbench.tasks.base import View, load_task
from lmbench.training.environment import environment
from lmbench.training.execute import resolve_device
from lmbench.training.measured import file_rows
from lmbench.training.rescore import evaluate_run, load_run

LEVEL = "{kind}|{budget}"  # how a point of the curve is written in the rows' level column
COLUMNS = ["run", "label", "init_seed", "kind", "budget", "nll", "n"]
IN, OUT = "in-domain", "held out"


def flip_curves(
    digests: Sequence[str],
    *,
    store: Records,
    split: str = "test",
    budgets: Sequence[int] = (0, 1, 2, 4, 8),
    windows: int = 64,
    candidates: int = 64,
    seed: int = 0,
    device: str | None = None,
) -> pd.DataFrame:
    """One row for each run, adversary and budget; see `measure.flips.flip_curve`.

    Columns: run (that was trained), label, init_seed, kind ("greedy" or "random"), budget, nll (nats per
    target), n (targets).

    Raises:
        ValueError: an unknown run, one without weights, one whose task is no text or whose protocol
            trains the last position only, a budget that no window has room for, or a read-only store
            that lacks a curve.
    """
    how = {"split": split, "budgets": tuple(budgets), "windows": windows}
    how |= {"candidates": candidates, "seed": seed}
    parts, make = [], partial(_score_into, device=device)
    for digest in dict.fromkeys(digests):
        asked = FlipCurve(run=digest, **how)
        rows = read_or_make(asked, what=f"the flip curve of run {digest}", store=store, make=make)
        seed = config_of(digest, store=store).init_seed
        parts.append(_points(rows).assign(run=digest, init_seed=seed))
    return pd.concat(parts, ignore_index=True)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)


def _points(rows: pd.DataFrame) -> pd.DataFrame:
    """The tidy rows of one curve as a row for each of its points."""
    told = rows["level"].str.split("|", expand=True)
    return pd.DataFrame(
        {"label": rows["label"], "kind": told[0], "budget": told[1].astype(int)}
        | {"nll": rows["value"], "n": rows["n"]}
    )


def _score_into(asked: FlipCurve, store: Store, *, device: str | None) -> None:
    """Score and file one curve under its lock."""
    where = resolve_device(device)
    loaded = load_run(asked.run, store=store, device=where)
    run = loaded.run
    if run.task.kind != "text":
        raise ValueError(f"run {asked.run} is of task {run.task.kind!r}; flip curves need 'text'")
    if run.protocol.kind != "dense":
        raise ValueError(
            f"run {asked.run} is of protocol {run.protocol.kind!r}; flip curves score every second position, "
            "so they need 'dense'"
        )

    def rows() -> list[dict[str, Any]]:
        curve = flip_curve(
            loaded.model,
            load_task(run.task),
            split=asked.split,
            view=View(seq_len=run.model.seq_len, is_window=run.model.is_window, device=where),
            budgets=asked.budgets,
            windows=asked.windows,
            candidates=asked.candidates,
            seed=asked.seed,
        )
        fixed = {"evaluation": asked.digest, "split": asked.split, "task": run.task.kind, "step": run.steps}
        return [
            fixed | {"metric": "nll", "level": LEVEL.format(**point), "value": point["nll"], "n": point["n"]}
            for point in curve.to_dict("records")
        ]

    env = environment(where) | {"hashes": {"weights": loaded.weights}}
    file_rows(asked, rows, label=run.model.name, store=store, env=env)


def domain_scores(
    digests: Sequence[str], *, store: Records, domain: str, device: str | None = None
) -> pd.DataFrame:
    """Bits per byte of runs that learned `without` a domain, on the test text of the others and on it.

    Columns: run (that was trained), label, init_seed, text ("in-domain" or "held out"), value, n (bytes).

    Raises:
        ValueError: a run of another task or that learned the domain, or one that cannot be scored
            (`rescore.evaluate_run`); a tokenizer that loses text has no bytes.
    """
    parts = []
    for digest in digests:
        run = config_of(digest, store=store)
        left_out = run.task.without if run.task.kind == "text" else ""
        if left_out != domain:
            raise ValueError(
                f"run {digest} is of {run.task.caption}; domain {domain!r} is held out where a text task has "
                f"without = {domain!r}"
            )
        for name, only in ((IN, ""), (OUT, domain)):
            rows = evaluate_run(digest, store=store, task=run.task.replace(only=only), device=device)
            told = rows[rows["metric"] == "bits_per_byte"]
            if told.empty:
                raise ValueError(
                    f"the {run.task.tokenizer.kind!r} tokenizer of run {digest} loses text, so there are no "
                    "bits per byte"
                )
            row = {"run": digest, "label": rows["label"].iloc[0], "init_seed": run.init_seed, "text": name}
            parts.append(row | {"value": told["value"].iloc[0], "n": told["n"].iloc[0]})
    return pd.DataFrame(parts, columns=["run", "label", "init_seed", "text", "value", "n"])
