"""Finished runs as files: packed, read back, and scored from nothing but their bytes.

The file lies in the folder of its record, so it is covered by the hashes of `done`. What is
scored is what was read back in a fresh object; the scores of the weights before stand in the
rows of their run.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from lmbench.asked import config_of, read_or_make
from lmbench.config import Config
from lmbench.measure.artifact import Coding, Packed, pack, predicted_bytes, tokenizer_bytes, unpack
from lmbench.measure.products import flops_by_weight
from lmbench.measure.score import evaluate
from lmbench.methods.base import Method
from lmbench.methods.constrain import Constrain
from lmbench.methods.equipment import equipped, exported, in_force
from lmbench.methods.narrowing import can_deploy, deployed
from lmbench.models.base import ModelConfig
from lmbench.probes.scores import Artifact
from lmbench.records import Records, write_atomically
from lmbench.run import Run
from lmbench.store import Store
from lmbench.tasks.base import View, load_task
from lmbench.tasks.text_data import TextData
from lmbench.training.costs import readout_of
from lmbench.training.environment import environment
from lmbench.training.execute import resolve_device
from lmbench.training.measured import file_rows
from lmbench.training.rescore import Loaded, load_run

FILE = "model.lmb"


def artifacts(
    digests: Sequence[str],
    *,
    store: Records,
    methods: Sequence[Method] = (),
    other: str = "float32",
    scales: str = "float32",
    split: str = "test",
    device: str | None = None,
) -> pd.DataFrame:
    """One row for each run: the bytes of its file, as counted and as they are, and scores of it.

    Columns: run, label, init_seed, record, bytes, predicted_bytes (from the config with the file's own
    densities and forms, see `measure.artifact.predict`), one of each part ("bytes_codes", ...),
    bits_per_parameter, density (nonzero weights), macs and nonzero_macs (multiply-adds for a target, of
    all weights and of those that are not zero), and the metrics of the task.

    Args:
        methods: applied to the weights first, beside what was in force at the run's end: a quantisation
            after training.

    Raises:
        ValueError: an unknown run, one without weights, methods that do not fit it, or a read-only store
            that lacks a file's scores.
    """
    how = {"methods": tuple(methods), "other": other, "scales": scales, "split": split}
    parts, make = [], partial(_pack_into, device=device)
    for digest in dict.fromkeys(digests):
        asked = Artifact(run=digest, **how)
        rows = read_or_make(asked, what=f"the packed form of run {digest}", store=store, make=make)
        values = rows.set_index("metric")["value"].to_dict()
        seed = store.record(digest)["run"]["config"]["init_seed"]
        told = {"run": digest, "label": rows["label"].iloc[0], "init_seed": seed, "record": asked.digest}
        parts.append(told | values)
    return pd.DataFrame(parts)


def packed_run(asked: Artifact, loaded: Loaded, *, narrows: bool = False) -> Packed:
    """A run's weights, after the methods of `asked`, as a file.

    Args:
        loaded: the run under those methods.
        narrows: whether a model whose last units are not in use is packed without them. Records keep all,
            with the constraint beside them.
    """
    run = loaded.run
    model, weights = run.model, exported(loaded.model, run.model)
    said = [method.coded(run.model) for method in (*run.methods, *asked.methods)]
    codings = {
        name: Coding(coded.bits, coded.granularity, asked.scales)
        for one in said
        for name, coded in one.items()
    }
    data = load_task(run.task)
    held = in_force((*run.methods, *asked.methods), step=run.steps, steps=run.steps)
    if narrows:
        model, weights, held = _narrowed(model, weights, held)
    return pack(
        model,
        weights=weights,
        codings=codings,
        tokenizer=_tokenizer(data) if isinstance(data, TextData) else None,
        methods=held,
        other=asked.other,
    )


def _narrowed(
    model: ModelConfig, weights: dict[str, Tensor], held: tuple[Method, ...]
) -> tuple[ModelConfig, dict[str, Tensor], tuple[Method, ...]]:
    """The units in use as a plain small model, and what is in force beside it."""
    for one in held:
        if isinstance(one, Constrain) and one.rule == "prefix" and can_deploy(model):
            others = tuple(method for method in held if method is not one)
            return *deployed(model, weights, one.widths(model, 0, steps=1)), others
    return model, weights, held


def write_artifact(digest: str, *, store: Store, to: Path, methods: Sequence[Method] = ()) -> Path:
    """Pack a finished run into a new file: of a constrained one the units that its last step had in use,
    where those are the first.

    Args:
        to: the file, which must not be there yet; the folder that it lies in must.
        methods: as for `artifacts`.

    Raises:
        ValueError: a file that exists, an unknown run, one without weights, or methods that do not fit it.
    """
    if to.exists():
        raise ValueError(f"{to} is there already; name a file that is not")
    if not to.parent.is_dir():
        raise ValueError(f"{to.parent} is not a folder, so nothing can be written into it")
    kind = store.record(digest)["run"]["kind"]
    if kind != "run":
        raise ValueError(f"{digest} is a record of kind {kind!r}, not a training run: it has no weights")
    asked = Artifact(run=digest, methods=tuple(methods))
    write_atomically(to, packed_run(asked, _loaded(asked, store), narrows=True).data)
    return to


def _loaded(asked: Artifact, store: Store) -> Loaded:
    """The run with what was in force at its end, and under the methods of `asked`."""
    run = config_of(asked.run, store=store)
    held = in_force(run.methods, step=run.steps, steps=run.steps)
    return load_run(asked.run, store=store, device=torch.device("cpu"), methods=(*held, *asked.methods))


def _tokenizer(data: TextData) -> bytes:
    """What a reader needs to turn text into ids."""
    return tokenizer_bytes(data.config.tokenizer, tokenizer=data.tokenizer)


def _pack_into(asked: Artifact, store: Store, *, device: str | None) -> None:
    """Pack, read back, score and file one run under the record's lock."""
    where = resolve_device(device)
    loaded = _loaded(asked, store)
    made = packed_run(asked, loaded)

    def rows() -> list[dict[str, Any]]:
        file = store.folder(asked.digest) / FILE
        write_atomically(file, made.data)
        return _rows(asked, loaded.run, made, file.read_bytes(), where)

    env = environment(where) | {"hashes": {"weights": loaded.weights}}
    file_rows(asked, rows, label=loaded.run.model.name, store=store, env=env)


def _rows(asked: Config, run: Run, made: Packed, data: bytes, device: torch.device) -> list[dict[str, Any]]:
    """Bytes of the file by part, and the scores of the model that is read from it."""
    found = unpack(data)
    model = equipped(found.model, found.weights, methods=found.methods).to(device)
    view = View(seq_len=run.model.seq_len, is_window=run.model.is_window, device=device)
    how = {"split": asked.split, "protocol": run.protocol, "view": view, "eval_seed": run.eval_seed}
    scores = evaluate(model, load_task(run.task), **how)
    n = sum(tensor.n for tensor in made.tensors)
    nonzero = {tensor.name: tensor.density for tensor in made.tensors}
    expected = predicted_bytes(
        run.model,
        codings=found.codings,
        other=asked.other,
        densities=nonzero,
        forms={tensor.name: tensor.form for tensor in made.tensors},
        tokenizer_bytes=made.uncoded.get("tokenizer", 0),
    )
    values = {
        "bytes": made.size,
        "predicted_bytes": sum(expected.coded.values()),
        "bits_per_parameter": made.bits_per_parameter,
        "density": sum(tensor.nonzero for tensor in made.tensors) / n,
        **_products(run, nonzero),
        **{f"bytes_{part}": size for part, size in made.split.items()},
    }
    metrics = {name: (value, n) for name, value in values.items()} | scores.metrics
    fixed = {"evaluation": asked.digest, "split": asked.split, "task": run.task.kind, "step": run.steps}
    return [fixed | {"metric": name, "value": float(value), "n": n} for name, (value, n) in metrics.items()]


def _products(run: Run, density: Mapping[str, float]) -> dict[str, float]:
    """Multiply-adds of a forward pass for one target; what a zero saves is arithmetic, and not yet time."""
    by_weight = flops_by_weight(run.model, readout=readout_of(run))
    targets = 2 * (run.model.seq_len if readout_of(run) == "all" else 1)
    left = sum(flops * density.get(name, 1.0) for name, flops in by_weight.items())
    return {"macs": sum(by_weight.values()) / targets, "nonzero_macs": left / targets}
